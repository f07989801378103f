"""A mixture of training tasks for the language model, drawn by weight.

A step's sequences depend on (seed, step) only: there is no iterator state that a resumed run would have to restore.
"""

from __future__ import annotations

import numpy as np

from ...errors import DataError
from ..sequences import TokenSequence
from .config import TASK_NAMES, MixtureConfig
from .samplers import MixtureData
from .tasks import TASKS, SequenceFormat, TaskContext


class Mixture:
    """Draws one training sequence at a time. Raises DataError where a task has weight and no data."""

    def __init__(self, config: MixtureConfig, layout: SequenceFormat, data: MixtureData) -> None:
        self.context = TaskContext(config, layout, data)
        self.names = [name for name in TASK_NAMES if config.tasks.get(name, 0) > 0]
        weights = np.array([config.tasks[name] for name in self.names])
        self._chances = weights / weights.sum()
        for name in self.names:
            if not len(TASKS[name].source(self.context.samplers)):
                raise DataError(f"task {name!r} has weight, but there is no data for it")

    def draw(self, rng: np.random.Generator) -> TokenSequence:
        """One sequence of a task drawn by weight."""
        name = self.names[rng.choice(len(self.names), p=self._chances)]
        sequence = TASKS[name].draw(self.context, rng)
        return sequence.named(sequence.id, name)
