"""What one session asks of the engine, done one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ...engine import Engine
from .conversation.item_list import ConversationItem
from .conversation.response import Response
from .protocol.fields import WireError

_MAX_WAITING = 256

QueuedTask = Callable[[], Awaitable[None]]


class TaskQueue:
    """Jobs in the order in which they came; on_error gets what goes wrong in one, and the next one is done."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._jobs: asyncio.Queue[QueuedTask] = asyncio.Queue()
        self._on_error = on_error

    def check_room(self) -> None:
        """Raises WireError when too many jobs wait; to be asked before a client is told that something will be done."""
        if self._jobs.qsize() >= _MAX_WAITING:
            raise WireError("Too much has been asked for at once; wait for answers.", "too_many_requests")

    def add(self, job: QueuedTask) -> None:
        """Have it done when what came before is."""
        self._jobs.put_nowait(job)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            job = await self._jobs.get()
            try:
                await job()
            except Exception as error:
                self._on_error(error)


async def run_detached(engine: Engine, response: Response, items: list[ConversationItem], instructions: str) -> None:
    """A response that sees items of its own takes another slot of the engine for as long as it runs."""
    dialogue = engine.open(instructions or None, response.settings.voice)
    try:
        for item in items:
            if response.cancel_reason is not None:
                break
            if item.silent:
                continue
            if item.role == "user":
                await dialogue.add_user(item.for_engine())
            elif item.role == "assistant":
                await dialogue.add_assistant(item.text)
            else:
                await dialogue.add_system(item.text)
        await response.run(dialogue)
    finally:
        await dialogue.close()
