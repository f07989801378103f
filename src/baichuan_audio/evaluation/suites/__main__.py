"""`python -m baichuan_audio.evaluation.suites SUITE DATA --checkpoint DIR --output FILE`: one evaluation, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...errors import BaichuanAudioError
from ..judge import ApiJudge, Judge, MatchJudge
from ..systems import LocalSystem, RecordedSystem, ServerSystem, System, WhisperRecogniser
from .run import SUITES, run_suite
from .summary import SETTINGS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baichuan_audio.evaluation.suites", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("data", type=Path, help="folder of the benchmark, as published")
    parser.add_argument("--output", type=Path, required=True, help="result file (.jsonl); an unfinished one goes on")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--checkpoint", type=Path, help="measure this model")
    system.add_argument("--base-url", help="measure the OpenAI-compatible server at this address (with /v1)")
    system.add_argument("--recorded", type=Path, help="judge the replies of this result file anew")
    parser.add_argument("--model", default="default", help="name of the model at --base-url")
    parser.add_argument("--judge-url", help="address of the judge; without it, replies are matched with references")
    parser.add_argument("--judge-model", default="gpt-4o-mini")
    parser.add_argument("--judge-cache", type=Path, default=Path("judge-cache.jsonl"))
    parser.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), help="of a million tokens in, and out")
    parser.add_argument("--whisper", help="Whisper that reads spoken replies back: a size or a folder")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: s2t, with --whisper also s2s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="requests at once to a server")
    parser.add_argument("--limit", type=int, help="items of each set")
    parser.add_argument("--strict", action="store_true", help="stop at the first problem of the data")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one evaluation and print its figures as JSON; problems go to stderr. Returns the exit code."""
    options = _parser().parse_args(arguments)
    spoken = ("s2s_text", "s2s_asr") if options.whisper else ()
    try:
        figures = run_suite(
            options.suite,
            options.data,
            _system(options),
            options.output,
            judge=_judge(options),
            recogniser=WhisperRecogniser(options.whisper) if options.whisper else None,
            settings=options.settings or ("s2t", *spoken),
            workers=1 if options.checkpoint else options.workers,
            limit=options.limit,
            strict=options.strict,
            log=lambda sentence: print(sentence, file=sys.stderr),
        )
    except BaichuanAudioError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(figures, ensure_ascii=False, indent=1))
    return 0


def _system(options: argparse.Namespace) -> System:
    if options.recorded:
        return RecordedSystem(options.recorded)
    if options.base_url:
        return ServerSystem(options.base_url, options.model, seed=options.seed)
    from ...checkpoint import load

    return LocalSystem(load(options.checkpoint), options.checkpoint, seed=options.seed)


def _judge(options: argparse.Namespace) -> Judge:
    if not options.judge_url:
        return MatchJudge()
    return ApiJudge(options.judge_url, options.judge_model, options.judge_cache, prices=tuple(options.prices))


if __name__ == "__main__":
    sys.exit(main())
