"""Micro-batches of a step whose losses are divided by sums over the whole step.

Such sums have to be known before the first backward pass. So with several micro-batches all of them are computed twice:
first without gradients, when only what they ask of the others is noted, then with the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checkpointing import random_state, restore_random_state
from .world import World, acting_as, world

P = TypeVar("P")
Compute = Callable[[list[Any]], Sequence[Tensor]]


def backward(parts: Sequence[P], compute: Callable[[P], dict[str, Tensor]]) -> dict[str, Tensor]:
    """`compute(part)` and the backward pass of its `loss` for each micro-batch of a step -> the losses summed up.

    `compute` draws for the whole step, alike in every part; the random numbers after it are those of a step in one
    part.
    """
    run, start = world(), random_state()
    answers = [run] if len(parts) == 1 else _answers(parts, compute, run, start)
    losses: dict[str, Tensor] = {}
    for part, answering in zip(parts, answers, strict=True):
        restore_random_state(start)
        with acting_as(answering):
            values = compute(part)
        if values["loss"].requires_grad:  # without transcripts there is no loss for a head that learns alone
            (values["loss"] * run.size).backward()  # FSDP divides the processes' sum by their number
        losses |= {name: value.detach() + losses.get(name, 0.0) for name, value in values.items()}
    return losses


def _answers(
    parts: Sequence[P], compute: Callable[[P], dict[str, Tensor]], run: World, start: dict[str, Tensor]
) -> list[World]:
    """Of each part: the world as it is when all parts have said what they ask for."""
    notes = [_Noting(**vars(run)) for _ in parts]
    with torch.no_grad():
        for part, noting in zip(parts, notes, strict=True):
            restore_random_state(start)
            with acting_as(noting):
                compute(part)
    by_part = torch.stack([torch.stack([*noting.totals, torch.zeros((), dtype=torch.float64)]) for noting in notes])
    totals = run.sum(by_part.sum(0))
    shared = [_computed_together(run, asked) for asked in zip(*(noting.shared for noting in notes), strict=True)]
    return [
        _Answering(**vars(run), totals=iter(totals), shared=iter([(results[part], after) for results, after in shared]))
        for part in range(len(parts))
    ]


@dataclass(frozen=True)
class _Shared:
    """A call of `World.together`, and the random generators at that moment."""

    part: Any
    compute: Compute
    random: dict[str, Tensor]


def _computed_together(run: World, asked: Sequence[_Shared]) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
    """The results for this process's parts, and the random generators after it."""
    parts = [part for of_process in run.gather([one.part for one in asked]) for part in of_process]
    restore_random_state(asked[0].random)
    results = asked[0].compute(parts)
    return results[run.data_rank * len(asked) :][: len(asked)], random_state()


@dataclass(frozen=True)
class _Noting(World):
    """Notes what a micro-batch asks of the others; the values that it gives are not right yet."""

    totals: list[Tensor] = field(default_factory=list)
    shared: list[_Shared] = field(default_factory=list)

    def total(self, value: Tensor | float) -> Tensor:
        self.totals.append(torch.as_tensor(value).detach().double().to(self.device))
        return self.totals[-1]

    def together(self, part: P, compute: Callable[[list[P]], Sequence[Tensor]], stand_in: Tensor) -> Tensor:
        self.shared.append(_Shared(part, compute, random_state()))
        return stand_in


@dataclass(frozen=True)
class _Answering(World):
    """Gives what was asked for, in the same order."""

    totals: Iterator[Tensor] = field(default_factory=lambda: iter(()))
    shared: Iterator[tuple[Tensor, dict[str, Tensor]]] = field(default_factory=lambda: iter(()))

    def total(self, value: Tensor | float) -> Tensor:
        return next(self.totals)

    def together(self, part: P, compute: Callable[[list[P]], Sequence[Tensor]], stand_in: Tensor) -> Tensor:
        result, random = next(self.shared)
        restore_random_state(random)
        return result
