"""Vocoder training: multi-resolution spectral losses from the start, discriminators from a given step on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...audio.mel import MelConfig, natural_log_mel
from ...data.store.manifest import Clip, ClipStore, some_clips
from ...errors import ConfigError, DataError
from ...layers.precision import autocast
from ...vocoder.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from ...vocoder.excitation import NOISE_FRAMES
from ...vocoder.hift import Hift, HiftConfig, load_hift, save_hift
from ...vocoder.vocos import Vocos, VocosConfig, load_vocos, save_vocos
from ..common.checkpointing import load_training_state, save_training_state
from ..common.logging import TrainingLog, set_threads
from ..common.optim import make_optimizer, optimizer_step
from ..common.recipe import OptimizerRecipe, StageRecipe
from .coded_mels import CodedMels, CodedRecipe, Crop
from .losses import SpectralLoss, f0_cross_entropy, hift_f0_loss, pitch

Vocoder = Vocos | Hift


@dataclass(frozen=True)
class VocoderWeights:
    """Weight of each loss."""

    log: float = 2.5
    convergence: float = 2.5
    mel: float = 8.0
    adversarial: float = 1.0
    feature_matching: float = 2.0
    f0: float = 1.0


def _gan_optimizer(learning_rate: float) -> OptimizerRecipe:
    return OptimizerRecipe(learning_rate=learning_rate, betas=(0.8, 0.99), grad_clip=10.0)


@dataclass(frozen=True, kw_only=True)
class VocoderRecipe(StageRecipe):
    """Recipe of the vocoder stage."""

    data: str
    """Folder of the clip store."""
    kinds: dict[str, float] = field(default_factory=dict)
    """Share of each kind of clip in a batch; kinds that the store lacks are left out. Empty: all clips alike."""
    architecture: str = "vocos"
    vocos: VocosConfig = field(default_factory=VocosConfig)
    hift: HiftConfig = field(default_factory=HiftConfig)
    initial: str = ""
    """A `hift.pt`, whose sizes it then has, or a `vocoder.safetensors` of the recipe's sizes to start from."""
    coded: CodedRecipe = field(default_factory=CodedRecipe)
    """Crops whose mel is made of codes: what the vocoder is given in use is smoother than a recording's."""
    batch_size: int = 16
    crop_frames: int = 40
    gain_db: tuple[float, ...] = (-9.0, 3.0)
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    num_loss_mel_bins: int = 80
    weights: VocoderWeights = field(default_factory=VocoderWeights)
    optimizer: OptimizerRecipe = field(default_factory=lambda: _gan_optimizer(8e-4))
    own_f0_from: int = 300
    """First step at which a Vocos follows its own F0 and not the one measured in the recording."""
    adversarial_start_step: int = -1
    """First step with discriminators; negative: never."""
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_optimizer: OptimizerRecipe = field(default_factory=lambda: _gan_optimizer(2e-4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("vocos", "hift"):
            raise ConfigError(f"architecture must be 'vocos' or 'hift', not '{self.architecture}'.")


class CropSampler:
    """Random crops of a clip store; a batch is a pure function of (seed, step)."""

    def __init__(self, store: ClipStore, recipe: VocoderRecipe, samples: int) -> None:
        self.store, self.recipe, self.samples = store, recipe, samples
        self._grid = samples // recipe.crop_frames if recipe.coded.share else 1
        kinds, training = recipe.kinds or {"any": 1.0}, store.select(split="train")
        groups = {kind: [clip for clip in training if kind in (clip.kind, "any")] for kind in kinds}
        self.groups = {kind: clips for kind, clips in groups.items() if clips and kinds[kind] > 0}
        if not self.groups:
            raise DataError(f"{store.root} has no training clip of the kinds {', '.join(kinds)}")
        shares = np.array([kinds[kind] for kind in self.groups])
        self.kind_shares = shares / shares.sum()
        # A clip is drawn in proportion to its length, so that every second of a kind is as likely as any other.
        self.clip_shares = {kind: _shares(clips) for kind, clips in self.groups.items()}

    def crops(self, step: int) -> list[Crop]:
        """What this step hears."""
        random = np.random.default_rng((self.recipe.seed, step))
        kinds = random.choice(list(self.groups), size=self.recipe.batch_size, p=self.kind_shares)
        return [self._crop(str(kind), random) for kind in kinds]

    def _crop(self, kind: str, random: np.random.Generator) -> Crop:
        clips = self.groups[kind]
        clip = clips[int(random.choice(len(clips), p=self.clip_shares[kind]))]
        start = int(random.integers(0, max(1, clip.samples - self.samples + 1)))
        low, high = self.recipe.gain_db
        return Crop(clip, start // self._grid * self._grid, 10 ** (random.uniform(low, high) / 20))

    def waveforms(self, crops: Sequence[Crop]) -> Tensor:
        """Waveforms [B, S]; a clip shorter than the crop ends in silence."""
        heard = [self.store.waveform(crop.clip, crop.start, self.samples) * crop.gain for crop in crops]
        return torch.stack([F.pad(each.clamp(-1.0, 1.0), (0, self.samples - len(each))) for each in heard])


def _shares(clips: Sequence[Clip]) -> np.ndarray:
    lengths = np.array([clip.samples for clip in clips], dtype=np.float64)
    return lengths / lengths.sum()


def build_vocoder(recipe: VocoderRecipe) -> Vocoder:
    """The vocoder that a recipe asks for, ready to train."""
    if recipe.architecture == "vocos":
        fresh = Vocos(recipe.vocos)
        if not recipe.initial:
            return fresh
        return load_vocos(recipe.initial, {"mel_vocoder_config": fresh.config_entry()}).train()
    return load_hift(recipe.initial).train() if recipe.initial else Hift(recipe.hift)


def mel_config(vocoder: Vocoder) -> MelConfig:
    """The mel that a vocoder takes: four hops a window."""
    c = vocoder.config
    return MelConfig(c.sample_rate, 4 * c.hop_length, c.hop_length, c.num_mel_bins)


def train(recipe: VocoderRecipe, stop_after: int | None = None) -> None:
    """Train a vocoder, going on from the newest state in the output folder; `stop_after` ends early.

    Raises DataError when the store has no usable clip, TrainingError when a state cannot be resumed.
    """
    set_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    device, w = recipe.device, recipe.weights
    vocoder = build_vocoder(recipe).to(device)
    judges = Discriminators(recipe.discriminators).to(device)
    spectral = SpectralLoss(recipe.fft_sizes, vocoder.sample_rate, recipe.num_loss_mel_bins).to(device)
    optimizer = make_optimizer(vocoder.parameters(), recipe.optimizer)
    judge_optimizer = make_optimizer(judges.parameters(), recipe.discriminator_optimizer)
    modules = {"vocoder": vocoder, "discriminators": judges}
    optimizers = {"vocoder": optimizer, "discriminators": judge_optimizer}
    output = Path(recipe.output)
    first = load_training_state(output, modules, optimizers)
    store = ClipStore(recipe.data)
    sampler = CropSampler(store, recipe, recipe.crop_frames * vocoder.hop_length)
    mel_sizes = mel_config(vocoder)
    coded = CodedMels(recipe.coded, vocoder.hop_length, recipe.seed, device) if recipe.coded.share else None

    with TrainingLog(output, recipe.steps, first) as log:
        for step in range(first, recipe.steps if stop_after is None else min(stop_after, recipe.steps)):
            adversarial = 0 <= recipe.adversarial_start_step <= step
            crops = sampler.crops(step)
            wanted = sampler.waveforms(crops).to(device)
            mel = natural_log_mel(wanted, mel_sizes)
            if coded is not None:
                mel = coded.replace(mel, crops, step)
            f0, voiced = pitch(wanted, vocoder.sample_rate, vocoder.hop_length)
            with autocast(device):
                if isinstance(vocoder, Vocos):
                    noise_start = int(torch.randint(NOISE_FRAMES, ()))
                    given = torch.where(voiced > 0, f0, 100.0) if step < recipe.own_f0_from else None
                    made, logits = vocoder.train_forward(mel, given, noise_start)
                    f0_loss = f0_cross_entropy(logits, vocoder.f0_grid(logits), f0, voiced)
                else:
                    made = vocoder(mel)
                    f0_loss = hift_f0_loss(vocoder.f0(mel), f0, voiced)

            figures = {}
            if adversarial:
                judged = discriminator_loss(judges(wanted), judges(made.detach()))
                judged.backward()
                since = step - recipe.adversarial_start_step
                optimizer_step(judge_optimizer, recipe.discriminator_optimizer, since, recipe.steps)
                figures["discriminator"] = judged

            parts = spectral(made, wanted)
            parts["f0"] = f0_loss
            loss = w.log * parts["log"] + w.convergence * parts["convergence"] + w.mel * parts["mel"]
            loss = loss + w.f0 * parts["f0"]
            if adversarial:
                judges.requires_grad_(False)
                judged_made = judges(made)
                with torch.no_grad():
                    judged_real = judges(wanted)
                parts["adversarial"] = adversarial_loss(judged_made)
                parts["feature_matching"] = feature_matching_loss(judged_real, judged_made)
                loss = loss + w.adversarial * parts["adversarial"] + w.feature_matching * parts["feature_matching"]
                judges.requires_grad_(True)
            loss.backward()
            norm = optimizer_step(optimizer, recipe.optimizer, step, recipe.steps)

            done = step + 1
            log.advance()
            if step % recipe.log_every == 0 or done == recipe.steps:
                figures |= {"loss": loss, **parts}
                scalars = {name: float(value.detach()) for name, value in figures.items()}
                log.scalars(step, scalars | {"grad_norm": norm})
            if done % recipe.sample_every == 0 or done == recipe.steps:
                _sample(log, done, vocoder, store, spectral, device)
            if done % recipe.checkpoint_every == 0 or done in (recipe.steps, stop_after):
                save_training_state(output, done, modules, optimizers)
    save_vocoder(vocoder, output)


def save_vocoder(vocoder: Vocoder, directory: str | Path) -> Path:
    """Write `vocoder.safetensors` or `hift.pt` into `directory`."""
    if isinstance(vocoder, Hift):
        path = Path(directory) / "hift.pt"
        save_hift(vocoder, path)
    else:
        path = Path(directory) / "vocoder.safetensors"
        save_vocos(vocoder, path)
    return path


@torch.no_grad()
def _sample(
    log: TrainingLog, step: int, vocoder: Vocoder, store: ClipStore, spectral: SpectralLoss, device: str
) -> None:
    """Resynthesise two held-out clips a kind: figures, sounds and a picture."""
    random_state = torch.get_rng_state()  # HiFT's noise must not shift the training run
    vocoder.eval()
    totals: dict[str, list[float]] = {}
    for kind in sorted({clip.kind for clip in store.clips}):
        for i, clip in enumerate(some_clips(store.select(kind=kind, split="validation"), 2)):
            wanted = store.waveform(clip, 0, 4 * vocoder.sample_rate)[None].to(device)
            wanted = wanted[:, : wanted.shape[1] // vocoder.hop_length * vocoder.hop_length]
            if wanted.shape[1] < 8 * vocoder.hop_length:
                continue
            mel = natural_log_mel(wanted, mel_config(vocoder))
            made = vocoder(mel)
            for name, value in spectral(made, wanted).items():
                totals.setdefault(f"held_out_{name}", []).append(float(value))
            log.audio(step, f"{kind}-{i}", made[0], vocoder.sample_rate)
            if not i:
                log.mel(step, kind, mel[0], natural_log_mel(made, mel_config(vocoder))[0])
    vocoder.train()
    torch.set_rng_state(random_state)
    if totals:
        log.scalars(step - 1, {name: sum(values) / len(values) for name, values in totals.items()})
