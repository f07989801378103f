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
        first, last = config.tasks, config.final_task_weights or config.tasks
        self.names = [name for name in TASK_NAMES if any(tasks.get(name, 0) > 0 for tasks in (first, last))]
        weights = [np.array([tasks.get(name, 0.0) for name in self.names]) for tasks in (first, last)]
        self._first_chances, self._last_chances = (values / values.sum() for values in weights)
        for name in self.names:
            if not len(TASKS[name].source(self.context.samplers)):
                raise DataError(f"task {name!r} has weight, but there is no data for it")

    def draw(self, rng: np.random.Generator, progress: float = 0.0) -> TokenSequence:
        """One sequence of a task drawn by weight; `progress` in [0, 1] is how much of the run is over."""
        chances = self._first_chances + progress * (self._last_chances - self._first_chances)
        name = self.names[rng.choice(len(self.names), p=chances)]
        sequence = TASKS[name].draw(self.context, rng)
        return sequence.named(sequence.id, name)
