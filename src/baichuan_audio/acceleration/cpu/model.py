"""Backbone and audio head whose steps are calls of `kernels.c`; what reads many positions at once stays torch's.

Made of a model in float32 or bfloat16. Of the second only the matrices stay in bfloat16: a step widens them in the
register, a prompt is read by torch's products in bfloat16, and all between them, keys and values too, is float32.
"""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...language_model.audio_head import AudioHead, DepthCache, DepthLayer
from ...language_model.backbone import Context, DecoderLayer
from ...language_model.model import LanguageModel
from ..modules import as_float32, fused_gate_up, module_copy
from . import kernels as native
from .kernels import PackedLinear
from .layers import Fp32Linear, FusedAudioHead, FusedDecoderLayer, FusedLanguageModel, FusedRMSNorm, LinearFactory

MAX_STEP_POSITIONS = 32
"""So many positions at most are a step; of more, torch makes one product for all."""


class Bf16Linear(nn.Module):
    """The product in bfloat16 of what is float32 before and after it, over the layer's own memory; for prompts."""

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
    """A Linear without bias whose products with few rows are native; those with more use the layer's own memory."""

    def __init__(self, source: nn.Linear, library: ctypes.CDLL) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        self.packed = PackedLinear(library, source.weight)
        self._product = library.product

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        rows = x.numel() // x.shape[-1]
        if rows > MAX_STEP_POSITIONS:
            return F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        x, out = x.contiguous(), x.new_empty(*x.shape[:-1], self.packed.outputs)
        self._product(ctypes.byref(self.packed.structure), x.data_ptr(), rows, out.data_ptr(), 0)
        return out


class NativeLanguageModel(FusedLanguageModel):
    """`LanguageModel` for inference on a CPU, made by `native_language_model`."""

    def prepare_steps(self, source: LanguageModel, library: ctypes.CDLL) -> None:
        """Lay the weights out a second time, for steps."""
        config, steps = (
            source.config,
            [NativeDecoderLayer(cast(DecoderLayer, layer), library) for layer in source.layers],
        )
        self.steps, self._layers = nn.ModuleList(steps), native.array([step.structure for step in steps])
        sizes = (config.hidden_size, config.num_attention_heads, config.key_value_heads, config.head_width)
        self._backbone = native.Backbone(
            len(steps), *sizes, config.intermediate_size, self._layers, native.norm_structure(self.norm)
        )
        self._step = library.backbone_step

    def run(self, x: Tensor, context: Context) -> Tensor:
        """See Backbone; natively where the new positions are few and their memory is known."""
        batch, count, _ = x.shape
        row_positions = context.row_positions(batch) if batch * count <= MAX_STEP_POSITIONS else None
        if row_positions is None:
            return super().run(x, context)
        store, cos, sin = row_positions.store, context.cos.contiguous(), context.sin.contiguous()
        layer, part, row, group, *_ = store.stride()
        memory = native.CacheStruct(store.data_ptr(), layer, part, row, group)
        rows, positions, hidden = (
            row_positions.rows,
            row_positions.positions,
            x.clone(memory_format=torch.contiguous_format),
        )
        addresses = (each.data_ptr() for each in (hidden, rows, positions, cos, sin))
        reached = ctypes.byref(self._backbone), ctypes.byref(memory)
        if self._step(*reached, batch * count, *addresses, count):
            raise native.KernelError("no memory is left for a decode step.")
        return hidden


class NativeDecoderLayer(nn.Module):
    """What a step needs of a `DecoderLayer`, and its structure."""

    def __init__(self, source: DecoderLayer, library: ctypes.CDLL) -> None:
        super().__init__()
        attention, mlp = source.self_attn, source.mlp
        norms = [as_float32(norm) for norm in (source.input_layernorm, source.post_attention_layernorm)]
        packed = [PackedLinear(library, attention.W_pack.weight, attention.W_pack.bias)]
        packed += [
            PackedLinear(library, each) for each in (attention.o_proj.weight, fused_gate_up(mlp), mlp.down_proj.weight)
        ]
        self.norms, self.packed = nn.ModuleList(norms), nn.ModuleList(packed)
        self.structure = native.layer_structure(norms, packed)


class NativeDepthCache(DepthCache):
    """The memory of a frame, for each batch size that has come up, and where its logits are put."""

    def __init__(self, layers: int, width: int, sizes: tuple[int, ...]) -> None:
        self._layers, self._width, self._sizes = layers, width, sizes
        self._made = dict[int, tuple[Tensor, list[Tensor]]]()

    def of(self, batch: int) -> tuple[Tensor, list[Tensor]]:
        """Keys and values [layers, B, K, 3 D], and for each code its logits [B, size + 1]."""
        if batch not in self._made:
            memory = torch.zeros(self._layers, batch, len(self._sizes), 3 * self._width)
            self._made[batch] = memory, [torch.zeros(batch, size + 1) for size in self._sizes]
        return self._made[batch]


class NativeDepthLayer(nn.Module):
    """The weights of a `DepthLayer`, each position's apart, and their structure."""

    def __init__(self, source: DepthLayer, library: ctypes.CDLL) -> None:
        super().__init__()
        attention, width, count = source.self_attention, source.width, source.positions
        up = source.linear1.weight.detach().view(2 * width, count, width)
        down = source.linear2.weight.detach().view(width, count, 2 * width)
        pack = PackedLinear(library, attention.in_proj_weight, attention.in_proj_bias)
        shared = pack, PackedLinear(library, attention.out_proj.weight, attention.out_proj.bias)
        ups, downs = [[PackedLinear(library, each[:, i]) for i in range(count)] for each in (up, down)]
        norms = as_float32(source.layernorm1), as_float32(source.layernorm2)
        self.norms, self.shared = nn.ModuleList(norms), nn.ModuleList(shared)
        self.up, self.down = nn.ModuleList(ups), nn.ModuleList(downs)
        self.structure = native.depth_structure(norms, shared, ups, downs)


class NativeAudioHead(FusedAudioHead):
    """`AudioHead` for inference on a CPU, made by `native_audio_head`."""

    def prepare_steps(self, library: ctypes.CDLL) -> None:
        """Lay the weights out; the layers must be those of a model as loaded."""
        layers = [NativeDepthLayer(cast(DepthLayer, layer), library) for layer in self.transformer_layers]
        heads = [PackedLinear(library, head.weight, head.bias) for head in cast(list[nn.Linear], list(self.heads))]
        self.headnorm = as_float32(self.headnorm)
        self._structures = native.array([layer.structure for layer in layers]), native.products(heads)
        first, second = self._structures
        self._head = native.Head(
            len(layers),
            self.width,
            self.num_codebooks,
            self.head_dim,
            first,
            native.norm_structure(self.headnorm),
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
        if self._step(ctypes.byref(self._head), batch, position, *addresses):
            raise native.KernelError("no memory is left for a code frame.")
        return into

    def _choices(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """See FusedAudioHead."""
        logits = self.step(x, position, cache)
        return logits[:, :-1] if position else logits


def native_language_model(model: LanguageModel, library: ctypes.CDLL) -> NativeLanguageModel:
    """A twin of `model` over its tensors; a prompt goes through the forms of `quick.py`."""
    make: LinearFactory = Bf16Linear if model.embed_tokens.weight.dtype == torch.bfloat16 else Fp32Linear
    optimized = module_copy(model)
    optimized.__class__ = NativeLanguageModel
    assert isinstance(optimized, NativeLanguageModel)
    layers = [FusedDecoderLayer(cast(DecoderLayer, layer), make) for layer in model.layers]
    optimized.layers, optimized.norm = nn.ModuleList(layers), FusedRMSNorm(as_float32(model.norm))  # type: ignore[assignment]
    optimized.embed_tokens = as_float32(model.embed_tokens)
    optimized.audio_embed_layers = nn.ModuleList([as_float32(each) for each in model.audio_embed_layers])
    optimized.lm_head = NativeLinear(model.lm_head, library)  # type: ignore[assignment]
    optimized.prepare()
    optimized.prepare_steps(model, library)
    return optimized


def native_audio_head(head: AudioHead, library: ctypes.CDLL) -> NativeAudioHead:
    """A twin of `head` with its weights laid out anew."""
    optimized = module_copy(head)
    optimized.__class__ = NativeAudioHead
    assert isinstance(optimized, NativeAudioHead)
    optimized.prepare_steps(library)
    return optimized
