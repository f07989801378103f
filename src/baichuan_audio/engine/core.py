"""The engine: many dialogues on one model."""

from __future__ import annotations

from collections.abc import AsyncIterator

from torch import Tensor

from ..pipeline import BaichuanAudio
from .dialogue import Dialogue
from .types import AudioDelta, EngineConfig, EngineStats, EngineStopped


class Engine:
    """Many dialogues on one model; every public method is called from one asyncio loop."""

    def __init__(self, model: BaichuanAudio, config: EngineConfig = EngineConfig()) -> None:  # noqa: B008
        self.model, self.config = model, config

    @property
    def voices(self) -> tuple[str, ...]:
        return self.model.voices

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    def start(self) -> None:
        raise EngineStopped("the engine is not ready.")

    async def stop(self, timeout: float = 10.0) -> None:
        raise EngineStopped("the engine is not ready.")

    def open(self, system: str | None = None, voice: str | None = None, seed: int | None = None) -> Dialogue:
        raise EngineStopped("the engine is not ready.")

    async def transcribe(self, waveform: Tensor, sample_rate: int) -> AsyncIterator[str]:
        raise EngineStopped("the engine is not ready.")
        yield ""

    async def speak(self, text: str, voice: str | None = None, seed: int | None = None) -> AsyncIterator[AudioDelta]:
        raise EngineStopped("the engine is not ready.")
        yield

    def stats(self) -> EngineStats:
        return EngineStats()
