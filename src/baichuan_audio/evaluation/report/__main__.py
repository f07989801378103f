"""`python -m baichuan_audio.evaluation.report PAGE.html RESULT.jsonl ... --data SUITE=FOLDER`: one HTML report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import BaichuanAudioError, ConfigError
from .page import write_report


def main(arguments: list[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m baichuan_audio.evaluation.report", description=__doc__)
    parser.add_argument("page", type=Path, help="HTML file to write")
    parser.add_argument("results", type=Path, nargs="+", help="result files (.jsonl)")
    parser.add_argument("--data", nargs="+", default=[], metavar="SUITE=FOLDER", help="to hear the questions too")
    parser.add_argument("--link", action="store_true", help="link the sounds instead of putting them into the page")
    parser.add_argument("--title", default="Evaluation")
    options = parser.parse_args(arguments)
    try:
        folders = dict(_folder(entry) for entry in options.data)
        write_report(options.results, options.page, data=folders, embed=not options.link, title=options.title)
    except BaichuanAudioError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _folder(entry: str) -> tuple[str, Path]:
    suite, equals, folder = entry.partition("=")
    if not equals:
        raise ConfigError(f"'{entry}' is no SUITE=FOLDER; write for example openaudiobench=OpenAudioBench.")
    return suite, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
