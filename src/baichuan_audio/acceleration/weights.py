"""Where an inference copy on a CPU gets its weights from, and tables that take no more memory than they need.

Each matrix is packed by itself. From a checkpoint it is read for that and freed again, so loading needs little more
memory than the packed model. Rows of the text embeddings, of which a reply uses few, stay in the file.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..audio_tokenizer.quantizer import Codebook
from ..checkpoint import OpenedCheckpoint
from ..layers.module_copy import module_copy
from ..safetensors_io import StoredTensor

M = TypeVar("M", bound=nn.Module)
RowReader = Callable[[int], np.ndarray]
"""An id -> its embedding [D] float32."""
_STATISTICS = ("cluster_size", "embed_avg")
"""Buffers of a codebook that training alone needs."""


class Weights:
    """Those of a model in memory."""

    def held(self, module: nn.Module) -> AbstractContextManager[object]:
        """`module` has its weights as long as this lasts; whoever keeps one of its tensors keeps that."""
        return nullcontext()

    def dtype(self, module: nn.Module) -> torch.dtype:
        """The type in which the model has the weight of `module`; while it is held it may have a smaller one."""
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.dtype

    def device(self, module: nn.Module) -> torch.device:
        """Where the weight of `module` is while it is held."""
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.device

    def embedding(self, table: nn.Embedding) -> CompactEmbedding | FileEmbedding:
        """`table` [size, D] with rows in float32."""
        return CompactEmbedding(table.weight)


IN_MEMORY = Weights()


class StoredWeights(Weights):
    """Those of a checkpoint."""

    def __init__(self, opened: OpenedCheckpoint) -> None:
        self._opened, self._tensors = opened, opened.names
        self._names = {module: name for name, module in opened.model.named_modules()}

    def held(self, module: nn.Module) -> AbstractContextManager[object]:
        """See Weights."""
        if module not in self._names or self._names[module].startswith("vocoder."):  # which is in memory already
            return nullcontext()
        return self._read(module)

    @contextmanager
    def _read(self, module: nn.Module) -> Iterator[None]:
        prefix = self._names[module] + "."
        parts = list(module.modules())
        empty = [(part, dict(part._parameters), dict(part._buffers)) for part in parts]
        self._opened.read((name for name in self._tensors if name.startswith(prefix)), widen=False)
        try:
            yield
        finally:
            for part, parameters, buffers in empty:
                part.__dict__["_parameters"], part.__dict__["_buffers"] = parameters, buffers

    def dtype(self, module: nn.Module) -> torch.dtype:
        """See Weights."""
        name = self._names.get(module, "vocoder.")
        return super().dtype(module) if name.startswith("vocoder.") else self._opened.dtype_of(name + ".weight")

    def device(self, module: nn.Module) -> torch.device:
        """See Weights."""
        return self._opened.device

    def embedding(self, table: nn.Embedding) -> CompactEmbedding | FileEmbedding:
        """See Weights."""
        source = self._opened.source(self._names[table] + ".weight")
        if isinstance(source, StoredTensor) and source.dtype.is_floating_point:
            return FileEmbedding(source)
        with self.held(table):
            return super().embedding(table)

    def read_rest(self, packed: Callable[[nn.Module], bool]) -> None:
        """Read all but what `packed` modules have."""
        left_out = tuple(name + "." for module, name in self._names.items() if packed(module))
        self._opened.read(name for name in self._tensors if not name.startswith(left_out))


# ------------------------------------------------------------------------------------------------ tables


def compact(table: Tensor) -> Tensor:
    """`table` in bfloat16 where that is exact, else in float32; not the memory of `table` itself."""
    half = table.detach().to(torch.bfloat16, copy=True)
    return half if torch.equal(half.float(), table.float()) else table.detach().to(torch.float32, copy=True)


class CompactEmbedding(nn.Module):
    """An embedding table in 16 bits where that is exact; its rows are float32."""

    def __init__(self, table: Tensor) -> None:
        """table [size, D]."""
        super().__init__()
        self.weight = nn.Parameter(compact(table), requires_grad=False)
        self._half = self.weight.dtype == torch.bfloat16
        stored = self.weight.detach()
        self._rows = (stored.view(torch.int16) if self._half else stored).numpy()

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., D] float32."""
        return F.embedding(ids, self.weight).float()

    def row(self, id: int) -> np.ndarray:
        """The row of `id` [D] float32."""
        row = self._rows[id]
        return (row.astype(np.int32) << 16).view(np.float32) if self._half else row


class FileEmbedding(nn.Module):
    """An embedding table in a file, of which single rows are read; the system keeps them in its file cache.

    The file stays open, so replacing the checkpoint changes nothing.
    """

    def __init__(self, source: StoredTensor) -> None:
        """source: [size, D] of a type of floats."""
        super().__init__()
        self._source, (self._size, self._width) = source, source.shape
        self._file = os.open(source.file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., D] float32."""
        different, places = ids.unique(return_inverse=True)
        rows = np.stack([self.row(id) for id in different.tolist()])
        return F.embedding(places, torch.from_numpy(rows))

    def row(self, id: int) -> np.ndarray:
        """The row of `id` [D] float32. Raises IndexError for one that there is not."""
        if not 0 <= id < self._size:
            raise IndexError(f"{id} of {self._size} rows")
        return self._source.read_row(self._file, id).float().numpy()


def compact_codebook(book: Codebook) -> Codebook:
    """A codebook for inference: the entries in 16 bits where that is exact, without the statistics of training."""
    copied = module_copy(book)
    for name in _STATISTICS:
        del copied._buffers[name]
    copied.embed = compact(book.embed)
    return copied


def return_free_memory() -> None:
    """Give the system back what was freed; glibc keeps it otherwise, below what is still in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
