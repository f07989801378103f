"""Runs the real server in a separate process for the benchmark; as a program, this module is that process.

When it is ready it prints the port and the memory that its imports took, as JSON. It stops when its standard input
ends, and then prints its peak memory.
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
from typing import IO, TYPE_CHECKING

from ...errors import BaichuanAudioError

if TYPE_CHECKING:
    from ...model import BaichuanAudio

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
    quantization: str | None = None


class ServerProcess:
    """A running server. port: where it listens. pid: its process. imports: its memory before it loaded the model, see
    `memory.resident_memory`. peak: peak memory in bytes, known after it has stopped."""

    def __init__(self, port: int, pid: int = 0, imports: dict[str, int] | None = None) -> None:
        self.port, self.pid, self.imports = port, pid, imports or {}
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
            ready = process.stdout.readline()
            if not ready:
                raise BaichuanAudioError(f"the server did not start: {_last_line(log)}")
            server = ServerProcess(pid=process.pid, **json.loads(ready))
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

    from ...engine import Engine, EngineConfig
    from ...server.run import open_socket, run
    from ...server.settings import ServerSettings
    from ..machine import peak_memory
    from .memory import resident_memory

    imports = resident_memory(os.getpid()) if sys.platform == "linux" else {}
    if served.threads:
        torch.set_num_threads(served.threads)
    model = _load(served)
    limits = {"max_segment_tokens": _CLAUSE_IDS, "max_segment_frames": _CLAUSE_FRAMES, "stop_runaways": False}
    model.config["reply_sampling"] = {**(model.config.get("reply_sampling") or {}), **limits}
    config = EngineConfig(max_sessions=served.sessions, threads=served.threads)
    bound = open_socket(_HOST, 0)
    port = bound.getsockname()[1]
    run(
        Engine(model, config),
        ServerSettings(port=port),
        bound,
        _GRACE_S,
        on_ready=lambda: print(json.dumps({"port": port, "imports": imports}), flush=True),
        on_stop=lambda _: None,
    )
    print(peak_memory(torch.device(served.device)), flush=True)


def _load(served: ServedModel) -> BaichuanAudio:
    """The model, optimized, whose audio segments do not end."""
    import torch

    from ...acceleration import load_for_inference, optimize_for_inference
    from ...acceleration.cpu.kernels import library
    from ...checkpoint import load
    from ..models import never_end, random_model

    device, dtype, kind = torch.device(served.device), getattr(torch, served.dtype), served.quantization
    if served.random_init is not None:
        return optimize_for_inference(never_end(random_model(served.random_init, dtype, device)), kind)
    assert served.model is not None
    if device.type == "cpu" and library() is not None:  # as the command `serve` does
        return never_end(load_for_inference(served.model, kind, dtype, device, served.vocoder))
    return optimize_for_inference(never_end(load(served.model, dtype, device, served.vocoder)), kind)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        _serve(ServedModel(**json.loads(sys.argv[1])))
    except BaichuanAudioError as error:
        sys.exit(str(error))
