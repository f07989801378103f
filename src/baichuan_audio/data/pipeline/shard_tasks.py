"""Writes drafts as shards: which samples a shard holds, the task that writes it, and the finished folder."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..store.atomic import PART_PREFIX, text_digest, write_text, written_aside
from ..store.records import Draft, from_mapping, to_json
from ..store.shards import FORMAT, IndexEntry, ShardWriter, flac_bytes, write_index
from .audio_access import Samples, read_stretch
from .engine.journal import Journal


@dataclass(frozen=True)
class ShardTask:
    """Shard `name` with these drafts, in order."""

    name: str
    drafts: tuple[Draft, ...]

    @property
    def key(self) -> str:
        return text_digest(FORMAT, self.name, *(to_json(draft) for draft in self.drafts))


def plan_shards(drafts: Sequence[Draft], per_shard: int) -> list[ShardTask]:
    """Drafts in an order that mixes sources and kinds (by the hash of their ids), in shards of `per_shard`, split by
    split. No two runs over the same drafts differ."""
    tasks = []
    for split in sorted({draft.sample.split for draft in drafts}):
        ordered = sorted(
            (draft for draft in drafts if draft.sample.split == split), key=lambda draft: text_digest(draft.sample.id)
        )
        for number, start in enumerate(range(0, len(ordered), per_shard)):
            tasks.append(ShardTask(f"{split}-{number:06d}.tar", tuple(ordered[start : start + per_shard])))
    return tasks


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard into the work folder, unless it is there; returns its key. Picklable, as workers need it."""

    work: str

    def __call__(self, task: ShardTask) -> str:
        work, key = Path(self.work), task.key
        tar, index = shard_files(work, key)
        if tar.is_file() and index.is_file():
            return key
        journal = Journal(work)
        began = journal.began("shards", key)
        with written_aside(tar) as aside:
            writer = ShardWriter(aside, task.name)
            for draft in task.drafts:
                writer.add(draft.sample, {"flac": flac_bytes(_waveform(work / "recordings", draft))})
            writer.close()
        write_text(index, "".join(to_json(entry) + "\n" for entry in writer.entries))
        journal.ended("shards", key, began, sum(draft.seconds for draft in task.drafts))
        return key


def shard_files(work: Path, key: str) -> tuple[Path, Path]:
    """The tar and the index of a shard in the work folder."""
    return work / "shards" / f"{key}.tar", work / "shards" / f"{key}.jsonl"


def finish_shards(work: Path, output: Path, shards: Mapping[str, str], facts: Mapping[str, Any]) -> list[IndexEntry]:
    """shards: name -> key. Puts the shards into the output folder with their index; removes those of an older run."""
    output.mkdir(parents=True, exist_ok=True)
    entries: list[IndexEntry] = []
    for name, key in sorted(shards.items()):
        tar, index = shard_files(work, key)
        _put(tar, output / name)
        lines = index.read_text(encoding="utf-8").splitlines()
        entries += [from_mapping(IndexEntry, json.loads(line)) for line in lines]
    for stale in (*output.glob("*.tar"), *output.glob(f"{PART_PREFIX}*")):  # parts: of a run that was killed
        if stale.name not in shards:
            stale.unlink(missing_ok=True)
    seconds: Counter[str] = Counter()
    for entry in entries:
        seconds[entry.kind] += round(1000 * entry.seconds)
    counts = Counter(entry.kind for entry in entries)
    summary = {
        "samples": dict(sorted(counts.items())),
        "hours": {kind: round(value / 3.6e6, 5) for kind, value in sorted(seconds.items())},
        "shards": sorted(shards),
        **facts,
    }
    write_index(output, entries, summary)
    return entries


def _put(tar: Path, target: Path) -> None:
    if target.is_file() and os.path.samefile(tar, target):
        return
    with written_aside(target) as aside:
        aside.unlink()
        try:
            os.link(tar, aside)
        except OSError:  # another file system
            shutil.copyfile(tar, aside)


def _waveform(recordings: Path, draft: Draft) -> Samples:
    parts = draft.parts
    return np.concatenate([read_stretch(recordings, p.audio, p.start, p.end, p.gain) for p in parts])
