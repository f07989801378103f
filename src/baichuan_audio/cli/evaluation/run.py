"""eval run: measures a system on benchmarks."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import Bar, Progress, add_command, choose_device, default_model, positive, print_json
from .shared import add_judge, add_measuring, api_judge, chosen_data, finish

if TYPE_CHECKING:
    from ...evaluation.judge.api import Judge
    from ...evaluation.suites.contamination import TrainingIndex
    from ...evaluation.suites.scores.quality import QualityMeasures
    from ...evaluation.systems.base import System


def add_run(group: Any) -> None:
    """Add the command to the group."""
    run = add_command(
        group, "run", run_suites, "Measure a system on benchmarks (the word 'run' may be left out).", model=False
    )
    system = add_measuring(run)
    system.add_argument(
        "--system",
        metavar="WHAT",
        help="checkpoint directory or hub id, http://HOST/v1, ws://HOST/v1/realtime, whisper:NAME, llm:PATH, or "
        "earlier results to judge anew (default: the only checkpoint in models/)",
    )
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
    add_judge(scoring)
    scoring.add_argument("--max-cost", type=float, metavar="X", help="do not judge where it would cost more")
    scoring.add_argument(
        "--training", nargs="+", metavar="PATH", help="shards, clip stores, manifests or texts to look for the items in"
    )


def run_suites(arguments: argparse.Namespace) -> None:
    from ...evaluation.suites.registry import SUITES

    figures = {}
    folders = chosen_data(arguments, list(SUITES))
    with contextlib.ExitStack() as stack:
        tools = _Tools(arguments, stack)
        for name, folder in folders.items():
            figures[name] = _run_one(name, folder, arguments, tools)
    if arguments.json:
        print_json(figures)


def _run_one(name: str, folder: Path, arguments: argparse.Namespace, tools: _Tools) -> dict[str, Any]:
    from ...evaluation.suites.registry import SUITES
    from ...evaluation.suites.run import run_suite

    suite = SUITES[name]
    with Bar(name) as bar:
        figures = run_suite(
            name,
            folder,
            tools.system(name),
            Path(arguments.output) / f"{name}.jsonl",
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
            from ...evaluation.suites.contamination import contamination

            figures["contamination"] = contamination(tools.training(), name, folder, arguments.limit)
    finish(name, figures, arguments)
    return figures


def _settings(arguments: argparse.Namespace, possible: Sequence[str]) -> list[str] | None:
    """The settings that were named; of several suites each takes those it has."""
    if arguments.settings is None or len(arguments.suites) == 1:
        return arguments.settings
    return [setting for setting in arguments.settings if setting in possible] or None


class _Tools:
    """What the suites of one command share, made when it is first needed."""

    def __init__(self, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        from ...evaluation.judge.api import MatchJudge

        self._arguments, self._stack = arguments, stack
        self._system: System | None = None
        self._measures: QualityMeasures | None = None
        self._training: TrainingIndex | None = None
        self.judge: Judge = api_judge(arguments, Path(arguments.output)) or MatchJudge()
        self.recogniser = None
        if arguments.whisper:
            from ...evaluation.suites.run import READERS
            from ...evaluation.systems.recognisers import WhisperRecogniser

            self.recogniser = WhisperRecogniser(arguments.whisper, READERS)

    def system(self, suite: str) -> System:
        """The system under test; recorded replies are those of the suite."""
        from ...evaluation.systems.recorded import RecordedSystem

        what = self._arguments.system or default_model()
        if what.endswith(".jsonl"):
            return RecordedSystem(Path(what))
        if (recorded := Path(what) / f"{suite}.jsonl").is_file():
            return RecordedSystem(recorded)
        self._system = self._system or self._live(what)
        return self._system

    def measures(self) -> QualityMeasures:
        """Measures of quality, those that are named or the default ones."""
        from ...evaluation.suites.scores.quality import DEFAULT_MEASURES, QualityMeasures

        if self._measures is None:
            names = self._arguments.measures
            self._measures = QualityMeasures(DEFAULT_MEASURES if names is None else names)
        return self._measures

    def training(self) -> TrainingIndex:
        """Index of the training data that are named."""
        from ...evaluation.suites.contamination import read_training

        if self._training is None:
            with Progress("reading the training data"):
                cache = Path(self._arguments.output) / "training-index.npz"
                self._training = read_training([Path(path) for path in self._arguments.training], cache)
        return self._training

    def _live(self, what: str) -> System:
        from ...evaluation.systems import batched, local, realtime, recognisers, server, text_model

        options, voice = self._arguments, self._arguments.voice
        kind, _, name = what.partition(":")
        if kind == "whisper":
            return recognisers.WhisperSystem(recognisers.WhisperRecogniser(name, options.batch))
        if kind == "llm":
            choose_device(options)  # sets the threads
            return text_model.TextModelSystem(Path(name))
        if what.startswith(("http://", "https://")):
            named = {"voice": voice or "default", "transcribe_by": options.transcribe_by}
            return server.ServerSystem(what, options.served_model, seed=options.seed, **named)
        if what.startswith(("ws://", "wss://")):
            return realtime.RealtimeSystem(what, options.served_model, voice=voice or "default")
        from ...acceleration import load_for_inference
        from ...checkpoint import checkpoint_directory

        with Progress(f"loading {what}"):
            device, dtype = choose_device(options)
            model = load_for_inference(what, None, dtype, device)
        folder = checkpoint_directory(what)
        if options.batch == 1:
            return local.LocalSystem(model, folder, seed=options.seed, voice=voice)
        several = batched.BatchedSystem(model, folder, batch=options.batch, seed=options.seed, voice=voice)
        return self._stack.enter_context(several)
