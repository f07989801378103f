"""Training of the audio tokenizer: mel reconstruction, codebooks, and losses on the text (docs/model.md, 8)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from ..audio.mel import MelConfig, warped_bands, whisper_log_mels
from ..audio_tokenizer import AudioTokenizer
from ..audio_tokenizer.quantizer import QuantizerRecipe, dequantize, initialise, learn, quantize
from ..data.manifest import SAMPLE_RATE, ClipStore
from ..data.phone_alignment import PLACES, Alignment, frame_sounds, read_alignments
from ..errors import ConfigError, TrainingError
from ..layers.lengths import valid_mask
from ..layers.precision import autocast
from .checkpointing import load_training_state, save_training_state
from .clip_batches import ClipBatch, ClipRecipe, ClipSampler
from .flow import load_part
from .frozen_text_model import FrozenTextModel
from .local_attention import BOTH_SIDES, PAST, look_nearby
from .logging import TrainingLog, set_threads
from .mel_losses import decode_rows, mel_losses
from .optim import make_optimizer, optimizer_step
from .recipe import OptimizerRecipe, StageRecipe
from .text_loss import PhoneticHead, frame_loss, phonetic_loss
from .tokenizer_report import validate

Alignments = Mapping[str, Alignment]


@dataclass(frozen=True)
class AugmentRecipe:
    """What the encoder hears is disturbed; the mel it must give back is not (but for the speed)."""

    speed_range: tuple[float, ...] = (0.88, 1.14)
    noise_share: float = 0.3
    noise_db_range: tuple[float, ...] = (-60.0, -32.0)
    gain_db_range: tuple[float, ...] = (-8.0, 6.0)
    tilt_db: float = 0.0
    """Most that the spectrum is lifted at one end and lowered at the other; voices and microphones differ so."""
    masked_bands: int = 0
    """Most neighbouring mel bands that are hidden in half of the clips (SpecAugment, arXiv 1904.08779)."""
    warp: float = 0.0
    """Most by which the frequencies of clips that are not decoded are stretched, as by a longer or shorter vocal tract
    at the same pitch (VTLP: Jaitly and Hinton 2013)."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the sum."""

    mel_l2: float = 0.5
    second_scale: float = 0.3
    commitment: float = 0.25
    phonetic: float = 0.3
    frame: float = 0.0
    """Which sound each position holds, for the clips that have an alignment (`baichuan-audio data align`)."""
    text: float = 0.3
    mel_floor: float = 1e-5
    """Magnitude below which the target mel counts as this. Digital silence and the empty upper band of telephone-like
    recordings lie at 1e-5; with the floor there, telling one silence from another leads the loss."""

    def __post_init__(self) -> None:
        if self.mel_floor <= 0:
            raise ConfigError("weights: mel_floor must be positive.")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(StageRecipe):
    """Recipe of the stage `tokenizer`."""

    config: str
    """The model's `config.json`."""
    clips: ClipRecipe
    initial: str | None = None
    """Checkpoint whose tokenizer goes on, codebooks and all, so that its codes keep their meaning; None: anew."""
    head_first: int = 0
    """Steps in which the phonetic head alone learns to read an `initial` tokenizer: what a head that knows nothing asks
    for would undo what is known."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    quantizer: QuantizerRecipe = field(default_factory=QuantizerRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    weights: LossWeights = field(default_factory=LossWeights)
    quantise_from: int = 300
    """Steps before the codebooks are started by k-means; until then vectors pass unquantised."""
    ramp_steps: int = 500
    """Steps in which the share of samples that pass through the codebooks rises from 10 % to 100 %."""
    phonetic_from: int = 0
    """First step of the CTC loss. Before anything is heard it only teaches to say nothing, and holds `frame` up."""
    mel_from: int = 0
    """First step of the mel losses (and of the audio decoder): hearing comes first, and alone costs half."""
    mel_share: float = 1.0
    """Share of each batch's clips that are also decoded."""
    text_width: int = 192
    text_model: str | None = None
    """Checkpoint whose language model gives the paper's text loss, frozen; None leaves that loss out."""


def train(recipe: TokenizerRecipe) -> None:
    """Run the stage, from its newest checkpoint if there is one. Raises TrainingError, ConfigError, DataError."""
    set_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer, head = build(recipe)
    modules: dict[str, nn.Module] = {"tokenizer": tokenizer, "phonetic_head": head}
    text_model = None
    if recipe.text_model is not None:
        modules["text_model"] = text_model = FrozenTextModel(recipe.text_model, head.spread.in_features)
        text_model.to(recipe.device)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    optimizer = make_optimizer(parameters, recipe.optimizer)
    sampler = ClipSampler(ClipStore(recipe.clips.corpus), recipe.clips, recipe.seed)
    alignments = read_alignments(recipe.clips.corpus) if recipe.weights.frame else None
    first = load_training_state(recipe.output, modules, {"adamw": optimizer})
    with TrainingLog(recipe.output, recipe.steps, first) as log:
        for step in range(first, recipe.steps):
            if step == recipe.quantise_from and recipe.initial is None:
                start_codebooks(tokenizer, sampler, recipe, step)
            tokenizer.requires_grad_(step >= recipe.head_first)
            seed = (recipe.seed, step)
            clips = sampler.batch(step)
            decoded = decoded_rows(recipe, step, len(clips.ids))
            batch = prepare(clips, tokenizer, recipe.augment, seed, alignments, decoded).to(recipe.device)
            with autocast(recipe.device):
                losses = compute_losses(tokenizer, head, batch, recipe, step, text_model)
            if losses["loss"].requires_grad:  # a batch without transcripts has nothing for the head
                losses["loss"].backward()  # type: ignore[no-untyped-call]
            norm = optimizer_step(optimizer, recipe.optimizer, step, recipe.steps)
            if step % recipe.log_every == 0:
                log.scalars(step, {k: float(v.detach()) for k, v in losses.items()} | {"gradient_norm": norm})
            if (step + 1) % recipe.sample_every == 0:
                validate(tokenizer, head, recipe.clips, log, step)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                save_training_state(recipe.output, step + 1, modules, {"adamw": optimizer})
            log.advance()


def build(recipe: TokenizerRecipe) -> tuple[AudioTokenizer, PhoneticHead]:
    """The tokenizer to start with and a fresh phonetic head (LOG.md has what each start gains)."""
    path = Path(recipe.config)
    if not path.is_file():
        raise TrainingError(f"{path}: there is no such config.json.")
    tokenizer = AudioTokenizer.from_config(json.loads(path.read_text(encoding="utf-8")))
    head = PhoneticHead(tokenizer.config.d_model * tokenizer.config.avg_pooler, recipe.text_width)
    if recipe.initial is None:
        start_hearing(tokenizer)
    else:
        load_part(tokenizer, "tokenizer", recipe.initial)
    return tokenizer.to(recipe.device), head.to(recipe.device)


def start_hearing(tokenizer: AudioTokenizer) -> None:
    """Weights from which an untrained tokenizer learns at once."""
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    # As PyTorch draws them the convolutions give a hundredth of the positions added to them: nothing would be heard.
    with torch.no_grad():
        encoder.conv1.weight.mul_(5.0)
        encoder.conv2.weight.mul_(5.0)
    look_nearby(encoder.layers, BOTH_SIDES)
    look_nearby(decoder.layers, PAST)
    # The mel branch starts near the statistics of speech; otherwise the first hundreds of steps only move its level.
    nn.init.constant_(decoder.dconv2.norm.bias, -5.5)
    nn.init.constant_(decoder.dconv2.norm.weight, 2.5)
    last = decoder.post_net.layers[-1]
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]


def quantised_share(step: int, recipe: TokenizerRecipe) -> float:
    """Share of samples whose decoder sees quantised vectors: 0 before `quantise_from`, then 10 % to 100 %."""
    if step < recipe.quantise_from:
        return 0.0
    return min(1.0, 0.1 + 0.9 * (step - recipe.quantise_from) / max(1, recipe.ramp_steps))


def decoded_rows(recipe: TokenizerRecipe, step: int, rows: int) -> int:
    """How many of a batch's clips, the first ones, are also decoded."""
    return max(1, round(recipe.mel_share * rows)) if step >= recipe.mel_from else 0


@dataclass
class TokenizerBatch:
    """One step's tensors: log_mel [B, M, T] with mel_lengths [B], clean waveforms [B, S] at 16 kHz with samples [B]."""

    log_mel: Tensor
    mel_lengths: Tensor
    waveforms: Tensor
    samples: Tensor
    transcripts: list[str | None]
    labels: Tensor
    """[B, 4 T] the sound at each of the phonetic head's positions, -100 where unknown."""

    def to(self, device: str) -> TokenizerBatch:
        self.log_mel, self.mel_lengths = self.log_mel.to(device), self.mel_lengths.to(device)
        self.waveforms, self.samples = self.waveforms.to(device), self.samples.to(device)
        self.labels = self.labels.to(device)
        return self


def prepare(
    batch: ClipBatch,
    tokenizer: AudioTokenizer,
    augment: AugmentRecipe | None,
    seed: tuple[int, int],
    alignments: Alignments | None = None,
    decoded: int | None = None,
) -> TokenizerBatch:
    """Resample to the tokenizer's rate (with the step's speed), disturb, log-mel. All randomness from `seed`.

    The first `decoded` clips (None: all) keep their formants, which the decoder shall give back.
    """
    random = np.random.default_rng((*seed, 1))
    rate = tokenizer.config.sampling_rate
    speed = float(random.uniform(augment.speed_range[0], augment.speed_range[1])) if augment else 1.0
    clean = torch.from_numpy(
        np.ascontiguousarray(soxr.resample(batch.waveforms.numpy().T, SAMPLE_RATE * speed, rate, quality="MQ").T)
    )
    samples = (batch.samples * (rate / (SAMPLE_RATE * speed))).long().clamp(max=clean.shape[1])
    heard = _disturb(clean, samples, augment, random) if augment else clean
    log_mel, lengths = whisper_log_mels(heard, samples, tokenizer.config.mel, tokenizer.config.max_audio_seconds)
    if augment:
        log_mel = _colour(log_mel, augment, random)
        plain = len(log_mel) if decoded is None else decoded
        if augment.warp and plain < len(log_mel):
            log_mel[plain:] = _warp(log_mel[plain:], tokenizer.config.mel, augment.warp, random)
    labels = _labels(batch, lengths, tokenizer, speed, alignments or {})
    return TokenizerBatch(log_mel, lengths, clean, samples, batch.transcripts, labels)


def _labels(
    batch: ClipBatch, mel_lengths: Tensor, tokenizer: AudioTokenizer, speed: float, alignments: Alignments
) -> Tensor:
    """The aligned sound at every position of the phonetic head, -100 where there is none."""
    frames = tokenizer.bridge.output_lengths(tokenizer.encoder.output_lengths(mel_lengths))
    labels = torch.full((len(frames), int(frames.max()), PLACES), -100)
    for row, (name, start, count) in enumerate(zip(batch.ids, batch.starts, frames.tolist(), strict=True)):
        if name in alignments:
            sounds = frame_sounds(alignments[name], count, tokenizer.frame_rate, start / SAMPLE_RATE, speed)
            labels[row, :count] = torch.from_numpy(sounds)
    return labels.flatten(1)


def _disturb(clean: Tensor, samples: Tensor, augment: AugmentRecipe, random: np.random.Generator) -> Tensor:
    rows = clean.shape[0]
    gain = torch.from_numpy(random.uniform(augment.gain_db_range[0], augment.gain_db_range[1], (rows, 1))).float()
    level = torch.from_numpy(random.uniform(augment.noise_db_range[0], augment.noise_db_range[1], (rows, 1))).float()
    noisy = torch.from_numpy(random.random((rows, 1)) < augment.noise_share)
    noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32))
    noise = noise * 10 ** (level / 20) * noisy * valid_mask(samples, clean.shape[1])
    return clean * 10 ** (gain / 20) + noise


def _colour(log_mel: Tensor, augment: AugmentRecipe, random: np.random.Generator) -> Tensor:
    """log_mel [B, M, T] (a quarter of log10 of power, 40 dB a unit) tilted, and some bands at the clip's mean."""
    rows, bands, _ = log_mel.shape
    tilt = torch.from_numpy(random.uniform(-augment.tilt_db, augment.tilt_db, (rows, 1))).float() / 40
    log_mel = log_mel + (tilt * torch.linspace(-1, 1, bands))[..., None]
    width = torch.from_numpy(random.integers(0, augment.masked_bands, (rows, 1), endpoint=True))
    width = width * torch.from_numpy(random.random((rows, 1)) < 0.5)
    first = torch.from_numpy(random.integers(0, bands, (rows, 1)))
    band = torch.arange(bands)
    hidden = ((band >= first) & (band < first + width))[..., None]
    return torch.where(hidden, log_mel.mean((1, 2), keepdim=True), log_mel)


def _warp(log_mel: Tensor, mel: MelConfig, most: float, random: np.random.Generator) -> Tensor:
    """log_mel [B, M, T] read at stretched frequencies, linearly between the bands; the outermost ones go on."""
    factor = torch.from_numpy(random.uniform(1 - most, 1 + most, len(log_mel)))
    place = warped_bands(mel, factor).clamp(0, log_mel.shape[1] - 1)
    below = place.long().clamp(max=log_mel.shape[1] - 2)
    share = (place - below)[..., None]
    low, high = (log_mel.gather(1, at[..., None].expand_as(log_mel)) for at in (below, below + 1))
    return low + share * (high - low)


def compute_losses(
    tokenizer: AudioTokenizer,
    head: PhoneticHead,
    batch: TokenizerBatch,
    recipe: TokenizerRecipe,
    step: int,
    text_model: FrozenTextModel | None = None,
) -> dict[str, Tensor]:
    """All losses of one batch at `step`; `loss` is their weighted sum. Updates the codebooks once they are in use."""
    share = quantised_share(step, recipe)
    features = tokenizer.encoder(batch.log_mel, batch.mel_lengths)
    feature_lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
    vectors = tokenizer.bridge.pooled(features, feature_lengths).float()
    lengths = tokenizer.bridge.output_lengths(feature_lengths)
    losses: dict[str, Tensor] = {}
    if share > 0 and step < recipe.head_first:  # only the head learns: codes keep their meaning
        vectors = dequantize(tokenizer.bridge.vq_list, quantize(tokenizer.bridge.vq_list, vectors))
    elif share > 0:
        vectors, losses["commitment"] = _through_codebooks(tokenizer, vectors, lengths, recipe.quantizer, share)
    if decoded := decoded_rows(recipe, step, len(vectors)):
        mels = decode_rows(tokenizer, vectors[:decoded], lengths[:decoded])
        recordings = batch.waveforms[:decoded], batch.samples[:decoded]
        floor, l2 = recipe.weights.mel_floor, recipe.weights.mel_l2
        losses |= mel_losses(mels, *recordings, tokenizer.coarse.mel, floor, l2)
    heard = head.hidden(vectors)
    text_losses: dict[str, Tensor | None] = {}
    if step >= recipe.phonetic_from:
        text_losses["phonetic"] = phonetic_loss(head, heard, lengths, batch.transcripts)
    if recipe.weights.frame:
        text_losses["frame"] = frame_loss(head, heard, batch.labels)
    if text_model is not None:
        text_losses["text"] = text_model.loss(vectors, lengths, batch.transcripts)
    losses |= {name: value for name, value in text_losses.items() if value is not None}
    weights = {
        "coarse": 1.0,
        "refined": 1.0,
        "second_scale": recipe.weights.second_scale,
        "commitment": recipe.weights.commitment,
        "phonetic": recipe.weights.phonetic,
        "frame": recipe.weights.frame,
        "text": recipe.weights.text,
    }
    weighted = [weights[name] * value for name, value in losses.items()]
    # A batch without transcripts or alignments has no loss before `mel_from`.
    losses["loss"] = torch.stack(weighted).sum() if weighted else 0.0 * vectors.sum()
    return losses


def _through_codebooks(
    tokenizer: AudioTokenizer, vectors: Tensor, lengths: Tensor, recipe: QuantizerRecipe, share: float
) -> tuple[Tensor, Tensor]:
    """vectors [B, T, W] -> (what the decoder sees [B, T, W], commitment loss), straight-through."""
    rows, levels = vectors.shape[0], tokenizer.num_codebooks
    mask = valid_mask(lengths, vectors.shape[1])
    some = torch.rand(rows, device=vectors.device) < recipe.level_dropout
    kept = torch.where(some, torch.randint(1, max(2, levels), (rows,), device=vectors.device), levels)
    flat = vectors[mask]
    owner = torch.arange(rows, device=vectors.device)[:, None].expand_as(mask)[mask]
    with torch.autocast(vectors.device.type, enabled=False):
        quantised, _ = learn(tokenizer.bridge.vq_list, flat, recipe, kept[owner])
    commitment = (flat - quantised).square().mean()
    use = (torch.rand(rows, device=vectors.device) < share)[owner, None]
    passed = torch.where(use, flat + (quantised - flat).detach(), flat)
    return vectors.masked_scatter(mask[..., None], passed), commitment


@torch.no_grad()
def start_codebooks(tokenizer: AudioTokenizer, sampler: ClipSampler, recipe: TokenizerRecipe, step: int) -> None:
    """k-means on the vectors of the next steps' batches, enough for eight to an entry of the largest codebook."""
    wanted = 8 * max(tokenizer.codebook_sizes)
    vectors: list[Tensor] = []
    for later in _count_from(step):
        batch = prepare(sampler.batch(later), tokenizer, recipe.augment, (recipe.seed, later)).to(recipe.device)
        features = tokenizer.encoder(batch.log_mel, batch.mel_lengths)
        lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
        pooled = tokenizer.bridge.pooled(features, lengths)
        vectors.append(pooled[valid_mask(tokenizer.bridge.output_lengths(lengths), pooled.shape[1])].float())
        if sum(len(v) for v in vectors) >= wanted:
            break
    initialise(tokenizer.bridge.vq_list, torch.cat(vectors))


def _count_from(step: int) -> Iterator[int]:
    while True:
        yield step
        step += 1
