"""Folders of real recordings (LibriSpeech's, AISHELL's and Kaldi's layouts) and manifests, packed into a clip store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baichuan_audio.audio import reading
from baichuan_audio.data.importers import MANIFEST, Recording, read_manifest
from baichuan_audio.data.store.manifest import SAMPLE_RATE, ClipWriter, normalise_transcript, to_int16
from baichuan_audio.errors import AudioError, DataError
from baichuan_audio.text.language import language_of
from baichuan_audio.text.lines import read_lines

from ..hashing import hash_fraction

_DECODED_AT_ONCE = 64
_ACCEPTED = (
    f"{MANIFEST}, a folder like LibriSpeech's (*.trans.txt), like AISHELL-1's (wav/, transcript/*.txt) "
    "or like Kaldi's (wav.scp, text)"
)


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
    """The recordings of a manifest, or of a folder laid out like LibriSpeech, AISHELL-1 or Kaldi, whichever it is.

    Raises DataError when it is none of these.
    """
    source = Path(source)
    if source.is_file():
        return read_manifest(source)
    if next(source.glob("transcript/*.txt"), None):
        return read_aishell(source)
    if (source / "wav.scp").is_file():
        return read_kaldi(source)
    if next(source.rglob("*.trans.txt"), None):
        return read_librispeech(source)
    raise DataError(
        f"{source}: no recordings. Name {_ACCEPTED}; recordings=[] makes a corpus of synthetic speech alone."
    )


def read_librispeech(root: str | Path, license: str = "CC-BY-4.0") -> Iterator[Recording]:
    """`<split>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac` (or .wav) with one `.trans.txt` a chapter."""
    transcripts = sorted(Path(root).rglob("*.trans.txt"))
    if not transcripts:
        raise DataError(f"{root} holds no *.trans.txt: it is not laid out like LibriSpeech")
    count = 0
    for listing in transcripts:
        for _, name, text in read_fields(listing, "transcript"):
            files = (listing.parent / f"{name}{suffix}" for suffix in (".flac", ".wav"))
            path = next(filter(Path.is_file, files), None)
            if path is not None:
                count += 1
                speaker = name.split("-")[0]
                yield Recording(f"librispeech/{name}", path, "en", f"ls{speaker}", text, license, "LibriSpeech")
    if not count:
        raise DataError(f"{transcripts[0]}: none of the recordings named there lies beside it as .flac or .wav.")


def read_aishell(root: str | Path, license: str = "Apache-2.0") -> Iterator[Recording]:
    """`wav/<split>/<speaker>/*.wav` with `transcript/aishell_transcript_v0.8.txt`."""
    listings = sorted(Path(root).glob("transcript/*.txt"))
    if not listings:
        raise DataError(f"{root} holds no transcript/*.txt: it is not laid out like AISHELL-1")
    texts: dict[str, str] = {}
    for listing in listings:
        texts |= {name: "".join(text.split()) for _, name, text in read_fields(listing, "transcript")}
    count = 0
    for path in sorted(Path(root).glob("wav/**/*.wav")):
        if path.stem in texts:
            count += 1
            yield Recording(
                f"aishell1/{path.stem}", path, "zh", path.parent.name, texts[path.stem], license, "AISHELL-1"
            )
    if not count:
        raise DataError(f"{listings[0]}: none of the {len(texts)} recordings named there lies below {root}/wav.")


def read_kaldi(root: str | Path) -> Iterator[Recording]:
    """A Kaldi data folder: `wav.scp` with names and files, `text` with transcripts, `utt2spk` where there is one.

    Raises DataError for a wav.scp of commands, and for recordings cut by a `segments` file.
    """
    root = Path(root)
    if (root / "segments").is_file():
        raise DataError(f"{root}/segments: cut the recordings into one file an utterance first; segments are not read.")
    lists = {}
    for name, meaning in (("text", "transcript"), ("utt2spk", "speaker")):
        path = root / name
        lists[name] = {key: value for _, key, value in read_fields(path, meaning)} if path.is_file() else {}
    for number, name, file in read_fields(root / "wav.scp", "file"):
        if file.endswith("|"):
            raise DataError(f"{root}/wav.scp, line {number}, is a command; only names of audio files are read.")
        text = lists["text"].get(name)
        speaker = lists["utt2spk"].get(name)
        language = language_of(text or "") or "en"
        yield Recording(f"{root.name}/{name}", root / file, language, speaker, text, "unknown", root.name)


def read_fields(path: str | Path, meaning: str) -> Iterator[tuple[int, str, str]]:
    """Lines of a name, white space and the rest: (number, name, rest), as in transcripts and Kaldi's lists.

    meaning: what the rest is, for errors. Raises DataError for a line without a rest, and for a name with two
    different rests; an exact repetition is skipped.
    """
    seen: dict[str, tuple[int, str]] = {}
    for number, line in read_lines(path):
        name, *rest = line.split(maxsplit=1)
        if not rest:
            raise DataError(f"{path}, line {number}: no {meaning} follows the name {name!r}.")
        value = rest[0].strip()
        first, other = seen.setdefault(name, (number, value))
        if first == number:
            yield number, name, value
        elif other != value:
            raise DataError(f"{path}: the lines {first} and {number} both name {name!r}, with a different {meaning}.")


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


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """A file's samples [S], float32 mono at `sample_rate`.

    Raises:
        DataError: no such file, no audio that `audio.reading` reads, empty or not finite.
    """
    try:
        samples: np.ndarray = reading.read_audio(path, sample_rate)[0]
    except AudioError as error:
        raise DataError(f"{path} cannot be read as audio: {str(error).removeprefix(f'{path}: ')}") from error
    return samples


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
