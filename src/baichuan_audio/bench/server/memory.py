"""Memory of a server with one model: after its imports, when it is ready, after a reply, and with many dialogues."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import BaichuanAudioError
from ..machine import describe
from ..report import table
from .listener import RATE, Listener, Measurements
from .serve import QUESTION_SECONDS, REPLY_TOKENS
from .server_process import ServedModel, ServerProcess, serving

_KINDS = {"Rss": "resident", "Anonymous": "private"}


def resident_memory(pid: int) -> dict[str, int]:
    """Bytes of memory of a process: `resident` in all, `private` without the files that it has mapped.

    Raises BaichuanAudioError where the system does not tell (it must be Linux).
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError as error:
        raise BaichuanAudioError(f"the memory of a process cannot be read here ({error}); use Linux.") from error
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
    return {name: int(kilobytes[key]) * 1024 for key, name in _KINDS.items()}


def measure_memory(
    served: ServedModel, name: str, kinds: Sequence[str], speech: bytes, report: Callable[[str], None]
) -> dict[str, Any]:
    """Serve the model as it is stored and with each kind of quantized weights, each in a new process.

    speech: of the questions, as `serve.read_speech` returns it. report: shows progress.
    """
    question = np.resize(np.frombuffer(speech, "<i2"), int(QUESTION_SECONDS * RATE)).tobytes()
    rows = []
    for kind in (None, *kinds):
        report(kind or "weights as stored")
        with serving(replace(served, quantization=kind)) as server:
            stages = asyncio.run(_stages(server, question, served.sessions))
        rows.append({"weights": kind or "as stored", "stages": stages, "peak": server.peak})
    facts = {"name": name, "device": served.device, "type": served.dtype}
    return {"model": facts, "machine": describe(torch.device(served.device)), "sessions": served.sessions, "rows": rows}


async def _stages(server: ServerProcess, question: bytes, sessions: int) -> dict[str, dict[str, int]]:
    """Memory after each stage; the dialogues of the last one are still open."""
    from websockets.asyncio.client import connect

    stages = {"imports": server.imports, "ready": resident_memory(server.pid)}
    listeners = [Listener(await connect(server.realtime, ping_interval=None), Measurements()) for _ in range(sessions)]
    try:
        await listeners[0].ask(question, REPLY_TOKENS)
        stages["first reply"] = resident_memory(server.pid)
        await asyncio.gather(*(listener.ask(question, REPLY_TOKENS) for listener in listeners))
        stages[f"{sessions} dialogues"] = resident_memory(server.pid)
    finally:
        await asyncio.gather(*(listener.close() for listener in listeners))
    return stages


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a table."""
    machine, rows = result["machine"], result["rows"]
    names = list(rows[0]["stages"])
    cells = [
        [
            row["weights"],
            *(f"{memory['resident'] / 1e6:.0f} ({memory['private'] / 1e6:.0f})" for memory in row["stages"].values()),
            f"{row['peak'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    lines = [
        f"### {result['model']['name']}: memory of a server",
        "",
        f"{machine['cpu']}; {machine['cores']} cores; torch {machine['torch']}. {machine['date']}. Resident memory in "
        f"MB, in brackets without mapped files. Each of {result['sessions']} dialogues has had a question of "
        f"{QUESTION_SECONDS:g} s and a reply of about four seconds, all at once.",
        "",
        *table(["weights", *names, "peak"], cells),
    ]
    return "\n".join(lines) + "\n"
