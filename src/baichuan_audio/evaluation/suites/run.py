"""Measure a system on a benchmark: read the data, ask the system, ask the judge, and compute the figures.

Outputs come first and verdicts after them, so the cost of judging is known before it starts. Rows are written in the
order of the items, however many are asked at once.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ...errors import ConfigError
from ..judge.api import PILOT_CALLS, PROMPTS, Judge, JudgeCost
from ..results import EvaluationError, ResultFile, library_versions
from ..systems.base import Recogniser, System
from .ask import Asker
from .covost2 import INSTRUCTIONS_DIGEST
from .items import Benchmark, Item
from .normalizers import DEFAULTS, fingerprint
from .registry import SUITES
from .scores.quality import QualityMeasures
from .summary import reply_text

_KNOWN_SPEECH = 100  # questions of each set on which the recogniser's own error is measured

READERS = min(8, max(2, (os.cpu_count() or 1) // 2))
"""Threads that read sounds back and measure them, while the system replies to the next items."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def run_suite(
    suite: str,
    data: Path,
    system: System,
    output: Path,
    *,
    judge: Judge | None = None,
    recogniser: Recogniser | None = None,
    measures: QualityMeasures | None = None,
    settings: Sequence[str] | None = None,
    workers: int = 1,
    limit: int | None = None,
    strict: bool = False,
    max_cost: float | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[str, int, int], None] = lambda part, done, total: None,
) -> dict[str, Any]:
    """Measure `system` on the benchmark in the folder `data` -> its figures; every row goes to the file `output`.

    judge, recogniser, settings: of suites whose replies are judged; the text and the sound of a spoken reply are always
    measured together. measures: of the quality of sounds, in suites that measure it. workers: requests at once, 1 for
    a model in this process. limit: items of each set. strict: stop at the first thing that is wrong with the data.
    max_cost: stop before judging would cost more, in the currency of the judge's prices. log: told problems of the
    data, the judge's cost, and the time. progress: told what is under way, items done and items in all.
    A run that was stopped goes on where it was. Raises DataError, ConfigError, or EvaluationError for a file that was
    written with other inputs and for a server that stays away.
    """
    if suite not in SUITES:
        raise ConfigError(f"there is no suite '{suite}'; there are {', '.join(SUITES)}.")
    started, chosen = time.monotonic(), SUITES[suite]
    if settings is None:
        settings = chosen.settings[1:] if chosen.judged and recogniser is not None else chosen.default
    settings = _checked_settings(suite, settings, judge, recogniser)
    full = chosen.load(data, strict)
    for problem in full.problems:
        log(problem)
    benchmark = full.limited(limit)
    provenance = _provenance(suite, data, benchmark, settings, system, judge, recogniser, measures, limit)
    with ResultFile(output, provenance) as results:
        run = _Run(benchmark, settings, system, recogniser, measures, results, workers, progress)
        run.ask_system()
        if chosen.judged and judge is not None:
            run.ask_judge(judge, max_cost, log)
    figures = chosen.score(output)
    shares = run.clock.shares(time.monotonic() - started)
    parts = ", ".join(
        f"{part} {shares[f'{part}_percent']:.0f} %" for part in (*run.clock.seconds, "harness") if f"{part}_s" in shares
    )
    log(f"{len(benchmark.items)} items in {shares['wall_s']:.0f} s; share of that time: {parts}.")
    return figures | {"time": shares}


class _Run:
    """One evaluation under way. The system is asked for the next item while the last is read back and measured."""

    def __init__(
        self,
        benchmark: Benchmark,
        settings: Sequence[str],
        system: System,
        recogniser: Recogniser | None,
        measures: QualityMeasures | None,
        results: ResultFile,
        workers: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._benchmark, self._settings, self._results = benchmark, settings, results
        self._workers, self._progress = workers, progress
        self._reads_back = recogniser is not None or measures is not None
        self._kinds = list(dict.fromkeys("s2s" if setting.startswith("s2s") else setting for setting in settings))
        self._asker = Asker(system, recogniser, measures, results.path.with_suffix(".audio"), self._kinds)
        self.clock = self._asker.clock
        position: dict[str, int] = {}
        self._known = set[str]()
        for item in benchmark.items:
            position[item.subset] = position.get(item.subset, 0) + 1
            if position[item.subset] <= _KNOWN_SPEECH:
                self._known.add(item.id)

    def ask_system(self) -> None:
        """An output row for every item."""
        total = len(self._benchmark.items)
        items = [item for item in self._benchmark.items if ("output", item.id, "") not in self._results.done]
        self._progress("items", total - len(items), total)
        asked = ordered_map(self._ask, items, self._workers)
        rows = ordered_map(self._output, asked, READERS) if self._reads_back else map(self._output, asked)
        for number, row in enumerate(rows, total - len(items) + 1):
            self._results.append(row)
            self._progress("items", number, total)

    def ask_judge(self, judge: Judge, max_cost: float | None, log: Callable[[str], None]) -> None:
        """A verdict row for every item and setting that has a reply and can be judged; its cost is told before.

        A judge that cannot foresee its cost is asked for a few verdicts of each set first, which it keeps.
        """
        by_model = dict.fromkeys(item.subset for item in self._benchmark.items if not judge.judges(item))
        if names := [name for name in by_model if name in PROMPTS]:
            log(f"{', '.join(names)}: not judged, for that takes a language model (--judge-url), and none was named.")
        asked = list(self._to_judge(judge))
        replies = [(item, text) for item, _, text in asked]
        cost = judge.estimate(replies)
        if cost.calls or cost.cached:
            log(cost.sentence())
            _check_cost(cost, max_cost)
        if not cost.measured:
            with self.clock.timed("judge"):
                list(ordered_map(lambda entry: judge.judge(*entry), _pilot(replies), self._workers))
            cost = judge.estimate(replies)
            log(cost.sentence())
            _check_cost(cost, max_cost)
        with self.clock.timed("judge"):
            for number, row in enumerate(ordered_map(lambda entry: _verdict(judge, entry), asked, self._workers), 1):
                self._results.append(row)
                self._progress("verdicts", number, len(asked))

    def _to_judge(self, judge: Judge) -> Iterator[tuple[Item, str, str]]:
        for item in self._benchmark.items:
            row = self._results.done["output", item.id, ""]
            for setting in self._settings if judge.judges(item) else ():
                text = reply_text(row, setting)
                if text is not None and ("verdict", item.id, setting) not in self._results.done:
                    yield _with_dialogue(item, row, setting), setting, text

    def _ask(self, item: Item) -> tuple[Item, dict[str, Callable[[], dict[str, Any]]]]:
        return item, {kind: self._asker.ask(item, kind) for kind in self._kinds}

    def _output(self, asked: tuple[Item, dict[str, Callable[[], dict[str, Any]]]]) -> dict[str, Any]:
        item, replies = asked
        row: dict[str, Any] = {
            "kind": "output",
            "id": item.id,
            "subset": item.subset,
            "question": item.question,
            "references": list(item.references),
            "raw_reference": item.raw_reference,
            "language": item.language,
            "speaker": item.speaker,
            "replies": {kind: finish() for kind, finish in replies.items()},
        }
        if "s2s" in row["replies"] and item.id in self._known and item.audio is not None:
            row["question_asr"] = self._asker.read_back(item.audio, item.language)
        return row


def ordered_map(function: Callable[[_In], _Out], entries: Iterable[_In], workers: int) -> Iterator[_Out]:
    """Results in the order of `entries`, up to `workers` computed at once and few waiting; 1 uses no thread.

    `entries` is read by the caller's thread, meanwhile. Where that raises, the results of what came before are yielded
    first.
    """
    if workers <= 1:
        yield from map(function, entries)
        return
    source, waiting = iter(entries), deque[Future[_Out]]()
    stopped: BaseException | None = None
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while not stopped and len(waiting) < 2 * workers and not (waiting and waiting[0].done()):
                    try:
                        waiting.append(pool.submit(function, next(source)))
                    except BaseException as error:
                        stopped = error
                if not waiting:
                    break
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    if not isinstance(stopped, StopIteration):
        assert stopped is not None
        raise stopped


def _pilot(replies: Sequence[tuple[Item, str]]) -> list[tuple[Item, str]]:
    """The first PILOT_CALLS different replies of each set."""
    chosen: dict[str, dict[tuple[str, str], tuple[Item, str]]] = {}
    for item, text in replies:
        members = chosen.setdefault(item.subset, {})
        if len(members) < PILOT_CALLS:
            members[item.id, text] = (item, text)
    return [entry for members in chosen.values() for entry in members.values()]


def _with_dialogue(item: Item, row: Mapping[str, Any], setting: str) -> Item:
    """The item as a judge sees it: a second turn with the first and the reply to it."""
    if item.follows is None:
        return item
    before = row["replies"]["s2s" if setting.startswith("s2s") else setting]["before"]
    return replace(item, question=f"User: {item.follows.question}\nAssistant: {before}\nUser: {item.question}")


def _verdict(judge: Judge, asked: tuple[Item, str, str]) -> dict[str, Any]:
    item, setting, text = asked
    return {"kind": "verdict", "id": item.id, "setting": setting, **vars(judge.judge(item, text))}


def _check_cost(cost: JudgeCost, max_cost: float | None) -> None:
    if max_cost is not None and cost.price > max_cost:
        raise EvaluationError(
            f"judging would cost {cost.price:.2f}, above the limit of {max_cost:.2f}; what the system replied is kept."
        )


def _checked_settings(
    suite: str, settings: Sequence[str], judge: Judge | None, recogniser: Recogniser | None
) -> list[str]:
    possible = SUITES[suite].settings
    unknown = [setting for setting in settings if setting not in possible]
    if unknown or not settings:
        raise ConfigError(f"there is no setting '{', '.join(unknown)}' in {suite}, but {', '.join(possible)}.")
    chosen = [setting for setting in possible if setting in settings]
    if ("s2s_text" in chosen) != ("s2s_asr" in chosen):
        raise ConfigError("s2s_text and s2s_asr are measured together; ask for both, or for neither.")
    if "s2s_asr" in chosen and recogniser is None:
        raise ConfigError("spoken replies are read back by an ASR; name a recogniser, or ask for s2t alone.")
    if SUITES[suite].listens and recogniser is None:
        raise ConfigError(f"{suite} reads sounds back by an ASR; name a recogniser, such as --whisper base.")
    if SUITES[suite].judged and judge is None:
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
    measures: QualityMeasures | None,
    limit: int | None,
) -> dict[str, Any]:
    chosen = SUITES[suite]
    judging = {**judge.provenance(), "parses_official": judge.parses_official} if judge and chosen.judged else {}
    provenance: dict[str, Any] = {
        "suite": suite,
        "suite_version": chosen.version,
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
        "recogniser": recogniser.provenance() if recogniser and (chosen.judged or chosen.listens) else {},
        "normalizers": {name: fingerprint(name) for name in sorted(DEFAULTS.values())},
        "versions": library_versions("jiwer", "whisper_normalizer", "sacrebleu"),
    }
    if chosen.measures and measures is not None:
        provenance["measures"] = measures.provenance()
    if "s2tt" in settings:
        provenance["instructions"] = INSTRUCTIONS_DIGEST
    return provenance
