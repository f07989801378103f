"""eval: measures a system on benchmarks, compares two evaluations, and says how many items a difference takes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .common import Progress, add_command, add_group, choose_device, default_model, in_clone, positive, print_json

if TYPE_CHECKING:
    from ..evaluation.judge import Judge
    from ..evaluation.suites.contamination import TrainingIndex
    from ..evaluation.suites.scores.quality import QualityMeasures
    from ..evaluation.systems import System

COMMAND_NAMES = ("run", "compare", "power", "list")
"""Commands below `eval`; anything else after it is the name of a suite to run."""
_LINE_S = 60.0  # between lines of progress where there is no terminal
_BAR = 20  # characters


def add_commands(commands: Any) -> None:
    """Add the command group `eval` to the parser."""
    group = add_group(commands, "eval", "Measure a system on benchmarks: eval SUITE... --output DIR; and compare.")
    run = add_command(
        group, "run", run_suites, "Measure a system on benchmarks (the word 'run' may be left out).", model=False
    )
    run.add_argument("suites", nargs="+", metavar="SUITE", help="names from 'eval list', or 'all' that have data")
    run.add_argument(
        "--data",
        metavar="DIR",
        help="a folder for each suite, or the one suite's own (default: examples/evaluation of a clone)",
    )
    run.add_argument("--output", "-o", required=True, metavar="DIR", help="results; unfinished ones go on")
    system = run.add_argument_group("system under test")
    system.add_argument(
        "--system",
        metavar="WHAT",
        help="checkpoint directory or hub id, http://HOST/v1, ws://HOST/v1/realtime, or earlier results to judge anew "
        "(default: the only checkpoint in models/)",
    )
    system.add_argument("--served-model", default="default", metavar="NAME", help="name of the model at an address")
    system.add_argument("--voice", metavar="NAME", help="voice of spoken replies (default: the first)")
    system.add_argument(
        "--transcribe-by", metavar="TEXT", help="instruction for servers that transcribe only when asked in a chat"
    )
    system.add_argument("--batch", type=positive, default=1, metavar="N", help="items at once (default: 1)")
    system.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    system.add_argument("--device", default="auto", help="cpu, cuda ... (default: cuda if available)")
    system.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    system.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    scoring = run.add_argument_group("scoring")
    scoring.add_argument(
        "--settings", nargs="+", metavar="NAME", help="what is asked, such as t2t s2t s2s_text s2s_asr"
    )
    scoring.add_argument("--whisper", metavar="NAME", help="Whisper that reads sounds back: a size or a folder")
    scoring.add_argument(
        "--measures", nargs="*", metavar="NAME", help="of sounds (default: dnsmos similarity pesq stoi)"
    )
    scoring.add_argument("--judge-url", metavar="URL", help="judge; without it, replies are matched with references")
    scoring.add_argument("--judge-model", default="gpt-4o-mini", metavar="NAME", help="(default: %(default)s)")
    scoring.add_argument(
        "--judge-cache", metavar="FILE", help="verdicts so far (default: judge-cache.jsonl in --output)"
    )
    scoring.add_argument(
        "--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="of 10^6 tokens"
    )
    scoring.add_argument("--max-cost", type=float, metavar="X", help="do not judge where it would cost more")
    scoring.add_argument(
        "--training", nargs="+", metavar="PATH", help="shards or manifests to look for the test items in"
    )
    run.add_argument("--limit", type=positive, metavar="N", help="items of each set")
    run.add_argument("--strict", action="store_true", help="stop at the first problem of the data")

    compare = add_command(group, "compare", run_compare, "Compare two evaluations item by item.", model=False)
    compare.add_argument("first", help="result file, or a folder of them")
    compare.add_argument("second", help="likewise; differences are second minus first")

    power = add_command(group, "power", run_power, "Say how many items it takes to find a difference.", model=False)
    power.add_argument("--points", type=float, nargs="+", default=[1.0, 2.0, 5.0], metavar="P", help="(default: 1 2 5)")
    power.add_argument(
        "--discordant", type=float, nargs="+", default=[0.1, 0.2, 0.3], metavar="SHARE",
        help="share of items that one system has right and the other wrong (default: 0.1 0.2 0.3)",
    )  # fmt: skip
    power.add_argument("--power", type=float, default=0.8, metavar="SHARE", help="(default: %(default)s)")
    power.add_argument("--results", nargs=2, metavar="FILE", help="take the share from these two result files")

    add_command(group, "list", run_list, "List the suites.", model=False)


def run_suites(arguments: argparse.Namespace) -> None:
    from ..evaluation.suites.registry import SUITES

    root = _data_root(arguments.data)
    names = list(SUITES) if arguments.suites == ["all"] else list(dict.fromkeys(arguments.suites))
    if unknown := [name for name in names if name not in SUITES]:
        raise ConfigError(f"there is no suite '{unknown[0]}'; there are {', '.join(SUITES)}, and 'all'.")
    folders = {name: folder for name in names if (folder := suite_data(root, name, len(names) == 1)) is not None}
    missing = [name for name in names if name not in folders]
    if missing and (not folders or arguments.suites != ["all"]):
        raise ConfigError(f"{root}: there is no folder '{missing[0]}' in it with that suite's data.")
    figures = {}
    with _tools(arguments) as tools:
        for name, folder in folders.items():
            figures[name] = _run_one(name, folder, arguments, tools)
    if arguments.json:
        print_json(figures)


def _run_one(name: str, folder: Path, arguments: argparse.Namespace, tools: _Tools) -> dict[str, Any]:
    from ..data.store.atomic import write_text
    from ..evaluation.suites.registry import SUITES
    from ..evaluation.suites.run import run_suite

    suite, output = SUITES[name], Path(arguments.output)
    with _Bar(name) as bar:
        figures = run_suite(
            name,
            folder,
            tools.system(name),
            output / f"{name}.jsonl",
            judge=tools.judge if suite.judged else None,
            recogniser=tools.recogniser,
            measures=tools.measures() if suite.measures else None,
            settings=_settings(arguments, suite.settings),
            workers=arguments.batch,
            limit=arguments.limit,
            strict=arguments.strict,
            max_cost=arguments.max_cost,
            log=bar.log,
            progress=bar.update,
        )
        if arguments.training:
            figures["contamination"] = _contamination(name, folder, arguments, tools)
    text = json.dumps(figures, ensure_ascii=False, indent=1, sort_keys=True)
    write_text(output / f"{name}.json", text + "\n")
    if not arguments.json:
        for line in figure_lines(figures):
            print(f"{name} {line}")
        print(f"{name}: all figures are in {output / f'{name}.json'}, every item in {output / f'{name}.jsonl'}.")
    return figures


def _settings(arguments: argparse.Namespace, possible: Sequence[str]) -> list[str] | None:
    """The settings that were named; of several suites each takes those it has."""
    if arguments.settings is None or len(arguments.suites) == 1:
        return arguments.settings
    return [setting for setting in arguments.settings if setting in possible] or None


def suite_data(root: Path, suite: str, only: bool) -> Path | None:
    """The folder with a suite's data: `root`/SUITE, whatever its case and dashes, or `root` itself where it is the
    `only` suite; None where there is none."""
    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such folder of data.")
    plain = suite.replace("_", "")
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name.lower().replace("-", "").replace("_", "") == plain:
            return path
    return root if only else None


def _data_root(data: str | None) -> Path:
    if data is not None:
        return Path(data)
    examples = in_clone("examples/examples.json")
    if examples is not None and (examples.parent / "evaluation").is_dir():
        return examples.parent / "evaluation"
    raise ConfigError("there is no bundled data here; name the folder with --data DIR.")


class _Tools:
    """What the suites of one command share, made when it is first needed."""

    def __init__(self, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self._arguments, self._stack = arguments, stack
        self._system: System | None = None
        self._measures: QualityMeasures | None = None
        self._training: TrainingIndex | None = None
        self.judge = _judge(arguments)
        self.recogniser = None
        if arguments.whisper:
            from ..evaluation.systems import WhisperRecogniser

            self.recogniser = WhisperRecogniser(arguments.whisper)

    def system(self, suite: str) -> System:
        """The system under test; recorded replies are those of the suite."""
        from ..evaluation.systems import RecordedSystem

        what = self._arguments.system or default_model()
        if what.endswith(".jsonl"):
            return RecordedSystem(Path(what))
        if (recorded := Path(what) / f"{suite}.jsonl").is_file():
            return RecordedSystem(recorded)
        self._system = self._system or self._live(what)
        return self._system

    def measures(self) -> QualityMeasures:
        """Measures of quality, those that are named or the default ones."""
        from ..evaluation.suites.scores.quality import DEFAULT_MEASURES, QualityMeasures

        if self._measures is None:
            names = self._arguments.measures
            self._measures = QualityMeasures(DEFAULT_MEASURES if names is None else names)
        return self._measures

    def training(self) -> TrainingIndex:
        """Index of the training data that are named."""
        from ..evaluation.suites.contamination import read_training

        if self._training is None:
            with Progress("reading the training data"):
                self._training = read_training([Path(path) for path in self._arguments.training])
        return self._training

    def _live(self, what: str) -> System:
        from ..evaluation.systems import BatchedSystem, LocalSystem, RealtimeSystem, ServerSystem

        options, voice = self._arguments, self._arguments.voice
        if what.startswith(("http://", "https://")):
            named = {"voice": voice or "default", "transcribe_by": options.transcribe_by}
            return ServerSystem(what, options.served_model, seed=options.seed, **named)
        if what.startswith(("ws://", "wss://")):
            return RealtimeSystem(what, options.served_model, voice=voice or "default")
        from ..acceleration import optimize_for_inference
        from ..checkpoint import checkpoint_directory, load

        with Progress(f"loading {what}"):
            device, dtype = choose_device(options)
            model = optimize_for_inference(load(what, dtype=dtype, device=device))
        folder = checkpoint_directory(what)
        if options.batch == 1:
            return LocalSystem(model, folder, seed=options.seed, voice=voice)
        batched = BatchedSystem(model, folder, batch=options.batch, seed=options.seed, voice=voice)
        return self._stack.enter_context(batched)


@contextlib.contextmanager
def _tools(arguments: argparse.Namespace) -> Iterator[_Tools]:
    with contextlib.ExitStack() as stack:
        yield _Tools(arguments, stack)


def _judge(arguments: argparse.Namespace) -> Judge:
    from ..evaluation.judge import ApiJudge, MatchJudge

    if not arguments.judge_url:
        return MatchJudge()
    cache = Path(arguments.judge_cache or Path(arguments.output) / "judge-cache.jsonl")
    return ApiJudge(arguments.judge_url, arguments.judge_model, cache, prices=tuple(arguments.prices))


class _Bar:
    """Shows on stderr how many items of a suite are done, and how long the rest will take."""

    def __init__(self, suite: str) -> None:
        self._suite, self._terminal = suite, sys.stderr.isatty()
        self._part, self._started, self._first, self._shown = "", 0.0, 0, 0.0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def log(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self._clear()
        print(f"{self._suite}: {sentence}", file=sys.stderr, flush=True)

    def update(self, part: str, done: int, total: int) -> None:
        """`done` of `total` items (or verdicts) are there."""
        now = time.monotonic()
        if part != self._part:
            self._part, self._started, self._first = part, now, done
            self._shown = now if not self._terminal else 0.0
        if now - self._shown < (0.2 if self._terminal else _LINE_S) and not (self._terminal and done == total):
            return
        self._shown = now
        filled = "#" * (_BAR * done // max(total, 1))
        line = f"{self._suite} [{filled:<{_BAR}}] {done} of {total} {part}{self._left(now, done, total)}"
        print(
            f"\r\x1b[K{line}" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def _left(self, now: float, done: int, total: int) -> str:
        """The time that is left at the speed since the start of this part."""
        if done <= self._first or done == total:
            return ""
        seconds = (now - self._started) / (done - self._first) * (total - done)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"

    def _clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def figure_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Every value of a suite's figures that has an interval, one line each."""
    for path, value in _values(figures["sets"], ()):
        interval = "" if value["low"] is None else f" [{value['low']:.4g}, {value['high']:.4g}]"
        yield f"{' '.join(path)}: {value['value']:.4g}{interval}, {value['items']} items"


def _values(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if {"value", "low", "high"} <= set(node):
            yield path, node
            return
        for key, child in node.items():
            yield from _values(child, path if key in ("settings", "versions") else (*path, str(key)))


def run_compare(arguments: argparse.Namespace) -> None:
    from ..evaluation.suites.scores.compare import compare_results

    first, second = Path(arguments.first), Path(arguments.second)
    pairs = [(first, second)]
    if first.is_dir() and second.is_dir():
        shared = sorted(path.name for path in first.glob("*.jsonl") if (second / path.name).is_file())
        pairs = [(first / name, second / name) for name in shared if not name.startswith("judge-cache")]
        if not pairs:
            raise ConfigError(f"{first} and {second} have no result file of one name in common.")
    rows = [row for pair in pairs for row in compare_results(*pair)]
    if arguments.json:
        print_json([vars(row) for row in rows])
        return
    for row in rows:
        interval = "no interval (one voice or question)"
        if row.low is not None and row.high is not None:
            interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
        test = "" if row.mcnemar_p is None else f", McNemar p {row.mcnemar_p:.3g}"
        print(
            f"{row.suite} {row.figure}: {row.first:.2f} -> {row.second:.2f}, {row.difference:+.2f} {interval}{test}, "
            f"{row.items} items"
        )


def run_power(arguments: argparse.Namespace) -> None:
    from ..evaluation.suites.scores.compare import compare_results, power_table

    shares = arguments.discordant
    if arguments.results:
        measured = [row.discordant for row in compare_results(*map(Path, arguments.results)) if row.discordant]
        if not measured:
            raise ConfigError("these result files have no figure of right and wrong items that differ.")
        shares = sorted(set(measured))
    rows = power_table(arguments.points, shares, arguments.power)
    if arguments.json:
        print_json(rows)
        return
    for row in rows:
        needed = "impossible: systems differ on fewer" if row["items"] is None else f"{row['items']} items"
        print(f"{row['points']:g} points, differing on {100 * row['discordant']:.3g} % of the items: {needed}")


def run_list(arguments: argparse.Namespace) -> None:
    from ..evaluation.suites.registry import SUITES

    if arguments.json:
        facts = {
            name: {"layout": suite.layout, "figure": suite.figure, "settings": suite.settings}
            for name, suite in SUITES.items()
        }
        print_json(facts)
        return
    for name, suite in SUITES.items():
        print(f"{name}: {suite.figure}\n    data: {suite.layout}\n    settings: {' '.join(suite.settings)}")


def _contamination(name: str, folder: Path, arguments: argparse.Namespace, tools: _Tools) -> dict[str, Any]:
    from ..evaluation.suites.contamination import contamination

    return contamination(tools.training(), name, folder, arguments.limit)
