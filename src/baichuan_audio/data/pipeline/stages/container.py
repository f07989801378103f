"""Whether an audio file is whole: what its container says against what is there.

libsndfile reads a file that was cut short without a word, so the three common containers are looked at here.
"""

from __future__ import annotations

import struct
from pathlib import Path

_TAIL = 65_536 + 64


def container_problem(path: Path, frames_read: int) -> str | None:
    """What is missing of a WAV, FLAC or Ogg file, in a few words; None where it is whole or of another kind.

    frames_read: samples a channel that could be decoded.
    """
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return _riff(path, head)
        if head[:4] == b"fLaC":
            return _flac(head, frames_read)
        if head[:4] == b"OggS":
            file.seek(max(0, path.stat().st_size - _TAIL))
            return _ogg(file.read())
    return None


def _riff(path: Path, head: bytes) -> str | None:
    declared = struct.unpack("<I", head[4:8])[0] + 8
    size = path.stat().st_size
    # Programs that write to a pipe leave a size of 0 or the largest there is: that says nothing.
    if declared in (8, 0xFFFFFFFF + 8) or declared > 0xFFFFFF00 or size >= declared:
        return None
    return f"truncated: {size} of {declared} bytes"


def _flac(head: bytes, frames_read: int) -> str | None:
    total = int.from_bytes(head[18:26], "big") & ((1 << 36) - 1)
    return f"truncated: {frames_read} of {total} samples" if total and frames_read < total else None


def _ogg(tail: bytes) -> str | None:
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 27:
        return "truncated: the last page is not whole"
    segments = tail[last + 26]
    table = tail[last + 27 : last + 27 + segments]
    if len(table) < segments or len(tail) < last + 27 + segments + sum(table):
        return "truncated: the last page is not whole"
    return None if tail[last + 5] & 4 else "truncated: the stream has no end mark"
