"""`python -m baichuan_audio.evaluation.judge MARKS.jsonl --judge-url URL`: how far a judge can be trusted, as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import BaichuanAudioError
from .agreement import measure_agreement, read_marks
from .api import ApiJudge, Judge, MatchJudge


def main(arguments: list[str] | None = None) -> int:
    """Measure a judge on marked answers and print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m baichuan_audio.evaluation.judge", description=__doc__)
    parser.add_argument("marks", type=Path, help="answers that a person marked (.jsonl)")
    parser.add_argument("--judge-url", help="address of the judge; without it, the offline match is measured")
    parser.add_argument("--judge-model", default="gpt-4o-mini")
    parser.add_argument("--judge-cache", type=Path, default=Path("judge-cache.jsonl"))
    parser.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), help="of a million tokens in, and out")
    parser.add_argument("--repeats", type=int, default=3, help="times that every answer is judged (default: 3)")
    options = parser.parse_args(arguments)
    try:
        marked = read_marks(options.marks)
        judges: Sequence[Judge] = [MatchJudge()]
        if options.judge_url:
            prices = tuple(options.prices)
            judges = [
                ApiJudge(options.judge_url, options.judge_model, options.judge_cache, prices=prices, repeat=repeat)
                for repeat in range(max(1, options.repeats))
            ]
            # Every answer once a repeat, once longer, and those with several references in two orders.
            asked = [(entry.item, entry.answer) for entry in marked]
            cost = judges[0].estimate(asked)
            print(f"each repeat: {cost.sentence()} Order and length take up to three more.", file=sys.stderr)
        print(json.dumps(measure_agreement(judges, marked), ensure_ascii=False, indent=1))
    except BaichuanAudioError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
