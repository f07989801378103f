"""Runs the real server in a separate process for the benchmark; as a program, this module is that process.

It prints the port when it is ready, stops when its standard input ends, and then prints its peak memory.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import IO

from ...errors import BaichuanAudioError

_HOST = "127.0.0.1"
_CLAUSE_IDS, _CLAUSE_FRAMES = 8, 500
_GRACE_S = 1.0
_END_S = 60.0


@dataclass(frozen=True)
class ServedModel:
    """The model to serve. model: a checkpoint, or None with `random_init`; threads: of the engine, 0 for its default.

    Replies do not end by themselves: a clause has at most 8 text tokens and always 500 code frames (40 s).
    """

    model: str | None
    random_init: str | None
    vocoder: str | None
    device: str
    dtype: str
    threads: int
    sessions: int


class ServerProcess:
    """A running server. port: where it listens. peak: peak memory in bytes, known after it has stopped."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.peak = 0

    @property
    def realtime(self) -> str:
        """URL of the WebSocket."""
        return f"ws://{_HOST}:{self.port}/v1/realtime"

    def metrics(self) -> dict[str, float]:
        """The values of `/metrics` that have no labels, by name without the prefix."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=30)
        with closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        return {name: float(value) for name, value in re.findall(r"^baichuan_audio_(\w+) (\S+)$", text, re.MULTILINE)}


@contextmanager
def serving(served: ServedModel) -> Iterator[ServerProcess]:
    """Run a server as long as the context lasts. Raises BaichuanAudioError when it does not start."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(served))]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise BaichuanAudioError(f"the server did not start: {_last_line(log)}")
            server = ServerProcess(int(port))
            yield server
        except BaseException:
            process.kill()
            raise
        finally:
            printed, _ = process.communicate(timeout=_END_S)
        server.peak = int(printed)


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1] if lines else "no message"


def _serve(served: ServedModel) -> None:
    """Serve until standard input ends."""
    import torch

    from ...acceleration import optimize_for_inference
    from ...checkpoint import load
    from ...engine import Engine, EngineConfig
    from ...server.run import open_socket, run
    from ...server.settings import ServerSettings
    from ..machine import peak_memory
    from ..models import never_end, random_model

    if served.threads:
        torch.set_num_threads(served.threads)
    device, dtype = torch.device(served.device), getattr(torch, served.dtype)
    if served.random_init is not None:
        model = random_model(served.random_init, dtype, device)
    else:
        assert served.model is not None
        model = load(served.model, dtype=dtype, device=device, vocoder=served.vocoder)
    limits = {"max_segment_tokens": _CLAUSE_IDS, "max_segment_frames": _CLAUSE_FRAMES, "stop_runaways": False}
    model.config["reply_sampling"] = {**(model.config.get("reply_sampling") or {}), **limits}
    config = EngineConfig(max_sessions=served.sessions, threads=served.threads)
    bound = open_socket(_HOST, 0)
    port = bound.getsockname()[1]
    run(
        Engine(optimize_for_inference(never_end(model)), config),
        ServerSettings(port=port),
        bound,
        _GRACE_S,
        on_ready=lambda: print(port, flush=True),
        on_stop=lambda _: None,
    )
    print(peak_memory(device), flush=True)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _serve(ServedModel(**json.loads(sys.argv[1])))
    except BaichuanAudioError as error:
        sys.exit(str(error))
