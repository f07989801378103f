"""What surrounds the steps of every stage: resuming, saving, stopping, skipped updates, what is logged of a step."""

from __future__ import annotations

import heapq
import math
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ....errors import TrainingError
from ..checkpointing import StateWriter, load_training_state, whole_weights
from ..logging import TrainingLog
from ..optim import gradient_norms, norms_by_part, optimizer_step, with_gradients
from ..recipe import OptimizerRecipe, StageRecipe
from .sharding import TrainedModules, gathered
from .tensor_parallel import whole_layers
from .watchdog import Watchdog
from .world import world

M = TypeVar("M", bound=nn.Module)
STOPPED = 128 + signal.SIGTERM
_MOST_SKIPPED = 3
_PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
_WORST = 10  # samples with the highest losses that a line of the log names
_SHOWN = 10  # samples that a line names


class TrainingRun:
    """One run of a stage; a context manager.

    first: the step to go on with, after the newest state in `folder` was loaded. log: written by one process. `unit`
    names what `update` counts.
    """

    def __init__(
        self,
        recipe: StageRecipe,
        folder: str | Path,
        trained: TrainedModules,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        unit: str = "frames",
    ) -> None:
        self.world, self._recipe, self._trained, self._optimizers = world(), recipe, trained, optimizers
        self._names = {
            id(p): f"{name}.{key}" for name, module in modules.items() for key, p in module.named_parameters()
        }
        self.first = load_training_state(folder, modules, optimizers)
        self._states = StateWriter(folder, modules, optimizers)
        self.log = TrainingLog(recipe.output, recipe.steps, self.first, active=self.world.is_main)
        self._watchdog: Watchdog | None = None
        self._context = ExitStack()
        self._stop = self._stop_all = False
        self._skipped: set[int] = set()
        self._unit, self._data_s = unit, 0.0
        self._units = 0
        self._since = time.perf_counter()
        self._peak = peak_flops(recipe.device)
        self._flops: float | None = None  # of a unit

    def __enter__(self) -> TrainingRun:
        self._context.enter_context(self.log)
        if self.world.size > 1 and self._recipe.stall_limit_s:
            self._watchdog = self._context.enter_context(Watchdog(self._recipe.stall_limit_s, self.world.rank))
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop())
            self._context.callback(signal.signal, signal.SIGTERM, before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._context:
            self._states.wait()  # all processes have begun what is being written

    def _ask_to_stop(self) -> None:
        self._stop = True

    def steps(self, last: int | None = None) -> Iterator[int]:
        """The steps to do, up to the recipe's number or `last`. After SIGTERM the state is saved and the run ends."""
        end = self._recipe.steps if last is None else min(last, self._recipe.steps)
        self._since = time.perf_counter()
        for step in range(self.first, end):
            yield step
            self.log.advance()
            if self._watchdog is not None:
                self._watchdog.beat()
            if self._stop_all or (self._stop and self.world.size == 1):
                self.save(step + 1)
                self._states.wait()
                if self.world.is_main:
                    line = f"stopped by SIGTERM after step {step + 1}; the state is saved, the same command goes on."
                    print(line, file=sys.stderr, flush=True)
                raise SystemExit(STOPPED)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """The block waits for data: its time is logged as a share of the whole."""
        start = time.perf_counter()
        yield
        self._data_s += time.perf_counter() - start

    def update(
        self,
        optimizers: Iterable[torch.optim.Optimizer],
        recipe: OptimizerRecipe,
        step: int,
        loss: Tensor,
        samples: Sequence[str],
        units: int = 0,
        since: int = 0,
    ) -> dict[str, float]:
        """Clip the gradients, step the optimizers and clear the gradients, alike on all processes -> what is logged.

        loss: this process's part of the step's loss. samples: the ids of its samples, units: how many positions or
        seconds they have. since: the step from which the learning rate's schedule counts. Where loss or gradient is not
        finite on any process, none is updated; raises TrainingError at the third such step in a row.
        """
        optimizers = list(optimizers)
        parameters = [with_gradients(optimizer) for optimizer in optimizers]
        norms = [gradient_norms(some, self.world) for some in parameters]
        good = bool(torch.isfinite(loss.detach()).all())
        crc = sum(zlib.crc32(sample.encode()) for sample in samples)
        flags = torch.tensor([not good, self._stop, crc, units], dtype=torch.float64)
        bad, stop, crc_of_all, units_of_all = self.world.sum(flags).tolist()
        self._stop_all = stop > 0
        self._units += int(units_of_all)
        scalars: dict[str, float] = {}
        if bad or not all(bool(some.isfinite().all()) for some in norms):
            self._skip(step, good, chain.from_iterable(parameters), torch.cat(norms), samples)
        else:
            for optimizer, some, lengths in zip(optimizers, parameters, norms, strict=True):
                _clear_unused(some, lengths)
                one = optimizer_step(optimizer, some, lengths, recipe, step - since, self._recipe.steps)
                scalars |= one | {"grad_norm": max(one["grad_norm"], scalars.get("grad_norm", 0.0))}
                scalars |= norms_by_part(some, lengths, self._names)
            scalars["samples_crc"] = crc_of_all % 1_000_000  # as many digits as the log has
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return scalars

    def _skip(
        self, step: int, good: bool, parameters: Iterable[nn.Parameter], norms: Tensor, samples: Sequence[str]
    ) -> None:
        """Tell why a step changes nothing; raises TrainingError at the third in a row."""
        by_process = self.world.gather((good, list(samples)))
        blamed, reason = [sample for fine, some in by_process if not fine for sample in some], "loss"
        if not blamed:
            named = zip(parameters, norms.tolist(), strict=True)
            infinite = [self._names[id(parameter)] for parameter, norm in named if not math.isfinite(norm)]
            blamed, reason = [sample for _, some in by_process for sample in some], f"gradient of {infinite[0]}"
        names = ", ".join(blamed[:_SHOWN]) + (f" and {len(blamed) - _SHOWN} more" if len(blamed) > _SHOWN else "")
        self.log.event(step + 1, {"skipped": reason, "samples": blamed})
        if self.world.is_main:
            line = f"step {step + 1}: the {reason} is not finite; no parameter was changed. Samples: {names}"
            print(line, file=sys.stderr, flush=True)
        self._skipped.add(step)
        if all(step - back in self._skipped for back in range(_MOST_SKIPPED)):
            raise TrainingError(
                f"{self._recipe.output}: loss or gradient were not finite in {_MOST_SKIPPED} steps in a row, the last "
                f"one step {step + 1}; the last state is kept. Lower the learning rate, or look at samples {names}."
            )

    @contextmanager
    def computing(self, units: int) -> Iterator[None]:
        """The block computes the forward and backward pass of `units`; the first one's FLOPs are counted."""
        if self._peak is None or self._flops is not None or not units:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self._flops = counter.get_total_flops() / units

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The processes' counts added up, name by name."""
        total: Counter[str] = Counter()
        for some in self.world.gather(dict(counts)):
            total.update(some)
        return dict(total)

    def losses(
        self,
        done: int,
        losses: Mapping[str, Tensor],
        scalars: Mapping[str, float],
        by_sample: Mapping[str, float] | None = None,
    ) -> None:
        """Log a step: the processes' parts of its losses summed, what `update` returned, how time was spent, and the
        samples whose losses `by_sample` are the largest."""
        reports = self.world.gather(({name: float(value.detach()) for name, value in losses.items()}, by_sample or {}))
        names = dict.fromkeys(name for parts, _ in reports for name in parts)
        summed = {name: sum(parts.get(name, 0.0) for parts, _ in reports) for name in names}
        elapsed = time.perf_counter() - self._since
        speed = {"data_wait": self._data_s / elapsed}
        if self._units:
            speed[f"{self._unit}_per_s"] = self._units / elapsed
        if self._peak is not None and self._flops is not None:
            name = "hfu" if self._recipe.activation_checkpointing else "mfu"
            speed[name] = self._flops * self._units / elapsed / (self._peak * self.world.data_size)
        self._data_s, self._units, self._since = 0.0, 0, time.perf_counter()
        by_loss = {name: loss for _, some in reports for name, loss in some.items()}
        worst = heapq.nlargest(_WORST, by_loss, key=lambda name: (math.isnan(by_loss[name]), by_loss[name]))
        self.log.scalars(done, summed | dict(scalars) | speed, worst)

    def save(self, done: int) -> None:
        """Save the state after `done` steps."""
        with self.patient():
            self._states.save(done)

    def save_file(self, module: M, build: Callable[[], M], write: Callable[[M], object]) -> None:
        """`write(module)` by one process, of a module whose parameters may be split; `build` makes one like it."""
        if self.world.size == 1:
            write(module)
            return
        weights = whole_weights(module)
        with self.patient(), torch.random.fork_rng():
            if self.world.is_main:
                plain = build()
                plain.load_state_dict(weights)
                write(plain)
            self.world.wait()

    def patient(self) -> AbstractContextManager[None]:
        """The watchdog waits longer for what goes on in the block."""
        return nullcontext() if self._watchdog is None else self._watchdog.patient()

    @contextmanager
    def on_main(self) -> Iterator[bool]:
        """`with run.on_main() as here: if here: ...`: one process uses the whole modules, the others wait.

        Where layers are gathered in bfloat16, inputs of other types are cast to it.
        """
        if self.world.size == 1:
            yield True
            return
        main = self.world.is_main
        with self.patient(), torch.random.fork_rng(), self._recipe.autocast(), ExitStack() as stack:
            if self.world.tensor > 1:
                stack.enter_context(whole_layers(self._trained, main))
            stack.enter_context(gathered(self._trained))
            yield main
            self.world.wait()


def peak_flops(device: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by its data sheet; None where it is not known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAKS.items() if key in name), None)


def _clear_unused(parameters: Sequence[nn.Parameter], norms: Tensor) -> None:
    """Remove gradients that are 0, so that the parameter stays as it is.

    Of several processes one without a target for a parameter has such a gradient, where one process alone has none.
    """
    for parameter, norm in zip(parameters, norms.tolist(), strict=True):
        if norm == 0:
            parameter.grad = None
