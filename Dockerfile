# docker build -t baichuan-audio .                                  on CPUs
# docker build -t baichuan-audio:cuda --build-arg TORCH_INDEX=default .   with CUDA, for NVIDIA's container runtime
# docker run -p 8000:8000 -v /data/models:/models -e BAICHUAN_AUDIO_API_KEYS=... baichuan-audio serve /models/nano --host 0.0.0.0
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# torch from PyPI brings CUDA's libraries (gigabytes) with it; its own index has builds without.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=server,ray

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# The compiler makes the decode steps for the processor that the container runs on (docs/performance.md).
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libsndfile1 ffmpeg gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
RUN if [ "$TORCH_INDEX" = default ]; then pip install -c constraints.txt torch; \
    else pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"; fi \
    && pip install -c constraints.txt ".[$EXTRAS]"

# What Ray reads when it starts (docs/scaling.md); without Ray these mean nothing.
ENV RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=baichuan_audio.server.ray.websocket_close:proxy_middlewares \
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 \
    RAY_worker_niceness=0 \
    RAY_USAGE_STATS_ENABLED=0

RUN useradd --create-home --uid 1000 talk
USER talk
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"
ENTRYPOINT ["baichuan-audio"]
CMD ["serve", "/models/nano", "--host", "0.0.0.0"]
