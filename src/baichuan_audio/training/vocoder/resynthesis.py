"""Audio decoder, prenet and vocoder learn on as one: from codes to a waveform, judged by how that sounds.

The stages `flow` and `vocoder` meet at the mel: the one is judged by its mean, which blurs, the other is handed
recordings. Here the error of the waveform reaches all of them, and a frozen tokenizer listens to it as it listens to
the recording, so that what tells the sounds of speech apart counts for more than what merely fills the spectrum
("phonetic feedback": Plantinga, Bagchi and Fosler-Lussier 2020). Encoder and codebooks stay: codes keep their meaning.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...audio.mel import natural_log_mel, whisper_log_mels
from ...audio_tokenizer import AudioTokenizer
from ...data.store.codes_store import CodesStore
from ...data.store.manifest import SAMPLE_RATE, ClipStore, some_clips
from ...errors import ConfigError
from ...flow_decoder import FlowDecoder
from ...layers.precision import autocast
from ...safetensors_io import read_json
from ...vocoder.excitation import NOISE_FRAMES
from ...vocoder.vocos import load_vocos
from ..common.checkpointing import load_module, load_training_state, save_training_state
from ..common.logging import TrainingLog, set_threads
from ..common.optim import make_optimizer, optimizer_step
from ..common.recipe import OptimizerRecipe, StageRecipe
from ..flow.train import CropSampler, crop_mel, decoder_hidden, load_part, unfreeze_audio_decoder
from ..tokenizer.text_loss import trained_head
from .losses import SpectralLoss, f0_cross_entropy, pitch
from .train import mel_config, save_vocoder


@dataclass(frozen=True)
class ResynthesisWeights:
    """Weight of each loss."""

    log: float = 2.5
    convergence: float = 2.5
    mel: float = 8.0
    f0: float = 2.0
    prior: float = 4.0
    """L1 of the prenet's mel: it stays a mel, which can be looked at and given to any vocoder."""
    sounds: float = 2.0
    """Divergence between the sounds that the ear tells in the recording and in what is made of its codes."""
    features: float = 1.0
    """Squared distance of the ear's features, in units of their variance."""


@dataclass(frozen=True, kw_only=True)
class ResynthesisRecipe(StageRecipe):
    """One run of this stage."""

    config: str
    """The model's config.json."""
    decoder_checkpoint: str
    """Where audio decoder and prenet come from: output of the stage `flow`, or a checkpoint directory."""
    vocoder: str
    """The `vocoder.safetensors` that goes on; a Vocos."""
    perceptual_model: str
    """Output of the stage `tokenizer` that made the codes: its encoder and its phonetic head listen, frozen."""
    corpus: str
    """Folder of the clip store."""
    codes: str
    """Folder with the clips' codes."""
    codes_said: str | None = None
    """Folder with codes of the same frames as the language model says them (`baichuan-audio data sample-codes`)."""
    sampled_code_share: float = 0.5
    """Share of the crops of clips found there that are made of those: what it says is less certain than what the
    encoder hears, above all in the later codebooks."""
    kinds: dict[str, float] = field(default_factory=dict)
    """Share of each kind of clip in the audio drawn; empty: all clips alike."""
    crop_seconds: float = 1.6
    batch_seconds: float = 16.0
    boundary_crop_prob: float = 0.4
    """Share of the crops that begin with their clip or end with it, half of them each. Every reply begins and ends, and
    a random crop hardly ever does: first and last words were the ones misheard."""
    mel_floor: float = 3e-4
    """Magnitude below which the prenet's target counts as this, as in the stage `flow`."""
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    weights: ResynthesisWeights = field(default_factory=ResynthesisWeights)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_seconds <= self.batch_seconds:
            raise ConfigError("crop_seconds must be positive and at most batch_seconds.")
        if self.mel_floor <= 0:
            raise ConfigError("mel_floor must be positive.")
        if not (0 <= self.boundary_crop_prob <= 1 and 0 <= self.sampled_code_share <= 1):
            raise ConfigError("edges and sampled_code_share must lie between 0 and 1.")


class Speaker(nn.Module):
    """What turns codes into sound: codes [B, K, T] -> waveform [B, L * hop], mel [B, M, L], F0 logits [B, L, bins]."""

    def __init__(self, recipe: ResynthesisRecipe) -> None:
        super().__init__()
        config = read_json(Path(recipe.config))
        self.tokenizer, self.flow = AudioTokenizer.from_config(config), FlowDecoder.from_config(config)
        if self.flow.config.diffusion_steps:
            raise ConfigError("the stage resynthesis is for models that speak the prenet's mel (diffusion_steps: 0).")
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


class Ear(nn.Module):
    """A frozen encoder and phonetic head: waveforms [B, S] at 24 kHz -> features [B, L, D], logits of the sounds."""

    def __init__(self, recipe: ResynthesisRecipe) -> None:
        super().__init__()
        self.tokenizer = AudioTokenizer.from_config(read_json(Path(recipe.config)))
        load_module(recipe.perceptual_model, "tokenizer", self.tokenizer)
        self.head = trained_head(recipe.perceptual_model, self.tokenizer.config)
        self.eval().requires_grad_(False)

    def forward(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        config = self.tokenizer.config
        heard = to_rate(waveforms, SAMPLE_RATE, config.sampling_rate)
        samples = torch.full((len(heard),), heard.shape[1], device=heard.device)
        log_mel, lengths = whisper_log_mels(heard, samples, config.mel, config.max_audio_seconds)
        features = self.tokenizer.encoder(log_mel, lengths)
        vectors = self.tokenizer.bridge.pooled(features, self.tokenizer.encoder.output_lengths(lengths))
        return features.float(), self.head.frames(self.head.hidden(vectors.float())).float()


def to_rate(waveforms: Tensor, rate: int, wanted: int) -> Tensor:
    """Waveforms [B, S] at `rate` -> [B, S * wanted / rate], by their spectrum, so that gradients pass."""
    samples = waveforms.shape[1] * wanted // rate
    return torch.fft.irfft(torch.fft.rfft(waveforms)[:, : samples // 2 + 1], n=samples) * (wanted / rate)


def listening_losses(perceptual_model: Ear, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """What the ear tells apart between waveforms [B, S]: `sounds` (nats a position), `features`."""
    with torch.no_grad():
        features, logits = perceptual_model(wanted)
    made_features, made_logits = perceptual_model(made)
    told, made_told = logits.log_softmax(-1), made_logits.log_softmax(-1)
    return {
        "sounds": F.kl_div(made_told, told, reduction="none", log_target=True).sum(-1).mean(),
        "features": (made_features - features).square().mean() / features.var(),
    }


class ResynthesisBatches:
    """codes [B, K, T], the recordings' waveforms [B, L * hop] and mels [B, M, L] of a step."""

    def __init__(self, recipe: ResynthesisRecipe, speaker: Speaker) -> None:
        self._recipe, self._mel, self._decoder = recipe, speaker.mel, speaker.tokenizer.decoder
        frame_rate = speaker.tokenizer.frame_rate
        self._store, self._codes = ClipStore(recipe.corpus), CodesStore(recipe.codes)
        self._said = CodesStore(recipe.codes_said) if recipe.codes_said else None
        self._code_samples = round(speaker.mel.sample_rate / frame_rate)
        crop, batch = int(recipe.crop_seconds * frame_rate), int(recipe.batch_seconds * frame_rate)
        clips = self._store.select(split="train")
        self._sampler = CropSampler(clips, self._codes, max(1, crop), batch, recipe.kinds)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """A training step's."""
        length, rows = self._sampler.batch(self._recipe.seed, step)
        random = np.random.default_rng((self._recipe.seed, step, 1))
        places, said = random.random(len(rows)), random.random(len(rows)) < self._recipe.sampled_code_share
        frames = self._decoder.hidden_frames(length)
        samples = frames * self._mel.hop_length
        codes, waveforms, mels = [], [], []
        for (clip, start), place, by_model in zip(rows, places, said, strict=True):
            whole = self._codes[clip.id]
            if by_model and self._said is not None and clip.id in self._said:
                whole = self._said[clip.id]
            if place < self._recipe.boundary_crop_prob:
                start = 0 if place < self._recipe.boundary_crop_prob / 2 else whole.shape[1] - length
            codes.append(whole[:, start : start + length])
            sound = self._store.waveform(clip, start * self._code_samples, samples)
            waveforms.append(F.pad(sound, (0, samples - len(sound))))
            mel = crop_mel(self._store, clip, start, length, self._mel, self._code_samples)[:, :frames]
            mels.append(F.pad(mel, (0, frames - mel.shape[1]), value=-100.0))
        device = self._recipe.device
        return torch.stack(codes).to(device), torch.stack(waveforms).to(device), torch.stack(mels).to(device)

    def shown(self) -> list[tuple[Tensor, Tensor]]:
        """A few held-out clips: codes [1, K, T], the recording [S]."""
        clips = [clip for clip in self._store.select(split="validation") if clip.id in self._codes]
        device = self._recipe.device
        return [(self._codes[clip.id][None].to(device), self._store.waveform(clip)) for clip in some_clips(clips)]


def train(recipe: ResynthesisRecipe, stop_after: int | None = None) -> None:
    """Train, going on from the newest state in the output folder; `stop_after` ends early.

    The state's modules `tokenizer` and `flow` and the file `vocoder.safetensors` are what `assemble` takes. Raises
    ConfigError, DataError, CheckpointError or TrainingError before the first step when an input is missing.
    """
    set_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    speaker, perceptual_model = Speaker(recipe).to(recipe.device).train(), Ear(recipe).to(recipe.device)
    spectral = SpectralLoss(recipe.fft_sizes, speaker.mel.sample_rate, speaker.mel.num_mel_bins).to(recipe.device)
    batches = ResynthesisBatches(recipe, speaker)
    optimizer = make_optimizer(speaker.parameters(), recipe.optimizer)
    modules = {"tokenizer": speaker.tokenizer, "flow": speaker.flow, "vocoder": speaker.vocoder}
    optimizers = {"resynthesis": optimizer}
    first = load_training_state(recipe.output, modules, optimizers)
    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    with TrainingLog(recipe.output, recipe.steps, first) as log:
        for step in range(first, last):
            with autocast(recipe.device):
                losses = compute_losses(speaker, perceptual_model, spectral, batches.batch(step), recipe)
            losses["loss"].backward()
            norm = optimizer_step(optimizer, recipe.optimizer, step, recipe.steps)
            log.advance()
            if step % recipe.log_every == 0 or step + 1 == last:
                log.scalars(step, {name: float(value.detach()) for name, value in losses.items()} | {"grad_norm": norm})
            if (step + 1) % recipe.sample_every == 0 or step + 1 == recipe.steps:
                log_samples(step, speaker, perceptual_model, batches, log)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == last:
                save_vocoder(speaker.vocoder, recipe.output)  # first: a run stopped in between writes it again
                save_training_state(recipe.output, step + 1, modules, optimizers)


def compute_losses(
    speaker: Speaker,
    perceptual_model: Ear,
    spectral: SpectralLoss,
    batch: tuple[Tensor, Tensor, Tensor],
    recipe: ResynthesisRecipe,
) -> dict[str, Tensor]:
    """All losses of a batch; `loss` is their weighted sum."""
    codes, wanted, mel = batch
    noise_start = int(torch.randint(NOISE_FRAMES, ()))
    made, made_mel, f0_logits = speaker(codes, mel.shape[2], noise_start)
    floor = math.log(recipe.mel_floor)
    f0, voiced = pitch(wanted, speaker.mel.sample_rate, speaker.mel.hop_length)
    losses = {
        **spectral(made, wanted),
        "f0": f0_cross_entropy(f0_logits, speaker.vocoder.f0_grid(f0_logits), f0, voiced),
        "prior": F.l1_loss(made_mel.float(), mel.clamp(min=floor)),
        **listening_losses(perceptual_model, made, wanted),
    }
    weights = asdict(recipe.weights)
    return {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum(), **losses}


@torch.no_grad()
def log_samples(
    step: int, speaker: Speaker, perceptual_model: Ear, batches: ResynthesisBatches, log: TrainingLog
) -> None:
    """Held-out clips from their codes: how far the ear tells them from the recording, a picture, a sound."""
    speaker.eval()
    totals: dict[str, list[float]] = {}
    for number, (codes, recording) in enumerate(batches.shown()):
        made, mel, _ = speaker(codes, len(recording) // speaker.mel.hop_length)
        wanted = recording[None, : made.shape[1]].to(codes.device)
        target, heard = natural_log_mel(wanted, speaker.mel), natural_log_mel(made, speaker.mel)
        for name, value in listening_losses(perceptual_model, made, wanted).items():
            totals.setdefault(f"held_out_{name}", []).append(float(value))
        totals.setdefault("held_out_mel_mae", []).append(float((heard - target).abs().mean()))
        log.mel(step, f"clip{number}", target[0], mel[0], heard[0])
        log.audio(step, f"clip{number}", made[0], speaker.mel.sample_rate)
    speaker.train()
    if totals:
        log.scalars(step, {name: sum(values) / len(values) for name, values in totals.items()})
