"""Folders of real recordings as rows of one kind: a JSON manifest, LibriSpeech's and AISHELL's layouts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baichuan_audio.data.manifest import (
    ClipWriter,
    hash_fraction,
    normalise_transcript,
    read_audio,
    read_json_lines,
    to_int16,
)
from baichuan_audio.errors import DataError

_DECODED_AT_ONCE = 64


@dataclass(frozen=True)
class Recording:
    """One file of real speech. `speaker` and `transcript` are None where unknown."""

    id: str
    path: Path
    language: str
    speaker: str | None
    transcript: str | None
    license: str
    source: str


@dataclass(frozen=True)
class RealSplit:
    """Which real recordings are held out.

    Speakers are held out whole: those named in `test_speakers`, and a share of the others for validation.
    A folder in `shared_speakers` has too few speakers for that, and recordings without a speaker have none
    to go by: there single recordings are held out.
    """

    validation_share: float = 0.05
    test_speakers: tuple[str, ...] = ()
    shared_speakers: tuple[str, ...] = ()

    def __call__(self, recording: Recording) -> str:
        if recording.speaker in self.test_speakers:
            return "test"
        folder = recording.id.split("/")[0]
        by_speaker = recording.speaker is not None and folder not in self.shared_speakers
        key = f"{folder}:{recording.speaker}" if by_speaker else recording.id
        return "validation" if hash_fraction("real:" + key) < self.validation_share else "train"


def read_recordings(source: str | Path) -> Iterator[Recording]:
    """The recordings of a manifest, or of a folder laid out like LibriSpeech or AISHELL-1, whichever `source` is.

    Raises DataError when it is none of these.
    """
    source = Path(source)
    if source.is_file():
        return read_manifest(source)
    if next(source.glob("transcript/*.txt"), None):
        return read_aishell(source)
    if next(source.rglob("*.trans.txt"), None):
        return read_librispeech(source)
    raise DataError(
        f"{source}: no recordings. Name a manifest (JSON lines), a folder like LibriSpeech's (*.trans.txt) or one like "
        "AISHELL-1's (wav/, transcript/*.txt); recordings=[] makes a corpus of synthetic speech alone."
    )


def read_manifest(path: str | Path) -> Iterator[Recording]:
    """Rows `path, language, speaker, seconds, transcript, license, source` beside their files."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no manifest at {path}")
    for row in read_json_lines(path):
        try:
            yield Recording(
                id=str(Path(row["path"]).with_suffix("")),
                path=path.parent / row["path"],
                language=row["language"],
                speaker=row.get("speaker"),
                transcript=row.get("transcript"),
                license=row["license"],
                source=row["source"],
            )
        except KeyError as error:
            raise DataError(f"{path}: a row lacks {error.args[0]!r}: {json.dumps(row)[:120]}") from None


def read_librispeech(root: str | Path, license: str = "CC-BY-4.0") -> Iterator[Recording]:
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac` with one `.trans.txt` a chapter."""
    transcripts = sorted(Path(root).rglob("*.trans.txt"))
    if not transcripts:
        raise DataError(f"{root} holds no *.trans.txt: it is not laid out like LibriSpeech")
    for listing in transcripts:
        for line in listing.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            path = listing.parent / f"{name}.flac"
            if name and path.is_file():
                speaker = name.split("-")[0]
                yield Recording(f"librispeech/{name}", path, "en", f"ls{speaker}", text, license, "LibriSpeech")


def read_aishell(root: str | Path, license: str = "Apache-2.0") -> Iterator[Recording]:
    """`wav/<split>/<speaker>/*.wav` with `transcript/aishell_transcript_v0.8.txt`."""
    listings = sorted(Path(root).glob("transcript/*.txt"))
    if not listings:
        raise DataError(f"{root} holds no transcript/*.txt: it is not laid out like AISHELL-1")
    texts: dict[str, str] = {}
    for listing in listings:
        for line in listing.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            texts[name] = text.replace(" ", "")
    for path in sorted(Path(root).glob("wav/**/*.wav")):
        if path.stem in texts:
            yield Recording(
                f"aishell1/{path.stem}", path, "zh", path.parent.name, texts[path.stem], license, "AISHELL-1"
            )


def pack_recordings(
    recordings: Sequence[Recording],
    writer: ClipWriter,
    split: Callable[[Recording], str],
    *,
    max_seconds: float = 30.0,
    threads: int = 2,
    progress: bool = True,
) -> int:
    """Decodes, resamples to 24 kHz and appends the recordings the store does not have; returns how many.

    A recording longer than `max_seconds` is cut into pieces without a transcript, since no word times are known.
    One that cannot be read is named and left out. Raises DataError when that is more than one in a hundred, and before
    any work when two different files have the same id.
    """
    from tqdm import tqdm  # an extra's library, so not at the top

    by_id: dict[str, Recording] = {}
    for recording in recordings:
        other = by_id.setdefault(recording.id, recording).path
        if other != recording.path:
            raise DataError(
                f"{recording.path} and {other} would both be '{recording.id}' in the corpus; rename a folder."
            )
    waiting = [recording for recording in by_id.values() if recording.id not in writer.ids]
    unreadable: list[str] = []
    bar = tqdm(total=len(waiting), desc="real speech", unit="clip", disable=not progress)
    with bar, ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(waiting), _DECODED_AT_ONCE):
            batch = waiting[first : first + _DECODED_AT_ONCE]
            for recording, samples in zip(batch, pool.map(_decode, batch), strict=True):
                if isinstance(samples, DataError):
                    unreadable.append(str(samples))
                    bar.write(f"left out: {samples}", file=sys.stderr)
                else:
                    _add(recording, samples, writer, split(recording), int(max_seconds * 24_000))
                bar.update()
    if len(unreadable) > max(1, 0.01 * len(waiting)):
        raise DataError(f"{len(unreadable)} of {len(waiting)} recordings cannot be used, e.g. {unreadable[0]}")
    return len(waiting) - len(unreadable)


def _decode(recording: Recording) -> np.ndarray | DataError:
    try:
        return to_int16(read_audio(recording.path))
    except DataError as error:
        return error


def _add(recording: Recording, samples: np.ndarray, writer: ClipWriter, split: str, longest: int) -> None:
    pieces = [samples[start : start + longest] for start in range(0, len(samples), longest)]
    whole = len(pieces) == 1
    # The last piece carries the recording's own id, so that an interrupted recording is decoded again.
    for index, piece in enumerate(pieces):
        clip_id = recording.id if index == len(pieces) - 1 else f"{recording.id}#{index}"
        if clip_id in writer.ids:
            continue
        writer.add(
            piece,
            id=clip_id,
            language=recording.language,
            speaker=recording.speaker or "unknown",
            transcript=normalise_transcript(recording.transcript, recording.language) if whole else None,
            source=recording.id.split("/")[0],
            license=recording.license,
            split=split,
            kind="real",
        )
