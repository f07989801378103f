"""One dialogue on the engine, and one reply of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from torch import Tensor

from ..language_model.reply import ReplySampling
from .types import AudioInput, ReplyEvent


class Dialogue:
    """One slot of the engine; its items stay in order."""

    async def add_user(
        self, parts: list[str | AudioInput], item_id: str | None = None, after: str | None = None
    ) -> str:
        raise NotImplementedError

    async def add_assistant(self, text: str, item_id: str | None = None) -> str:
        raise NotImplementedError

    async def add_system(self, text: str, item_id: str | None = None) -> str:
        raise NotImplementedError

    async def delete(self, item_id: str) -> None:
        raise NotImplementedError

    async def truncate(self, item_id: str, played_seconds: float) -> str:
        raise NotImplementedError

    def configure(self, system: str | None = None, voice: str | None = None) -> None:
        raise NotImplementedError

    def reply(
        self,
        speak: bool = True,
        sampling: ReplySampling | None = None,
        max_tokens: int | None = None,
        instructions: str | None = None,
        item_id: str | None = None,
        remember: bool = True,
    ) -> Reply:
        raise NotImplementedError

    async def transcript(self, waveform: Tensor, sample_rate: int) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Reply:
    """One reply: an async iterator over its events."""

    def __aiter__(self) -> AsyncIterator[ReplyEvent]:
        raise NotImplementedError

    async def __anext__(self) -> ReplyEvent:
        raise NotImplementedError

    def cancel(self, reason: str = "client_cancelled") -> None:
        raise NotImplementedError
