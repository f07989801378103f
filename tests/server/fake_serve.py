"""Run as a program: the server with a slow engine without a model, to test how it ends. Argument: the grace time."""

from __future__ import annotations

import sys

from fake_engine import FakeEngine

from baichuan_audio.server.run import open_socket, run
from baichuan_audio.server.settings import ServerSettings

if __name__ == "__main__":
    bound = open_socket("127.0.0.1", 0)

    def ready() -> None:
        print(f"http://127.0.0.1:{bound.getsockname()[1]}", "ready", flush=True)

    def stop(count: int) -> None:
        print(f"finishing {count}", flush=True)

    run(FakeEngine(delay=0.1), ServerSettings(), bound, float(sys.argv[1]), ready, stop)  # type: ignore[arg-type]
