"""The language model's losses: cross-entropies at the positions that have a target, and their weighted sum.

Each kind of target (text, every codebook ...) is normalised by its number in the whole step, over all packs and
processes; so a step may be split in any way. Logits exist for a limited number of targets at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...errors import TrainingError
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from .batch import Batch, hidden_states
from .recipe import LanguageModelRecipe

MAX_LOGITS = 1 << 26
"""Logits at a time: 256 MiB in float32. Where there are more, all but the last part are computed anew in the backward
pass."""


@dataclass(frozen=True)
class TargetLosses:
    """Cross-entropies of X targets in nats, whether each target was the likeliest, and the batch's sequence of each."""

    nll: Tensor
    correct: Tensor
    documents: Tensor


def losses(language_model: LanguageModel, audio_head: AudioHead, batch: Batch) -> dict[str, TargetLosses]:
    """The losses of all targets: `text`, `code_0` to `code_K-1`, as far as the batch has them.

    The audio head is computed at positions with a frame as target, its codebooks 1.. at those of `batch.depth`.
    """
    result: dict[str, TargetLosses] = {}
    hidden = hidden_states(language_model, batch)
    if len(batch.text):
        states, width = hidden[batch.text_at], language_model.config.vocab_size
        values = _in_parts(_text_losses(language_model), width, states, batch.text)
        result["text"] = TargetLosses(*values, batch.documents(batch.text_at))
    if len(batch.frames):
        result |= _code_losses(audio_head, hidden[batch.frame_at], batch)
    return result


def _text_losses(language_model: LanguageModel) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def compute(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = language_model.lm_head(states)
        nll = F.cross_entropy(logits.float(), targets, reduction="none")
        return nll, logits.argmax(-1) == targets

    return compute


def _code_losses(audio_head: AudioHead, states: Tensor, batch: Batch) -> dict[str, TargetLosses]:
    """`code_0`.. of states [Y, D] against the batch's frames."""

    def all_codebooks(states: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return _frame_losses(audio_head.logits(states, frames), frames)

    def first_codebook(states: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return _frame_losses([audio_head.logits_at(states, frames[:, :0])], frames)

    depth, documents = batch.depth, batch.documents(batch.frame_at)
    width = sum(audio_head.codebook_sizes)
    nll, correct = _in_parts(all_codebooks, width, states[depth], batch.frames[depth])
    result = {
        f"code_{level}": TargetLosses(nll[:, level], correct[:, level], documents[depth])
        for level in range(nll.shape[1])
        if len(nll) or level == 0
    }
    if not bool(depth.all()):
        rest = _in_parts(first_codebook, audio_head.codebook_sizes[0], states[~depth], batch.frames[~depth])
        result["code_0"] = TargetLosses(
            torch.cat([nll[:, 0], rest[0][:, 0]]),
            torch.cat([correct[:, 0], rest[1][:, 0]]),
            torch.cat([documents[depth], documents[~depth]]),
        )
    return result


def _frame_losses(logits: list[Tensor], frames: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [Y, size + 1] of each codebook against frames [Y, K] -> nats and whether right, [Y, codebooks]."""
    pairs = list(zip(logits, frames.T, strict=False))
    nll = [F.cross_entropy(level.float(), target, reduction="none") for level, target in pairs]
    correct = [level.argmax(-1) == target for level, target in pairs]
    return torch.stack(nll, dim=1), torch.stack(correct, dim=1)


def _in_parts(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], width: int, states: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """`function(states, targets)` for as many rows at a time as keep rows x `width` below MAX_LOGITS."""
    rows = max(1, MAX_LOGITS // width)
    parts = list(zip(states.split(rows), targets.split(rows), strict=True))
    results = [checkpoint(function, *part, use_reentrant=False) for part in parts[:-1]]
    results.append(function(*parts[-1]))
    first, second = zip(*results, strict=True)
    return torch.cat(first), torch.cat(second)


def target_counts(batches: Iterable[Batch]) -> dict[str, int]:
    """The targets of each loss in all of a step's batches. Several processes add theirs up."""
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(batch.counts())
    return dict(counts)


def total_loss(
    values: Mapping[str, TargetLosses], counts: Mapping[str, int], recipe: LanguageModelRecipe, num_codebooks: int
) -> Tensor:
    """What is minimised: text loss plus the weighted mean over the codebooks.

    Each is the sum over the batch's targets divided by their number in the step (`target_counts`): the losses of a
    step's batches add up to that of the step. Raises TrainingError where the step has no target.
    """
    if not counts:
        raise TrainingError("a batch has no position with a loss; check the tasks and the dataset.")
    parts = [
        loss_weight(name, recipe, num_codebooks) * losses.nll.sum() / counts[name] for name, losses in values.items()
    ]
    return torch.stack(parts).sum()


def loss_weight(name: str, recipe: LanguageModelRecipe, num_codebooks: int) -> float:
    """The weight of a loss's mean over its targets."""
    if name.startswith("code_"):
        share = recipe.codebook0_weight if name == "code_0" else 1.0
        return recipe.audio_loss_weight * share / (recipe.codebook0_weight + num_codebooks - 1)
    return 1.0


Sums = Mapping[str, tuple[float, float, int]]
"""Of each loss: nats, how many targets were the likeliest, and how many there were."""


class LossMeter:
    """Sums of losses over batches, of all sequences or by their kinds; the worst sequences."""

    def __init__(self) -> None:
        self._nll: dict[str, Tensor] = {}
        self._correct: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._sequences: list[tuple[tuple[tuple[str, str], ...], Tensor]] = []

    def add(self, values: Mapping[str, TargetLosses], batch: Batch, by_kind: bool = False) -> None:
        """Adds a batch's losses, with `by_kind` also under `<kind>/<name>`."""
        count = len(batch.names)
        totals = torch.zeros(2, count, device=batch.ids.device)  # nats and targets of each sequence
        kinds = sorted({kind for _, kind in batch.names if kind}) if by_kind else []
        for name, losses in values.items():
            nll, documents = losses.nll.detach(), losses.documents
            self._add(name, nll, losses.correct)
            totals.index_add_(1, documents, torch.stack([nll.float(), torch.ones_like(nll, dtype=torch.float)]))
            for kind in kinds:
                of_kind = torch.tensor([other == kind for _, other in batch.names], device=nll.device)[documents]
                if bool(of_kind.any()):
                    self._add(f"{kind}/{name}", nll[of_kind], losses.correct[of_kind])
        self._sequences.append((batch.names, totals[0] / totals[1].clamp(min=1)))

    def _add(self, name: str, nll: Tensor, correct: Tensor) -> None:
        self._nll[name] = self._nll.get(name, torch.zeros((), device=nll.device)) + nll.sum()
        self._correct[name] = self._correct.get(name, torch.zeros((), device=nll.device)) + correct.sum()
        self._counts[name] += len(nll)

    def means(self, gather: Callable[[Sums], list[Sums]] = lambda sums: [sums]) -> dict[str, float]:
        """Mean nats a target of each loss, and `<name>_accuracy`: the share of targets that were the likeliest.

        gather: gives the sums of all processes.
        """
        of_this_process = {
            name: (float(nll), float(self._correct[name]), self._counts[name]) for name, nll in self._nll.items()
        }
        sums: dict[str, tuple[float, float, int]] = {}
        for process in gather(of_this_process):
            for name, (nll, correct, count) in process.items():
                before = sums.get(name, (0.0, 0.0, 0))
                sums[name] = (before[0] + nll, before[1] + correct, before[2] + count)
        means = {name: nll / count for name, (nll, _, count) in sums.items()}
        return means | {f"{name}_accuracy": correct / count for name, (_, correct, count) in sums.items()}

    def by_sample(self) -> dict[str, float]:
        """The loss a target of each sequence by its id."""
        losses: dict[str, float] = {}
        for names, values in self._sequences:
            losses |= {id_: loss for (id_, _), loss in zip(names, values.tolist(), strict=True) if id_}
        return losses
