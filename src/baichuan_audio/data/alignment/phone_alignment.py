"""Phoneme alignments of clips: English by pocketsphinx's forced alignment, in one file beside the clips.

With them the tokenizer's encoder has a target every 20 ms, from which it learns many times faster than from the text
alone (connectionist temporal classification first has to find the times).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from ...errors import DataError, needed_library
from ...text.lines import parse_rows
from ...text.phonemes import SYMBOLS
from ..store.manifest import Clip, ClipStore
from .utterance import decode_utterance

ALIGNMENT_FILE = "alignments.jsonl"
ALIGNER_RATE = 16000
FRAMES_PER_SECOND = 100
PHONES_PER_FRAME = 4
"""Positions within a code frame that have a phoneme."""
Alignment = tuple[np.ndarray, np.ndarray]
"""Phonemes as indices into SYMBOLS [N], and their ends [N] in frames of 10 ms."""
_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}
_SILENCE = 0


class PhoneAligner:
    """Forced alignment of English speech with its text."""

    def __init__(self) -> None:
        with needed_library("aligning needs pocketsphinx: pip install 'baichuan-audio[train]'."):
            from pocketsphinx import Decoder
        # Wide beams: the text is given, so it is only a question of finding a path at all.
        self._decoder = Decoder(lm=None, loglevel="FATAL", bestpath=False, beam=1e-80, wbeam=1e-60)

    def __call__(self, waveform: np.ndarray, text: str) -> list[tuple[int, int]] | None:
        """waveform [S] at 16 kHz and its transcript -> (index into SYMBOLS, end in frames of 10 ms) of each phoneme.

        Silence is index 0. None where no alignment is found (a word that the dictionary lacks, another text).
        """
        pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16).tobytes()
        decoder = self._decoder
        try:
            decoder.set_align_text(" ".join(text.lower().split()))
            decode_utterance(decoder, pcm)
            decoder.set_alignment()  # the second pass: phones inside the words
            decode_utterance(decoder, pcm)
            words = decoder.get_alignment()
        except (RuntimeError, ValueError):
            return None
        if words is None:
            return None
        phones = [phone for word in words for phone in word]
        return [(_INDEX.get(p.name, _SILENCE), p.start + p.duration) for p in phones] or None


def align(store: ClipStore, clips: Sequence[Clip], processes: int = 1) -> Iterator[tuple[str, Any]]:
    """Align English clips of a store with their transcripts, in their order.

    Yields (clip id, phonemes), None for those that cannot be aligned.
    """
    parts = [clips[i : i + 50] for i in range(0, len(clips), 50)]
    with get_context("spawn").Pool(processes, _start_worker, (str(store.root),)) as pool:
        for results in pool.imap(_align_part, parts):
            yield from results


def write_alignments(
    root: str | Path,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Add what `alignments.jsonl` of a clip store lacks of the English clips with a transcript; returns how many clips
    were aligned. Raises DataError."""
    store, known = ClipStore(root), aligned_clips(root)
    clips = [clip for clip in store.clips if clip.language == "en" and clip.transcript and clip.id not in known]

    def rows() -> Iterator[tuple[str, list[int], list[int]]]:
        for done, (clip, phonemes) in enumerate(align(store, clips, processes), 1):
            if phonemes:
                yield clip, [phoneme for phoneme, _ in phonemes], [end for _, end in phonemes]
            progress(done, len(clips))

    count = extend_alignments(root, rows())
    if not count and not known:
        (Path(root) / ALIGNMENT_FILE).unlink()
        raise DataError(f"{root}: no English clip with a transcript could be aligned.")
    return count


def aligned_clips(root: str | Path) -> set[str]:
    """The ids of a clip store's clips that have an alignment, also of a run that was stopped."""
    return {json.loads(line)[0] for line in _whole_lines(Path(root) / ALIGNMENT_FILE).splitlines()}


def extend_alignments(root: str | Path, rows: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> int:
    """Add (clip id, phonemes, their ends) to `alignments.jsonl` of a clip store; returns how many.

    Existing rows are kept. The new ones are written to a file beside it, which replaces it at the end; those of a
    stopped run are used by the next.
    """
    path = Path(root) / ALIGNMENT_FILE
    existing, count = _whole_lines(path), 0
    with _aside(path).open("wb") as file:
        file.write(existing)
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
            count += 1
            if count % 50 == 0:
                file.flush()
    _aside(path).replace(path)
    return count


def _aside(path: Path) -> Path:
    return path.with_suffix(".part")


def _whole_lines(path: Path) -> bytes:
    """The whole lines of an alignment file, and those that a stopped run wrote after them."""
    existing = path.read_bytes() if path.is_file() else b""
    existing += b"" if existing.endswith(b"\n") or not existing else b"\n"
    written = _aside(path).read_bytes() if _aside(path).is_file() else b""
    # A run that was stopped while it copied the old lines has written nothing new.
    return written[: written.rfind(b"\n") + 1] if written.startswith(existing) else existing


def read_alignments(root: str | Path) -> dict[str, Alignment]:
    """Clip id -> its alignment, of a clip store; raises DataError when there are none."""
    path = Path(root) / ALIGNMENT_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; make it with `baichuan-audio data align --corpus {path.parent.parent}`."
        )

    def parse(row: Any) -> tuple[str, Alignment]:
        name, symbols, ends = row
        return str(name), (np.array(symbols, dtype=np.int64), np.array(ends, dtype=np.int64))

    return dict(parse_rows(path, parse, "alignment"))


def frame_phonemes(
    alignment: Alignment, frames: int, frame_rate: float, start: float = 0.0, speed: float = 1.0
) -> np.ndarray:
    """The phonemes [frames, PHONES_PER_FRAME] of each code frame, silence after the last.

    The first frame begins `start` seconds into the clip, which is played `speed` times as fast.
    """
    symbols, ends = alignment
    step = 1 / (frame_rate * PHONES_PER_FRAME)
    times = start + (np.arange(frames * PHONES_PER_FRAME).reshape(frames, PHONES_PER_FRAME) + 0.5) * step * speed
    index = np.searchsorted(ends, times * FRAMES_PER_SECOND, side="right")
    return np.where(index < len(symbols), symbols[np.minimum(index, len(symbols) - 1)], _SILENCE)


_worker: tuple[ClipStore, PhoneAligner] | None = None


def _start_worker(root: str) -> None:
    global _worker
    _worker = ClipStore(root), PhoneAligner()


def _align_part(clips: Sequence[Clip]) -> list[tuple[str, list[tuple[int, int]] | None]]:
    assert _worker is not None
    store, aligner = _worker
    return [
        (c.id, aligner(soxr.resample(store.waveform(c).numpy(), c.sample_rate, ALIGNER_RATE), c.transcript or ""))
        for c in clips
    ]
