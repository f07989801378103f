"""Shards: webdataset tars of samples, and an index by which any sample is read at once.

A sample is two members, `KEY.json` and `KEY.flac` (after `data tokenize` also `KEY.codes.npy`). The bytes of a shard
depend on its samples alone.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ...errors import DataError
from .atomic import text_digest, write_text
from .records import SAMPLE_RATE, Sample, from_mapping, to_json

INDEX_FILE = "index.jsonl"
DATASET_FILE = "dataset.json"
FORMAT = "baichuan-audio-shards-1"


@dataclass(frozen=True)
class IndexEntry:
    """Where a sample lies: its shard's name, and offset and bytes of each member by suffix."""

    id: str
    key: str
    shard: str
    kind: str
    language: str
    speaker: str
    split: str
    seconds: float
    members: Mapping[str, tuple[int, int]]


def key_of(sample: Sample) -> str:
    """A sample's name in the tar: without dots, which would end webdataset's key."""
    return f"{sample.kind}-{text_digest(sample.id)[:20]}"


def flac_bytes(waveform: NDArray[np.float32]) -> bytes:
    """Samples [S] in [-1, 1] at 24 kHz as a FLAC file of 16 bit."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


class ShardWriter:
    """Writes samples into one tar file; `entries` is its index."""

    def __init__(self, file: Path, shard: str) -> None:
        self._tar = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)
        self._shard = shard
        self.entries: list[IndexEntry] = []

    def add(self, sample: Sample, members: Mapping[str, bytes]) -> None:
        """members: suffix -> content, beside the record itself."""
        key, places = key_of(sample), {}
        for suffix, content in {"json": to_json(sample).encode("utf-8"), **members}.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size, info.mtime, info.mode = len(content), 0, 0o644
            self._tar.addfile(info, io.BytesIO(content))
            padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[suffix] = (self._tar.offset - padded, len(content))
        self.entries.append(
            IndexEntry(
                sample.id,
                key,
                self._shard,
                sample.kind,
                sample.language,
                sample.speaker,
                sample.split,
                round(sample.seconds, 3),
                places,
            )
        )

    def close(self) -> None:
        self._tar.close()


def write_index(root: Path, entries: Sequence[IndexEntry], facts: Mapping[str, Any]) -> None:
    """The index of a folder of shards, then the facts about the set: what stands there last makes it whole."""
    write_text(root / INDEX_FILE, "".join(to_json(entry) + "\n" for entry in entries))
    text = json.dumps({"format": FORMAT, **facts}, ensure_ascii=False, indent=1, sort_keys=True)
    write_text(root / DATASET_FILE, text + "\n")


class ShardReader:
    """Reads any sample of a folder of shards by its place in the index.

    Raises:
        DataError: the folder holds no finished shards, or they do not fit the index.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            self.facts = json.loads((self.root / DATASET_FILE).read_text(encoding="utf-8"))
            lines = (self.root / INDEX_FILE).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.root} holds no finished shards; make them with `baichuan-audio data run`."
            ) from error
        if self.facts.get("format") != FORMAT:
            raise DataError(
                f"{self.root}: shards of format {self.facts.get('format')!r}; this version reads {FORMAT!r}."
            )
        self.entries = [from_mapping(IndexEntry, json.loads(line)) for line in lines]
        self._by_id = {entry.id: entry for entry in self.entries}

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(entry) for entry in self.entries)

    def entry(self, name: str) -> IndexEntry:
        """The entry of a sample's id or key."""
        entry = self._by_id.get(name) or next((e for e in self.entries if e.key == name), None)
        if entry is None:
            raise DataError(f"{self.root} holds no sample '{name}'; `data inspect` without a name lists some.")
        return entry

    def sample(self, entry: IndexEntry) -> Sample:
        return from_mapping(Sample, json.loads(self.member(entry, "json")))

    def waveform(self, entry: IndexEntry) -> NDArray[np.float32]:
        """Samples [S] at 24 kHz."""
        samples, _ = soundfile.read(io.BytesIO(self.member(entry, "flac")), dtype="float32")
        return samples

    def codes(self, entry: IndexEntry) -> NDArray[np.int64] | None:
        """Codes [K, T], where `data tokenize` has been run."""
        if "codes.npy" not in entry.members:
            return None
        return np.load(io.BytesIO(self.member(entry, "codes.npy"))).astype(np.int64)

    def member(self, entry: IndexEntry, suffix: str) -> bytes:
        """The bytes of one member."""
        if suffix not in entry.members:
            raise DataError(f"{entry.id}: the shards hold no {suffix} of it.")
        offset, size = entry.members[suffix]
        with (self.root / entry.shard).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise DataError(f"{self.root / entry.shard} is shorter than its index says; run `data run` again.")
        return content


def draw(count: int, seed: Sequence[int], first: int, end: int) -> list[int]:
    """Indices among `count` samples: numbers `first` to `end` of the endless order in which training reads them.

    Every epoch is a permutation that depends on the seed and the epoch alone, so a resumed run needs no state.
    """
    places = (divmod(number, count) for number in range(first, end))
    return [int(_permutation(count, tuple(seed), epoch)[offset]) for epoch, offset in places]


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: tuple[int, ...], epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([*seed, epoch]).permutation(count)
