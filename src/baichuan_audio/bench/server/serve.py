"""Concurrent dialogues with the real server over its WebSocket: time to first audio, underruns in playback, latency of
interruptions and of the end of a turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...audio.waveform import load_waveform
from ...errors import AudioError
from ..machine import describe
from ..report import table
from .listener import RATE, SILENCE_MS, Listener, Measurements
from .server_process import ServedModel, ServerProcess, serving

QUESTION_SECONDS = 5.0
REPLY_TOKENS = 56
"""Text tokens (at most 8) and code frames of a measured reply: about four seconds."""
_SPREAD_SECONDS = 1.0  # all dialogues start within this time
_EDGE_SAMPLES = RATE // 100
_EDGE_DB = 35.0


def sweep(
    served: ServedModel,
    name: str,
    speech: bytes,
    sessions: Sequence[int],
    turns: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Hold `sessions` concurrent dialogues, for each number given, each time with a new server.

    speech: as `read_speech` returns it. turns: committed questions in each dialogue, 5 s long. After them each dialogue
    cancels a reply, and then has two turns that the server must detect, the second of which interrupts a reply.
    """
    rows = []
    for count in sessions:
        report(f"{count} concurrent dialogues")
        with serving(replace(served, sessions=count)) as server:
            row = asyncio.run(hold_dialogues(server, speech, count, turns))
        rows.append(row | {"peak": server.peak})
    facts = {"name": name, "device": served.device, "type": served.dtype}
    return {"model": facts, "machine": describe(torch.device(served.device)), "turns": turns, "sweep": rows}


def read_speech(path: Path) -> bytes:
    """A recording as 16-bit PCM at 24 kHz, trimmed: from the first to the last 10 ms within 35 dB of the loudest.

    Raises AudioError for a recording that cannot be read or that is silent.
    """
    samples = load_waveform(path, RATE).numpy()
    pieces = samples[: len(samples) // _EDGE_SAMPLES * _EDGE_SAMPLES].reshape(-1, _EDGE_SAMPLES)
    power = np.square(pieces).mean(1)
    if not power.any():
        raise AudioError(f"{path}: the recording is silent.")
    loud = np.flatnonzero(power >= power.max() * 10 ** (-_EDGE_DB / 10))
    spoken = samples[loud[0] * _EDGE_SAMPLES : (loud[-1] + 1) * _EDGE_SAMPLES]
    return (np.clip(spoken, -1, 1) * 32767).astype("<i2").tobytes()


async def hold_dialogues(server: ServerProcess, speech: bytes, count: int, turns: int) -> dict[str, Any]:
    """Hold `count` concurrent dialogues with one server -> one row of results."""
    from websockets.asyncio.client import connect

    question = np.resize(np.frombuffer(speech, "<i2"), int(QUESTION_SECONDS * RATE)).tobytes()
    measured = Measurements()
    # No pings: a server that is busy for long is measured, not disconnected.
    listeners = [Listener(await connect(server.realtime, ping_interval=None), Measurements()) for _ in range(count)]
    try:
        await listeners[0].ask(question, REPLY_TOKENS)  # warm-up, not counted
        for listener in listeners:
            listener.measured = measured
        before = await asyncio.to_thread(server.metrics)
        began = time.perf_counter()
        await asyncio.gather(*(_ask(listener, question, turns, i / count) for i, listener in enumerate(listeners)))
        elapsed = time.perf_counter() - began
        after = await asyncio.to_thread(server.metrics)
        await asyncio.gather(*(listener.cancel_a_reply(question) for listener in listeners))
        await asyncio.gather(*(listener.talk(speech) for listener in listeners))
    finally:
        await asyncio.gather(*(listener.close() for listener in listeners))
    counted = {name: after[name] - before[name] for name in before}
    steps, results = counted["engine_steps_total"], counted["text_tokens_total"] + counted["audio_frames_total"]
    return {
        "sessions": count,
        "replies": len(measured.rtf),
        **_spread("first_audio", measured.first_audio),
        **_spread("rtf", measured.rtf),
        "underruns": measured.underruns,
        "silence": sum(measured.silence),
        "cached": measured.cached / max(measured.tokens, 1),
        "audio_per_second": measured.audio_seconds / elapsed,
        "batch": results / max(steps, 1),
        **_spread("cancel", measured.cancel),
        **_spread("barge_in", measured.barge_in),
        **_spread("endpoint", measured.endpoint),
    }


async def _ask(listener: Listener, question: bytes, turns: int, offset: float) -> None:
    await asyncio.sleep(offset * _SPREAD_SECONDS)
    for _ in range(turns):
        await listener.ask(question, REPLY_TOKENS)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, as `NAME_p50` and `NAME_p95`."""
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
        "dialogues",
        "time to first audio, s: median",
        "95th percentile",
        "RTF: median",
        "95th percentile",
        "replies with an underrun",
        "s of audio per s",
        "rows per step",
        "prompt tokens cached",
        "peak memory, MB",
    ]
    turn_keys = [f"{name}_p{share}" for name in ("cancel", "barge_in", "endpoint") for share in (50, 95)]
    turns = [[str(row["sessions"]), *(f"{row[key]:.2f}" for key in turn_keys)] for row in rows]
    turn_head = [
        "dialogues",
        "cancellation, s: median",
        "95th percentile",
        "barge-in, s: median",
        "95th percentile",
        "end of turn detected, s: median",
        "95th percentile",
    ]
    where = machine.get("gpu", machine["cpu"])
    lines = [
        f"### {result['model']['name']}: concurrent dialogues",
        "",
        f"{where}; {machine['cores']} cores; torch {machine['torch']}. {machine['date']}, load average "
        f"{machine.get('load_average', 'unknown')}. Each dialogue has {result['turns']} questions of "
        f"{QUESTION_SECONDS:g} s, each sent when the reply before it (about four seconds) is complete, and plays the "
        "replies as they arrive. Server and clients share the machine.",
        "",
        *table(reply_head, replies),
        "",
        f"Then all dialogues at once cancel a reply, speak, and interrupt the reply by speaking (`server_vad`, "
        f"`silence_duration_ms` {SILENCE_MS}).",
        "",
        *table(turn_head, turns),
    ]
    return "\n".join(lines) + "\n"
