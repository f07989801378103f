"""The same tasks by Ray Data: on this machine, or on a cluster that shares the work folder.

A row is one source from the first operator to the last, so its id is unique all the way, as Ray's own checkpoints ask.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ....errors import BaichuanAudioError, needed_library

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RayExecutor:
    """`workers` tasks at a time; `address` names a running cluster ("auto" finds it), None starts Ray here."""

    workers: int = 1
    address: str | None = None

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]:
        ray = self._ray()
        from ray.data import ActorPoolStrategy

        rows = [{"index": index, "task": pickle.dumps(task)} for index, task in enumerate(tasks)]
        dataset = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
            _Row,
            fn_constructor_args=(pickle.dumps(function),),
            compute=ActorPoolStrategy(size=max(1, min(self.workers, len(rows)))),
            num_cpus=1,
        )
        for row in dataset.iter_rows():
            failed, value = pickle.loads(row["answer"])
            if failed:
                raise value
            yield tasks[row["index"]], value

    def _ray(self) -> Any:
        with needed_library("the Ray executor needs Ray Data: pip install 'ray[data]'."):
            import ray
            import ray.data
        if not ray.is_initialized():
            try:
                options = {"address": self.address} if self.address else {"num_cpus": max(2, self.workers + 1)}
                ray.init(include_dashboard=False if not self.address else None, log_to_driver=False, **options)
            except (ConnectionError, ValueError) as error:
                raise BaichuanAudioError(f"Ray cannot be reached at {self.address}: {error}.") from error
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray


class _Row:
    """An actor that keeps the function, and with it the loaded networks, from task to task."""

    def __init__(self, function: bytes) -> None:
        self._function = pickle.loads(function)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = (False, self._function(pickle.loads(row["task"])))
        except Exception as error:
            answer = (True, error)
        return {"index": row["index"], "answer": pickle.dumps(answer)}
