"""Training of the flow decoder on a frozen audio tokenizer: OT-CFM loss + L1 loss of the prenet's mel.

A step's crops have one length, so a batch needs no padding and the decoder's hidden frames are exactly those of a
segment of that length. Source: arXiv 2502.17239; docs/model.md, 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...audio.griffin_lim import sound_of_mel
from ...audio.mel import MelConfig, natural_log_mel
from ...audio_tokenizer import AudioTokenizer
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import Clip, ClipStore, some_clips
from ...errors import ConfigError
from ...flow_decoder import FlowDecoder
from ...safetensors_io import read_json
from ...vocoder.hift import Hift, load_hift
from ...vocoder.vocos import Vocos, load_vocos
from ..common.checkpointing import load_part
from ..common.clip_sampling import CropSampler
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import parallelize
from ..common.distributed.world import ALONE, World, world
from ..common.logging import Reconstruction, due, log_reconstructions
from ..common.optim import make_optimizer
from ..common.recipe import AudioRecipe, OptimizerRecipe

_CONTEXT_FRAMES = 3
"""Mel frames around a crop that are computed and cut off: a frame's window reaches 1.5 hops to each side."""
_SAMPLE_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True)
class FlowRecipe(AudioRecipe):
    """Recipe of the stage `flow`."""

    config: str
    """The model's config.json."""
    codes: str | None = None
    """Folder with the clips' codes; None: the dataset's."""
    tokenizer: str
    """Training output or checkpoint directory of the frozen audio tokenizer that made the codes."""
    init_from: str | None = None
    """Training output or checkpoint directory with flow weights to start from; None: random."""
    vocoder: str | None = None
    """A vocoder file, for the audio samples; None: Griffin-Lim."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    crop_seconds: float = 3.0
    batch_seconds: float = 48.0
    mel_floor: float = 1e-5
    """Floor of the target mel's magnitude: differences between inaudible kinds of silence would otherwise be a large
    part of the loss."""
    prior_weight: float = 1.0
    velocity_every: int = 1
    """The velocity network, which costs the most, learns in every n-th step only; prenet and audio decoder in all."""
    train_audio_decoder: bool = False
    """Train the audio decoder (codes to hidden frames) as well; the report freezes it. For a small model whose
    tokenizer was trained for a short while; encoder and codebooks stay frozen, so codes keep their meaning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_seconds <= self.batch_seconds:
            raise ConfigError("crop_seconds must be positive and at most batch_seconds.")
        if self.mel_floor <= 0:
            raise ConfigError("mel_floor must be positive.")
        if self.velocity_every < 1:
            raise ConfigError("velocity_every must be at least 1.")


class CodedCrops:
    """Samples crops of the training clips that have codes; starts and lengths are in code frames."""

    def __init__(self, recipe: FlowRecipe, frame_rate: float) -> None:
        self.recipe, self.frame_rate = recipe, frame_rate
        self.store = ClipStore(recipe.dataset)
        self.codes = CodesStore(recipe.codes or recipe.dataset)
        clips = self.clips("train")
        lengths = [self.codes[clip.id].shape[1] for clip in clips]
        self._sampler = CropSampler(clips, lengths, recipe.source_weights)

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split that have codes."""
        return [clip for clip in self.store.select(split=split) if clip.id in self.codes]

    def __call__(self, step: int) -> tuple[int, list[tuple[Clip, int]]]:
        """The crops' length and (clip, start) of each: a pure function of (seed, step)."""
        random = np.random.default_rng((self.recipe.seed, step))
        length = max(1, int(self.recipe.crop_seconds * self.frame_rate))
        return self._sampler.equal_length(random, length, int(self.recipe.batch_seconds * self.frame_rate))


def crop_mel(store: ClipStore, clip: Clip, start: int, length: int, mel: MelConfig, code_samples: int) -> Tensor:
    """Mel [M, frames of `length` codes] of a crop as it is inside the whole clip; `start`, `length` in codes."""
    context = min(_CONTEXT_FRAMES * mel.hop_length, start * code_samples)
    first = start * code_samples - context
    samples = context + length * code_samples + _CONTEXT_FRAMES * mel.hop_length
    frames = natural_log_mel(store.waveform(clip, first, samples)[None], mel)[0]
    skipped = context // mel.hop_length
    return frames[:, skipped : skipped + length * code_samples // mel.hop_length]


def decoder_hidden(tokenizer: AudioTokenizer, codes: Tensor) -> Tensor:
    """Input of the flow decoder: codes [B, K, T] -> hidden [B, L, D]."""
    return tokenizer.decoder.hidden(tokenizer.bridge.dequantize(codes))


@dataclass(frozen=True)
class FlowPart:
    """codes [B, K, T] and mel [B, M, L] of some rows of a step's batch.

    rows: their numbers, and how many the step has. share: of the step's rows; 0 where a process has none and takes one.
    """

    codes: Tensor
    mel: Tensor
    rows: tuple[list[int], int]
    share: float


class FlowBatches:
    """Batches of one dataset on the recipe's device."""

    def __init__(self, recipe: FlowRecipe, tokenizer: AudioTokenizer, flow: FlowDecoder) -> None:
        config = flow.config
        self.recipe, self.tokenizer = recipe, tokenizer
        self.mel = MelConfig(config.sampling_rate, 4 * config.hop_length, config.hop_length, config.in_channels)
        self.floor = math.log(recipe.mel_floor)
        self.code_samples = round(config.sampling_rate / tokenizer.frame_rate)
        self.crops = CodedCrops(recipe, tokenizer.frame_rate)

    def parts(self, step: int, run: World, pieces: int = 1) -> tuple[list[FlowPart], list[str]]:
        """What this process computes of a training step, in micro-batches, and the ids of these crops."""
        length, crops = self.crops(step)
        shares = [run.share(range(len(crops)), pieces, piece) for piece in range(pieces)]
        made = [self._make([crops[row] for row in rows], length) for rows, _ in shares]
        # The last code yields three frames, not four (kernel 3, stride 4), and the clip may end with it.
        frames = run.smallest(min(self._hidden_frames(length), *(mel.shape[2] for _, mel in made)))
        parts = [
            FlowPart(codes, mel[:, :, :frames], (rows, len(crops)), share)
            for (codes, mel), (rows, share) in zip(made, shares, strict=True)
        ]
        return parts, [f"{crops[row][0].id}@{crops[row][1]}" for rows, share in shares if share for row in rows]

    def validation_clips(self) -> list[tuple[str, Tensor, Tensor]]:
        """A few validation clips: id, hidden [1, L, D], mel [1, M, L]."""
        max_frames = int(_SAMPLE_SECONDS * self.tokenizer.frame_rate)
        clips = []
        for clip in some_clips(self.crops.clips("validation")):
            length = min(max_frames, self.crops.codes[clip.id].shape[1])
            codes, mel = self._make([(clip, 0)], length)
            frames = min(self._hidden_frames(length), mel.shape[2])
            clips.append((clip.id, decoder_hidden(self.tokenizer, codes)[:, :frames], mel[:, :, :frames]))
        return clips

    def _hidden_frames(self, length: int) -> int:
        return self.tokenizer.decoder.hidden_frames(length)

    def _make(self, rows: list[tuple[Clip, int]], length: int) -> tuple[Tensor, Tensor]:
        """codes [B, K, T], mel [B, M, L] with as many frames as the shortest has."""
        codes = torch.stack([self.crops.codes[clip.id][:, start : start + length] for clip, start in rows])
        mels = [crop_mel(self.crops.store, clip, start, length, self.mel, self.code_samples) for clip, start in rows]
        frames = min(mel.shape[1] for mel in mels)
        mel = torch.stack([mel[:, :frames] for mel in mels]).clamp(min=self.floor)
        return codes.to(self.recipe.device), mel.to(self.recipe.device)


def load_vocoder(path: str, config: dict[str, Any]) -> Hift | Vocos:
    """Read `vocoder.safetensors` or `hift.pt`."""
    return load_vocos(path, config) if path.endswith(".safetensors") else load_hift(path)


def train(recipe: FlowRecipe, stop_after: int | None = None) -> None:
    """Train the flow decoder, from the newest state in `recipe.output` on; `stop_after` ends early.

    Raises ConfigError, DataError, CheckpointError or TrainingError before the first step when an input is missing.
    """
    recipe.prepare()
    config = read_json(Path(recipe.config))
    tokenizer = AudioTokenizer.from_config(config)
    load_part(tokenizer, "tokenizer", recipe.tokenizer)
    tokenizer.to(recipe.device).eval().requires_grad_(False)
    flow = FlowDecoder.from_config(config)
    if recipe.init_from is not None:
        load_part(flow, "flow", recipe.init_from)
    flow.to(recipe.device).train()
    vocoder = None if recipe.vocoder is None else load_vocoder(recipe.vocoder, config).to(recipe.device).eval()
    batches = FlowBatches(recipe, tokenizer, flow)
    if recipe.init_from is None:
        start_from_mean(flow, batches)
    modules: dict[str, nn.Module] = {"flow": flow}
    if recipe.train_audio_decoder:
        unfreeze_audio_decoder(tokenizer)
        modules["tokenizer"] = tokenizer
    trained = parallelize(modules, world(), activation_checkpointing=recipe.activation_checkpointing)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimizer = make_optimizer(parameters, recipe.optimizer)
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    with TrainingRun(recipe, recipe.output, trained, modules, {"flow": optimizer}) as run:
        for step in run.steps(last):
            with run.loading():
                parts, crops = batches.parts(step, run.world, recipe.gradient_accumulation)
            losses: dict[str, Tensor] = {}
            for part in parts:
                with run.computing(part.mel[:, 0].numel()):
                    with recipe.autocast():
                        values = trained(partial(compute_losses, recipe, tokenizer, flow, part, step))
                    (values["loss"] * run.world.size).backward()  # FSDP divides the processes' sum by their number
                losses = {name: value.detach() + losses.get(name, 0.0) for name, value in values.items()}
            frames = sum(part.mel.shape[0] * part.mel.shape[2] for part in parts)
            scalars = run.update([optimizer], recipe.optimizer, step, losses["loss"], crops, frames)
            done = step + 1
            if due(done, recipe.log_every, last):
                run.losses(done, losses, scalars)
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        clips = reconstructions(flow, batches, vocoder)
                        log_reconstructions(run.log, done, flow, clips, batches.mel.sample_rate)
            if due(done, recipe.checkpoint_every, last):
                run.save(done)


def compute_losses(
    recipe: FlowRecipe, tokenizer: AudioTokenizer, flow: FlowDecoder, part: FlowPart, step: int
) -> dict[str, Tensor]:
    """`flow` (in some steps), `prior` and their weighted sum `loss`, times the part's share of the step's rows."""
    # Noise, times and dropped conditions depend on (seed, step) only, as the data does.
    generator = torch.Generator(recipe.device).manual_seed(recipe.seed * 1_000_003 + step)
    with torch.autocast(part.codes.device.type, enabled=False):
        hidden = decoder_hidden(tokenizer, part.codes)[:, : part.mel.shape[2]]
    with_velocity = step % recipe.velocity_every == 0
    losses = flow.loss(hidden, part.mel, None, generator, with_velocity, part.rows)
    losses["loss"] = losses.get("flow", 0.0) + recipe.prior_weight * losses["prior"]
    return {name: part.share * value for name, value in losses.items()}


def unfreeze_audio_decoder(tokenizer: AudioTokenizer) -> None:
    """Let everything between the codebook entries and the hidden frames learn."""
    decoder = tokenizer.decoder
    for part in (tokenizer.bridge.proj_decoder, decoder.dconv1, decoder.layers, decoder.layer_norm):
        part.requires_grad_(True)


@torch.no_grad()
def start_from_mean(flow: FlowDecoder, batches: FlowBatches) -> None:
    """Set the untrained velocity to the mean mel: natural-log mels lie far from the noise's zero mean."""
    bias = flow.conditional_decoder.final_proj.bias
    assert bias is not None
    (part,), _ = batches.parts(0, ALONE)
    bias.copy_(part.mel.mean(dim=(0, 2)))


def reconstructions(flow: FlowDecoder, batches: FlowBatches, vocoder: Hift | Vocos | None) -> Iterator[Reconstruction]:
    """Validation clips from their codes: mel errors of the prenet's and of the sampled mel."""
    for number, (_, hidden, mel) in enumerate(batches.validation_clips()):
        mu = flow.prenet(hidden)
        noise = torch.randn(mel.shape, generator=torch.Generator().manual_seed(number)).to(mel.device)
        sampled = flow.sample_batch(mu, noise)
        predicted = {"prior_mae": mu.transpose(1, 2), "mel_mae": sampled}
        errors = {name: float((value - mel).abs().mean()) for name, value in predicted.items()}
        waveform = sound_of_mel(sampled[0], batches.mel) if vocoder is None else vocoder(sampled)[0]
        yield Reconstruction(f"clip{number}", errors, [mel[0], mu[0].T, sampled[0]], waveform)
