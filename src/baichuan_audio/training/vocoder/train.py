"""Vocoder training: multi-resolution spectral losses from the start, discriminators from a given step on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...audio.mel import MelConfig, natural_log_mel
from ...data.store.manifest import Clip, ClipStore, some_clips
from ...errors import ConfigError
from ...vocoder.discriminators import DiscriminatorConfig, Discriminators
from ...vocoder.excitation import NOISE_FRAMES
from ...vocoder.hift import Hift, HiftConfig, load_hift, save_hift
from ...vocoder.vocos import Vocos, VocosConfig, load_vocos, save_vocos
from ..common.clip_sampling import CropSampler
from ..common.distributed.micro_batches import backward
from ..common.distributed.run import TrainingRun
from ..common.distributed.sharding import TrainedModules, parallelize
from ..common.distributed.world import world
from ..common.logging import Reconstruction, due, log_reconstructions
from ..common.optim import make_optimizer
from ..common.recipe import AudioRecipe, OptimizerRecipe
from .adversarial import adversarial_loss, discriminator_loss, feature_matching_loss
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
class VocoderRecipe(AudioRecipe):
    """Recipe of the stage `vocoder`."""

    architecture: str = "vocos"
    vocos: VocosConfig = field(default_factory=VocosConfig)
    hift: HiftConfig = field(default_factory=HiftConfig)
    init_from: str | None = None
    """A `hift.pt`, whose sizes it then has, or a `vocoder.safetensors` of the recipe's sizes; None: random."""
    batch_size: int = 16
    crop_frames: int = 40
    gain_db: tuple[float, ...] = (-9.0, 3.0)
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    num_loss_mel_bins: int = 80
    weights: VocoderWeights = field(default_factory=VocoderWeights)
    optimizer: OptimizerRecipe = field(default_factory=lambda: _gan_optimizer(8e-4))
    predicted_f0_start_step: int = 300
    """First step at which a Vocos uses its predicted F0 instead of the one measured in the recording."""
    adversarial_start_step: int = -1
    """First step with discriminators; negative: never."""
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_optimizer: OptimizerRecipe = field(default_factory=lambda: _gan_optimizer(2e-4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("vocos", "hift"):
            raise ConfigError(f"architecture must be 'vocos' or 'hift', not '{self.architecture}'.")


@dataclass(frozen=True)
class Crop:
    """Samples of a clip from `start` on, made `gain` times as loud."""

    clip: Clip
    start: int
    gain: float


class VocoderCrops:
    """Random crops of a dataset; a batch is a pure function of (seed, step). Raises DataError where there are none."""

    def __init__(self, store: ClipStore, recipe: VocoderRecipe, samples: int) -> None:
        self.store, self.recipe, self.samples = store, recipe, samples
        clips = store.select(split="train")
        self._sampler = CropSampler(clips, [clip.samples for clip in clips], recipe.source_weights)

    def crops(self, step: int) -> list[Crop]:
        """The crops of a step."""
        random = np.random.default_rng((self.recipe.seed, step))
        low, high = self.recipe.gain_db
        return [
            Crop(clip, start, 10 ** (random.uniform(low, high) / 20))
            for clip, start in self._sampler.fixed_length(random, self.samples, self.recipe.batch_size)
        ]

    def waveforms(self, crops: Sequence[Crop]) -> Tensor:
        """Waveforms [B, S]; a clip shorter than the crop ends in silence."""
        rows = [self.store.waveform(crop.clip, crop.start, self.samples) * crop.gain for crop in crops]
        return torch.stack([F.pad(row.clamp(-1.0, 1.0), (0, self.samples - len(row))) for row in rows])


def build_vocoder(recipe: VocoderRecipe) -> Vocoder:
    """The recipe's vocoder in training mode."""
    if recipe.architecture == "vocos":
        untrained = Vocos(recipe.vocos)
        if recipe.init_from is None:
            return untrained
        return load_vocos(recipe.init_from, {"mel_vocoder_config": untrained.config_entry()}).train()
    return Hift(recipe.hift) if recipe.init_from is None else load_hift(recipe.init_from).train()


def mel_config(vocoder: Vocoder) -> MelConfig:
    """The mel that a vocoder takes: four hops a window."""
    c = vocoder.config
    return MelConfig(c.sample_rate, 4 * c.hop_length, c.hop_length, c.num_mel_bins)


def train(recipe: VocoderRecipe, stop_after: int | None = None) -> None:
    """Train a vocoder, going on from the newest state in the output folder; `stop_after` ends early.

    Raises ConfigError for fewer crops than processes, DataError when the store has no usable clip, TrainingError when a
    state cannot be resumed.
    """
    recipe.prepare()
    pieces = world().size * recipe.gradient_accumulation
    if recipe.batch_size < pieces:
        raise ConfigError(f"batch_size must be at least {pieces}, the number of processes times micro-batches.")
    device = recipe.device
    vocoder = build_vocoder(recipe).to(device)
    discriminators = Discriminators(recipe.discriminators).to(device)
    spectral = SpectralLoss(recipe.fft_sizes, vocoder.sample_rate, recipe.num_loss_mel_bins).to(device)
    modules = {"vocoder": vocoder, "discriminators": discriminators}
    trained = parallelize({"vocoder": vocoder}, world())
    judged = parallelize({"discriminators": discriminators}, world())
    networks = Networks(vocoder, discriminators, spectral, trained, judged)
    optimizer = make_optimizer(vocoder.parameters(), recipe.optimizer)
    discriminator_optimizer = make_optimizer(discriminators.parameters(), recipe.discriminator_optimizer)
    optimizers = {"vocoder": optimizer, "discriminators": discriminator_optimizer}
    output, store = Path(recipe.output), ClipStore(recipe.dataset)
    batches = VocoderCrops(store, recipe, recipe.crop_frames * vocoder.hop_length)

    last = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    with TrainingRun(recipe, output, trained, modules, optimizers) as run:
        for step in run.steps(last):
            with run.loading():
                whole, pieces = batches.crops(step), recipe.gradient_accumulation
                crops = [run.world.part(whole, pieces, piece) for piece in range(pieces)]
                targets = [batches.waveforms(part).to(device) for part in crops]
            names = [f"{crop.clip.id}@{crop.start}" for part in crops for crop in part]
            of_step = StepLosses(recipe, networks, step, targets)
            losses: dict[str, Tensor] = {}
            if of_step.adversarial:
                losses["discriminator"] = backward(targets, of_step.discriminator)["loss"]
                since = recipe.adversarial_start_step
                gan = recipe.discriminator_optimizer
                run.update([discriminator_optimizer], gan, step, losses["discriminator"], names, since=since)
                discriminators.requires_grad_(False)
            losses |= backward(targets, of_step.vocoder)
            discriminators.requires_grad_(True)
            frames = len(names) * recipe.crop_frames
            scalars = run.update([optimizer], recipe.optimizer, step, losses["loss"], names, frames)

            done = step + 1
            if due(done, recipe.log_every, recipe.steps):
                run.losses(done, losses, scalars)
            if due(done, recipe.sample_every, recipe.steps):
                with run.on_main() as here:
                    if here:
                        clips = reconstructions(vocoder, store, spectral, device)
                        log_reconstructions(run.log, done, vocoder, clips, vocoder.sample_rate)
            if due(done, recipe.checkpoint_every, last):
                run.save(done)
        run.save_file(vocoder, lambda: build_vocoder(recipe), lambda whole: save_vocoder(whole, output))


@dataclass(frozen=True)
class Networks:
    """Vocoder and discriminators, both also as `parallelize` gives them, and the spectral losses."""

    vocoder: Vocoder
    discriminators: Discriminators
    spectral: SpectralLoss
    trained: TrainedModules
    judged: TrainedModules


class StepLosses:
    """The losses of one step on recordings [B, S] in micro-batches: of the discriminators, then of the vocoder.

    Of a step in one part the waveforms are generated once for both.
    """

    def __init__(self, recipe: VocoderRecipe, networks: Networks, step: int, targets: Sequence[Tensor]) -> None:
        self._recipe, self._networks, self._step = recipe, networks, step
        self.adversarial = 0 <= recipe.adversarial_start_step <= step
        self._noise_start = int(torch.randint(NOISE_FRAMES, ())) if isinstance(networks.vocoder, Vocos) else 0
        self._generated = self._generate(targets[0]) if len(targets) == 1 else None

    def discriminator(self, target: Tensor) -> dict[str, Tensor]:
        """`loss` of the discriminators on a micro-batch: this process's part."""
        with torch.no_grad():
            generated = (self._generated or self._generate(target))[0].detach()
        networks = self._networks
        return {"loss": networks.judged(partial(judge, networks.discriminators, target, generated))}

    def vocoder(self, target: Tensor) -> dict[str, Tensor]:
        """The vocoder's losses on a micro-batch, this process's parts; `loss` is their weighted sum."""
        networks = self._networks
        generated, f0_loss = self._generated or self._generate(target)
        losses = {**networks.spectral(generated, target, world()), "f0": f0_loss}
        if self.adversarial:
            losses |= networks.judged(partial(adversarial_losses, networks.discriminators, target, generated))
        return losses | {"loss": total_loss(losses, self._recipe.weights)}

    def _generate(self, target: Tensor) -> tuple[Tensor, Tensor]:
        networks, vocoder = self._networks, self._networks.vocoder
        mel = natural_log_mel(target, mel_config(vocoder))
        f0_is_given = self._step < self._recipe.predicted_f0_start_step
        with self._recipe.autocast():
            return networks.trained(partial(generate, vocoder, target, mel, f0_is_given, self._noise_start))


def generate(
    vocoder: Vocoder, target: Tensor, mel: Tensor, f0_is_given: bool, noise_start: int
) -> tuple[Tensor, Tensor]:
    """Waveforms [B, S] that the vocoder makes of mel [B, M, L], and the loss of its F0 against that of `target`.

    A Vocos uses the F0 of `target` where it `f0_is_given`.
    """
    f0, voiced = pitch(target, vocoder.sample_rate, vocoder.hop_length)
    if isinstance(vocoder, Vocos):
        given_f0 = torch.where(voiced > 0, f0, 100.0) if f0_is_given else None
        generated, logits = vocoder.train_forward(mel, given_f0, noise_start)
        return generated, f0_cross_entropy(logits, vocoder.f0_grid(logits), f0, voiced, world())
    return vocoder(mel), hift_f0_loss(vocoder.f0(mel), f0, voiced, world())


def judge(discriminators: Discriminators, target: Tensor, generated: Tensor) -> Tensor:
    """The loss of the discriminators on recordings and generated waveforms [B, S]."""
    return discriminator_loss(discriminators(target), discriminators(generated), world())


def adversarial_losses(discriminators: Discriminators, target: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """The losses of the vocoder by the discriminators, which do not learn from them."""
    for_generated = discriminators(generated)
    with torch.no_grad():
        for_target = discriminators(target)
    return {
        "adversarial": adversarial_loss(for_generated, world()),
        "feature_matching": feature_matching_loss(for_target, for_generated, world()),
    }


def total_loss(losses: Mapping[str, Tensor], weights: VocoderWeights) -> Tensor:
    """The vocoder's weighted losses summed; that of the discriminators is not among them."""
    names = ("log", "convergence", "mel", "f0", "adversarial", "feature_matching")
    return torch.stack([getattr(weights, name) * losses[name] for name in names if name in losses]).sum()


def save_vocoder(vocoder: Vocoder, directory: str | Path) -> Path:
    """Write `vocoder.safetensors` or `hift.pt` into `directory`."""
    if isinstance(vocoder, Hift):
        path = Path(directory) / "hift.pt"
        save_hift(vocoder, path)
    else:
        path = Path(directory) / "vocoder.safetensors"
        save_vocos(vocoder, path)
    return path


def reconstructions(
    vocoder: Vocoder, store: ClipStore, spectral: SpectralLoss, device: str
) -> Iterator[Reconstruction]:
    """Two validation clips a kind, at most four seconds of each, from their mels."""
    for kind in sorted({clip.kind for clip in store.clips}):
        for number, clip in enumerate(some_clips(store.select(kind=kind, split="validation"), 2)):
            target = store.waveform(clip, 0, 4 * vocoder.sample_rate)[None].to(device)
            target = target[:, : target.shape[1] // vocoder.hop_length * vocoder.hop_length]
            if target.shape[1] < 8 * vocoder.hop_length:
                continue
            mel = natural_log_mel(target, mel_config(vocoder))
            generated = vocoder(mel)
            errors = {name: float(value) for name, value in spectral(generated, target).items()}
            mels = [] if number else [mel[0], natural_log_mel(generated, mel_config(vocoder))[0]]
            yield Reconstruction(f"{kind}-{number}", errors, mels, generated[0])
