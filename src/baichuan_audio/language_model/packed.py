"""Several documents in one row of the backbone: each attends to itself alone, and its positions begin at 0."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers.attention import attend
from ..layers.kv_cache import RowPositions
from .backbone import Backbone


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    """torch's attention over documents of different lengths (CUDA); None in a torch older than 2.13."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "enable_gqa" in inspect.signature(varlen_attn).parameters else None


@dataclass(frozen=True)
class PackedContext:
    """The documents' rotary cos and sin [N, head_dim] and their lengths, which add up to the N positions of a row.

    On a CPU each document is attended to by itself: no position is computed in vain, and it was the fastest of five
    ways measured (docs/training.md). On CUDA one kernel does all of them.
    """

    cos: Tensor
    sin: Tensor
    lengths: tuple[int, ...]
    ends: Tensor
    """[D + 1] int32: where the documents begin and end."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `backbone.Context`; B is 1."""
        if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and _kernel() is not None:
            return self._attend_on_cuda(query.to(value.dtype), key.to(value.dtype), value)
        documents = zip(*(x.split(self.lengths, dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([attend(q, k, v, causal=True) for q, k, v in documents], dim=2)

    def _attend_on_cuda(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        longest, kernel = max(self.lengths), _kernel()
        assert kernel is not None
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        shared = q.shape[1] != k.shape[1]
        mixed: Tensor = kernel(q, k, v, self.ends, self.ends, longest, longest, window_size=(-1, 0), enable_gqa=shared)
        return mixed.transpose(0, 1)[None]

    def row_positions(self, batch: int) -> RowPositions | None:
        """See `backbone.Context`: there is no cache."""
        return None


def packed_hidden(backbone: Backbone, x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Embeddings x [1, N, D] of documents of these lengths, one after the other -> hidden [1, N, D].

    The states of each are those that `backbone.hidden` gives for it alone.
    """
    cos, sin = backbone.rotary(max(lengths), x)
    sizes = torch.tensor(lengths)
    ends = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    within = (torch.arange(int(ends[-1])) - ends[:-1].repeat_interleave(sizes)).to(x.device)
    return backbone.run(x, PackedContext(cos[within], sin[within], tuple(lengths), ends.to(x.device, torch.int32)))
