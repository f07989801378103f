"""A conversation through livekit-agents' OpenAI plugin, without a room: a spoken question, its answer, a written
question interrupted by voice.

pip install 'livekit-agents[openai]'; python scripts/clients/livekit_agents.py --url http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import asyncio
from typing import Any

from common import RATE, Options, in_real_time, options, report, sound, until
from livekit import rtc
from livekit.agents import llm
from livekit.plugins.openai import realtime


class Ear:
    """Takes what the model says, and notes it."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.samples, self.text = 0, ""
        self.started, self.stopped, self.ended, self.errors = 0, 0, 0, []
        self._tasks: set[asyncio.Task[None]] = set()
        session.on("input_speech_started", lambda event: self._note("started"))
        session.on("input_speech_stopped", lambda event: self._note("stopped"))
        session.on("generation_created", self._generation)
        session.on("error", lambda event: self.errors.append(str(event.error)))

    def _note(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)

    def _generation(self, event: Any) -> None:
        self._tasks.add(asyncio.create_task(self._take(event)))

    async def _take(self, event: Any) -> None:
        async for message in event.message_stream:

            async def hear(message: Any = message) -> None:
                async for frame in message.audio_stream:
                    self.samples += frame.samples_per_channel

            async def read(message: Any = message) -> None:
                async for text in message.text_stream:
                    self.text += text

            await asyncio.gather(hear(), read())
        self.ended += 1


async def speak(session: Any, data: bytes) -> None:
    async for chunk in in_real_time(data):
        session.push_audio(rtc.AudioFrame(chunk, RATE, 1, len(chunk) // 2))


async def converse(settings: Options) -> None:
    model = realtime.RealtimeModel(base_url=settings.url, api_key=settings.key)
    session = model.session()
    ear = Ear(session)
    await session.update_instructions("Answer in one sentence.")
    await speak(session, sound(settings.question))
    report("spoken answer", await until(lambda: ear.ended >= 1 and ear.samples > 0), f"{ear.samples / RATE:.1f} s")
    report("turn found", ear.started == 1 and ear.stopped == 1)
    context = session.chat_ctx.copy()
    context.add_message(role="user", content="Tell me a long story, and then another one.")
    await session.update_chat_ctx(context)
    heard, told = ear.samples, asyncio.ensure_future(session.generate_reply())
    report("answer to text", await until(lambda: ear.samples > heard))
    await speak(session, sound(settings.question, before_s=0.1))
    report("interrupted by voice", await until(lambda: ear.ended >= 3 and ear.started == 2), f"{ear.ended} replies")
    await told
    roles = [item.role for item in session.chat_ctx.items if isinstance(item, llm.ChatMessage)]
    report("history", "assistant" in roles and roles.count("user") >= 3, " ".join(roles))
    report("no errors", not ear.errors, "; ".join(ear.errors))
    await session.aclose()
    await model.aclose()


if __name__ == "__main__":
    asyncio.run(converse(options("livekit-agents")))
