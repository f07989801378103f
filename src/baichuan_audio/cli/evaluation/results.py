"""eval compare, power, judge, report, list: what is done with results, and with those who judge them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..common import add_command, positive, print_json, show
from .shared import add_judge, api_judge, bundle, suite_data

if TYPE_CHECKING:
    from ...evaluation.judge.api import Judge


def add_compare(group: Any) -> None:
    """Add the command to the group."""
    compare = add_command(group, "compare", run_compare, "Compare two evaluations item by item.", model=False)
    compare.add_argument("first", help="result file, or a folder of them")
    compare.add_argument("second", help="likewise; differences are second minus first")


def run_compare(arguments: argparse.Namespace) -> None:
    from ...evaluation.suites.registry import SUITES
    from ...evaluation.suites.scores.compare import compare_results

    first, second = Path(arguments.first), Path(arguments.second)
    pairs = [(first, second)]
    if first.is_dir() and second.is_dir():
        paths = [path for path in _result_files(first) if path.stem in SUITES]  # live conversation has no pairs
        pairs = [(path, other) for path in paths if (other := second / path.name).is_file()]
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


def add_power(group: Any) -> None:
    """Add the command to the group."""
    power = add_command(group, "power", run_power, "Say how many items it takes to find a difference.", model=False)
    power.add_argument("--points", type=float, nargs="+", default=[1.0, 2.0, 5.0], metavar="P", help="(default: 1 2 5)")
    power.add_argument(
        "--discordant", type=float, nargs="+", default=[0.1, 0.2, 0.3], metavar="SHARE",
        help="share of items that one system has right and the other wrong (default: 0.1 0.2 0.3)",
    )  # fmt: skip
    power.add_argument("--power", type=float, default=0.8, metavar="SHARE", help="(default: %(default)s)")
    power.add_argument("--results", nargs=2, metavar="FILE", help="take the share from these two result files")


def run_power(arguments: argparse.Namespace) -> None:
    from ...evaluation.suites.scores.compare import compare_results, power_table

    shares = arguments.discordant
    if arguments.results:
        measured = [row.discordant for row in compare_results(*map(Path, arguments.results)) if row.discordant]
        if not measured:
            raise ConfigError("these result files have no figure of right and wrong items that differ.")
        shares = sorted(set(measured))
    rows = power_table(arguments.points, shares, arguments.power)
    lines = []
    for row in rows:
        needed = "impossible: systems differ on fewer" if row["items"] is None else f"{row['items']} items"
        lines.append(f"{row['points']:g} points, differing on {100 * row['discordant']:.3g} % of the items: {needed}")
    show(arguments, rows, "\n".join(lines))


def add_judged(group: Any) -> None:
    """Add the command to the group."""
    judge = add_command(group, "judge", run_judge, "Say how far a judge can be trusted.", model=False)
    judge.add_argument(
        "marks", nargs="?", metavar="FILE", help="answers that a person marked (default: those of a clone)"
    )
    judge.add_argument(
        "--repeats",
        type=positive,
        default=3,
        metavar="N",
        help="times that a judge at an address is asked (default: 3)",
    )
    add_judge(judge)


def run_judge(arguments: argparse.Namespace) -> None:
    from ...evaluation.judge.agreement import measure_agreement, read_marks
    from ...evaluation.judge.api import MatchJudge

    folder = bundle()
    if arguments.marks is None and folder is None:
        raise ConfigError("there are no bundled marks here; name a file of marked answers.")
    marked = read_marks(
        Path(arguments.marks) if folder is None else Path(arguments.marks or folder / "judge/marks.jsonl")
    )
    asked = [api_judge(arguments, Path(), repeat) for repeat in range(arguments.repeats)]
    judges: Sequence[Judge] = [judge for judge in asked if judge is not None] or [MatchJudge()]
    if arguments.judge_url:
        # Every answer once a repeat, once longer, and those with several references in two orders.
        cost = judges[0].estimate([(entry.item, entry.answer) for entry in marked])
        print(f"each repeat: {cost.sentence()} Order and length take up to three more.", file=sys.stderr)
    figures = measure_agreement(judges, marked)
    if arguments.json:
        print_json(figures)
        return
    print(f"{figures['answers']} answers, judged {figures['repeats']} times: kappa with people {figures['kappa']:.2f}")
    for source, entry in figures["kappa_by_source"].items():
        print(f"{source or 'no source'}: {entry['answers']} answers, kappa {entry['kappa']:.2f}")
    for name in ("precision", "recall"):
        print(f"{name}: {'none' if figures[name] is None else format(figures[name], '.2f')}")
    order, length = figures["order"], figures["length"]
    print(f"verdicts that flip: {figures['flips']}; that say no one thing: {figures['unparsed']}")
    print(f"verdicts that the order of the references changes: {order['changed']} of {order['answers']}")
    print(
        f"verdicts that a sentence without content changes: {length['made_right']} to right, {length['made_wrong']} to "
        f"wrong, of {length['answers']}"
    )


def add_report(group: Any) -> None:
    """Add the command to the group."""
    report = add_command(
        group, "report", run_report, "Write results as one HTML page.", model=False, machine_readable=False
    )
    report.add_argument("results", nargs="+", metavar="PATH", help="result files (.jsonl), or folders of them")
    report.add_argument("--output", "-o", required=True, metavar="FILE", help="HTML page to write")
    report.add_argument("--data", metavar="DIR", help="a folder for each suite, to hear the questions too")
    report.add_argument("--link", action="store_true", help="link the sounds instead of putting them into the page")
    report.add_argument("--title", default="Evaluation", metavar="TEXT", help="(default: %(default)s)")


def run_report(arguments: argparse.Namespace) -> None:
    from ...evaluation.report.page import write_report
    from ...evaluation.results import read_results

    paths = [path for name in arguments.results for path in _result_files(Path(name))]
    suites = {str(read_results(path)[0]["suite"]) for path in paths}
    folders = {name: suite_data(Path(arguments.data), name, len(suites) == 1) for name in suites if arguments.data}
    data = {name: folder for name, folder in folders.items() if folder is not None}
    write_report(paths, Path(arguments.output), data=data, embed=not arguments.link, title=arguments.title)


def _result_files(path: Path) -> list[Path]:
    """The file, or the result files of the folder."""
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.glob("*.jsonl")) if not file.name.startswith("judge-cache")]
    if not files:
        raise ConfigError(f"{path}: there is no result file in this folder.")
    return files


def add_list(group: Any) -> None:
    """Add the command to the group."""
    add_command(group, "list", run_list, "List the suites.", model=False)


def run_list(arguments: argparse.Namespace) -> None:
    from ...evaluation.suites.registry import SUITES

    facts = {
        name: {"layout": suite.layout, "figure": suite.figure, "settings": suite.settings}
        for name, suite in SUITES.items()
    }
    lines = [
        f"{name}: {suite.figure}\n    data: {suite.layout}\n    settings: {' '.join(suite.settings)}"
        for name, suite in SUITES.items()
    ]
    show(arguments, facts, "\n".join(lines))
