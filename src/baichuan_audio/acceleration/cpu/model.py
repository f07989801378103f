"""Backbone and audio head whose decode steps run in `kernels.c`; prefill stays in torch.

Made from a model in float32 or bfloat16. Of a bfloat16 model only the matrices stay in bfloat16: a step widens them in
registers, prefill multiplies in bfloat16, and everything else, keys and values too, is float32. With weights of 8 or 4
bits steps and prefill compute the same, in C.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...language_model.audio_head import AudioHead, DepthCache, DepthLayer
from ...language_model.backbone import Context, DecoderLayer
from ...language_model.model import LanguageModel
from ...layers.kv_cache import KVCache
from ...layers.module_copy import module_copy_as
from ..modules import as_float32, fused_gate_up
from . import kernels
from .int8_cache import Int8KVCache
from .kernels import PackedLinear
from .layers import Fp32Linear, FusedAudioHead, FusedDecoderLayer, FusedLanguageModel, FusedRMSNorm, LinearFactory

PackFactory = Callable[..., PackedLinear]
"""Packs weight [out, in] and, if given, bias [out]."""
MAX_STEP_POSITIONS = 32
"""More positions than this are read by torch, in one matrix product."""


class Bf16Linear(nn.Module):
    """A product in bfloat16 with float32 input and output, over the layer's own memory; for prefill."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        self._bias = None if source.bias is None else source.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(x.bfloat16(), self.weight, self._bias).float()

    def onto(self, x: Tensor, rest: Tensor) -> Tensor:
        """x [B, in], rest [B, out] -> rest plus the product, of a layer without bias."""
        return F.linear(x.bfloat16(), self.weight) + rest


class NativeLinear(nn.Module):
    """A Linear without bias that runs in C for few rows, and in torch over the layer's own memory for more."""

    def __init__(self, source: nn.Linear, library: ctypes.CDLL) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        self.packed = PackedLinear(library, source.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if x.numel() // x.shape[-1] > MAX_STEP_POSITIONS:
            return F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return _product(self.packed, x)


class QuantizedLinear(nn.Module):
    """A Linear with weights of 8 or 4 bits, which runs in C for any number of rows."""

    def __init__(self, source: nn.Linear, library: ctypes.CDLL, kind: str) -> None:
        """kind: "int8" or "int4"."""
        super().__init__()
        self.packed = PackedLinear(library, source.weight, source.bias, kind)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] float32."""
        return _product(self.packed, x)

    def onto(self, x: Tensor, rest: Tensor) -> Tensor:
        """x [B, in], rest [B, out] -> rest plus the product."""
        out = rest.clone(memory_format=torch.contiguous_format)
        self.packed.multiply(x.contiguous(), out, add=True)
        return out


def _product(packed: PackedLinear, x: Tensor) -> Tensor:
    out = torch.empty(*x.shape[:-1], packed.outputs)
    packed.multiply(x.float().contiguous(), out)
    return out


class NativeLanguageModel(FusedLanguageModel):
    """`LanguageModel` for inference on a CPU; with quantised weights its keys and values have 8 bits."""

    share_steps = True
    """Whether threads share a step; a small model leaves the other cores to other work."""

    def init_cache(self, batch: int = 1, capacity: int = 256) -> KVCache:
        """See Backbone."""
        if not self.int8_cache:
            return super().init_cache(batch, capacity)
        config = self.config
        return Int8KVCache(config.num_hidden_layers, batch, config.key_value_heads, config.head_width, capacity)

    @classmethod
    def from_model_with_kernels(
        cls, source: LanguageModel, library: ctypes.CDLL, kind: str | None = None
    ) -> NativeLanguageModel:
        """An inference copy of `source`; prefill uses the fused layers, with kind "int8" or "int4" in C as well.

        Without a kind it is over the tensors of `source`; with one, their own are the embeddings only.
        """
        make: LinearFactory = Bf16Linear if source.embed_tokens.weight.dtype == torch.bfloat16 else Fp32Linear
        if kind is not None:
            make = partial(QuantizedLinear, library=library, kind=kind)
        model = module_copy_as(cls, source)
        layers = [FusedDecoderLayer(cast(DecoderLayer, layer), make) for layer in source.layers]
        model.layers, model.norm = nn.ModuleList(layers), FusedRMSNorm(as_float32(source.norm))  # type: ignore[assignment]
        model.embed_tokens = as_float32(source.embed_tokens)
        model.audio_embed_layers = nn.ModuleList([as_float32(table) for table in source.audio_embed_layers])
        model.int8_cache = kind is not None
        model.lm_head = make(source.lm_head) if kind else NativeLinear(source.lm_head, library)  # type: ignore[assignment]
        model._view_embeddings()
        steps = [
            NativeDecoderLayer(cast(DecoderLayer, plain), fused, library)
            for plain, fused in zip(source.layers, layers, strict=True)
        ]
        model._set_steps(steps, library)
        return model

    def _set_steps(self, steps: list[NativeDecoderLayer], library: ctypes.CDLL) -> None:
        """Describe the layers to the C kernels."""
        config = self.config
        self.steps, self._layers = nn.ModuleList(steps), kernels.array([step.structure for step in steps])
        sizes = (config.hidden_size, config.num_attention_heads, config.key_value_heads, config.head_width)
        self._backbone = kernels.Backbone(
            len(steps), *sizes, config.intermediate_size, self._layers, kernels.norm_structure(self.norm)
        )
        self._step = library.backbone_step

    def run(self, x: Tensor, context: Context) -> Tensor:
        """See Backbone; in C where the new positions are few and the addresses of their cache are known."""
        batch, count, _ = x.shape
        row_positions = context.row_positions(batch) if batch * count <= MAX_STEP_POSITIONS else None
        if row_positions is None:
            return super().run(x, context)
        store, cos, sin = row_positions.store, context.cos.contiguous(), context.sin.contiguous()
        layer, part, row, group, *_ = store.stride()
        memory = kernels.CacheStruct(store.data_ptr(), layer, part, row, group, 8 * store.element_size())
        hidden = x.clone(memory_format=torch.contiguous_format)
        addresses = (t.data_ptr() for t in (hidden, row_positions.rows, row_positions.positions, cos, sin))
        structures = ctypes.byref(self._backbone), ctypes.byref(memory)
        threads = torch.get_num_threads() if self.share_steps else 1
        if self._step(*structures, batch * count, *addresses, count, threads):
            raise kernels.KernelError("there is not enough memory for a decode step.")
        return hidden


class NativeDecoderLayer(nn.Module):
    """The packed weights of a `DecoderLayer`, and their C structure."""

    def __init__(self, source: DecoderLayer, fused: FusedDecoderLayer, library: ctypes.CDLL) -> None:
        """fused: made of `source`; where its products are packed, these are used."""
        super().__init__()
        attention, mlp = source.self_attn, source.mlp
        norms = [as_float32(norm) for norm in (source.input_layernorm, source.post_attention_layernorm)]
        products = (fused.pack, fused.mix, fused.gate_up, fused.down)
        packed = [product.packed for product in products if isinstance(product, QuantizedLinear)]
        if not packed:
            packed = [PackedLinear(library, attention.W_pack.weight, attention.W_pack.bias)]
            unbiased = (attention.o_proj.weight, fused_gate_up(mlp), mlp.down_proj.weight)
            packed += [PackedLinear(library, weight) for weight in unbiased]
        self.norms, self.packed = nn.ModuleList(norms), nn.ModuleList(packed)
        self.structure = kernels.layer_structure(norms, packed)


class NativeDepthCache(DepthCache):
    """Buffers of a frame and of its logits, for each batch size used so far."""

    def __init__(self, layers: int, width: int, sizes: tuple[int, ...]) -> None:
        self._layers, self._width, self._sizes = layers, width, sizes
        self._buffers = dict[int, tuple[Tensor, list[Tensor]]]()

    def of(self, batch: int) -> tuple[Tensor, list[Tensor]]:
        """Keys and values [layers, B, K, 3 D], and for each code its logits [B, size + 1]."""
        if batch not in self._buffers:
            memory = torch.zeros(self._layers, batch, len(self._sizes), 3 * self._width)
            self._buffers[batch] = memory, [torch.zeros(batch, size + 1) for size in self._sizes]
        return self._buffers[batch]


class NativeDepthLayer(nn.Module):
    """The packed weights of a `DepthLayer`, separate for each position, and their C structure."""

    def __init__(self, source: DepthLayer, pack: PackFactory) -> None:
        super().__init__()
        attention, width, count = source.self_attention, source.width, source.positions
        up = source.linear1.weight.detach().view(2 * width, count, width)
        down = source.linear2.weight.detach().view(width, count, 2 * width)
        outer = attention.out_proj
        shared = pack(attention.in_proj_weight, attention.in_proj_bias), pack(outer.weight, outer.bias)
        ups, downs = [[pack(weight[:, i]) for i in range(count)] for weight in (up, down)]
        norms = as_float32(source.layernorm1), as_float32(source.layernorm2)
        self.norms, self.shared = nn.ModuleList(norms), nn.ModuleList(shared)
        self.up, self.down = nn.ModuleList(ups), nn.ModuleList(downs)
        self.structure = kernels.depth_structure(norms, shared, ups, downs)


class NativeAudioHead(FusedAudioHead):
    """`AudioHead` for inference on a CPU."""

    share_steps = True
    """See NativeLanguageModel."""

    @classmethod
    def from_head_with_kernels(
        cls, source: AudioHead, library: ctypes.CDLL, kind: str | None = None
    ) -> NativeAudioHead:
        """An inference copy of `source` (as loaded) with its weights packed for the C kernels.

        kind: None, "int8" or "int4".
        """
        head = module_copy_as(cls, source)
        head._pack_weights(library, kind)
        return head

    def _pack_weights(self, library: ctypes.CDLL, kind: str | None) -> None:
        pack: PackFactory = partial(PackedLinear, library, kind=kind)
        layers = [NativeDepthLayer(cast(DepthLayer, layer), pack) for layer in self.transformer_layers]
        heads = [pack(head.weight, head.bias) for head in cast(list[nn.Linear], list(self.heads))]
        self.headnorm = as_float32(self.headnorm)
        self._structures = kernels.array([layer.structure for layer in layers]), kernels.products(heads)
        first, second = self._structures
        self._head = kernels.Head(
            len(layers),
            self.width,
            self.num_codebooks,
            self.head_dim,
            first,
            kernels.norm_structure(self.headnorm),
            second,
        )
        self.transformer_layers, self.heads = nn.ModuleList(layers), nn.ModuleList(heads)
        self._step = library.head_step

    def init_cache(self, batch: int = 1) -> NativeDepthCache:
        """See AudioHead; any batch fits."""
        return NativeDepthCache(len(self.transformer_layers), self.width, self.codebook_sizes)

    def step(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """See AudioHead; the logits are overwritten at the same position of the next frame."""
        assert isinstance(cache, NativeDepthCache)
        batch, x = x.shape[0], x.float().contiguous()
        memory, logits = cache.of(batch)
        into = logits[position]
        addresses = x.data_ptr(), memory.data_ptr(), into.data_ptr()
        threads = torch.get_num_threads() if self.share_steps else 1
        if self._step(ctypes.byref(self._head), batch, position, *addresses, threads):
            raise kernels.KernelError("there is not enough memory for a code frame.")
        return into

    def _choices(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """See FusedAudioHead."""
        logits = self.step(x, position, cache)
        return logits[:, :-1] if position else logits
