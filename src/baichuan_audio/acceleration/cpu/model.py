"""Backbone and audio head whose matrix products run in `kernels.c`, over one packed copy of the weights.

Made from a model in float32 or bfloat16. Of a bfloat16 model only the matrices stay in bfloat16: a step widens them in
registers, and everything else, keys and values too, is float32. Its prompts are multiplied in bfloat16 by torch, for
which the matrices are kept as they are stored too, unless they have 8 or 4 bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...audio_tokenizer.quantizer import Codebook
from ...language_model.audio_head import AudioHead, DepthCache, DepthLayer
from ...language_model.backbone import Context, DecoderLayer
from ...language_model.model import LanguageModel
from ...language_model.sampling import CodeSampler, Sampling, TextSampler, sorts_few
from ...layers.kv_cache import KVCache
from ...layers.module_copy import module_copy, module_copy_as
from ..modules import as_float32, fused_gate_up
from ..weights import IN_MEMORY, Weights, compact_codebook
from . import kernels
from .int8_cache import Int8KVCache
from .kernels import PackedLinear
from .layers import (
    Choose,
    FusedAudioHead,
    FusedDecoderLayer,
    FusedLanguageModel,
    FusedRMSNorm,
    LinearFactory,
    rows_of,
)

M = TypeVar("M", bound=nn.Module)
PackFactory = Callable[..., PackedLinear]
"""Packs weight [out, in] and, if given, bias [out]."""
MAX_STEP_POSITIONS = 32
"""More positions than this are read layer by layer, in one product of each matrix."""


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
    """A bfloat16 Linear without bias that runs in C for few rows, in torch over the layer's own memory for more."""

    def __init__(self, source: nn.Linear, library: ctypes.CDLL) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        self.packed = PackedLinear(library, source.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if x.numel() // x.shape[-1] > MAX_STEP_POSITIONS:
            return F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return _product(self.packed, x)


class CompiledLinear(nn.Module):
    """A Linear that runs in C for any number of rows."""

    def __init__(self, source: nn.Linear, library: ctypes.CDLL, kind: str | None) -> None:
        """kind: "int8", "int4", or None for the weights as they are."""
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


class CompiledFloatLinear(nn.Linear):
    """A Linear in float32 that runs in C, in the place of another. Its weight has only shape, type and device."""

    packed: PackedLinear

    @classmethod
    def from_linear(cls, source: nn.Linear, library: ctypes.CDLL) -> CompiledFloatLinear:
        """A copy of `source`."""
        copied = module_copy_as(cls, source)
        copied._parameters["bias"] = None  # the packed one is used
        copied.packed = PackedLinear(library, source.weight, source.bias)
        shape_only = torch.full((), torch.nan).expand(source.weight.shape)
        copied.weight = nn.Parameter(shape_only, requires_grad=False)
        return copied

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return _product(self.packed, x)


class CompiledPatchConv(nn.Module):
    """A convolution in float32 whose patches do not overlap (`is_patch_conv`), as a product in C."""

    def __init__(self, source: nn.Conv1d, library: ctypes.CDLL) -> None:
        super().__init__()
        self.patch = source.kernel_size[0]
        self.packed = PackedLinear(library, source.weight.transpose(1, 2).flatten(1), source.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, C', T // patch]."""
        batch, channels, frames = x.shape[0], x.shape[1], x.shape[2] // self.patch
        patches = x[:, :, : frames * self.patch].transpose(1, 2).reshape(batch, frames, self.patch * channels)
        return _product(self.packed, patches).transpose(1, 2)


def is_patch_conv(module: nn.Module) -> bool:
    """Whether a convolution reads each input once: its stride is its length."""
    return (
        type(module) is nn.Conv1d
        and module.kernel_size == module.stride
        and (module.padding, module.dilation, module.groups) == ((0,), (1,), 1)
        and module.kernel_size[0] > 1
    )


def _is_compiled(module: nn.Module) -> bool:
    """Whether `with_compiled_linears` has a form of this layer."""
    return type(module) is nn.Linear or isinstance(module, Codebook) or is_patch_conv(module)


def is_packed(module: nn.Module) -> bool:
    """Whether `native_copy` has the weights of this part of a model in a form of its own."""
    return isinstance(module, (DecoderLayer, DepthLayer, nn.Embedding)) or _is_compiled(module)


def with_compiled_linears(module: M, library: ctypes.CDLL, weights: Weights = IN_MEMORY) -> M:
    """A copy of `module` whose products in float32 run in C, with codebooks for inference."""
    copied = module_copy(module)
    for name, child in module.named_children():
        if not _is_compiled(child):
            copied._modules[name] = with_compiled_linears(child, library, weights)
            continue
        with weights.held(child):
            copied._modules[name] = _compiled(child, library, weights)
    return copied


def _compiled(module: nn.Module, library: ctypes.CDLL, weights: Weights) -> nn.Module:
    """The form of one layer."""
    if isinstance(module, Codebook):
        return compact_codebook(module)
    if weights.dtype(module) != torch.float32:
        return module_copy(module)
    if isinstance(module, nn.Conv1d):
        return CompiledPatchConv(module, library)
    assert isinstance(module, nn.Linear)
    return CompiledFloatLinear.from_linear(module, library)


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
        cls, source: LanguageModel, library: ctypes.CDLL, kind: str | None = None, weights: Weights = IN_MEMORY
    ) -> NativeLanguageModel:
        """An inference copy of `source`, whose matrices it has packed and does not refer to.

        But a bfloat16 model without a kind ("int8", "int4") reads prompts by torch, over the tensors of `source`.
        weights: those of `source`.
        """
        make: LinearFactory = partial(CompiledLinear, library=library, kind=kind)
        if kind is None and weights.dtype(source.embed_tokens) == torch.bfloat16:
            make = Bf16Linear
        model = module_copy_as(cls, source)
        model._pack_layers(source, make, library, weights)
        model._set_embeddings(source, weights)
        model.int8_cache = kind is not None
        with weights.held(source.lm_head):
            last = NativeLinear(source.lm_head, library) if make is Bf16Linear else make(source.lm_head)
        model.lm_head = last  # type: ignore[assignment]
        return model

    def _pack_layers(self, source: LanguageModel, make: LinearFactory, library: ctypes.CDLL, weights: Weights) -> None:
        """Pack one layer after the other, for prompts and for steps."""
        layers, steps = list[nn.Module](), list[NativeDecoderLayer]()
        for layer in source.layers:
            assert isinstance(layer, DecoderLayer)
            with weights.held(layer):
                fused = FusedDecoderLayer(layer, make)
                layers.append(fused)
                steps.append(NativeDecoderLayer(layer, fused, library))
        self.layers, self.norm = nn.ModuleList(layers), FusedRMSNorm(as_float32(source.norm))  # type: ignore[assignment]
        self._set_steps(steps, library)

    def _set_embeddings(self, source: LanguageModel, weights: Weights) -> None:
        """Those of text with no more memory than they need, those of codes in float32, as the kernels read them."""
        text, tables = weights.embedding(source.embed_tokens), list[nn.Module]()
        self.embed_tokens = text  # type: ignore[assignment]
        for table in source.audio_embed_layers:
            with weights.held(table):
                tables.append(as_float32(table))
        self.audio_embed_layers = nn.ModuleList(tables)
        self._text_row, self._frame_rows = text.row, rows_of(self.audio_embed_layers)

    def _set_steps(self, steps: list[NativeDecoderLayer], library: ctypes.CDLL) -> None:
        """Describe the layers to the C kernels."""
        config = self.config
        self.steps, self._layers = nn.ModuleList(steps), kernels.array([step.structure for step in steps])
        sizes = (config.hidden_size, config.num_attention_heads, config.key_value_heads, config.head_width)
        self._backbone = kernels.Backbone(
            len(steps), *sizes, config.intermediate_size, self._layers, kernels.norm_structure(self.norm)
        )
        self._step, self._ids = library.backbone_step, library.text_ids

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

    def sample_ids(self, hidden: Tensor, sampler: TextSampler) -> list[int]:
        """See LanguageModel; in one call of compiled code where few entries are sorted."""
        if not sorts_few(sampler.samplings):
            return super().sample_ids(hidden, sampler)
        hidden, rows = hidden.float().contiguous(), len(sampler.samplings)
        logits, ids = torch.empty(rows, self.config.vocab_size), (ctypes.c_int32 * rows)()
        choices = (kernels.Choice * rows)(*map(_choice, sampler.samplings))
        counts, banned = (
            (ctypes.c_void_p * rows)(*(tensor.data_ptr() for tensor in tensors))
            for tensors in (sampler.counts, sampler.suppressed)
        )
        drawn = zip(sampler.samplings, sampler.randoms, strict=True)
        uniforms = (ctypes.c_double * rows)(*(random.random() if how.temperature else 0.0 for how, random in drawn))
        structure = ctypes.byref(cast(NativeLinear | CompiledLinear, self.lm_head).packed.structure)
        addresses = hidden.data_ptr(), logits.data_ptr(), choices, counts, banned, uniforms, ids
        threads = torch.get_num_threads() if self.share_steps else 1
        if self._ids(structure, rows, *addresses, threads):
            raise kernels.KernelError("there is not enough memory for a text id.")
        return list(ids)


class NativeDecoderLayer(nn.Module):
    """The packed weights of a `DecoderLayer`, and their C structure."""

    def __init__(self, source: DecoderLayer, fused: FusedDecoderLayer, library: ctypes.CDLL) -> None:
        """fused: made of `source`; where its products are packed, these are used."""
        super().__init__()
        attention, mlp = source.self_attn, source.mlp
        norms = [as_float32(norm) for norm in (source.input_layernorm, source.post_attention_layernorm)]
        products = (fused.pack, fused.mix, fused.gate_up, fused.down)
        packed = [product.packed for product in products if isinstance(product, CompiledLinear)]
        if not packed:
            packed = [PackedLinear(library, attention.W_pack.weight, attention.W_pack.bias)]
            unbiased = (attention.o_proj.weight, fused_gate_up(mlp), mlp.down_proj.weight)
            packed += [PackedLinear(library, weight) for weight in unbiased]
        self.norms, self.packed = nn.ModuleList(norms), nn.ModuleList(packed)
        self.structure = kernels.layer_structure(norms, packed)


def _choice(how: Sampling) -> kernels.Choice:
    return kernels.Choice(how.temperature, how.top_p, how.repetition_penalty, how.top_k)


class _FrameBuffers:
    """What `head_codes` reads and writes for a batch size.

    codes [K, B] int32, sums [B, D] of embeddings; addresses: of sums, memory and logits, of choices and sizes.
    """

    def __init__(self, batch: int, width: int, sizes: tuple[int, ...], memory: Tensor) -> None:
        self._choices, self._sizes = (kernels.Choice * batch)(), torch.zeros(len(sizes), batch, dtype=torch.int32)
        self._sizes += torch.tensor(sizes, dtype=torch.int32)[:, None]
        self._first_sizes, self._size = self._sizes.numpy()[0], sizes[0]
        self._logits, self.sums = torch.zeros(batch, max(sizes) + 1), torch.zeros(batch, width)
        self.codes = torch.zeros(len(sizes), batch, dtype=torch.int32)
        drawn = ctypes.addressof(self._choices), self._sizes.data_ptr()
        self.addresses = (self.sums.data_ptr(), memory.data_ptr(), self._logits.data_ptr(), *drawn)

    def begin(self, sampler: CodeSampler) -> None:
        """Prepare a frame."""
        self.sums.zero_()
        for row, how in enumerate(sampler.samplings):
            self._choices[row] = _choice(how)
            self._first_sizes[row] = self._size + sampler.may_end[row]


class NativeDepthCache(DepthCache):
    """Buffers of a frame and of its logits, for each batch size used so far."""

    def __init__(self, layers: int, width: int, sizes: tuple[int, ...]) -> None:
        self._layers, self._width, self._sizes = layers, width, sizes
        self._buffers = dict[int, tuple[Tensor, list[Tensor]]]()
        self._frames = dict[int, _FrameBuffers]()

    def frame(self, batch: int) -> _FrameBuffers:
        """Buffers to sample a whole frame."""
        if batch not in self._frames:
            self._frames[batch] = _FrameBuffers(batch, self._width, self._sizes, self.of(batch)[0])
        return self._frames[batch]

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
        cls, source: AudioHead, library: ctypes.CDLL, kind: str | None = None, weights: Weights = IN_MEMORY
    ) -> NativeAudioHead:
        """An inference copy of `source` (as loaded) with its weights packed for the C kernels.

        kind: None, "int8" or "int4". weights: those of `source`.
        """
        head = module_copy_as(cls, source)
        head._pack_weights(library, kind, weights)
        return head

    def _pack_weights(self, library: ctypes.CDLL, kind: str | None, weights: Weights) -> None:
        pack: PackFactory = partial(PackedLinear, library, kind=kind)
        layers, heads = list[NativeDepthLayer](), list[PackedLinear]()
        for layer in self.transformer_layers:
            with weights.held(layer):
                layers.append(NativeDepthLayer(cast(DepthLayer, layer), pack))
        for projection in cast(list[nn.Linear], list(self.heads)):
            with weights.held(projection):
                heads.append(pack(projection.weight, projection.bias))
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
        self._step, self._codes = library.head_step, library.head_codes

    def attach_embeddings(self, embeddings: nn.ModuleList) -> None:
        """See AudioHead."""
        super().attach_embeddings(embeddings)
        self._tables = (ctypes.c_void_p * len(embeddings))(*(table.ctypes.data for table in self._embedded_rows))
        self._head = kernels.Head.from_buffer_copy(self._head)  # a copy of this head has other embeddings
        self._head.tables = self._tables

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

    @torch.inference_mode()
    def frames(self, hidden: Tensor, cache: DepthCache, choose: Choose) -> tuple[list[tuple[int, ...] | None], Tensor]:
        """See AudioHead; where few entries are sorted a frame is two calls of compiled code.

        The codes are the same: a row whose audio ends draws no more random numbers.
        """
        if not isinstance(choose, CodeSampler) or not sorts_few(choose.samplings):
            return super().frames(hidden, cache, choose)
        assert isinstance(cache, NativeDepthCache)
        batch, x, buffers = hidden.shape[0], hidden.float().contiguous(), cache.frame(hidden.shape[0])
        buffers.begin(choose)
        rows = list(range(batch))
        self._sample(x, 0, 1, rows, buffers, choose)
        rows = [row for row, code in enumerate(buffers.codes[0].tolist()) if code != self.codebook_sizes[0]]
        if not rows:
            return [None] * batch, x[:0]
        self._sample(x, 1, self.num_codebooks, rows, buffers, choose)
        result: list[tuple[int, ...] | None] = [None] * batch
        codes = buffers.codes.T.tolist()
        for row in rows:
            result[row] = tuple(codes[row])
        return result, buffers.sums[rows] if len(rows) < batch else buffers.sums.clone()

    def _sample(
        self, x: Tensor, first: int, last: int, rows: Sequence[int], buffers: _FrameBuffers, sampler: CodeSampler
    ) -> None:
        """Positions `first` to `last` - 1; of rows that are not among `rows` anything is drawn."""
        batch, levels, seen = x.shape[0], range(first, last), None
        uniforms = (ctypes.c_double * (len(levels) * batch))()
        for i in range(len(levels)):
            for row in rows:
                if sampler.samplings[row].temperature:
                    uniforms[i * batch + row] = sampler.randoms[row].random()
        if sampler.penalised:
            seen = (ctypes.c_void_p * (self.num_codebooks * batch))()
            for level in levels:
                for row in rows:
                    seen[level * batch + row] = sampler.seen(row, level).data_ptr()
        threads = torch.get_num_threads() if self.share_steps else 1
        drawn = uniforms, seen, buffers.codes.data_ptr(), threads
        if self._codes(ctypes.byref(self._head), batch, first, last, x.data_ptr(), *buffers.addresses, *drawn):
            raise kernels.KernelError("there is not enough memory for a code frame.")
