"""Measure a system on a benchmark: read the data, ask the system, ask the judge, and compute the figures.

Outputs come first and verdicts after them, so the cost of judging is known before it starts. Rows are written in the
order of the items, however many are asked at once.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...data.store.atomic import text_digest
from ...errors import AudioError, ConfigError
from ..judge import PILOT_CALLS, Judge
from ..results import EvaluationError, ResultFile, library_versions
from ..systems import ItemFailure, Recogniser, Reply, System, wav_bytes
from . import asr, openaudiobench
from .items import Benchmark, Item
from .normalizers import DEFAULTS, fingerprint
from .summary import SETTINGS, reply_text, summarize

RECOGNISER_RATE = 16_000
_KNOWN_SPEECH = 100  # questions of each set on which the recogniser's own error is measured

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Suite:
    """A benchmark: its reader, version of what is asked, and whether replies are judged or transcripts compared."""

    load: Callable[[Path, bool], Benchmark]
    version: str
    judged: bool


SUITES = {
    "openaudiobench": Suite(openaudiobench.load, openaudiobench.VERSION, True),
    "librispeech": Suite(asr.load_librispeech, asr.VERSION, False),
    "aishell1": Suite(asr.load_aishell1, asr.VERSION, False),
    "fleurs": Suite(asr.load_fleurs, asr.VERSION, False),
}


def run_suite(
    suite: str,
    data: Path,
    system: System,
    output: Path,
    *,
    judge: Judge | None = None,
    recogniser: Recogniser | None = None,
    settings: Sequence[str] = ("s2t", "s2s_text", "s2s_asr"),
    workers: int = 1,
    limit: int | None = None,
    strict: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure `system` on the benchmark in the folder `data` -> its figures; every row goes to the file `output`.

    judge, recogniser, settings: of suites whose replies are judged; the text and the sound of a spoken reply are always
    measured together. workers: requests at once, 1 for a model in this process. limit: items of each set. strict: stop
    at the first thing that is wrong with the data. log: told problems of the data, the judge's cost, and the time.
    A run that was stopped goes on where it was. Raises DataError, ConfigError, or EvaluationError for a file that was
    written with other inputs and for a server that stays away.
    """
    if suite not in SUITES:
        raise ConfigError(f"there is no suite '{suite}'; there are {', '.join(SUITES)}.")
    chosen = SUITES[suite]
    settings = _checked_settings(settings, judge, recogniser) if chosen.judged else ["asr"]
    full = chosen.load(data, strict)
    for problem in full.problems:
        log(problem)
    benchmark = full.limited(limit)
    provenance = _provenance(suite, data, benchmark, settings, system, judge, recogniser, limit)
    started = time.monotonic()
    with ResultFile(output, provenance) as results:
        run = _Run(benchmark, system, recogniser, settings, results, workers)
        run.ask_system()
        if chosen.judged and judge is not None:
            run.ask_judge(judge, log)
    wall = time.monotonic() - started
    parts = ", ".join(f"{seconds:.0f} s in the {part}" for part, seconds in run.seconds.items())
    log(f"{len(benchmark.items)} items in {wall:.0f} s: {parts}.")
    return summarize(output) if chosen.judged else asr.score(output)


class _Run:
    """One evaluation under way. `seconds`: time spent in its parts, of all threads together."""

    def __init__(
        self,
        benchmark: Benchmark,
        system: System,
        recogniser: Recogniser | None,
        settings: Sequence[str],
        results: ResultFile,
        workers: int,
    ) -> None:
        self._benchmark, self._system, self._recogniser = benchmark, system, recogniser
        self._settings, self._results, self._workers = settings, results, workers
        self._folder = results.path.with_suffix(".audio")
        self._recogniser_lock, self._lock = threading.Lock(), threading.Lock()
        self.seconds = dict.fromkeys(("system", "recogniser", "judge"), 0.0)
        position: dict[str, int] = {}
        self._known = set[str]()
        for item in benchmark.items:
            position[item.subset] = position.get(item.subset, 0) + 1
            if position[item.subset] <= _KNOWN_SPEECH:
                self._known.add(item.id)

    def ask_system(self) -> None:
        """An output row for every item."""
        items = [item for item in self._benchmark.items if ("output", item.id, "") not in self._results.done]
        for row in ordered_map(self._output, items, self._workers):
            self._results.append(row)

    def ask_judge(self, judge: Judge, log: Callable[[str], None]) -> None:
        """A verdict row for every item and setting that has a reply and can be judged; its cost is told before.

        A judge that cannot foresee its cost is asked for a few verdicts of each set first, which it keeps.
        """
        asked = list(self._to_judge(judge))
        replies = [(item, text) for item, _, text in asked]
        cost = judge.estimate(replies)
        if not cost.measured:
            with self._timed("judge"):
                list(ordered_map(lambda entry: judge.judge(*entry), _pilot(replies), self._workers))
            cost = judge.estimate(replies)
        if cost.calls or cost.cached:
            log(cost.sentence())
        with self._timed("judge"):
            for row in ordered_map(lambda entry: _verdict(judge, entry), asked, self._workers):
                self._results.append(row)

    def _to_judge(self, judge: Judge) -> Iterator[tuple[Item, str, str]]:
        for item in self._benchmark.items:
            row = self._results.done["output", item.id, ""]
            for setting in self._settings if judge.judges(item) else ():
                text = reply_text(row, setting)
                if text is not None and ("verdict", item.id, setting) not in self._results.done:
                    yield item, setting, text

    def _output(self, item: Item) -> dict[str, Any]:
        row: dict[str, Any] = {
            "kind": "output",
            "id": item.id,
            "subset": item.subset,
            "question": item.question,
            "references": list(item.references),
            "raw_reference": item.raw_reference,
            "language": item.language,
            "speaker": item.speaker,
            "replies": {},
        }
        for kind in dict.fromkeys("s2s" if setting.startswith("s2s") else setting for setting in self._settings):
            row["replies"][kind] = self._reply(item, kind)
        if "s2s" in row["replies"] and item.id in self._known and item.audio is not None:
            row["question_asr"] = self._read_back(item.audio, item.language)
        return row

    def _reply(self, item: Item, kind: str) -> dict[str, Any]:
        try:
            with self._timed("system"):
                if kind == "asr":
                    return {"text": self._system.transcribe(item)}
                reply = self._system.answer(item, kind == "s2s", typed=kind == "t2t")
        except ItemFailure as error:
            return {"error": str(error)}
        return self._spoken(item, reply) if kind == "s2s" else {"text": reply.text}

    def _spoken(self, item: Item, reply: Reply) -> dict[str, Any]:
        """Keep the sound as 16-bit WAV and read that back, so what was judged can be heard."""
        if reply.waveform is None or not len(reply.waveform):
            return {"error": "the reply has no sound.", "text": reply.text}
        path = self._folder / f"{item.id}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = wav_bytes(reply.waveform, reply.sample_rate)
        path.write_bytes(content)
        return {
            "text": reply.text,
            "asr": self._read_back(content, item.language),
            "audio": path.relative_to(self._results.path.parent).as_posix(),
            "audio_digest": text_digest(content.hex()),
            "seconds": round(len(reply.waveform) / reply.sample_rate, 3),
        }

    def _read_back(self, audio: Path | bytes, language: str) -> str | None:
        """What the recogniser writes; None for a recording that cannot be read."""
        from ...audio.reading import read_audio

        assert self._recogniser is not None  # checked with the settings
        try:
            waveform, _ = read_audio(audio, RECOGNISER_RATE)
        except AudioError:
            return None
        with self._recogniser_lock, self._timed("recogniser"):
            return self._recogniser.transcribe(np.asarray(waveform, np.float32), language)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[part] += time.monotonic() - started


def ordered_map(function: Callable[[_In], _Out], entries: Iterable[_In], workers: int) -> Iterator[_Out]:
    """Results in the order of `entries`, up to `workers` computed at once and few waiting; 1 uses no thread."""
    if workers <= 1:
        yield from map(function, entries)
        return
    source = iter(entries)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(function, entry) for entry in itertools.islice(source, 2 * workers)]
        try:
            while waiting:
                result = waiting.pop(0).result()
                waiting += [pool.submit(function, entry) for entry in itertools.islice(source, 1)]
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _pilot(replies: Sequence[tuple[Item, str]]) -> list[tuple[Item, str]]:
    """The first PILOT_CALLS different replies of each set."""
    chosen: dict[str, dict[tuple[str, str], tuple[Item, str]]] = {}
    for item, text in replies:
        members = chosen.setdefault(item.subset, {})
        if len(members) < PILOT_CALLS:
            members[item.id, text] = (item, text)
    return [entry for members in chosen.values() for entry in members.values()]


def _verdict(judge: Judge, asked: tuple[Item, str, str]) -> dict[str, Any]:
    item, setting, text = asked
    return {"kind": "verdict", "id": item.id, "setting": setting, **vars(judge.judge(item, text))}


def _checked_settings(settings: Sequence[str], judge: Judge | None, recogniser: Recogniser | None) -> list[str]:
    unknown = [setting for setting in settings if setting not in SETTINGS]
    if unknown or not settings:
        raise ConfigError(f"there is no setting '{', '.join(unknown)}'; there are {', '.join(SETTINGS)}.")
    chosen = [setting for setting in SETTINGS if setting in settings]
    if ("s2s_text" in chosen) != ("s2s_asr" in chosen):
        raise ConfigError("s2s_text and s2s_asr are measured together; ask for both, or for neither.")
    if "s2s_asr" in chosen and recogniser is None:
        raise ConfigError("spoken replies are read back by an ASR; name a recogniser, or ask for s2t alone.")
    if judge is None:
        raise ConfigError("this suite needs a judge: a language model's address, or the offline match.")
    return chosen


def _provenance(
    suite: str,
    data: Path,
    benchmark: Benchmark,
    settings: Sequence[str],
    system: System,
    judge: Judge | None,
    recogniser: Recogniser | None,
    limit: int | None,
) -> dict[str, Any]:
    if not benchmark.items:
        raise EvaluationError("a limit of 0 leaves no item to measure on.")
    judged = SUITES[suite].judged
    judging = {**judge.provenance(), "parses_official": judge.parses_official} if judge and judged else {}
    return {
        "suite": suite,
        "suite_version": SUITES[suite].version,
        "settings": list(settings),
        "limit": limit,
        "data": {
            "digest": benchmark.digest(),
            "items": len(benchmark.items),
            "unusable": dict(benchmark.unusable),
            "problems": [problem.replace(str(data), ".") for problem in benchmark.problems],
        },
        "system": system.provenance(),
        "judge": judging,
        "recogniser": recogniser.provenance() if recogniser and judged else {},
        "normalizers": {name: fingerprint(name) for name in sorted(DEFAULTS.values())},
        "versions": library_versions("jiwer", "whisper_normalizer"),
    }
