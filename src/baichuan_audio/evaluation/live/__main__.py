"""`python -m baichuan_audio.evaluation.live SUITE DATA --checkpoint DIR --output FILE`: live figures, as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from ...errors import BaichuanAudioError
from ..judge import ApiJudge
from ..results import weights_digest
from .realtime import LiveClient
from .run import SUITES, run_live
from .serving import serving


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baichuan_audio.evaluation.live", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("data", type=Path, help="folder of the benchmark, as published")
    parser.add_argument("--output", type=Path, required=True, help="result file (.jsonl); an unfinished one goes on")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--checkpoint", type=Path, help="serve this model here, and measure it")
    system.add_argument("--url", help="measure the Realtime address: ws://127.0.0.1:8000/v1/realtime")
    parser.add_argument("--model", default="default", help="name of the model at --url")
    parser.add_argument("--voice", default="", help="voice of the replies")
    parser.add_argument("--silence-ms", type=int, default=500, help="silence that ends a turn (default: 500)")
    parser.add_argument("--sessions", type=int, default=4, help="recordings streamed at once (default: 4)")
    parser.add_argument("--judge-url", help="address of the judge; without it, short answers are matched")
    parser.add_argument("--judge-model", default="gpt-4o-mini")
    parser.add_argument("--judge-cache", type=Path, default=Path("judge-cache.jsonl"))
    parser.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), help="of a million tokens in, and out")
    parser.add_argument("--limit", type=int, help="items of each set")
    parser.add_argument("--strict", action="store_true", help="stop at the first problem of the data")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one live evaluation and print its figures as JSON; the rest goes to stderr. Returns the exit code."""
    options = _parser().parse_args(arguments)
    judge = None
    try:
        if options.judge_url:
            prices = tuple(options.prices)
            judge = ApiJudge(options.judge_url, options.judge_model, options.judge_cache, prices=prices)
        with contextlib.ExitStack() as stack:
            url, weights = options.url, ""
            if options.checkpoint:
                url = stack.enter_context(serving(options.checkpoint, options.sessions))
                weights = weights_digest(options.checkpoint)
            system = LiveClient(url, options.model, voice=options.voice, silence_ms=options.silence_ms, weights=weights)
            figures = run_live(
                options.suite,
                options.data,
                system,
                options.output,
                sessions=options.sessions,
                judge=judge,
                limit=options.limit,
                strict=options.strict,
                log=lambda sentence: print(sentence, file=sys.stderr),
            )
    except BaichuanAudioError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(figures, ensure_ascii=False, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
