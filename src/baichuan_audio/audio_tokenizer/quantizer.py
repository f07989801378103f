"""Residual vector quantisation with codebooks learnt by moving averages (docs/model.md, 3.5 and 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

_SPLIT_SHARE = 0.3  # of the way from an entry to one of its vectors
_MIN_MEMBERS = 2  # an entry with fewer vectors is given a new place in k-means


class Codebook(nn.Module):
    """The entries [size, D] of one level, with the moving averages of their counts and sums."""

    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed_avg", torch.zeros(size, width))
        self.register_buffer("embed", nn.init.normal_(torch.empty(size, width), std=0.02))

    def scores(self, x: Tensor) -> Tensor:
        """Negative half squared distance up to a constant per row: x [N, D] float32 -> [N, size]."""
        entries = self.embed.float()
        return torch.addmm(-0.5 * entries.square().sum(dim=1), x, entries.T)

    def lookup(self, codes: Tensor) -> Tensor:
        """codes [...] -> entries [..., D] float32."""
        return self.embed[codes].float()


class VectorQuantizer(nn.Module):
    """One level; separate from its codebook because of the released parameter names."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.codebook = Codebook(size, width)


def codebooks(levels: Iterable[nn.Module]) -> list[Codebook]:
    """The codebooks of a list of levels, coarse first."""
    return [cast(VectorQuantizer, level).codebook for level in levels]


def quantize(levels: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Residual quantization, nearest entry at each level: x [..., D] -> codes [..., K].

    Always in float32, independent of the weights' type: a rounded distance would give other codes.
    """
    residual = x.float().reshape(-1, x.shape[-1])
    codes = []
    with torch.autocast(x.device.type, enabled=False):
        for codebook in codebooks(levels):
            chosen = codebook.scores(residual).argmax(dim=1)
            residual = residual - codebook.lookup(chosen)
            codes.append(chosen)
    return torch.stack(codes, dim=-1).reshape(*x.shape[:-1], -1)


def dequantize(levels: Iterable[nn.Module], codes: Tensor) -> Tensor:
    """codes [..., K] -> sum of the entries [..., D] float32."""
    return torch.stack([book.lookup(codes[..., k]) for k, book in enumerate(codebooks(levels))]).sum(dim=0)


@dataclass(frozen=True)
class QuantizerRecipe:
    """How codebooks learn (docs/model.md, 8)."""

    decay: float = 0.99
    shrink: float = 1e-4
    """Entries are multiplied by (1 - shrink) after each update: the L2 pull towards zero."""
    restart_below: float = 0.3
    """An entry whose average count in 1 / (1 - decay) steps falls below this is moved next to one that is used."""
    gumbel_temperature: float = 0.0
    """Codes are sampled with Gumbel noise of this share of the mean distance; 0: the nearest entry."""
    quantizer_dropout: float = 0.3
    """Share of samples that keep only their first n levels, n uniform in 1..K-1."""


def learn(
    levels: Iterable[nn.Module], x: Tensor, recipe: QuantizerRecipe, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One training step of all levels on vectors x [N, D]; keep [N]: number of levels used of each vector (None: all).

    Returns (quantised [N, D], codes [N, K]); the caller adds the straight-through gradient. Codebooks are updated
    in place from every vector, also at dropped levels.
    """
    residual = x.detach().float()
    quantised = torch.zeros_like(residual)
    codes = []
    for k, book in enumerate(codebooks(levels)):
        scores = book.scores(residual)
        if recipe.gumbel_temperature > 0:
            scores = scores + _gumbel_like(scores) * (recipe.gumbel_temperature * residual.square().sum(1).mean())
        chosen = scores.argmax(dim=1)
        entries = book.lookup(chosen)
        used = entries if keep is None else entries * (keep > k)[:, None]
        quantised += used
        _update(book, residual, chosen, recipe)
        residual = residual - entries
        codes.append(chosen)
    return quantised, torch.stack(codes, dim=1)


def _gumbel_like(scores: Tensor) -> Tensor:
    uniform = torch.rand_like(scores).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


@torch.no_grad()
def _update(book: Codebook, x: Tensor, codes: Tensor, recipe: QuantizerRecipe) -> None:
    counts = torch.bincount(codes, minlength=book.embed.shape[0]).to(x.dtype)
    sums = torch.zeros_like(book.embed_avg).index_add_(0, codes, x)
    book.cluster_size.mul_(recipe.decay).add_(counts, alpha=1 - recipe.decay)
    book.embed_avg.mul_(recipe.decay).add_(sums, alpha=1 - recipe.decay)
    alive = book.cluster_size > 1e-6
    fresh = book.embed_avg / book.cluster_size.clamp(min=1e-6)[:, None]
    book.embed.copy_(torch.where(alive[:, None], fresh, book.embed) * (1 - recipe.shrink))
    dead = (book.cluster_size < recipe.restart_below * (1 - recipe.decay)).nonzero()[:, 0]
    if len(dead) and len(x):
        # a few at a time: otherwise many entries would move to the same region
        dead = dead[torch.randperm(len(dead), device=x.device)[: max(1, len(x) // 16)]]
        picked = torch.randint(len(x), (len(dead),), device=x.device)
        book.embed[dead] = _split(book.embed[codes[picked]], x[picked])
        book.embed_avg[dead] = book.embed[dead]
        book.cluster_size[dead] = 1.0


def _split(entries: Tensor, members: Tensor) -> Tensor:
    """New entries [n, D] near used ones, a little towards a member of each (Linde, Buzo and Gray 1980).

    A vector of the data itself would not do: with many dimensions every other vector is nearer to the mean than to it,
    and the new entry would stay unused.
    """
    return entries + _SPLIT_SHARE * (members - entries)


@torch.no_grad()
def initialise(levels: Iterable[nn.Module], x: Tensor, rounds: int = 10) -> None:
    """Start every level by k-means on vectors x [N, D] (N should be at least the size of the largest codebook)."""
    residual = x.float()
    for book in codebooks(levels):
        size = book.embed.shape[0]
        picks = torch.randperm(len(residual))[:size]
        picks = picks if len(picks) == size else torch.randint(len(residual), (size,))
        book.embed.copy_(residual[picks])
        for _ in range(rounds):
            chosen = book.scores(residual).argmax(dim=1)
            counts = torch.bincount(chosen, minlength=size).to(residual.dtype)
            sums = torch.zeros_like(book.embed).index_add_(0, chosen, residual)
            filled = counts > 0
            book.embed[filled] = sums[filled] / counts[filled, None]
            rare = (counts < _MIN_MEMBERS).nonzero()[:, 0]
            picked = torch.randint(len(residual), (len(rare),))
            book.embed[rare] = _split(book.embed[chosen[picked]], residual[picked])
        book.cluster_size.copy_(counts.clamp(min=0.1) * (50.0 / max(1.0, len(residual) / size)) / 50.0)
        book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
        residual = residual - book.lookup(book.scores(residual).argmax(dim=1))
