"""A language model follows its audio tokenizer: what it knew of the old codes, said of the new ones.

A tokenizer that goes on learning moves its codebooks, the last ones most. Clips that both tokenizers encode tell which
new codes stand where which old ones stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...audio_tokenizer import AudioTokenizer
from ...checkpoint import load, save
from ...data.store.manifest import Clip, ClipStore
from ...errors import DataError, TrainingError
from ...layers.precision import autocast

_SHORTEST, _LONGEST = 0.5, 5.0  # seconds
_BATCH = 24
_RIDGE = 3.0  # frames that speak for a code's old meaning
_KEPT = 2.0  # the same for the output of the audio head


@torch.no_grad()
def transfer_codebooks(
    old: str | Path, new: str | Path, corpus: str | Path, output: str | Path, clips: int = 2500
) -> float:
    """Write checkpoint `new` to `output`, its embeddings and heads of codes saying what those of `old` say of theirs.

    corpus: a clip store, of whose training clips `clips` are encoded by both. Returns the share of the variance of a
    frame's old embedding that the new ones explain.

    Raises CheckpointError, DataError, TrainingError where sizes differ.
    """
    before, after = (load(path, dtype=torch.float32) for path in (old, new))
    sizes = after.language_model.codebook_sizes
    width = after.language_model.config.hidden_size
    if before.language_model.codebook_sizes != sizes or before.language_model.config.hidden_size != width:
        raise TrainingError(f"{old} and {new} have other codebooks or another width: nothing can be carried over.")
    store = ClipStore(corpus)
    chosen = _choose(store, clips)
    first, second = (_encode(model.tokenizer, store, chosen) for model in (before, after))
    wanted = before.language_model.embed_frames(first)
    moved = _fit(second, wanted - before.language_model.embed_frames(second), sizes)
    old_tables, new_tables = (_tables(m.language_model.audio_embed_layers) for m in (before, after))
    for table, source, rows in zip(new_tables, old_tables, moved.split(list(sizes)), strict=True):
        table.weight.copy_(source.weight)  # the end of the audio means what it did
        table.weight[:-1] += rows
    left = wanted - after.language_model.embed_frames(second)
    explained = 1 - float(left.var(0).sum() / wanted.var(0).sum())
    for level, (head, source_head) in enumerate(zip(after.audio_head.heads, before.audio_head.heads, strict=True)):
        _follow(head, source_head, first[level], second[level])
    after.config["torch_dtype"] = "float32"
    save(after, output)
    return explained


def _choose(store: ClipStore, count: int) -> list[Clip]:
    clips = [clip for clip in store.select(split="train") if _SHORTEST < clip.seconds < _LONGEST]
    if not clips:
        raise DataError(f"{store.root}: there is no training clip of {_SHORTEST:g} to {_LONGEST:g} s.")
    picked = np.random.default_rng(0).choice(len(clips), min(count, len(clips)), replace=False)
    return sorted((clips[i] for i in picked), key=lambda clip: clip.samples)


def _encode(tokenizer: AudioTokenizer, store: ClipStore, clips: Sequence[Clip]) -> Tensor:
    """The codes [K, P] of all clips in a row."""
    codes: list[Tensor] = []
    for start in range(0, len(clips), _BATCH):
        mels = [tokenizer.log_mel(store.waveform(c), c.sample_rate) for c in clips[start : start + _BATCH]]
        with torch.inference_mode(), autocast("cpu"):
            codes += tokenizer.encode_mels(mels)
    return torch.cat(codes, dim=1).clone()


def _tables(layers: nn.Module) -> list[nn.Embedding]:
    return [table for table in layers.children() if isinstance(table, nn.Embedding)]


def _fit(codes: Tensor, wanted: Tensor, sizes: Sequence[int]) -> Tensor:
    """Tables [sum of sizes, D] whose rows, summed over the codes [K, P], come near wanted [P, D]; ridge regression."""
    offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    frames = torch.zeros(codes.shape[1], sum(sizes)).scatter_(1, (codes + offsets[:, None]).T, 1.0)
    gram = frames.T @ frames + _RIDGE * torch.eye(frames.shape[1])
    return torch.linalg.solve(gram, frames.T @ wanted)


def _follow(head: nn.Module, source: nn.Module, old: Tensor, new: Tensor) -> None:
    """Each code's output is the mean of those of the old codes that stood in its place, by how often they did."""
    weight, bias = source.get_parameter("weight"), source.get_parameter("bias")
    size = len(weight) - 1
    met = _KEPT * torch.eye(size)
    met.index_put_((new, old), torch.ones(len(new)), accumulate=True)
    met /= met.sum(1, keepdim=True)
    head.get_parameter("weight").copy_(torch.cat([met @ weight[:-1], weight[-1:]]))
    head.get_parameter("bias").copy_(torch.cat([met @ bias[:-1], bias[-1:]]))
