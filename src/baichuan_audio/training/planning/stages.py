"""A recipe on the meta device: its modules, and one step of the shape that its data have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...adapters import add_adapters
from ...audio_tokenizer import AudioTokenizer
from ...errors import BaichuanAudioError, CheckpointError
from ...flow_decoder import FlowDecoder
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...layers.shapes import shapes_only
from ...model import BaichuanAudio
from ...safetensors_io import read_json
from ...vocoder.discriminators import Discriminators
from ...vocoder.hift import Hift
from ...vocoder.vocos import Vocos
from ..common.distributed.sharding import parallelize
from ..common.distributed.tensor_parallel import shrink_layers
from ..common.distributed.world import world
from ..common.muon import layer_matrices
from ..common.recipe import StageRecipe
from ..flow.train import FlowRecipe, unfreeze_audio_decoder
from ..language_model.recipe import LanguageModelRecipe
from ..language_model.train import learning_modules
from ..tokenizer.recipe import TokenizerRecipe
from ..tokenizer.text_loss import PhoneticHead
from ..vocoder.train import VocoderRecipe
from .sequences import StepShape, drawn_shape, typical_shape


@dataclass(frozen=True)
class StagePlan:
    """A stage on the meta device.

    parts: the modules on the device by name, parameters that learn marked. step: makes the loss of a step of `rows`
    rows; rows: of one step of the recipe, on all devices together. unit: what a step has `units` of. momentum_only:
    parameters whose optimizer keeps one number instead of two. packs: into which the rows are put, each a pass; 0: the
    rows are divided among devices and their `accumulation` passes. notes: what was assumed. tensor: devices that share
    the computation of a layer; `parts_of_one`: the parts as one of them has them, which `step` computes.
    """

    parts: dict[str, nn.Module]
    step: Callable[[int], Tensor]
    rows: int
    unit: str
    units: float
    momentum_only: int = 0
    packs: int = 0
    accumulation: int = 1
    notes: tuple[str, ...] = ()
    tensor: int = 1
    parts_of_one: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def computed(self) -> dict[str, nn.Module]:
        """The parts that one device computes."""
        return self.parts_of_one or self.parts


def plan_stage(recipe: StageRecipe, config: Path | None = None) -> StagePlan:
    """The plan of a recipe. config: a config.json, where the recipe's own is not there yet.

    Raises CheckpointError or ConfigError where the sizes cannot be had, or for a stage that cannot be planned.
    """
    if isinstance(recipe, LanguageModelRecipe):
        plan = _language_model(recipe, config)
    elif isinstance(recipe, TokenizerRecipe):
        plan = _tokenizer(recipe, config)
    elif isinstance(recipe, FlowRecipe):
        plan = _flow(recipe, config)
    elif isinstance(recipe, VocoderRecipe):
        plan = _vocoder(recipe)
    else:
        raise CheckpointError("a recipe of this stage cannot be planned.")
    for part in (*plan.parts.values(), *plan.computed.values()):
        part.to("meta")  # tables of positions are made on the CPU
    parallelize(plan.computed, world(), activation_checkpointing=recipe.activation_checkpointing)  # in one process here
    return plan


def _language_model(recipe: LanguageModelRecipe, config: Path | None) -> StagePlan:
    sizes = read_json(config or Path(recipe.init_from) / "config.json")
    model = whole = _planned_model(recipe, sizes)
    notes: tuple[str, ...] = ()
    if recipe.tensor_parallel > 1:
        model = _planned_model(recipe, sizes)
        shrink_layers(model.language_model, recipe.tensor_parallel)
        notes = ("the sums that the devices of a layer exchange are not counted",)
    try:
        shape = drawn_shape(recipe)
    except (BaichuanAudioError, OSError) as error:
        shape = typical_shape(recipe)
        notes += (f"the data cannot be read, typical sequences are assumed ({error})",)
    language_model, audio_head = model.language_model, model.audio_head

    def step(rows: int) -> Tensor:
        return _language_model_loss(language_model, audio_head, shape.rescaled(rows))

    muon = recipe.muon and recipe.adapter is None
    matrices = sum(matrix.numel() for matrix in layer_matrices(language_model)) if muon else 0
    packs = min(recipe.packs_per_step, shape.rows) if recipe.packed else 0
    return StagePlan(
        _parts(whole), step, shape.rows, "positions", shape.rows * shape.length, matrices, packs=packs, notes=notes,
        tensor=recipe.tensor_parallel, parts_of_one=_parts(model),
    )  # fmt: skip


def _planned_model(recipe: LanguageModelRecipe, sizes: dict[str, Any]) -> BaichuanAudio:
    with shapes_only():
        model = cast(BaichuanAudio, PlannedModel(sizes).to(getattr(torch, recipe.base_dtype)))
    if recipe.adapter is not None:
        model = add_adapters(model, recipe.adapter)
    learning_modules(model, recipe)
    return model


def _parts(model: BaichuanAudio) -> dict[str, nn.Module]:
    return {
        "language model": model.language_model,
        "audio head": model.audio_head,
        "audio tokenizer": model.tokenizer,
        "flow decoder": model.flow,
    }


class PlannedModel(nn.Module):
    """The parts of a BaichuanAudio whose tokenizer and vocoder files are not needed."""

    inference_only = False

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.language_model, self.audio_head = LanguageModel.from_config(config), AudioHead.from_config(config)
        self.tokenizer, self.flow = AudioTokenizer.from_config(config), FlowDecoder.from_config(config)
        self.audio_head.attach_embeddings(self.language_model.audio_embed_layers)
        self.text_tokenizer = None


def _language_model_loss(language_model: LanguageModel, audio_head: AudioHead, shape: StepShape) -> Tensor:
    """As `language_model.train.losses`, of numbers of targets instead of targets."""
    embedded = language_model.embed_tokens(torch.zeros(shape.rows, shape.length, dtype=torch.long))
    codebooks = audio_head.num_codebooks
    if shape.frames:
        frames = language_model.embed_frames(torch.zeros(codebooks, shape.frames, dtype=torch.long))
        is_frame = torch.zeros(shape.rows, shape.length, 1, dtype=torch.bool)
        embedded = embedded.masked_scatter(is_frame, frames.to(embedded.dtype))
    hidden = language_model.hidden(embedded).flatten(0, 1)
    losses = [0.0 * hidden.sum()]
    if shape.text:
        targets = torch.zeros(shape.text, dtype=torch.long)
        losses.append(F.cross_entropy(language_model.lm_head(hidden[targets]).float(), targets))
    if shape.deep:
        codes = torch.zeros(shape.deep, codebooks, dtype=torch.long)
        levels = audio_head.logits(hidden[torch.zeros(shape.deep, dtype=torch.long)], codes)
        losses += [F.cross_entropy(level.float(), codes[:, 0]) for level in levels]
    if shape.shallow:
        codes = torch.zeros(shape.shallow, dtype=torch.long)
        first = audio_head.logits_at(hidden[codes], codes[:, None][:, :0])
        losses.append(F.cross_entropy(first.float(), codes))
    return torch.stack(losses).sum()


def _tokenizer(recipe: TokenizerRecipe, config: Path | None) -> StagePlan:
    with shapes_only():
        tokenizer = AudioTokenizer.from_config(read_json(config or Path(recipe.config)))
        head = PhoneticHead(tokenizer.config.d_model * tokenizer.config.avg_pooler, recipe.text_width)
    parts: dict[str, nn.Module] = {"audio tokenizer": tokenizer, "phonetic head": head}
    notes = ["every clip is a full crop with a transcript", "losses of mel and text, beside the networks, are left out"]
    if recipe.text_model is not None:
        with shapes_only():
            text_model = LanguageModel.from_config(read_json(config or Path(recipe.text_model) / "config.json"))
        parts["text model"] = text_model.requires_grad_(False)
        parts["projection"] = projection = nn.Linear(
            head.spread.in_features, text_model.config.hidden_size, device="meta"
        )
    mel_frames = int(recipe.crop_seconds * tokenizer.config.sampling_rate / tokenizer.config.hop_length)
    text_length = int(recipe.crop_seconds * _TEXT_IDS_PER_SECOND)

    def step(rows: int) -> Tensor:
        features = tokenizer.encoder(torch.zeros(rows, tokenizer.config.num_mel_bins, mel_frames))
        vectors = tokenizer.bridge.pooled(features)
        loss = head.symbols(head.hidden(vectors)).sum()
        decoded = max(1, round(recipe.mel_share * rows))
        hidden = tokenizer.decoder.hidden(tokenizer.bridge.project(vectors[:decoded]))
        loss = loss + sum(mel.float().sum() for mel in tokenizer.decoder.mels(hidden))
        if recipe.text_model is not None:
            words = text_model.embed_tokens(torch.zeros(rows, text_length, dtype=torch.long))
            states = text_model.hidden(torch.cat([projection(vectors), words], dim=1))
            loss = loss + text_model.lm_head(states[:, -text_length:].flatten(0, 1)).float().sum()
        return loss

    rows = max(1, round(recipe.batch_seconds / recipe.crop_seconds))
    passes = recipe.gradient_accumulation
    if passes > 1:
        notes.append(_TWICE)
    return StagePlan(
        parts, step, rows, "seconds of audio", rows * recipe.crop_seconds, accumulation=passes, notes=tuple(notes)
    )


_TEXT_IDS_PER_SECOND = 3.5
_TWICE = "the forward pass that micro-batches take twice is counted once"


def _flow(recipe: FlowRecipe, config: Path | None) -> StagePlan:
    sizes = read_json(config or Path(recipe.config))
    with shapes_only():
        tokenizer, flow = AudioTokenizer.from_config(sizes).requires_grad_(False), FlowDecoder.from_config(sizes)
    parts: dict[str, nn.Module] = {"flow decoder": flow, "audio tokenizer": tokenizer}
    if recipe.train_audio_decoder:
        unfreeze_audio_decoder(tokenizer)
    codes = max(1, int(recipe.crop_seconds * tokenizer.frame_rate))
    width = tokenizer.config.d_model * tokenizer.config.avg_pooler

    def step(rows: int) -> Tensor:
        hidden = tokenizer.decoder.hidden(tokenizer.bridge.project(torch.zeros(rows, codes, width)))
        mel = torch.zeros(rows, flow.config.in_channels, hidden.shape[1])
        losses = flow.loss(hidden, mel)
        return losses["flow"] + losses["prior"]

    rows = max(1, round(recipe.batch_seconds / recipe.crop_seconds))
    notes = () if recipe.velocity_every == 1 else ("the velocity network is counted in every step",)
    passes = recipe.gradient_accumulation
    return StagePlan(
        parts, step, rows, "seconds of audio", rows * recipe.crop_seconds, accumulation=passes, notes=notes
    )


def _vocoder(recipe: VocoderRecipe) -> StagePlan:
    with shapes_only():
        vocoder: Vocos | Hift = Vocos(recipe.vocos) if recipe.architecture == "vocos" else Hift(recipe.hift)
        discriminators = Discriminators(recipe.discriminators)
    sizes = vocoder.config
    samples = recipe.crop_frames * sizes.hop_length
    adversarial = recipe.adversarial_start_step >= 0
    parts: dict[str, nn.Module] = {"vocoder": vocoder, "discriminators": discriminators}

    def step(rows: int) -> Tensor:
        mel = torch.zeros(rows, sizes.num_mel_bins, recipe.crop_frames)
        if isinstance(vocoder, Vocos):
            generated, logits = vocoder.train_forward(mel, torch.full((rows, recipe.crop_frames), 100.0), 0)
            loss = generated.sum() + logits.sum()
        else:
            generated = vocoder.decode(mel, vocoder.source(vocoder.f0(mel)))
            loss = generated.sum() + vocoder.f0(mel).sum()
        if adversarial:  # once on both waveforms for itself, once for the generator
            real = torch.zeros(rows, samples)
            for waveform in (real, generated.detach(), generated):
                loss = loss + sum(tensor.sum() for tensor in _tensors(discriminators(waveform)))
        return loss

    seconds = recipe.batch_size * samples / sizes.sample_rate
    notes, passes = ["spectral losses and pitch, beside the networks, are left out"], recipe.gradient_accumulation
    if passes > 1:
        notes.append(_TWICE)
    return StagePlan(
        parts, step, recipe.batch_size, "seconds of audio", seconds, accumulation=passes, notes=tuple(notes)
    )


def _tensors(value: Any) -> list[Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
