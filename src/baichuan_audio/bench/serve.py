"""Many conversations at once through the engine: how soon the first sound comes, and whether playing ever runs dry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..engine import AudioDelta, AudioInput, Dialogue, Engine, EngineConfig, ReplyDone
from ..fast import accelerate
from ..language_model.reply import ReplySampling
from ..pipeline import BaichuanAudio
from .machine import describe, peak_memory
from .models import never_end
from .report import table
from .stages import QUESTION_SECONDS, question

_FRAMES, _CLAUSES, _IDS = 24, 2, 8
_SPREAD_SECONDS = 1.0  # the conversations begin within this time of each other


@dataclass
class _Heard:
    """What the listeners of one sweep step noticed, a list entry a reply; times in seconds."""

    first_audio: list[float] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)
    silence: list[float] = field(default_factory=list)
    audio_seconds: float = 0.0
    tokens: int = 0
    cached: int = 0


class _Player:
    """Plays what arrives from the moment it arrives: how long it had nothing to play in the midst of a reply."""

    def __init__(self, asked: float) -> None:
        self.asked, self._plays_until = asked, 0.0
        self.first: float | None = None
        self.silence = self.audio = 0.0
        self.last = asked
        self.tokens = self.cached = 0  # positions of the dialogue that it answers, and how many had been read before

    def receive(self, seconds: float) -> None:
        now = self.last = time.perf_counter()
        if self.first is None:
            self.first, self._plays_until = now - self.asked, now
        self.silence += max(0.0, now - self._plays_until)
        self._plays_until = max(now, self._plays_until) + seconds
        self.audio += seconds


def sweep(
    model: BaichuanAudio, name: str, sessions: Sequence[int], turns: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Hold `sessions` conversations at once, for each number given, of `turns` spoken questions each.

    Every reply has at most two clauses of 24 frames. `model` is as loaded, and is changed.
    """
    device = model.language_model.norm.weight.device
    fast = accelerate(never_end(model))
    rows = []
    for count in sessions:
        tell(f"{count} conversations at once")
        rows.append(asyncio.run(_hold(fast, count, turns)) | {"peak": peak_memory(device)})
    return {"model": {"name": name, "device": str(device)}, "machine": describe(device), "turns": turns, "sweep": rows}


async def _hold(model: BaichuanAudio, count: int, turns: int) -> dict[str, Any]:
    engine = Engine(model, EngineConfig(max_sessions=count))
    engine.start()
    heard = _Heard()
    try:
        await _converse(engine, 1, 0.0, _Heard())  # a first reply warms up
        began = time.perf_counter()
        delays = [_SPREAD_SECONDS * number / count for number in range(count)]
        await asyncio.gather(*(_converse(engine, turns, delay, heard) for delay in delays))
        elapsed = time.perf_counter() - began
    finally:
        await engine.stop()
    return {
        "sessions": count,
        "replies": len(heard.rtf),
        "first_audio_p50": _quantile(heard.first_audio, 0.5),
        "first_audio_p95": _quantile(heard.first_audio, 0.95),
        "rtf_p50": _quantile(heard.rtf, 0.5),
        "rtf_p95": _quantile(heard.rtf, 0.95),
        "underruns": sum(silence > 0.02 for silence in heard.silence),
        "silence": sum(heard.silence),
        "cached": heard.cached / max(heard.tokens, 1),
        "audio_per_second": heard.audio_seconds / elapsed,
    }


async def _converse(engine: Engine, turns: int, delay: float, heard: _Heard) -> None:
    """One listener: asks, plays the reply as it comes, hears it out, asks again."""
    await asyncio.sleep(delay)
    dialogue = engine.open(seed=1)
    try:
        for _ in range(turns):
            player = await _ask(engine, dialogue)
            if player.first is None:
                continue
            heard.first_audio.append(player.first)
            heard.rtf.append((player.last - player.asked) / player.audio)
            heard.silence.append(player.silence)
            heard.audio_seconds += player.audio
            heard.tokens += player.tokens
            heard.cached += player.cached
    finally:
        await dialogue.close()


async def _ask(engine: Engine, dialogue: Dialogue) -> _Player:
    model = engine.model
    waveform, rate = question(model, QUESTION_SECONDS), model.tokenizer.config.sampling_rate
    usual = ReplySampling.from_config(model.config)
    sampling = ReplySampling(usual.first, usual.later, usual.codes, _IDS, _FRAMES, _CLAUSES)
    player = _Player(time.perf_counter())
    await dialogue.add_user([AudioInput(waveform, rate)])
    async for event in dialogue.reply(sampling=sampling):
        if isinstance(event, AudioDelta):
            player.receive(event.waveform.shape[0] / event.sample_rate)
        elif isinstance(event, ReplyDone):
            if event.status == "failed":
                raise RuntimeError(f"a reply failed: {event.reason}")
            player.tokens = event.usage.input_text_tokens + event.usage.input_audio_tokens
            player.cached = event.usage.cached_tokens
    return player


def _quantile(values: Sequence[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share)) if values else float("nan")


def markdown(result: Mapping[str, Any]) -> str:
    """The sweep as a table."""
    machine = result["machine"]
    rows = [
        [
            str(row["sessions"]),
            f"{row['first_audio_p50']:.2f}",
            f"{row['first_audio_p95']:.2f}",
            f"{row['rtf_p50']:.2f}",
            f"{row['rtf_p95']:.2f}",
            f"{row['underruns']} of {row['replies']}",
            f"{row['silence']:.2f}",
            f"{row['audio_per_second']:.1f}",
            f"{row['cached']:.0%}",
            f"{row['peak'] / 1e6:.0f}",
        ]
        for row in result["sweep"]
    ]
    head = [
        "conversations",
        "first sound, s: median",
        "95th percentile",
        "RTF: median",
        "95th percentile",
        "replies with a gap",
        "silence in all, s",
        "speech made a second, s",
        "dialogue not read again",
        "memory, MB",
    ]
    where = machine.get("gpu", machine["cpu"])
    lines = [
        f"### {result['model']['name']}: conversations at once",
        "",
        f"{where}; {machine['cores']} cores; torch {machine['torch']}. {machine['date']}. Each conversation asks "
        f"{result['turns']} questions of {QUESTION_SECONDS:g} s and plays each reply (two clauses of 1.9 s) "
        "as it comes.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"
