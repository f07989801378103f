"""What the parts of one session share, and the queue of what the session asks of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ...engine import Dialogue, Engine
from ..errors import as_api_error, bad_request
from ..monitoring.logging import EventLog
from ..monitoring.metrics import Metrics
from .conversation.item_list import ItemList
from .protocol import server_events
from .send_queue import SendQueue

_MAX_WAITING = 256

QueuedTask = Callable[[], Awaitable[None]]


class TaskQueue:
    """Runs tasks in the order in which they came. on_error: gets what goes wrong in one; the next one runs all the
    same."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._tasks: asyncio.Queue[QueuedTask] = asyncio.Queue()
        self._on_error = on_error

    def check_room(self) -> None:
        """Raises ApiError when too many tasks wait; to be called before a client learns that something will be done."""
        if self._tasks.qsize() >= _MAX_WAITING:
            raise bad_request("Too many events wait for the engine; wait for answers.", code="too_many_requests")

    def add(self, task: QueuedTask) -> None:
        """Run it after those that came before."""
        self._tasks.put_nowait(task)

    async def run(self) -> None:
        """Run tasks until cancelled."""
        while True:
            task = await self._tasks.get()
            try:
                await task()
            except Exception as error:
                self._on_error(error)


@dataclass(frozen=True)
class SessionContext:
    """One session's ids, engine, conversation and queues.

    dialogue: the engine's side of the conversation. longest_s: of one piece of the user's audio.
    """

    session_id: str
    conversation_id: str
    engine: Engine
    dialogue: Dialogue
    longest_s: float
    conversation: ItemList
    tasks: TaskQueue
    send_queue: SendQueue
    metrics: Metrics
    log: EventLog

    def send(self, event: server_events.Event) -> None:
        """Queue an event."""
        self.send_queue.put(event)

    def report(self, error: Exception, event_id: str | None = None) -> None:
        """Send an `error` event; an unforeseen error is logged, too. event_id: of the client's event at fault."""
        api_error = as_api_error(error)
        code = api_error.code or "invalid_request"
        if code == "internal_error":
            self.log.exception(error, session_id=self.session_id)
        self.metrics.error(code)
        self.send(server_events.error(api_error.message, code, api_error.type, api_error.param, event_id))
