"""Metrics: word and character error rates, mel distance, codebook usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..audio.mel import FLOW_MEL, MelConfig, natural_log_mel
from ..errors import needed_library
from .text import tokens


@dataclass(frozen=True)
class TokenErrors:
    """Errors of one hypothesis: substitutions, insertions and deletions against `count` reference tokens."""

    errors: int
    count: int


def token_errors(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> list[TokenErrors]:
    """Errors of each hypothesis (jiwer's alignment). Raises MissingDependencyError without jiwer."""
    with needed_library("error rates need jiwer: pip install 'baichuan-audio[eval]'."):
        import jiwer
    result = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        aligned = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        errors = aligned.substitutions + aligned.insertions + aligned.deletions
        result.append(TokenErrors(errors, len(reference)))
    return result


@dataclass(frozen=True)
class ErrorRate:
    """Errors (substitutions, insertions, deletions) over `count` reference tokens in `num_texts` texts."""

    errors: int
    count: int
    num_texts: int

    @property
    def rate(self) -> float:
        """Errors per reference token; 0 without reference tokens."""
        return self.errors / self.count if self.count else 0.0


def error_rate(references: Sequence[str], hypotheses: Sequence[str], language: str) -> ErrorRate:
    """Word error rate for "en", character error rate for "zh", over all texts together.

    Raises MissingDependencyError without jiwer. References without tokens are skipped.
    """
    pairs = [(tokens(a, language), tokens(b, language)) for a, b in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    errors = token_errors([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])
    return ErrorRate(sum(text.errors for text in errors), sum(text.count for text in errors), len(pairs))


def mel_mae(first: Tensor, second: Tensor, config: MelConfig = FLOW_MEL) -> float:
    """Mean absolute difference of the natural-log mels of two waveforms [S] (compared over the shorter length)."""
    samples = min(first.shape[-1], second.shape[-1])
    mels = natural_log_mel(torch.stack([first[..., :samples], second[..., :samples]]), config)
    return float((mels[0] - mels[1]).abs().mean())


@dataclass(frozen=True)
class CodebookUse:
    """Usage of one codebook: its size, the number of unused entries, and exp(entropy) of the codes."""

    size: int
    dead: int
    perplexity: float


def codebook_use(codes: Sequence[Tensor], sizes: Sequence[int]) -> list[CodebookUse]:
    """Usage of every codebook over codes [K, T] of many clips."""
    joined = torch.cat([clip.long().cpu() for clip in codes], dim=1)
    result = []
    for level, size in zip(joined, sizes, strict=True):
        counts = torch.bincount(level, minlength=size).double()
        shares = counts / counts.sum()
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
        result.append(CodebookUse(size, int((counts == 0).sum()), float(entropy.exp())))
    return result
