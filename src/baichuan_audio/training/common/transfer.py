"""Codebook transfer: adapt a language model's audio embeddings and output heads to a tokenizer trained further.

Further training moves the codebooks, the last ones most. Clips encoded by both tokenizers tell which new codes
correspond to which old ones.
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

_MIN_SECONDS, _MAX_SECONDS = 0.5, 5.0
_BATCH = 24
_EMBEDDING_PRIOR = 3.0  # in frames: how strongly an embedding stays where it is
_HEAD_PRIOR = 2.0  # the same for an output of the audio head


@torch.no_grad()
def transfer_codebooks(
    old: str | Path, new: str | Path, dataset: str | Path, output: str | Path, clips: int = 2500
) -> float:
    """Write checkpoint `new` to `output` with audio embeddings and output heads fitted to those of `old`.

    dataset: a clip store, of whose training clips `clips` are encoded by both. Returns the share of the variance of a
    frame's old embedding that the new ones explain.

    Raises CheckpointError, DataError, TrainingError where sizes differ.
    """
    before, after = (load(path, dtype=torch.float32) for path in (old, new))
    sizes = after.language_model.codebook_sizes
    width = after.language_model.config.hidden_size
    if before.language_model.codebook_sizes != sizes or before.language_model.config.hidden_size != width:
        raise TrainingError(f"{old} and {new} have different sizes of codebooks or embeddings.")
    store = ClipStore(dataset)
    chosen = _choose(store, clips)
    first, second = (_encode(model.tokenizer, store, chosen) for model in (before, after))
    target = before.language_model.embed_frames(first)
    moved = _fit(second, target - before.language_model.embed_frames(second), sizes)
    old_tables, new_tables = (_tables(m.language_model.audio_embed_layers) for m in (before, after))
    for table, source, rows in zip(new_tables, old_tables, moved.split(list(sizes)), strict=True):
        table.weight.copy_(source.weight)  # the end of audio keeps its embedding
        table.weight[:-1] += rows
    residual = target - after.language_model.embed_frames(second)
    explained = 1 - float(residual.var(0).sum() / target.var(0).sum())
    for level, (head, source_head) in enumerate(zip(after.audio_head.heads, before.audio_head.heads, strict=True)):
        _fit_head(head, source_head, first[level], second[level])
    after.config["torch_dtype"] = "float32"
    save(after, output)
    return explained


def _choose(store: ClipStore, count: int) -> list[Clip]:
    clips = [clip for clip in store.select(split="train") if _MIN_SECONDS < clip.seconds < _MAX_SECONDS]
    if not clips:
        raise DataError(f"{store.root}: there is no training clip of {_MIN_SECONDS:g} to {_MAX_SECONDS:g} s.")
    picked = np.random.default_rng(0).choice(len(clips), min(count, len(clips)), replace=False)
    return sorted((clips[i] for i in picked), key=lambda clip: clip.samples)


def _encode(tokenizer: AudioTokenizer, store: ClipStore, clips: Sequence[Clip]) -> Tensor:
    """The codes [K, P] of all clips, concatenated."""
    codes: list[Tensor] = []
    for start in range(0, len(clips), _BATCH):
        mels = [tokenizer.log_mel(store.waveform(c), c.sample_rate) for c in clips[start : start + _BATCH]]
        with torch.inference_mode(), autocast("cpu"):
            codes += tokenizer.encode_mels(mels)
    return torch.cat(codes, dim=1).clone()


def _tables(layers: nn.Module) -> list[nn.Embedding]:
    return [table for table in layers.children() if isinstance(table, nn.Embedding)]


def _fit(codes: Tensor, target: Tensor, sizes: Sequence[int]) -> Tensor:
    """Tables [sum of sizes, D] whose rows, summed over codes [K, P], fit target [P, D]; ridge regression."""
    offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    frames = torch.zeros(codes.shape[1], sum(sizes)).scatter_(1, (codes + offsets[:, None]).T, 1.0)
    gram = frames.T @ frames + _EMBEDDING_PRIOR * torch.eye(frames.shape[1])
    return torch.linalg.solve(gram, frames.T @ target)


def _fit_head(head: nn.Module, source: nn.Module, old: Tensor, new: Tensor) -> None:
    """Set each code's output to the mean of the old codes' outputs, weighted by how often they coincide."""
    weight, bias = source.get_parameter("weight"), source.get_parameter("bias")
    size = len(weight) - 1
    counts = _HEAD_PRIOR * torch.eye(size)
    counts.index_put_((new, old), torch.ones(len(new)), accumulate=True)
    counts /= counts.sum(1, keepdim=True)
    head.get_parameter("weight").copy_(torch.cat([counts @ weight[:-1], weight[-1:]]))
    head.get_parameter("bias").copy_(torch.cat([counts @ bias[:-1], bias[-1:]]))
