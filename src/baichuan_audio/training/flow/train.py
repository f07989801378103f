"""Training of the flow decoder on a frozen audio tokenizer: OT-CFM loss + L1 loss of the prenet's mel.

Each step takes crops of one length out of many clips, so a batch needs no padding and the decoder's hidden
frames are exactly those of a segment of that length. Source: arXiv 2502.17239; docs/model.md, 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...audio.griffin_lim import sound_of_mel
from ...audio.mel import MelConfig, natural_log_mel
from ...audio_tokenizer import AudioTokenizer
from ...checkpoint import PREFIXES
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import Clip, ClipStore, some_clips
from ...errors import CheckpointError, ConfigError, DataError
from ...flow_decoder import FlowDecoder
from ...layers.precision import autocast
from ...safetensors_io import find_tensors, read_json
from ...vocoder.hift import Hift, load_hift
from ...vocoder.vocos import Vocos, load_vocos
from ..common.checkpointing import load_module, load_training_state, save_training_state, what_is_wrong
from ..common.logging import TrainingLog, set_threads
from ..common.optim import make_optimizer, optimizer_step
from ..common.recipe import OptimizerRecipe, StageRecipe

_CONTEXT_FRAMES = 3
"""Mel frames around a crop that are computed and cut off: a frame's window reaches 1.5 hops to each side."""
_SHOWN_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(StageRecipe):
    """One run of this stage."""

    config: str
    """The model's config.json."""
    tokenizer: str
    """Where the frozen audio tokenizer comes from: its training output, or a checkpoint directory."""
    corpus: str
    """Folder with the clip store."""
    codes: str | None = None
    """Folder with the clips' codes made by that tokenizer; None: the corpus folder."""
    initial: str | None = None
    """Flow weights to start from (training output or checkpoint directory); None: from scratch."""
    vocoder: str | None = None
    """A vocoder file, to make the samples audible."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    crop_seconds: float = 3.0
    batch_seconds: float = 48.0
    prior_weight: float = 1.0
    velocity_every: int = 1
    """The velocity network learns in every n-th step only, prenet and audio decoder in all: it costs the most, and what
    it refines has to be right first."""
    mel_floor: float = 1e-5
    """Magnitude below which the target mel counts as this. Which kind of silence it is, of two that nobody hears, is
    otherwise a large part of both losses."""
    train_audio_decoder: bool = False
    """Let the audio decoder (codes to hidden frames) learn along; the report freezes it. For a small model whose
    tokenizer had little time; encoder and codebooks stay, so codes keep their meaning."""
    kinds: dict[str, float] = field(default_factory=dict)
    """Share of each kind of clip (answer, question, read, real) in the audio drawn; empty: all clips alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_seconds <= self.batch_seconds:
            raise ConfigError("crop_seconds must be positive and at most batch_seconds.")
        if self.mel_floor <= 0:
            raise ConfigError("mel_floor must be positive.")
        if self.velocity_every < 1:
            raise ConfigError("velocity_every must be at least 1.")


class CropSampler:
    """Which crops a step sees: a pure function of (seed, step).

    A clip is drawn by its length, which sets the crop's length T (code frames, at most `crop_frames`); the
    batch is filled up with crops of that length from clips at least as long.
    """

    def __init__(
        self, clips: list[Clip], codes: CodesStore, crop_frames: int, batch_frames: int, kinds: dict[str, float]
    ) -> None:
        wanted = [clip for clip in clips if clip.id in codes and (not kinds or kinds.get(clip.kind, 0) > 0)]
        if not wanted:
            raise DataError(
                "no training clip of the recipe's kinds has codes; encode the corpus with the trained tokenizer first."
            )
        usable = sorted(((codes[clip.id].shape[1], clip) for clip in wanted), key=lambda pair: (pair[0], pair[1].id))
        self.clips = [clip for _, clip in usable]
        self.frames = np.array([frames for frames, _ in usable])
        shares = self.frames.astype(np.float64)
        clip_kinds = np.array([clip.kind for clip in self.clips])
        for kind, share in kinds.items():
            shares[clip_kinds == kind] *= share / max(1.0, self.frames[clip_kinds == kind].sum())
        self._cumulative = np.concatenate([[0.0], np.cumsum(shares)])
        self._crop_frames, self._batch_frames = crop_frames, batch_frames

    def batch(self, seed: int, step: int) -> tuple[int, list[tuple[Clip, int]]]:
        """Crop length T and (clip, first code frame) of each row."""
        random = np.random.default_rng((seed, step))
        length = int(min(self._crop_frames, self.frames[self._draw(random, 0)]))
        first = int(np.searchsorted(self.frames, length))
        rows = []
        for _ in range(max(1, self._batch_frames // length)):
            index = self._draw(random, first)
            rows.append((self.clips[index], int(random.integers(self.frames[index] - length + 1))))
        return length, rows

    def _draw(self, random: np.random.Generator, first: int) -> int:
        """A clip from `first` on, in proportion to its weight."""
        low, high = self._cumulative[first], self._cumulative[-1]
        index = int(np.searchsorted(self._cumulative, random.uniform(low, high), side="right")) - 1
        return min(index, len(self.clips) - 1)


def crop_mel(store: ClipStore, clip: Clip, start: int, length: int, mel: MelConfig, code_samples: int) -> Tensor:
    """Mel [M, frames of `length` codes] of a crop as it is inside the whole clip; `start`, `length` in codes."""
    context = min(_CONTEXT_FRAMES * mel.hop_length, start * code_samples)
    first = start * code_samples - context
    samples = context + length * code_samples + _CONTEXT_FRAMES * mel.hop_length
    frames = natural_log_mel(store.waveform(clip, first, samples)[None], mel)[0]
    skipped = context // mel.hop_length
    return frames[:, skipped : skipped + length * code_samples // mel.hop_length]


def decoder_hidden(tokenizer: AudioTokenizer, codes: Tensor) -> Tensor:
    """What the flow decoder takes: codes [B, K, T] -> hidden [B, L, D]."""
    return tokenizer.decoder.hidden(tokenizer.bridge.dequantize(codes))


class FlowBatches:
    """Makes the batches of one corpus: hidden [B, L, D] and mel [B, M, L] on the model's device."""

    def __init__(self, recipe: FlowRecipe, tokenizer: AudioTokenizer, flow: FlowDecoder) -> None:
        config = flow.config
        self.recipe, self.tokenizer = recipe, tokenizer
        self.mel = MelConfig(config.sampling_rate, 4 * config.hop_length, config.hop_length, config.in_channels)
        self.floor = math.log(recipe.mel_floor)
        self.store = ClipStore(recipe.corpus)
        self.codes = CodesStore(recipe.codes or recipe.corpus)
        self.code_samples = round(config.sampling_rate / tokenizer.frame_rate)
        self.sampler = CropSampler(
            self.store.select(split="train"),
            self.codes,
            max(1, int(recipe.crop_seconds * tokenizer.frame_rate)),
            int(recipe.batch_seconds * tokenizer.frame_rate),
            recipe.kinds,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """hidden [B, L, D], mel [B, M, L] of a training step."""
        length, rows = self.sampler.batch(self.recipe.seed, step)
        return self._make(rows, length)

    def shown(self) -> list[tuple[str, Tensor, Tensor]]:
        """A few held-out clips to look at and listen to: id, hidden [1, L, D], mel [1, M, L]."""
        clips = [clip for clip in self.store.select(split="validation") if clip.id in self.codes]
        most = int(_SHOWN_SECONDS * self.tokenizer.frame_rate)
        return [
            (clip.id, *self._make([(clip, 0)], min(most, self.codes[clip.id].shape[1]))) for clip in some_clips(clips)
        ]

    def _make(self, rows: list[tuple[Clip, int]], length: int) -> tuple[Tensor, Tensor]:
        codes = torch.stack([self.codes[clip.id][:, start : start + length] for clip, start in rows])
        mels = [crop_mel(self.store, clip, start, length, self.mel, self.code_samples) for clip, start in rows]
        device = self.recipe.device
        hidden = decoder_hidden(self.tokenizer, codes.to(device))
        # The last code yields three frames, not four (kernel 3, stride 4), and the clip may end with it.
        frames = min(hidden.shape[1], min(mel.shape[1] for mel in mels))
        return hidden[:, :frames], torch.stack([mel[:, :frames] for mel in mels]).clamp(min=self.floor).to(device)


def load_part(module: nn.Module, name: str, source: str) -> None:
    """Fill `tokenizer` or `flow` from a training output or from a checkpoint directory.

    Raises TrainingError or CheckpointError when the source has no such weights.
    """
    if not (Path(source) / "config.json").is_file():
        load_module(source, name, module)
        return
    weights = {}
    for released, tensor in find_tensors(Path(source)).items():
        for prefix, own in PREFIXES:
            if own.startswith(f"{name}.") and released.startswith(prefix):
                weights[own.removeprefix(f"{name}.") + released.removeprefix(prefix)] = tensor.read()
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: its {name} does not fit the recipe's config.json ({what_is_wrong(error)})."
        ) from error


def load_vocoder(path: str, config: dict[str, Any]) -> Hift | Vocos:
    """Read `vocoder.safetensors` or `hift.pt`."""
    return load_vocos(path, config) if path.endswith(".safetensors") else load_hift(path)


def train(recipe: FlowRecipe, stop_after: int | None = None) -> None:
    """Train the flow decoder; goes on from the newest state in `recipe.output`. `stop_after` ends early.

    Raises ConfigError, DataError, CheckpointError or TrainingError before the first step when an input is missing.
    """
    set_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    config = read_json(Path(recipe.config))
    tokenizer = AudioTokenizer.from_config(config)
    load_part(tokenizer, "tokenizer", recipe.tokenizer)
    tokenizer.to(recipe.device).eval().requires_grad_(False)
    flow = FlowDecoder.from_config(config)
    if recipe.initial is not None:
        load_part(flow, "flow", recipe.initial)
    flow.to(recipe.device).train()
    vocoder = None if recipe.vocoder is None else load_vocoder(recipe.vocoder, config).to(recipe.device).eval()
    batches = FlowBatches(recipe, tokenizer, flow)
    if recipe.initial is None:
        start_from_mean(flow, batches)
    modules: dict[str, nn.Module] = {"flow": flow}
    if recipe.train_audio_decoder:
        unfreeze_audio_decoder(tokenizer)
        modules["tokenizer"] = tokenizer
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimizer = make_optimizer(parameters, recipe.optimizer)
    optimizers = {"flow": optimizer}
    first = load_training_state(recipe.output, modules, optimizers)

    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    with TrainingLog(recipe.output, recipe.steps, first) as log:
        for step in range(first, last):
            hidden, mel = batches.batch(step)
            # Noise, times and dropped conditions depend on (seed, step) alone, as the data does.
            generator = torch.Generator(recipe.device).manual_seed(recipe.seed * 1_000_003 + step)
            with autocast(recipe.device):
                with_velocity = step % recipe.velocity_every == 0
                losses = flow.loss(hidden, mel, generator=generator, with_velocity=with_velocity)
            total = losses.get("flow", 0.0) + recipe.prior_weight * losses["prior"]
            total.backward()
            norm = optimizer_step(optimizer, recipe.optimizer, step, recipe.steps)

            log.advance()
            if step % recipe.log_every == 0 or step + 1 == last:
                scalars = {"loss": total, **losses}
                figures = {name: float(value.detach()) for name, value in scalars.items()}
                log.scalars(step, figures | {"grad_norm": norm})
            if (step + 1) % recipe.sample_every == 0 or step + 1 == recipe.steps:
                log_samples(step, flow, batches, vocoder, log)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == last:
                save_training_state(recipe.output, step + 1, modules, optimizers)


def unfreeze_audio_decoder(tokenizer: AudioTokenizer) -> None:
    """Let everything between the codebooks' entries and the hidden frames learn."""
    decoder = tokenizer.decoder
    for part in (tokenizer.bridge.proj_decoder, decoder.dconv1, decoder.layers, decoder.layer_norm):
        part.requires_grad_(True)


@torch.no_grad()
def start_from_mean(flow: FlowDecoder, batches: FlowBatches) -> None:
    """Let the untrained velocity point at the mean mel: natural-log mels lie far from the noise's zero mean."""
    bias = flow.conditional_decoder.final_proj.bias
    assert bias is not None
    bias.copy_(batches.batch(0)[1].mean(dim=(0, 2)))


@torch.no_grad()
def log_samples(
    step: int, flow: FlowDecoder, batches: FlowBatches, vocoder: Hift | Vocos | None, log: TrainingLog
) -> None:
    """Held-out clips from their codes: mel error of prenet and of the sampled mel, a picture, a sound."""
    flow.eval()
    errors = []
    for number, (_, hidden, mel) in enumerate(batches.shown()):
        mu = flow.prenet(hidden)
        noise = torch.randn(mel.shape, generator=torch.Generator().manual_seed(number)).to(mel.device)
        sampled = flow.sample_batch(mu, noise)
        errors.append([float((made - mel).abs().mean()) for made in (mu.transpose(1, 2), sampled)])
        log.mel(step, f"clip{number}", mel[0], mu[0].T, sampled[0])
        sound = sound_of_mel(sampled[0], batches.mel) if vocoder is None else vocoder(sampled)[0]
        log.audio(step, f"clip{number}", sound, batches.mel.sample_rate)
    flow.train()
    if errors:
        prior, mae = np.mean(errors, axis=0)
        log.scalars(step, {"held_out_prior_mae": float(prior), "held_out_mel_mae": float(mae)})
