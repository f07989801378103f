"""Validation of the tokenizer while it trains: metrics, a picture and a sound of validation clips."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...audio.griffin_lim import sound_of_mel
from ...audio.mel import natural_log_mel
from ...audio_tokenizer import AudioTokenizer
from ...audio_tokenizer.quantizer import dequantize, quantize
from ...data.alignment.phone_alignment import PHONES_PER_FRAME
from ...data.store.manifest import ClipStore
from ...text.phonemes import phonetic_symbols
from ..common.logging import TrainingLog
from .batch import TokenizerBatch, prepare
from .clip_batches import ClipBatch, ClipSampler
from .embedding_ctc import EmbeddingCtc
from .recipe import TokenizerRecipe
from .text_loss import PhoneticHead, phoneme_errors

if TYPE_CHECKING:
    from .train import TextModel

_BATCHES = 12


@torch.no_grad()
def validate(
    tokenizer: AudioTokenizer,
    head: PhoneticHead,
    recipe: TokenizerRecipe,
    log: TrainingLog,
    step: int,
    text_model: TextModel | None = None,
    ctc: EmbeddingCtc | None = None,
) -> dict[str, float]:
    """Mel L1, phonetic error rate and text loss by language and use of each codebook, fully quantised, on validation
    clips."""
    sampler = ClipSampler(ClipStore(recipe.dataset), recipe, seed=0, split="validation")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    used: list[Tensor] = []
    device = str(next(tokenizer.parameters()).device)
    for index in range(_BATCHES):
        raw = sampler.batch(index)
        batch = prepare(raw, tokenizer, None, (0, index)).to(device)
        features = tokenizer.encoder(batch.log_mel, batch.mel_lengths)
        lengths = tokenizer.encoder.output_lengths(batch.mel_lengths)
        pooled = tokenizer.bridge.pooled(features, lengths)
        codes = quantize(tokenizer.bridge.vq_list, pooled)
        vectors = dequantize(tokenizer.bridge.vq_list, codes)
        counts = tokenizer.bridge.output_lengths(lengths)
        if recipe.weights.phonetic:
            _phonetic_errors(head, vectors, counts, batch.transcripts, raw.languages, sums)
        if text_model is not None:
            _text_losses(text_model, vectors, counts, raw, sums)
        if ctc is not None:
            _unit_errors(ctc, vectors, counts, batch, sums)
        refined, target = _mels(tokenizer, vectors, batch, counts, sums)
        used += [row[: int(n)] for row, n in zip(codes, counts, strict=True)]
    log.mel(step, "target-and-refined", target, refined)
    log.audio(step, "refined", sound_of_mel(refined, tokenizer.coarse.mel), tokenizer.coarse.mel.sample_rate)
    values = {name: total / max(count, 1) for name, (total, count) in sums.items()}
    values |= _codebook_use(tokenizer, torch.cat(used))
    log.scalars(step, {f"validation/{name}": value for name, value in values.items()})
    return values


def _mels(
    tokenizer: AudioTokenizer, vectors: Tensor, batch: TokenizerBatch, counts: Tensor, sums: dict[str, list[float]]
) -> tuple[Tensor, Tensor]:
    target = natural_log_mel(batch.waveforms, tokenizer.coarse.mel).transpose(1, 2)
    for row, count in enumerate(counts.tolist()):
        hidden = tokenizer.decoder.hidden(tokenizer.bridge.project(vectors[row : row + 1, :count]))
        refined = tokenizer.decoder.mels(hidden)[1][0]
        frames = min(len(refined), int(batch.samples[row]) // tokenizer.coarse.hop_length)
        difference = (refined[:frames] - target[row, :frames]).abs().mean(dim=1)
        sums["mel_l1"][0] += float(difference.sum())
        sums["mel_l1"][1] += frames
    return refined[:frames].T, target[row, :frames].T


def _phonetic_errors(
    head: PhoneticHead,
    vectors: Tensor,
    counts: Tensor,
    transcripts: list[str | None],
    languages: list[str],
    sums: dict[str, list[float]],
) -> None:
    log_probabilities = head(vectors)
    for row, text in enumerate(transcripts):
        if text:
            row_log_probabilities, truth = (
                log_probabilities[row, : int(counts[row]) * PHONES_PER_FRAME],
                phonetic_symbols(text),
            )
            sums[f"phonetic_errors_{languages[row]}"][0] += phoneme_errors(row_log_probabilities, truth)
            sums[f"phonetic_errors_{languages[row]}"][1] += len(truth)


def _text_losses(
    text_model: TextModel, vectors: Tensor, counts: Tensor, raw: ClipBatch, sums: dict[str, list[float]]
) -> None:
    for language in sorted(set(raw.languages)):
        rows = [
            i for i, (text, code) in enumerate(zip(raw.texts, raw.languages, strict=True)) if text and code == language
        ]
        if rows:
            texts = [raw.texts[i] for i in rows]
            loss = text_model.loss(vectors[rows], counts[rows], texts, [language] * len(rows))
            sums[f"text_{language}"][0] += float(loss or 0.0) * len(rows)
            sums[f"text_{language}"][1] += len(rows)


def _unit_errors(
    ctc: EmbeddingCtc, vectors: Tensor, counts: Tensor, batch: TokenizerBatch, sums: dict[str, list[float]]
) -> None:
    for row, text in enumerate(batch.transcripts):
        if text:
            errors, units = ctc.errors(vectors[row, : int(counts[row])], text)
            sums[f"unit_errors_{batch.languages[row]}"][0] += errors
            sums[f"unit_errors_{batch.languages[row]}"][1] += units


def _codebook_use(tokenizer: AudioTokenizer, codes: Tensor) -> dict[str, float]:
    values = {}
    for level, size in enumerate(tokenizer.codebook_sizes):
        share = torch.bincount(codes[:, level], minlength=size).float() / len(codes)
        values[f"perplexity_{level}"] = float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))
    return values
