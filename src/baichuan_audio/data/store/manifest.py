"""The packed clip store: every waveform of a corpus in one int16 file, one JSON line a clip.

Random crops are what training reads, so the audio lies in a single memory-mapped file and a clip is an
offset into it. A line is written only after its samples are on disk: whatever lines can be read are whole
clips, also while another process is still appending, and also after a crash.
"""

from __future__ import annotations

import codecs
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...text.lines import read_json_rows
from .atomic import write_text

SAMPLE_RATE = 24_000
CLIPS_FILE = "clips.jsonl"
WAVEFORMS_FILE = "waveforms.int16"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Clip:
    """One waveform of the store, `samples` int16 values from `offset` on at `sample_rate` Hz.

    `transcript` holds words alone; `text` is the sentence as written, with capitals and punctuation, where known.
    """

    id: str
    offset: int
    samples: int
    sample_rate: int
    language: str
    speaker: str
    transcript: str | None
    source: str
    license: str
    split: str
    kind: str
    text: str | None = None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


_CLIP_FIELDS = {field.name for field in dataclasses.fields(Clip)}
_REQUIRED = _CLIP_FIELDS - {"text"}


def _read_clips(path: Path) -> list[Clip]:
    """The whole lines of a store's list, which another process may be appending to."""
    clips = []
    for number, row in read_json_rows(path, growing=True):
        missing = _REQUIRED - row.keys()
        if missing:
            raise DataError(f"{path}, line {number}: a clip lacks {', '.join(sorted(missing))}")
        clips.append(Clip(**{name: row[name] for name in _CLIP_FIELDS & row.keys()}))
    return clips


def _end_last_line(path: Path) -> None:
    """Make a list ready for more lines: end a last whole row, cut off what a crash left of one."""
    with path.open("r+b") as file:
        data = file.read()
        if data and not data.startswith((b"{", codecs.BOM_UTF8 + b"{")):
            raise DataError(f"{path} is not JSON lines in UTF-8, so no clip can be added to it; write it anew.")
        _, _, last = data.rpartition(b"\n")
        try:
            json.loads(last)
            file.write(b"\n")
        except ValueError:
            file.truncate(len(data) - len(last))


class ClipStore:
    """Reads a directory with `clips.jsonl` and `waveforms.int16`; it may still be growing.

    Raises:
        DataError: the directory holds no store, or a line of it cannot be read.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not (self.root / CLIPS_FILE).is_file():
            raise DataError(f"{self.root} holds no {CLIPS_FILE}: it is no clip store")
        self.clips: list[Clip] = []
        self.refresh()

    def refresh(self) -> None:
        """Sees the clips that were appended since."""
        self.clips = _read_clips(self.root / CLIPS_FILE)
        self._by_id = {clip.id: clip for clip in self.clips}
        path = self.root / WAVEFORMS_FILE
        # Half a sample may be on disk while a writer is at work: only whole ones are mapped.
        size = path.stat().st_size // 2 if path.is_file() else 0
        self._samples: np.ndarray = np.memmap(path, np.int16, "r", shape=(size,)) if size else np.zeros(0, np.int16)

    def __len__(self) -> int:
        return len(self.clips)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._by_id

    def __getitem__(self, clip_id: str) -> Clip:
        try:
            return self._by_id[clip_id]
        except KeyError:
            raise DataError(f"{self.root} has no clip {clip_id!r}") from None

    def select(self, **values: str) -> list[Clip]:
        """The clips whose fields have these values, e.g. `select(kind="real", split="train")`."""
        return [clip for clip in self.clips if all(getattr(clip, key) == value for key, value in values.items())]

    def waveform(self, clip: Clip | str, start: int = 0, samples: int | None = None) -> Tensor:
        """Samples [S] of a clip, float32 in [-1, 1] at 24 kHz; a crop where `start` or `samples` is given."""
        clip = self[clip] if isinstance(clip, str) else clip
        end = clip.samples if samples is None else min(clip.samples, start + samples)
        piece = self._samples[clip.offset + start : clip.offset + end]
        if len(piece) != end - start:
            raise DataError(f"{self.root / WAVEFORMS_FILE} is shorter than clip {clip.id!r} says")
        return torch.from_numpy(piece.astype(np.float32) / 32768.0)


def some_clips(clips: Sequence[Clip], count: int = 3) -> list[Clip]:
    """At most `count` of the clips, evenly spread over the list, to look at and listen to."""
    return list(clips[:: max(1, len(clips) // count)][:count])


class ClipWriter:
    """Appends clips to a store; opened on an existing store it goes on after the last whole clip."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        lines_path, samples_path = self.root / CLIPS_FILE, self.root / WAVEFORMS_FILE
        samples_path.touch()
        self._lines = self._locked(lines_path)
        clips = _read_clips(lines_path)
        self.ids = {clip.id for clip in clips}
        self._end = max((clip.offset + clip.samples for clip in clips), default=0)
        _end_last_line(lines_path)
        if samples_path.stat().st_size < 2 * self._end:
            raise DataError(f"{samples_path} is shorter than {lines_path} says: the store is damaged")
        os.truncate(samples_path, 2 * self._end)
        self._samples = samples_path.open("ab")

    def _locked(self, path: Path) -> TextIO:
        lines = path.open("a", encoding="utf-8")
        try:  # two writers would each count offsets of their own
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lines.close()
            raise DataError(f"{self.root} is being written by another process; wait for it or stop it") from error
        return lines

    def add(self, waveform: np.ndarray, **fields: Any) -> Clip:
        """Appends `waveform` [S], float in [-1, 1] or int16, at 24 kHz; a clip id that is there raises DataError."""
        if fields["id"] in self.ids:
            raise DataError(f"clip {fields['id']!r} is already in {self.root}")
        if fields["split"] not in SPLITS:
            raise DataError(f"clip {fields['id']!r}: split {fields['split']!r} is none of {', '.join(SPLITS)}")
        samples = waveform if waveform.dtype == np.int16 else to_int16(waveform)
        if samples.ndim != 1 or not len(samples):
            raise DataError(f"clip {fields['id']!r} has shape {samples.shape}, not one channel of samples")
        clip = Clip(offset=self._end, samples=len(samples), sample_rate=SAMPLE_RATE, **fields)
        self._samples.write(samples.tobytes())
        self._samples.flush()
        self._lines.write(json.dumps(dataclasses.asdict(clip), ensure_ascii=False) + "\n")
        self._lines.flush()
        self._end += len(samples)
        self.ids.add(clip.id)
        return clip

    def set_splits(self, splits: dict[str, str]) -> None:
        """Gives clips their split where it has changed: written aside and renamed, so that readers see old or new."""
        path = self.root / CLIPS_FILE
        rows = [row for _, row in read_json_rows(path)]
        if any(splits.get(row["id"], row["split"]) != row["split"] for row in rows):
            changed = ({**row, "split": splits.get(row["id"], row["split"])} for row in rows)
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in changed))
        self._lines.close()
        self._lines = self._locked(path)

    def close(self) -> None:
        for file in (self._samples, self._lines):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16, clipped."""
    samples: np.ndarray = np.clip(np.round(waveform * 32767.0), -32768, 32767).astype(np.int16)
    return samples


def normalise_transcript(text: str | None, language: str) -> str | None:
    """Words only: lower-case letters and apostrophes in English, Chinese characters in Mandarin.

    None where nothing is left, or where digits or odd signs mean that the spelling is not what was said.
    """
    if text is None or re.search(r"[0-9_@#/]", text):
        return None
    if language == "zh":
        return "".join(re.findall(r"[\u4e00-\u9fff]", text)) or None
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))) or None
