"""A conversation through openai-agents: a spoken question, its answer, a written question interrupted by voice.

pip install 'openai-agents[voice]'; python scripts/clients/openai_agents.py --url http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import asyncio

from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession
from common import Options, in_real_time, options, report, sound, until


class Ear:
    """Notes what the session tells."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.audio, self.errors, self.interrupted, self.turns = 0, [], 0, 0
        self.kinds: list[str] = []

    async def listen(self) -> None:
        async for event in self.session:
            self.kinds.append(event.type)
            self.audio += len(event.audio.data) if event.type == "audio" else 0
            self.interrupted += event.type == "audio_interrupted"
            if event.type == "error":
                self.errors.append(str(event.error))
            if event.type == "raw_model_event" and event.data.type == "turn_ended":
                self.turns += 1


async def converse(settings: Options) -> None:
    agent = RealtimeAgent(name="Assistant", instructions="Answer in one sentence.")
    turn_detection = {"type": "server_vad", "silence_duration_ms": 500, "interrupt_response": True}
    config = {"model_settings": {"audio": {"input": {"turn_detection": turn_detection}}}}
    runner = RealtimeRunner(agent, config=config)
    model_config = {"url": f"{settings.websocket}?model=any", "api_key": settings.key}
    async with await runner.run(model_config=model_config) as session:
        ear = Ear(session)
        listening = asyncio.create_task(ear.listen())
        async for chunk in in_real_time(sound(settings.question)):
            await session.send_audio(chunk)
        report("spoken answer", await until(lambda: ear.turns >= 1 and ear.audio > 0), f"{ear.audio / 48000:.1f} s")
        heard = ear.audio
        await session.send_message("Tell me a long story, and then another one.")
        report("answer to text", await until(lambda: ear.audio > heard))
        async for chunk in in_real_time(sound(settings.question, before_s=0.1)):
            await session.send_audio(chunk)
        report("interrupted by voice", await until(lambda: ear.interrupted >= 1 and ear.turns >= 3))
        roles = [item.role for item in session._history if item.type == "message"]
        report("history", roles[:2] == ["user", "assistant"] and len(roles) >= 4, " ".join(roles))
        report("no errors", not ear.errors, "; ".join(ear.errors))
        listening.cancel()


if __name__ == "__main__":
    asyncio.run(converse(options("openai-agents")))
