"""What the commands of `eval` share: their options, the data of a suite, and how figures are shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..common import in_clone, positive

if TYPE_CHECKING:
    from ...evaluation.judge.api import ApiJudge


def add_measuring(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what every command that measures a system takes -> the group of the options that name it."""
    command.add_argument("suites", nargs="+", metavar="SUITE", help="names from 'eval list', or 'all' that have data")
    command.add_argument(
        "--data",
        metavar="DIR",
        help="a folder for each suite, or the one suite's own (default: examples/evaluation of a clone)",
    )
    command.add_argument("--output", "-o", required=True, metavar="DIR", help="results; unfinished ones go on")
    command.add_argument("--limit", type=positive, metavar="N", help="items of each set")
    command.add_argument("--strict", action="store_true", help="stop at the first problem of the data")
    system = command.add_argument_group("system under test")
    system.add_argument("--served-model", default="default", metavar="NAME", help="name of the model at an address")
    system.add_argument("--voice", metavar="NAME", help="voice of spoken replies (default: the first)")
    return system


def add_judge(options: Any) -> None:
    """Add the options that name a judge."""
    options.add_argument("--judge-url", metavar="URL", help="judge; without it, replies are matched with references")
    options.add_argument("--judge-model", default="gpt-4o-mini", metavar="NAME", help="(default: %(default)s)")
    options.add_argument(
        "--judge-cache", metavar="FILE", help="verdicts so far (default: judge-cache.jsonl beside the results)"
    )
    options.add_argument(
        "--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="of 10^6 tokens"
    )


def api_judge(arguments: argparse.Namespace, folder: Path, repeat: int = 0) -> ApiJudge | None:
    """The judge at the address that is named, None without one. folder: of its cache by default."""
    from ...evaluation.judge.api import ApiJudge

    if not arguments.judge_url:
        return None
    cache = Path(arguments.judge_cache or folder / "judge-cache.jsonl")
    prices = tuple(arguments.prices)
    return ApiJudge(arguments.judge_url, arguments.judge_model, cache, prices=prices, repeat=repeat)


def chosen_data(arguments: argparse.Namespace, suites: Sequence[str]) -> dict[str, Path]:
    """Suite -> its folder, of the suites that are named. Raises ConfigError where one is unknown or has none."""
    root = bundle() if arguments.data is None else Path(arguments.data)
    if root is None:
        raise ConfigError("there is no bundled data here; name the folder with --data DIR.")
    names = list(suites) if arguments.suites == ["all"] else list(dict.fromkeys(arguments.suites))
    if unknown := [name for name in names if name not in suites]:
        raise ConfigError(f"there is no suite '{unknown[0]}'; there are {', '.join(suites)}, and 'all'.")
    folders = {name: folder for name in names if (folder := suite_data(root, name, len(names) == 1)) is not None}
    missing = [name for name in names if name not in folders]
    if missing and (not folders or arguments.suites != ["all"]):
        raise ConfigError(f"{root}: there is no folder '{missing[0]}' in it with that suite's data.")
    return folders


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


def bundle() -> Path | None:
    """examples/evaluation of a clone; None where there is none."""
    notes = in_clone("examples/evaluation/README.md")
    return None if notes is None else notes.parent


def finish(name: str, figures: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Write the figures of a suite beside its rows, and show them."""
    from ...data.store.atomic import write_text

    output = Path(arguments.output)
    write_text(output / f"{name}.json", json.dumps(figures, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    if not arguments.json:
        for line in figure_lines(figures):
            print(f"{name} {line}")
        print(f"{name}: all figures are in {output / f'{name}.json'}, every item in {output / f'{name}.jsonl'}.")


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
