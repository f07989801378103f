"""Many conversations at once with the real server, over its WebSocket: how soon the first sound comes, whether playing
ever runs dry, how fast an interruption takes effect, and how soon the end of a turn is found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.waveform import load_waveform
from ..errors import AudioError
from .listener import RATE, SILENCE_MS, Heard, Listener
from .machine import describe
from .report import table
from .server_process import ServedModel, ServerProcess, serving

QUESTION_SECONDS = 5.0
REPLY_TOKENS = 56
"""Text ids (8 at most) and code frames of a measured reply: about four seconds."""
_SPREAD_SECONDS = 1.0  # the conversations begin within this time of each other
_EDGE_SAMPLES = RATE // 100
_EDGE_DB = 35.0


def sweep(
    served: ServedModel,
    name: str,
    speech: bytes,
    sessions: Sequence[int],
    turns: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Hold `sessions` conversations at once, for each number given, with a server of its own for each.

    speech: what is said, as `read_speech` gives it. turns: committed questions in each conversation, 5 s long; then it
    cancels a reply, and then holds two turns that the server has to find, the second of which interrupts.
    """
    rows = []
    for count in sessions:
        tell(f"{count} conversations at once")
        with serving(replace(served, sessions=count)) as server:
            row = asyncio.run(hold(server, speech, count, turns))
        rows.append(row | {"peak": server.peak})
    facts = {"name": name, "device": served.device, "type": served.dtype}
    return {"model": facts, "machine": describe(torch.device(served.device)), "turns": turns, "sweep": rows}


def read_speech(path: Path) -> bytes:
    """A recording as pcm at 24 kHz, without the silence around: from the first to the last 10 ms within 35 dB of the
    loudest. Raises AudioError for one that cannot be read or that is silent."""
    samples = load_waveform(path, RATE).numpy()
    pieces = samples[: len(samples) // _EDGE_SAMPLES * _EDGE_SAMPLES].reshape(-1, _EDGE_SAMPLES)
    power = np.square(pieces).mean(1)
    if not power.any():
        raise AudioError(f"{path}: nothing is to be heard in it.")
    loud = np.flatnonzero(power >= power.max() * 10 ** (-_EDGE_DB / 10))
    spoken = samples[loud[0] * _EDGE_SAMPLES : (loud[-1] + 1) * _EDGE_SAMPLES]
    return (np.clip(spoken, -1, 1) * 32767).astype("<i2").tobytes()


async def hold(server: ServerProcess, speech: bytes, count: int, turns: int) -> dict[str, Any]:
    """`count` conversations with one server -> what was noticed."""
    from websockets.asyncio.client import connect

    question = np.resize(np.frombuffer(speech, "<i2"), int(QUESTION_SECONDS * RATE)).tobytes()
    heard = Heard()
    # No pings: a server that is busy for long is measured, not left.
    listeners = [Listener(await connect(server.realtime, ping_interval=None), Heard()) for _ in range(count)]
    try:
        await listeners[0].ask(question, REPLY_TOKENS)  # warms up, and does not count
        for listener in listeners:
            listener.heard = heard
        before = await asyncio.to_thread(server.figures)
        began = time.perf_counter()
        await asyncio.gather(*(_ask(listener, question, turns, i / count) for i, listener in enumerate(listeners)))
        elapsed = time.perf_counter() - began
        after = await asyncio.to_thread(server.figures)
        await asyncio.gather(*(listener.cancel_a_reply(question) for listener in listeners))
        await asyncio.gather(*(listener.talk(speech) for listener in listeners))
    finally:
        await asyncio.gather(*(listener.close() for listener in listeners))
    made = {name: after[name] - before[name] for name in before}
    steps, answers = made["engine_steps_total"], made["text_tokens_total"] + made["audio_frames_total"]
    return {
        "sessions": count,
        "replies": len(heard.rtf),
        **_spread("first_audio", heard.first_audio),
        **_spread("rtf", heard.rtf),
        "underruns": heard.gaps,
        "silence": sum(heard.silence),
        "cached": heard.cached / max(heard.tokens, 1),
        "audio_per_second": heard.audio_seconds / elapsed,
        "batch": answers / max(steps, 1),
        **_spread("cancel", heard.cancel),
        **_spread("barge_in", heard.barge_in),
        **_spread("endpoint", heard.endpoint),
    }


async def _ask(listener: Listener, question: bytes, turns: int, place: float) -> None:
    await asyncio.sleep(place * _SPREAD_SECONDS)
    for _ in range(turns):
        await listener.ask(question, REPLY_TOKENS)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {f"{name}_p{share}": float(np.quantile(values, share / 100)) if values else np.nan for share in (50, 95)}


def markdown(result: Mapping[str, Any]) -> str:
    """The sweep as two tables."""
    machine, rows = result["machine"], result["sweep"]
    replies = [
        [
            str(row["sessions"]),
            f"{row['first_audio_p50']:.2f}",
            f"{row['first_audio_p95']:.2f}",
            f"{row['rtf_p50']:.2f}",
            f"{row['rtf_p95']:.2f}",
            f"{row['underruns']} of {row['replies']}",
            f"{row['audio_per_second']:.1f}",
            f"{row['batch']:.1f}",
            f"{row['cached']:.0%}",
            f"{row['peak'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    reply_head = [
        "conversations",
        "first sound, s: median",
        "95th percentile",
        "RTF: median",
        "95th percentile",
        "replies with a gap",
        "speech made a second, s",
        "rows a step",
        "dialogue not read again",
        "server's memory, MB",
    ]
    turn_keys = [f"{name}_p{share}" for name in ("cancel", "barge_in", "endpoint") for share in (50, 95)]
    turns = [[str(row["sessions"]), *(f"{row[key]:.2f}" for key in turn_keys)] for row in rows]
    turn_head = [
        "conversations",
        "reply cancelled, s: median",
        "95th percentile",
        "interrupted by voice, s: median",
        "95th percentile",
        "end of turn found, s: median",
        "95th percentile",
    ]
    where = machine.get("gpu", machine["cpu"])
    lines = [
        f"### {result['model']['name']}: conversations at once",
        "",
        f"{where}; {machine['cores']} cores; torch {machine['torch']}. {machine['date']}, load average "
        f"{machine.get('load_average', 'unknown')}. Each conversation asks {result['turns']} questions of "
        f"{QUESTION_SECONDS:g} s, each as soon as the reply before it (about four seconds) has come, and plays the "
        "replies as they come. Server and clients share the machine.",
        "",
        *table(reply_head, replies),
        "",
        f"All at once each then cancels a reply, speaks, and interrupts the answer by voice (`server_vad`, "
        f"`silence_duration_ms` {SILENCE_MS}).",
        "",
        *table(turn_head, turns),
    ]
    return "\n".join(lines) + "\n"
