"""The command: trains the tiny models of 3 seeds, keeps finished runs, prints mean and deviation."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from studies import STUDIES, Rows
from workspace import Workspace

from baichuan_audio.errors import BaichuanAudioError

SEEDS = (1, 2, 3)


def run_study(name: str, work: Workspace, recogniser: str, minutes: float | None = None) -> list[Rows] | None:
    """The rows of all runs; None where `minutes` were over before the last one began."""
    study, results, start = STUDIES[name], list[Rows](), time.monotonic()
    folder = work.root / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        for variant in study.variants:
            file = folder / f"{name}-{variant.replace(' ', '_')}-{seed}.json"
            if not file.is_file():
                if minutes is not None and time.monotonic() - start > 60 * minutes:
                    return None
                rows = study.run(work, variant, seed, recogniser)
                file.write_text(json.dumps(rows), encoding="utf-8")
            results.append(json.loads(file.read_text(encoding="utf-8")))
    return results


def table(results: list[Rows]) -> str:
    """Markdown: a line for each row, mean ± standard deviation over the seeds in each column."""
    values: dict[str, dict[str, list[float]]] = {}
    for rows in results:
        for row, metrics in rows.items():
            for metric, value in metrics.items():
                values.setdefault(row, {}).setdefault(metric, []).append(value)
    metrics = list(next(iter(values.values())))
    lines = ["| | " + " | ".join(metrics) + " |", "| --- " * (len(metrics) + 1) + "|"]
    for row, columns in values.items():
        cells = [f"{statistics.mean(columns[name]):.3g} ± {statistics.stdev(columns[name]):.2g}" for name in metrics]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="run.py", description="Train and compare tiny models; a stopped study goes on."
    )
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument("--clips", type=Path, default=Path("work/nano/audio"), help="clip store (default: %(default)s)")
    parser.add_argument("--base", type=Path, default=Path("models/nano"), help="(default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("work/ablations"), help="(default: %(default)s)")
    parser.add_argument("--recogniser", default="whisper:base", help="of study decoder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin no further run after this time; call again to go on")
    arguments = parser.parse_args()
    work = Workspace(arguments.work, arguments.clips, arguments.base)
    try:
        results = run_study(arguments.study, work, arguments.recogniser, arguments.minutes)
    except BaichuanAudioError as error:
        print(error, file=sys.stderr)
        return 2
    if results is None:
        print("time is over; the same command goes on", file=sys.stderr)
        return os.EX_TEMPFAIL
    print(f"{STUDIES[arguments.study].question}, {len(SEEDS)} seeds\n\n{table(results)}")
    return 0
