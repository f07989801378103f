"""Turns shards into codes once: the same samples, with `KEY.codes.npy` beside or in place of their sound."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..store.atomic import text_digest, write_text, written_aside
from ..store.records import FRAME_SAMPLES, SAMPLE_RATE, from_mapping, to_json
from ..store.shards import IndexEntry, ShardReader, ShardWriter, write_index


class Tokenizer(Protocol):
    """What is needed of an audio tokenizer: waveform [S] and its rate -> codes [K, T]."""

    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor: ...


def tokenize_shards(
    source: str | Path,
    output: str | Path,
    tokenizer: Tokenizer,
    model_digest: str,
    keep_audio: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes a folder of shards with codes; returns how many samples were encoded now.

    A shard that is there already with this model's codes is kept, so a stopped run goes on. A sample's sound is encoded
    as a whole and its frames shared out to its segments, whose borders lie on frames (docs/data.md).

    Raises:
        DataError: there are no shards, or the codes do not fit the sound.
    """
    reader, output = ShardReader(source), Path(output)
    if output.resolve() == reader.root.resolve():
        raise DataError(f"{output}: the shards with codes need a folder of their own; give another --output.")
    by_shard: dict[str, list[IndexEntry]] = defaultdict(list)
    for entry in reader.entries:
        by_shard[entry.shard].append(entry)
    done = encoded = 0
    every: list[IndexEntry] = []
    for shard, entries in sorted(by_shard.items()):
        key = text_digest(model_digest, str(keep_audio), *(to_json(entry) for entry in entries))
        note = output / ".parts" / f"{shard}.{key}.jsonl"
        if not note.is_file() or not (output / shard).is_file():
            written = _encode(reader, entries, output / shard, shard, tokenizer, keep_audio)
            write_text(note, "".join(to_json(entry) + "\n" for entry in written))
            encoded += len(written)
        every += [from_mapping(IndexEntry, json.loads(line)) for line in note.read_text("utf-8").splitlines()]
        done += len(entries)
        progress(done, len(reader))
    facts = {**reader.facts, "codes": {"model": model_digest, "audio": keep_audio}}
    write_index(output, every, {name: value for name, value in facts.items() if name != "format"})
    return encoded


def _encode(
    reader: ShardReader, entries: list[IndexEntry], path: Path, shard: str, tokenizer: Tokenizer, keep_audio: bool
) -> list[IndexEntry]:
    with written_aside(path) as aside:
        writer = ShardWriter(aside, shard)
        for entry in entries:
            waveform = torch.from_numpy(reader.waveform(entry))
            with torch.inference_mode():
                codes = tokenizer.encode(waveform, SAMPLE_RATE).cpu().numpy()
            expected = len(waveform) / FRAME_SAMPLES
            if abs(codes.shape[1] - expected) > 1.5:
                raise DataError(f"{entry.id}: {codes.shape[1]} code frames for a sound of {expected:.1f} frames.")
            buffer = io.BytesIO()
            np.save(buffer, codes.astype(np.uint16))
            members = {"codes.npy": buffer.getvalue()}
            if keep_audio:
                members["flac"] = reader.member(entry, "flac")
            writer.add(reader.sample(entry), members)
        writer.close()
    return writer.entries
