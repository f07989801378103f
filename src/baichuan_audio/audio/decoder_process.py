"""A process that decodes audio files for the server and can be killed at any time: `main`, and its messages.

It does not import torch: it starts in a third of a second and takes about 40 MB. A file that makes a decoder hang,
crash or fill the memory ends this process, not the server.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTHS = struct.Struct("<IQ")
_MAX_HEADER_BYTES = 1 << 16
_MEMORY_BYTES = 3 * 1024**3
_GRACE_S = 5.0


class _NotShort(Exception):
    """A file exceeds the budget of short files."""


def send(file: BinaryIO, header: Mapping[str, Any], payload: Any = b"") -> None:
    """Write one message: a header (as JSON) and bytes."""
    text = json.dumps(header).encode()
    file.write(_LENGTHS.pack(len(text), len(payload)) + text)
    file.write(payload)
    file.flush()


def receive(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read one message. Raises EOFError when the other side has closed."""
    size, payload_size = _LENGTHS.unpack(_exactly(file, _LENGTHS.size))
    if size > _MAX_HEADER_BYTES:
        raise EOFError
    return json.loads(_exactly(file, size)), _exactly(file, payload_size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main(niceness: int = 0) -> None:
    """Answer requests on standard input until it ends. niceness: of this process.

    A request has the file as its payload and in its header `limits` (of `AudioLimits`), `sample_rate`, `name`,
    `cpu_s` and `wall_s`, and may have `short_samples` and `short_cpu_s`: beyond these decoding stops. The answer is
    {"status": "read", "rate"} with float32 samples, {"status": "refused", "message", "code"}, or {"status": "long"}.
    """
    requests, answers = _take_over_pipes()
    _limit_resources(niceness)
    from . import pyav, reading  # noqa: F401  (before the first request)

    send(answers, {"status": "ready"})
    while True:
        try:
            header, data = receive(requests)
        except EOFError:
            return
        if header.get("prepare"):
            pyav.available()  # loads FFmpeg's libraries where they are installed
            send(answers, {"status": "ready"})
            continue
        faulthandler.dump_traceback_later(header["wall_s"] + _GRACE_S, exit=True, file=2)
        try:
            answer, samples = _read(header, data)
        finally:
            faulthandler.cancel_dump_traceback_later()
        del data
        try:
            send(answers, answer, samples)
        except OSError:
            return


def _read(header: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    from ..errors import AudioError
    from . import pyav
    from .formats import HEAD_BYTES, detect_format
    from .reading import AudioLimitError, AudioLimits, read_audio

    if not detect_format(data[:HEAD_BYTES]).native:
        pyav.available()  # the first load of FFmpeg's libraries does not count for this file
    begun = time.process_time()

    def watch(samples: int) -> None:
        spent = time.process_time() - begun
        if samples > header.get("short_samples", samples) or spent > header.get("short_cpu_s", spent):
            raise _NotShort
        if spent > header["cpu_s"]:
            message = f"{header['name']}: decoding this file takes too long; send a shorter one, or WAV."
            raise AudioLimitError(message, "audio_too_large")

    try:
        waveform, rate = read_audio(
            data, header["sample_rate"], AudioLimits(**header["limits"]), name=header["name"], watch=watch
        )
    except _NotShort:
        return {"status": "long"}, b""
    except AudioError as error:
        return {"status": "refused", "message": str(error), "code": getattr(error, "code", "invalid_audio")}, b""
    except MemoryError:
        message = f"{header['name']}: decoding this file takes too much memory; send WAV."
        return {"status": "refused", "message": message, "code": "audio_too_large"}, b""
    return {"status": "read", "rate": rate}, memoryview(waveform).cast("B")


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Use standard input and output for messages only: output of libraries is discarded."""
    if sys.platform == "win32":
        import msvcrt

        for number in (0, 1):
            msvcrt.setmode(number, os.O_BINARY)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return requests, answers


def _limit_resources(niceness: int) -> None:
    """Ignore signals to the process group (the server ends this process); limit memory and priority."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(niceness)
