"""The responses of a session, one at a time: asked for, cancelled, interrupted."""

from __future__ import annotations

import asyncio
import time

from ....engine import Dialogue, Engine
from ....errors import PromptError
from ..protocol import events, wire
from ..protocol.config import SessionConfig
from ..protocol.fields import WireError
from ..rate_limits import TokenBucket
from ..task_queue import TaskQueue, run_detached
from .item_list import ConversationItem, without_words
from .items import ItemStore
from .response import Response, ResponseSettings, SessionContext

_A_MINUTE = 120
_LOOK_S = 0.1


class ResponseQueue:
    """newest: the response that was asked for last, if any."""

    def __init__(
        self,
        context: SessionContext,
        engine: Engine,
        dialogue: Dialogue,
        worker: TaskQueue,
        items: ItemStore,
        config: SessionConfig,
    ) -> None:
        self._context, self._engine, self._dialogue = context, engine, dialogue
        self._tasks, self._items, self._config = worker, items, config
        self._voice: str | None = None  # what the dialogue has been set to
        self._allowance = TokenBucket(_A_MINUTE, _A_MINUTE / 60)
        self.newest: Response | None = None
        self._playing: list[Response] = []  # of the conversation, aloud, and perhaps not heard to the end

    def configure(self, config: SessionConfig) -> None:
        """Settings that count from the next response on."""
        self._config = config

    async def create(self, params: wire.ResponseParams) -> None:
        """As asked for; with items of its own it does not see the conversation."""
        begun_at, sources = time.monotonic(), None
        if params.input is not None:
            sources = [
                self._context.conversation.get(entry.id)
                if isinstance(entry, wire.ItemReference)
                else await self._items.read(entry)
                for entry in params.input
            ]
            self._items.check_all(sources)
        if without_words(list(self._context.conversation) if sources is None else sources):
            raise WireError("No speech was found in the user's turn; there is nothing to answer.", "no_speech")
        self.start(params, begun_at, sources=sources)

    def start(
        self,
        params: wire.ResponseParams,
        begun_at: float,
        answers: str | None = None,
        sources: list[ConversationItem] | None = None,
    ) -> None:
        """Begin one. begun_at: when the user's turn ended. answers: the item it depends on. sources: all that it sees.

        Raises WireError while another one is active, and for one too many.
        """
        if self.newest is not None and self.newest.active:
            raise WireError(
                f"The conversation has a response in progress already: {self.newest.id}.",
                "conversation_already_has_active_response",
            )
        if self._allowance.take(1) > 0:
            message = f"At most {_A_MINUTE} responses a minute."
            raise WireError(message, "rate_limit_exceeded", kind="rate_limit_error")
        config = self._config
        limit = params.max_output_tokens
        response = Response(
            self._context,
            ResponseSettings(
                speak=config.speak if params.speak is None else params.speak,
                voice=params.voice or config.voice,
                output_format=params.output_format or config.output_format,
                speed=config.speed,
                instructions=params.instructions,
                max_output_tokens=config.max_output_tokens if limit == wire.SESSION_LIMIT else limit,
                metadata=params.metadata,
                remember=params.remember,
            ),
            begun_at,
            answers,
        )
        self._tasks.check_room()
        response.announce()
        self._tasks.add(lambda: self._run(response, sources))
        self.newest = response
        self._playing = [each for each in self._playing if each.heard_at(begun_at) is None]
        if response.settings.speak:
            before = [each.playback for each in self._playing if each.settings.remember]
            response.after = before[-1] if before else None
            self._playing.append(response)
        self._context.send_queue.put(events.rate_limits_updated([self._allowance.as_wire("requests")]))

    def cancel(self, response_id: str | None) -> None:
        """End the one that is being made. Raises WireError when there is none."""
        response = self.newest
        if response is None or not response.active or response_id not in (None, response.id):
            raise WireError("There is no active response to cancel.", "response_cancel_not_active", "response_id")
        response.cancel("client_cancelled")  # what has been sent goes on being heard
        self._items.cut_later(response)

    def clear_output(self) -> None:
        """The listener is cut off: like an interruption by voice, but asked for."""
        cut_off = self._cut_off(self._unheard(), "client_cancelled")
        if not cut_off:
            raise WireError("Nothing is being played.", "output_audio_buffer_empty")
        self._context.send_queue.put(events.output_cleared(cut_off[-1].id))

    def interrupt(self) -> None:
        """The user speaks: end what is being said, and let the history hold no more than can have been heard.

        What is said apart from the conversation goes on being made, but nobody listens to what there is of it.
        """
        self._cut_off([response for response in self._unheard() if response.settings.remember], "turn_detected")
        for response in self._playing:
            if not response.active:
                response.playback.stop(time.monotonic())

    def stop_playback(self, item_id: str) -> None:
        """The client has said how much of an item was heard, or that it is gone: it plays no more of it."""
        for response in self._playing:
            if response.item.id == item_id:
                response.playback.stop(time.monotonic())

    def ended_at(self, now: float) -> float | None:
        """When the last of them had been made and heard; None while one is."""
        times = [response.heard_at(now) for response in self._unheard()]
        known = [time for time in times if time is not None]
        return max(known) if len(known) == len(times) else None

    def _unheard(self) -> list[Response]:
        """Those that may still be made or heard."""
        newest = self.newest
        return self._playing if newest is None or newest in self._playing else [*self._playing, newest]

    def _cut_off(self, responses: list[Response], reason: str) -> list[Response]:
        """Nothing more of them is heard -> those of which something was still to come."""
        now = time.monotonic()
        unheard = [response for response in responses if response.active or response.playback.remaining(now) > 0]
        for response in unheard:
            response.cancel(reason)
            response.playback.stop(now)
            self._items.cut_later(response)
        return unheard

    def stop(self) -> None:
        """The session ends."""
        if self.newest is not None:
            self.newest.cancel("client_cancelled")

    async def wait_quiet(self) -> None:
        """Wait until no response is being made."""
        while self.newest is not None and not self.newest.finished:
            await asyncio.sleep(_LOOK_S)

    async def _run(self, response: Response, sources: list[ConversationItem] | None) -> None:
        """One response from its beginning to its end."""
        try:
            if response.answers is not None and response.answers not in self._context.conversation:
                raise PromptError("the turn it answers could not be used.")
            if sources is not None:
                await run_detached(self._engine, response, sources, self._config.instructions)
                return
            if response.settings.voice != self._voice:
                self._voice = response.settings.voice
                self._dialogue.configure(voice=self._voice)
            await response.run(self._dialogue)
        except Exception as error:
            response.fail(error)
