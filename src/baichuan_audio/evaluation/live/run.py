"""Measure a Realtime address on a live benchmark: in real time, several sessions at once, one row an item."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from ...data.store.atomic import file_digest, text_digest
from ...errors import ConfigError
from ..judge.api import PROMPTS, ApiJudge, Verdict
from ..results import ResultFile, library_versions
from ..suites.items import Benchmark, Item, first_of_each
from ..suites.run import ordered_map
from ..systems.base import ItemFailure
from . import big_bench_audio, full_duplex
from .full_duplex import LiveBenchmark, LiveItem
from .realtime import LiveRecord, read_recording
from .summary import short_answer_matches, summarize
from .timeline import RATE, audible_segments

SUITES = (full_duplex.NAME, big_bench_audio.NAME)
JUDGE_PROMPT = "trivia_qa"
"""The prompt of the judge for short answers: right if it says what a reference says."""


class LiveSystem(Protocol):
    """What a live evaluation talks to."""

    def provenance(self) -> dict[str, Any]: ...

    def converse(self, recording: np.ndarray, to_the_end: bool = False) -> Any:
        """Coroutine: stream samples [S] at RATE in real time -> LiveRecord."""
        ...


def run_live(
    suite: str,
    data: Path,
    system: LiveSystem,
    output: Path,
    *,
    sessions: int = 4,
    judge: ApiJudge | None = None,
    limit: int | None = None,
    strict: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure `system` on the benchmark in `data` -> its figures; rows go to `output`, sounds beside it.

    sessions: recordings streamed at once, each in real time. judge: of Big Bench Audio; without one, answers are
    matched offline. limit: items of each set. A run that was stopped goes on. Outputs have the times of this run, so
    two runs never write the same bytes. Raises DataError, ConfigError, EvaluationError.
    """
    if suite not in SUITES:
        raise ConfigError(f"there is no live suite '{suite}'; there are {', '.join(SUITES)}.")
    benchmark = load_benchmark(suite, data, strict)
    for problem in benchmark.problems:
        log(problem)
    items = first_of_each(benchmark.items, limit)
    provenance = _provenance(suite, data, items, benchmark.problems, system, judge, limit)
    with ResultFile(output, provenance) as results:
        new = [item for item in items if ("output", item.id, "") not in results.done]
        length = sum(soundfile.info(item.audio).duration for item in new if item.audio)
        log(f"{len(new)} recordings, {length:.0f} s of sound, {sessions} at once in real time.")
        folder = output.with_suffix(".audio")
        for row in ordered_map(lambda item: _row(item, system, folder), new, sessions):
            results.append(row)
        if suite == big_bench_audio.NAME:
            _judge(items, results, judge, log)
    return summarize(output)


def load_benchmark(suite: str, data: Path, strict: bool = False) -> LiveBenchmark | Benchmark:
    """The items of a suite. Raises DataError."""
    return full_duplex.load(data, strict) if suite == full_duplex.NAME else big_bench_audio.load(data, strict)


def _row(item: LiveItem | Item, system: LiveSystem, folder: Path) -> dict[str, Any]:
    live = isinstance(item, LiveItem)
    row: dict[str, Any] = {"kind": "output", "id": item.id, "subset": item.subset}
    if isinstance(item, LiveItem):
        row |= {"task": item.task, "window": item.window, "question": item.text}
    else:
        row |= {"question": item.question, "references": list(item.references)}
    try:
        recording = read_recording(item.audio)
        record: LiveRecord = asyncio.run(system.converse(recording, to_the_end=not live))
    except ItemFailure as error:
        return row | {"error": str(error)}
    segments = audible_segments(record.waveform)
    length = len(recording) / RATE
    begin = next((start for start, _ in segments if start >= length), None)
    return row | {
        "seconds": round(length, 3),
        "segments": segments,
        "words": record.words,
        "cuts": [[cut.at_s, cut.lost_s] for cut in record.cuts],
        "events": record.events,
        "server_errors": record.errors,
        "lag_s": round(record.lag_s, 3),
        "response_s": None if begin is None else round(begin - length, 3),
        "audio": _save(folder / item.id / "output.wav", record.waveform, folder.parent),
    }


def _save(path: Path, waveform: np.ndarray, base: Path) -> str:
    """The published name of outputs, so that other scripts of the benchmark find them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(waveform, -1, 1), RATE, subtype="PCM_16")
    return path.relative_to(base).as_posix()


def reply_of(row: dict[str, Any]) -> str:
    """The transcript of all that was played."""
    return "".join(text for _, text in row.get("words", ())).strip()


def _judge(items: Sequence[Item], results: ResultFile, judge: ApiJudge | None, log: Callable[[str], None]) -> None:
    asked = []
    for item in items:
        row = results.done["output", item.id, ""]
        if "error" not in row and ("verdict", item.id, "live") not in results.done:
            text = "(the words are not published)"
            asked.append((Item(item.id, JUDGE_PROMPT, None, text, item.references, item.raw_reference, "en"), row))
    if judge is not None and asked:
        log(judge.estimate([(item, reply_of(row)) for item, row in asked]).sentence())
    for item, row in asked:
        verdict = judge.judge(item, reply_of(row)) if judge else _offline(item, reply_of(row))
        results.append({"kind": "verdict", "id": item.id, "setting": "live", **vars(verdict)})


def _offline(item: Item, answer: str) -> Verdict:
    right = short_answer_matches(answer, item.references[0])
    return Verdict(json.dumps({"judgment": "correct" if right else "incorrect"}), "match")


def _provenance(
    suite: str,
    data: Path,
    items: Sequence[Any],
    problems: Sequence[str],
    system: LiveSystem,
    judge: ApiJudge | None,
    limit: int | None,
) -> dict[str, Any]:
    version = full_duplex.VERSION if suite == full_duplex.NAME else big_bench_audio.VERSION
    parts = [f"{item.id}:{file_digest(item.audio)}" for item in items]
    parts += [str(getattr(item, "window", item.id)) for item in items]
    judging: dict[str, Any] = {}
    if suite == big_bench_audio.NAME:
        judging = judge.provenance() if judge else {"kind": "match", "version": "1"}
        judging |= {"prompt": text_digest(PROMPTS[JUDGE_PROMPT])} if judge else {}
    return {
        "suite": suite,
        "suite_version": version,
        "limit": limit,
        "data": {
            "digest": text_digest(*parts),
            "items": len(items),
            "problems": [problem.replace(str(data), ".") for problem in problems],
        },
        "system": system.provenance(),
        "judge": judging,
        "versions": library_versions("websockets"),
    }
