"""Our own server in a process of its own, as long as an evaluation lasts."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..results import EvaluationError

_STOP_S = 30.0


@contextmanager
def serving(checkpoint: Path, sessions: int) -> Iterator[str]:
    """Serve a checkpoint on a free port of this machine -> the address of its Realtime WebSocket.

    sessions: dialogues at once. Raises EvaluationError where it does not start, with the last line it wrote.
    """
    command = [sys.executable, "-m", "baichuan_audio.cli", "serve", str(checkpoint)]
    command += ["--port", "0", "--max-sessions", str(sessions), "--grace", "1"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address = re.search(r"http://(\S+?)/", process.stdout.readline())
            if address is None:
                process.wait(_STOP_S)
                log.seek(0)
                lines = log.read().strip().splitlines()
                raise EvaluationError(f"the server did not start: {lines[-1] if lines else 'it wrote nothing'}")
            yield f"ws://{address.group(1)}/v1/realtime"
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
