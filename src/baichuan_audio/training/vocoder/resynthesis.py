"""Joint finetuning of audio decoder, prenet and vocoder: codes to waveform with spectral and perceptual losses.

The flow decoder's L1 loss blurs the mel, and the vocoder was trained on mels of recordings. Here the waveform's loss
reaches all three, and the features of a frozen tokenizer are compared between the generated waveform and the recording
("phonetic feedback": Plantinga, Bagchi and Fosler-Lussier 2020). Encoder and codebooks are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...audio.mel import natural_log_mel, whisper_log_mels
from ...audio_tokenizer import AudioTokenizer
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import SAMPLE_RATE, some_clips
from ...errors import ConfigError
from ...flow_decoder import FlowDecoder
from ...safetensors_io import read_json
from ...vocoder.excitation import NOISE_FRAMES
from ...vocoder.vocos import load_vocos
from ..common.checkpointing import load_module, load_part
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import parallelize
from ..common.distributed.world import ALONE, World, world
from ..common.logging import Reconstruction, due, log_reconstructions
from ..common.optim import make_optimizer
from ..common.recipe import OptimizerRecipe
from ..flow.train import CodedCropRecipe, CodedCrops, crop_mel, decoder_hidden, unfreeze_audio_decoder
from ..tokenizer.text_loss import trained_head
from .losses import SpectralLoss, f0_cross_entropy, l1_part, pitch
from .train import mel_config, save_vocoder


@dataclass(frozen=True)
class ResynthesisWeights:
    """Weight of each loss."""

    log: float = 2.5
    convergence: float = 2.5
    mel: float = 8.0
    f0: float = 2.0
    prior: float = 4.0
    """L1 of the prenet's mel, which stays a mel that any vocoder takes."""
    sounds: float = 2.0
    """KL divergence of the perceptual model's phonemes between recording and generated waveform."""
    features: float = 1.0
    """Squared distance of the perceptual model's features, in units of their variance."""


@dataclass(frozen=True, kw_only=True)
class ResynthesisRecipe(CodedCropRecipe):
    """Recipe of the stage `resynthesis`."""

    decoder_checkpoint: str
    """Training output of the stage `flow`, or checkpoint directory, with audio decoder and prenet."""
    vocoder: str
    """The Vocos to start from, a `vocoder.safetensors`."""
    perceptual_model: str
    """Training output of the stage `tokenizer` that made the codes; its encoder and phonetic head are used, frozen."""
    sampled_codes: str | None = None
    """Folder with codes of the same clips as the language model samples them (`baichuan-audio data sample-codes`)."""
    sampled_code_share: float = 0.5
    """Share of crops that use those codes where they exist; they differ mostly in later codebooks."""
    crop_seconds: float = 1.6
    batch_seconds: float = 16.0
    boundary_crop_prob: float = 0.4
    """Share of crops that begin or end with their clip, half of them each: random crops hardly ever do, and first and
    last words were rendered worst."""
    mel_floor: float = 3e-4
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    weights: ResynthesisWeights = field(default_factory=ResynthesisWeights)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.boundary_crop_prob <= 1 and 0 <= self.sampled_code_share <= 1):
            raise ConfigError("boundary_crop_prob and sampled_code_share must lie between 0 and 1.")


class CodesToWaveform(nn.Module):
    """Audio decoder, prenet and vocoder.

    codes [B, K, T] -> waveform [B, L * hop], mel [B, M, L], F0 logits [B, L, bins].
    """

    def __init__(self, recipe: ResynthesisRecipe) -> None:
        super().__init__()
        config = read_json(Path(recipe.config))
        self.tokenizer, self.flow = AudioTokenizer.from_config(config), FlowDecoder.from_config(config)
        if self.flow.config.diffusion_steps:
            raise ConfigError(
                "the stage resynthesis needs a model that uses the prenet's mel (diffusion_steps: 0 in config.json)."
            )
        for name, module in (("tokenizer", self.tokenizer), ("flow", self.flow)):
            load_part(module, name, recipe.decoder_checkpoint)
            module.requires_grad_(False)
        unfreeze_audio_decoder(self.tokenizer)
        self.flow.prenet.requires_grad_(True)
        self.vocoder = load_vocos(recipe.vocoder, config)
        self.mel = mel_config(self.vocoder)

    def forward(self, codes: Tensor, frames: int, noise_start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        mel = self.flow.prenet(decoder_hidden(self.tokenizer, codes))[:, :frames].transpose(1, 2)
        waveform, f0_logits = self.vocoder.train_forward(mel, None, noise_start)
        return waveform, mel, f0_logits


class PerceptualLoss(nn.Module):
    """Losses between waveforms [B, S] at 24 kHz in the features and phonemes of a frozen tokenizer."""

    def __init__(self, recipe: ResynthesisRecipe) -> None:
        super().__init__()
        self.tokenizer = AudioTokenizer.from_config(read_json(Path(recipe.config)))
        load_module(recipe.perceptual_model, "tokenizer", self.tokenizer)
        self.head = trained_head(recipe.perceptual_model, self.tokenizer.config)
        self.eval().requires_grad_(False)

    def forward(self, generated: Tensor, target: Tensor, run: World = ALONE) -> dict[str, Tensor]:
        """`sounds`: KL divergence in nats a position; `features`: squared distance over the target's variance. Each is
        this process's part of a mean over the rows of all processes."""
        with torch.no_grad():
            target_features, target_logits = self.features(target)
        features, logits = self.features(generated)
        divergence = F.kl_div(logits.log_softmax(-1), target_logits.log_softmax(-1), reduction="none", log_target=True)
        return {
            "sounds": run.mean_part(divergence.sum(), divergence[..., 0].numel()),
            "features": run.mean_part((features - target_features).square().sum(), features.numel())
            / _variance(target_features, run).to(features),
        }

    def features(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """waveforms [B, S] -> encoder features [B, L, D], phoneme logits [B, N, V]."""
        config = self.tokenizer.config
        resampled = to_rate(waveforms, SAMPLE_RATE, config.sampling_rate)
        samples = torch.full((len(resampled),), resampled.shape[1], device=resampled.device)
        log_mel, lengths = whisper_log_mels(resampled, samples, config.mel, config.max_audio_seconds)
        features = self.tokenizer.encoder(log_mel, lengths)
        vectors = self.tokenizer.bridge.pooled(features, self.tokenizer.encoder.output_lengths(lengths))
        return features.float(), self.head.frames(self.head.hidden(vectors.float())).float()


def _variance(values: Tensor, run: World) -> Tensor:
    """The variance of the values of all processes, a scalar."""
    values = values.double()
    count, mean = run.total(values.numel()), run.total(run.mean_part(values.sum(), values.numel()))
    return run.total((values - mean).square().sum()) / (count - 1)


def to_rate(waveforms: Tensor, rate: int, new_rate: int) -> Tensor:
    """Waveforms [B, S] at `rate` -> [B, S * new_rate / rate], differentiably, by truncating the spectrum."""
    samples = waveforms.shape[1] * new_rate // rate
    return torch.fft.irfft(torch.fft.rfft(waveforms)[:, : samples // 2 + 1], n=samples) * (new_rate / rate)


class ResynthesisBatches:
    """codes [B, K, T], the recordings' waveforms [B, L * hop] and mels [B, M, L] of a step."""

    def __init__(self, recipe: ResynthesisRecipe, model: CodesToWaveform) -> None:
        self._recipe, self._mel, self._decoder = recipe, model.mel, model.tokenizer.decoder
        self._crops = CodedCrops(recipe, model.tokenizer.frame_rate)
        self._sampled_codes = CodesStore(recipe.sampled_codes) if recipe.sampled_codes else None
        self._code_samples = round(model.mel.sample_rate / model.tokenizer.frame_rate)

    def batch(self, step: int, run: World) -> tuple[tuple[Tensor, Tensor, Tensor], list[str]]:
        """What this process computes of a training step, and the ids of its crops; raises ConfigError for fewer crops
        than processes."""
        recipe, store = self._recipe, self._crops.store
        length, rows = self._crops(step)
        if len(rows) < run.size:
            raise ConfigError(f"a step has {len(rows)} crops for {run.size} processes; raise `batch_seconds`.")
        mine = run.part(range(len(rows)))
        random = np.random.default_rng((recipe.seed, step, 1))
        at_boundary, use_sampled = random.random(len(rows)), random.random(len(rows)) < recipe.sampled_code_share
        frames = self._decoder.hidden_frames(length)
        samples = frames * self._mel.hop_length
        codes, waveforms, mels = [], [], []
        for row in mine:
            (clip, start), position, sampled = rows[row], at_boundary[row], use_sampled[row]
            whole = self._crops.codes[clip.id]
            if sampled and self._sampled_codes is not None and clip.id in self._sampled_codes:
                whole = self._sampled_codes[clip.id]
            if position < recipe.boundary_crop_prob:
                start = 0 if position < recipe.boundary_crop_prob / 2 else whole.shape[1] - length
            codes.append(whole[:, start : start + length])
            waveform = store.waveform(clip, start * self._code_samples, samples)
            waveforms.append(F.pad(waveform, (0, samples - len(waveform))))
            mel = crop_mel(store, clip, start, length, self._mel, self._code_samples)[:, :frames]
            mels.append(F.pad(mel, (0, frames - mel.shape[1]), value=-100.0))
        batch = tuple(torch.stack(tensors).to(recipe.device) for tensors in (codes, waveforms, mels))
        return batch, [f"{rows[row][0].id}@{rows[row][1]}" for row in mine]  # type: ignore[return-value]

    def validation_clips(self) -> list[tuple[Tensor, Tensor]]:
        """A few validation clips: codes [1, K, T], the recording [S]."""
        clips = some_clips(self._crops.clips("validation"))
        return [
            (self._crops.codes[clip.id][None].to(self._recipe.device), self._crops.store.waveform(clip))
            for clip in clips
        ]


def train(recipe: ResynthesisRecipe, stop_after: int | None = None) -> None:
    """Train, going on from the newest state in the output folder; `stop_after` ends early.

    The state's modules `tokenizer` and `flow` and the file `vocoder.safetensors` are what `assemble` takes. Raises
    ConfigError, DataError, CheckpointError or TrainingError before the first step when an input is missing.
    """
    recipe.prepare()
    model = CodesToWaveform(recipe).to(recipe.device).train()
    perceptual_loss = PerceptualLoss(recipe).to(recipe.device)
    spectral = SpectralLoss(recipe.fft_sizes, model.mel.sample_rate, model.mel.num_mel_bins).to(recipe.device)
    batches = ResynthesisBatches(recipe, model)
    modules = {"tokenizer": model.tokenizer, "flow": model.flow, "vocoder": model.vocoder}
    trained = parallelize(modules, world())
    optimizer = make_optimizer(model.parameters(), recipe.optimizer)
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    with TrainingRun(recipe, recipe.output, trained, modules, {"resynthesis": optimizer}) as run:
        for step in run.steps(last):
            with run.loading():
                batch, crops = batches.batch(step, run.world)
            with recipe.autocast():
                losses = trained(partial(compute_losses, model, perceptual_loss, spectral, batch, recipe))
            (losses["loss"] * run.world.size).backward()  # FSDP divides the processes' sum by their number
            scalars = run.update([optimizer], recipe.optimizer, step, losses["loss"], crops, batch[2][:, 0].numel())
            done = step + 1
            if due(done, recipe.log_every, last):
                run.losses(done, losses, scalars)
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        clips = reconstructions(model, perceptual_loss, batches)
                        log_reconstructions(run.log, done, model, clips, model.mel.sample_rate)
            if due(done, recipe.checkpoint_every, last):
                # first: a run stopped in between writes it again
                run.save_file(
                    model.vocoder,
                    lambda: load_vocos(recipe.vocoder, read_json(Path(recipe.config))),
                    lambda whole: save_vocoder(whole, recipe.output),
                )
                run.save(done)


def compute_losses(
    model: CodesToWaveform,
    perceptual_loss: PerceptualLoss,
    spectral: SpectralLoss,
    batch: tuple[Tensor, Tensor, Tensor],
    recipe: ResynthesisRecipe,
) -> dict[str, Tensor]:
    """This process's parts of all losses of a step; `loss` is their weighted sum."""
    codes, target, target_mel = batch
    noise_start = int(torch.randint(NOISE_FRAMES, ()))
    generated, mel, f0_logits = model(codes, target_mel.shape[2], noise_start)
    floor = math.log(recipe.mel_floor)
    f0, voiced = pitch(target, model.mel.sample_rate, model.mel.hop_length)
    losses = {
        **spectral(generated, target, world()),
        "f0": f0_cross_entropy(f0_logits, model.vocoder.f0_grid(f0_logits), f0, voiced, world()),
        "prior": l1_part(mel.float(), target_mel.clamp(min=floor), world()),
        **perceptual_loss(generated, target, world()),
    }
    weights = asdict(recipe.weights)
    return {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum(), **losses}


def reconstructions(
    model: CodesToWaveform, perceptual_loss: PerceptualLoss, batches: ResynthesisBatches
) -> Iterator[Reconstruction]:
    """Validation clips from their codes: perceptual losses and mel error against the recording."""
    for number, (codes, recording) in enumerate(batches.validation_clips()):
        generated, mel, _ = model(codes, len(recording) // model.mel.hop_length)
        target = recording[None, : generated.shape[1]].to(codes.device)
        target_mel, generated_mel = natural_log_mel(target, model.mel), natural_log_mel(generated, model.mel)
        errors = {name: float(value) for name, value in perceptual_loss(generated, target).items()}
        errors["mel_mae"] = float((generated_mel - target_mel).abs().mean())
        yield Reconstruction(f"clip{number}", errors, [target_mel[0], mel[0], generated_mel[0]], generated[0])
