"""The responses of a session, one at a time: created, cancelled, interrupted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ....errors import PromptError
from ...errors import ApiError, bad_request
from ..protocol import server_events
from ..protocol.client_events import ItemReference, RealtimeResponseCreateParams
from ..protocol.session_config import RealtimeSessionCreateRequest
from ..rate_limits import TokenBucket
from .item_list import StoredItem, has_no_speech
from .items import ItemHandler
from .response import RealtimeResponse, ResponseSettings

if TYPE_CHECKING:
    from ..context import SessionContext

_PER_MINUTE = 120
_CHECK_INTERVAL_S = 0.1


class ResponseQueue:
    """Creates, runs and interrupts responses. newest: the one that was created last, if any."""

    def __init__(self, context: SessionContext, items: ItemHandler, config: RealtimeSessionCreateRequest) -> None:
        self._context, self._items, self._config = context, items, config
        self._voice: str | None = None  # the dialogue's
        self._allowance = TokenBucket(_PER_MINUTE, _PER_MINUTE / 60)
        self.newest: RealtimeResponse | None = None
        self._playing: list[RealtimeResponse] = []  # spoken ones that may not have been played to the end

    def configure(self, config: RealtimeSessionCreateRequest) -> None:
        """Settings that apply from the next response on."""
        self._config = config

    async def create(self, params: RealtimeResponseCreateParams) -> None:
        """Start the response that a client asks for; with items of its own it does not see the conversation."""
        begun_at, items = time.monotonic(), None
        if params.input is not None:
            items = [
                self._context.conversation.get(item.id)
                if isinstance(item, ItemReference)
                else await self._items.read(item)
                for item in params.input
            ]
            self._items.check_total(items)
        if has_no_speech(list(self._context.conversation) if items is None else items):
            message = "No speech was found in the user's turn; there is nothing to answer."
            raise bad_request(message, code="no_speech")
        self.start(params, begun_at, items=items)

    def start(
        self,
        params: RealtimeResponseCreateParams,
        begun_at: float,
        answers: str | None = None,
        items: list[StoredItem] | None = None,
    ) -> None:
        """Start a response. begun_at: when the user's turn ended. answers: id of the item it depends on. items: all
        that the model sees, None for the conversation.

        Raises ApiError while another one is active, and for one too many.
        """
        if self.newest is not None and self.newest.active:
            message = f"The conversation has a response in progress already: {self.newest.id}."
            raise bad_request(message, code="conversation_already_has_active_response")
        if self._allowance.take(1) > 0:
            raise ApiError(429, f"At most {_PER_MINUTE} responses a minute.", code="rate_limit_exceeded")
        response = RealtimeResponse(self._context, self._settings(params), begun_at, answers)
        self._context.tasks.check_room()
        response.announce()
        self._context.tasks.add(lambda: self._run(response, items))
        self.newest = response
        self._playing = [playing for playing in self._playing if playing.played_at(begun_at) is None]
        if response.settings.speak:
            before = [playing.playback for playing in self._playing if playing.settings.remember]
            response.after = before[-1] if before else None
            self._playing.append(response)
        self._context.send(server_events.rate_limits_updated([self._allowance.as_wire("requests")]))

    def _settings(self, params: RealtimeResponseCreateParams) -> ResponseSettings:
        config, output = self._config, params.audio.output
        limit = params.max_output_tokens or config.max_output_tokens
        return ResponseSettings(
            speak=(params.output_modalities or config.output_modalities) == ["audio"],
            voice=str(output.voice or config.audio.output.voice),
            output_format=output.format or config.audio.output.format,
            speed=config.audio.output.speed,
            instructions=params.instructions,
            max_output_tokens=None if limit == "inf" else limit,
            metadata=params.metadata,
            remember=params.conversation != "none",
        )

    def cancel(self, response_id: str | None) -> None:
        """Cancel the active response. Raises ApiError when there is none."""
        response = self.newest
        if response is None or not response.active or response_id not in (None, response.id):
            message = "There is no active response to cancel."
            raise bad_request(message, "response_id", "response_cancel_not_active")
        response.cancel("client_cancelled")  # what has been sent is still played
        self._items.truncate_later(response)

    def clear_output(self) -> None:
        """Stop playback at once: like an interruption by voice, but by the client's event."""
        interrupted = self._interrupt(self._unplayed(), "client_cancelled")
        if not interrupted:
            raise bad_request("Nothing is being played.", code="output_audio_buffer_empty")
        self._context.send(server_events.output_cleared(interrupted[-1].id))

    def interrupt(self) -> None:
        """The user speaks: cancel responses, and truncate them to what can have been played.

        A response apart from the conversation is still generated, but no longer played.
        """
        in_conversation = [response for response in self._unplayed() if response.settings.remember]
        self._interrupt(in_conversation, "turn_detected")
        for response in self._playing:
            if not response.active:
                response.playback.stop(time.monotonic())

    def stop_playback(self, item_id: str) -> None:
        """The client has truncated or deleted an item: it plays no more of it."""
        for response in self._playing:
            if response.item.id == item_id:
                response.playback.stop(time.monotonic())

    def ended_at(self, now: float) -> float | None:
        """When the last of them had been generated and played; None while one is."""
        times = [response.played_at(now) for response in self._unplayed()]
        known = [time for time in times if time is not None]
        return max(known) if len(known) == len(times) else None

    def _unplayed(self) -> list[RealtimeResponse]:
        """Those that may still be generated or played."""
        newest = self.newest
        return self._playing if newest is None or newest in self._playing else [*self._playing, newest]

    def _interrupt(self, responses: list[RealtimeResponse], reason: str) -> list[RealtimeResponse]:
        """Cancel responses and stop their playback -> those that were not over yet."""
        now = time.monotonic()
        interrupted = [response for response in responses if response.active or response.playback.remaining(now) > 0]
        for response in interrupted:
            response.cancel(reason)
            response.playback.stop(now)
            self._items.truncate_later(response)
        return interrupted

    def stop(self) -> None:
        """The session ends."""
        if self.newest is not None:
            self.newest.cancel("client_cancelled")

    async def wait_quiet(self) -> None:
        """Wait until no response is being generated."""
        while self.newest is not None and not self.newest.finished:
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def _run(self, response: RealtimeResponse, items: list[StoredItem] | None) -> None:
        """Run one response to its end."""
        try:
            if response.answers is not None and response.answers not in self._context.conversation:
                raise PromptError("the turn it answers could not be used.")
            if items is not None:
                await self._run_apart(response, items)
                return
            if response.settings.voice != self._voice:
                self._voice = response.settings.voice
                self._context.dialogue.configure(voice=self._voice)
            await response.run(self._context.dialogue)
        except Exception as error:
            response.fail(error)

    async def _run_apart(self, response: RealtimeResponse, items: list[StoredItem]) -> None:
        """A response that sees items of its own takes another slot of the engine while it runs."""
        instructions, adapter = self._config.instructions or None, self._context.dialogue.adapter
        dialogue = self._context.engine.open(instructions, response.settings.voice, adapter=adapter)
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
