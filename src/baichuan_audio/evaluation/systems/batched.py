"""A model in this process that answers several items at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ...engine import Engine, EngineConfig, ReplyDone
from ...errors import BaichuanAudioError
from ...generation.events import TextDelta
from ...model import BaichuanAudio
from ..suites.items import Item
from .base import Earlier, ItemFailure, Reply, item_seed, item_waveform
from .local import LocalSystem

_T = TypeVar("_T")


class BatchedSystem(LocalSystem):
    """`LocalSystem` whose answers and transcripts come from the engine, up to `batch` at once; `with` ends it.

    Its text is that of one at a time, so its provenance is the same.
    """

    def __init__(self, model: BaichuanAudio, folder: Path, *, batch: int, **options: Any) -> None:
        super().__init__(model, folder, **options)
        self._engine = Engine(model, EngineConfig(max_sessions=batch))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> BatchedSystem:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._engine.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._engine.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        parts: list[Any] = [item.question] if typed else [_audio(item)]
        before = None
        if earlier is not None:
            before = (earlier[0].question if typed else _audio(earlier[0]), earlier[1])
        return self._wait(self._answer(item, [instruction, *parts] if instruction else parts, spoken, before))

    def transcribe(self, item: Item) -> str:
        return self._wait(self._transcript(item))

    async def _answer(self, item: Item, parts: list[Any], spoken: bool, before: tuple[Any, str] | None) -> Reply:
        texts, sounds = list[str](), list[np.ndarray]()
        dialogue = self._engine.open(voice=self._voice, seed=item_seed(self._seed, item))
        try:
            if before is not None:
                await dialogue.add_user([before[0]])
                await dialogue.add_assistant(before[1])
            await dialogue.add_user(parts)
            async for event in dialogue.reply(speak=spoken, sampling=self._sampling):
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                elif not isinstance(event, ReplyDone):
                    sounds.append(event.waveform.numpy())
                elif event.error is not None or event.status == "failed":
                    raise ItemFailure(str(event.error or event.reason))
        finally:
            await dialogue.close()
        if not spoken:
            return Reply("".join(texts))
        waveform = np.concatenate(sounds) if sounds else np.zeros(0, np.float32)
        return Reply("".join(texts), waveform, self._model.sample_rate)

    async def _transcript(self, item: Item) -> str:
        audio = _audio(item)
        return "".join([delta.text async for delta in self._engine.transcribe(audio.waveform, audio.sample_rate)])

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaichuanAudioError as error:
            raise ItemFailure(str(error)) from error


def _audio(item: Item) -> Any:
    from ...engine import AudioInput

    waveform, rate = item_waveform(item)
    return AudioInput(torch.from_numpy(waveform), rate)
