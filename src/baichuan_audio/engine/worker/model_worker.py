"""The thread that owns the language model: runs commands, then one step of all replies, and again (docs/engine.md)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch

from ...model import BaichuanAudio
from ..batch import AdapterBatches
from ..kv_slots import SlotCache
from ..synthesis_scheduler import SynthesisJob, SynthesisPool, encode_in_pieces
from ..types import EngineConfig, EngineStopped
from .active_reply import ActiveReply
from .commands import CommandQueue
from .replies import Replies

_log = logging.getLogger(__name__)

_LOW_WATER_S = 1.0  # a listener with less buffered audio may run out of it
_HIGH_WATER_S = 3.0  # a reply with more buffered audio pauses while another is below _LOW_WATER_S
_MAX_PAUSED_STEPS = 8  # steps that background replies may be left out of in a row


class ModelWorker:
    """All model work of one engine: this thread runs the language model, its `SynthesisPool` the rest.

    `commands` may be used from any thread; `replies` belongs to the worker's own.
    """

    def __init__(
        self,
        model: BaichuanAudio,
        adapters: Mapping[str, BaichuanAudio],
        config: EngineConfig,
        slots: int,
        capacity: int,
        threads: int,
        synthesis_threads: int,
    ) -> None:
        self._tokenizer, self._prefill_positions = model.tokenizer, config.prefill_positions
        self.commands = CommandQueue()
        self.synthesis = SynthesisPool(config.first_chunk_frames, config.chunk_frames, synthesis_threads, threads)
        cache = SlotCache(model.language_model, slots, capacity)
        self.batch = AdapterBatches(model, adapters, cache)
        self.replies = Replies(model, config, cache, self.commands, self.synthesis)
        self.steps = self.last_batch = self._paused_steps = 0
        self._torch_threads, self._stopping = threads, False
        self._thread = threading.Thread(target=self._run, name="baichuan-audio engine", daemon=True)

    def start(self) -> None:
        self.synthesis.start()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End everything: replies are cancelled with "shutdown", waiting callers get EngineStopped; blocks."""
        self.commands.closed = True
        self.commands.post(self._stop)
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        self.synthesis.stop(max(0.1, deadline - time.monotonic()))

    async def run_job(self, pieces: Any, background: bool = False) -> Any:
        """The last value of an iterator that a synthesis thread advances piece by piece. Raises EngineStopped."""
        future = self.commands.new_future()
        job = SynthesisJob(pieces, lambda value, error: self.commands.resolve(future, value, error), background)
        self.synthesis.add_job(job)
        try:
            return await future.future
        finally:
            job.cancelled = True

    async def encode(self, waveform: torch.Tensor, sample_rate: int, background: bool = False) -> list[torch.Tensor]:
        """waveform [S] (or [channels, S]) -> codes [K, T] of each piece; raises AudioError."""
        pieces = encode_in_pieces(self._tokenizer, waveform, sample_rate)
        codes: list[torch.Tensor] = await self.run_job(pieces, background)
        return codes

    # -- the thread -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self._torch_threads)
        while not self._stopping:
            due = self._due()
            self.commands.run(wait=not due)
            due = self._due()
            if due and not self._stopping:
                self._step(due)

    def _due(self) -> list[ActiveReply]:
        """The rows of the next step: those whose reader keeps up. If a listener has little audio buffered, rows with
        much of it are left out, and for a few steps those in the background too."""
        self.replies.cancel_abandoned()
        due = [(row, row.buffered_seconds()) for row in self.replies.rows if not row.must_wait()]
        if any(seconds < _LOW_WATER_S for _, seconds in due):
            due = [(row, seconds) for row, seconds in due if seconds <= _HIGH_WATER_S]
        waited_for = [row for row, _ in due if not row.background]
        pressing = any(seconds < _LOW_WATER_S for row, seconds in due if not row.background)
        if not pressing or len(waited_for) == len(due) or self._paused_steps >= _MAX_PAUSED_STEPS:
            self._paused_steps = 0
            return [row for row, _ in due]
        self._paused_steps += 1
        return waited_for

    def _step(self, due: list[ActiveReply]) -> None:
        try:
            results = self.batch.step(due, self._prefill_positions)
        except Exception as error:
            _log.exception("a step of the batch failed")
            for row in due:
                self.replies.fail(row, error)
            return
        self.steps += 1
        self.last_batch = len(due)
        for row, result in results:
            self.replies.advance(row, result)

    def _stop(self) -> None:
        self._stopping = True
        self.replies.cancel_all("shutdown")
        self.commands.fail_all(EngineStopped("the engine has been stopped."))
