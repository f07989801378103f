"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 20

PART_PREFIX = ".part-"
"""Of the names of files that are not whole yet."""


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to; what stands there in the end is synchronised to disk and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PART_PREFIX, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def file_digest(path: Path) -> str:
    """Hash of a file's content, as 32 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()[:32]


def text_digest(*parts: str) -> str:
    """Hash of some texts in order, as 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:32]


def text_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on some texts alone: decides which share of records something is done to."""
    return int(text_digest(*parts)[:8], 16) / 2**32
