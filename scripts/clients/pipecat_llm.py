"""A conversation through pipecat's OpenAIRealtimeLLMService in a pipeline with its context aggregators: a written
question, a spoken one with its transcript, and a written one whose answer is interrupted by voice.

pip install 'pipecat-ai[openai]'; python scripts/clients/pipecat_llm.py --url http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from common import RATE, Options, in_real_time, options, report, sound, until
from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner


class Ear(FrameProcessor):
    """Notes what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.samples, self.text, self.heard = 0, "", ""
        self.stopped, self.interrupted, self.errors = 0, 0, []
        self.before_interruption = 0  # samples

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.samples += frame.num_frames
        elif isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSStoppedFrame):
            self.stopped += 1
        elif isinstance(frame, InterruptionFrame):
            self.interrupted += 1
            self.before_interruption = self.samples
        elif isinstance(frame, TranscriptionFrame):
            self.heard += frame.text
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)


async def converse(settings: Options) -> None:
    turns = events.TurnDetection(silence_duration_ms=500)
    hearing = events.AudioInput(transcription=events.InputAudioTranscription(model="any"), turn_detection=turns)
    session = events.SessionProperties(audio=events.AudioConfiguration(input=hearing))
    service = OpenAIRealtimeLLMService(
        api_key=settings.key,
        base_url=settings.websocket,
        settings=OpenAIRealtimeLLMService.Settings(
            model="any", system_instruction="Answer in one sentence.", session_properties=session
        ),
    )
    context = LLMContext([{"role": "user", "content": "What is seven plus two?"}])
    user, assistant = LLMContextAggregatorPair(context)
    before, after = Ear(), Ear()  # transcripts go up the pipeline, to `user`; sound goes down
    worker = PipelineWorker(
        Pipeline([user, before, service, after, assistant]),
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())

    async def speak(data: bytes) -> None:
        async for chunk in in_real_time(data):
            await worker.queue_frame(InputAudioRawFrame(chunk, RATE, 1))

    def answered(samples: int, stopped: int) -> Any:
        return until(lambda: after.samples > samples and after.stopped > stopped)

    await worker.queue_frame(LLMRunFrame())
    report("answer to text", await answered(0, 0), f"{after.samples / RATE:.1f} s")
    heard, stopped = after.samples, after.stopped
    await speak(sound(settings.question))
    report("spoken answer", await answered(heard, stopped), f"{(after.samples - heard) / RATE:.1f} s")
    report("transcript", await until(lambda: bool(before.heard)), before.heard)
    heard, interrupted = after.samples, after.interrupted
    message = {"role": "user", "content": "Tell me a long story, and then another one."}
    await before.push_frame(LLMMessagesAppendFrame([message], run_llm=True))  # past `user`, who would only note it
    report("second answer to text", await until(lambda: after.samples > heard))
    await speak(sound(settings.question, before_s=0.1))
    report("interrupted by voice", await until(lambda: after.interrupted > interrupted))
    report("answer after it", await until(lambda: after.samples > after.before_interruption))
    roles = [message["role"] for message in context.get_messages() if isinstance(message, dict)]
    report("history", roles.count("assistant") >= 2 and roles.count("user") >= 3, " ".join(roles))
    report("no errors", not before.errors + after.errors, "; ".join(map(str, before.errors + after.errors)))
    await worker.queue_frame(CancelFrame())
    await running


if __name__ == "__main__":
    given = options("pipecat-ai")
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    asyncio.run(converse(given))
