"""One static HTML page of result files: figures beside published ones, plots, and every item to hear and see.

The page loads nothing from elsewhere and runs no script; its content security policy says so to the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..live import run as live
from ..live import summary as live_summary
from ..results import EvaluationError, read_results
from ..suites.registry import SUITES
from ..suites.scoring import strict_points
from .charts import Interval, interval_chart, time_chart
from .html import breakable, isolated, table, text
from .items import MARKS, NAMES, Card, cards
from .published import Column, PublishedTable, published
from .sounds import Sounds

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data: 'self' file:; img-src data:"
_WORDS = {
    "error_rate": "error rate",
    "response_s": "response time",
    "stop_s": "time to stop",
    "taken_over": "taken over",
    "false_alarms": "false alarms in pauses",
    "model_was_speaking": "sessions in which the model was speaking",
    "interruption_success": "interruptions that succeeded",
    "backchannels_per_s": "backchannels a second",
    "official": "official",
    "strict": "strict",
    "mcnemar_p": "McNemar p",
    "not_judged": "not judged",
    "left_out": "left out",
    "empty_references": "empty references",
    "empty_transcripts": "empty transcripts",
    **NAMES,
}
_TIMES = ("response_s", "stop_s")
_COUNTS = ("counted", "left_out", "pairs")


def write_report(
    results: Sequence[Path],
    page: Path,
    *,
    data: Mapping[str, Path] | None = None,
    embed: bool = True,
    title: str = "Evaluation",
    log: Callable[[str], None] = print,
) -> None:
    """Write the report of `results` to `page`.

    data: by suite, the folder of its benchmark, whose questions can then be heard. embed: put sounds into the page, so
    that it is one file; else link them. Raises EvaluationError for a file that is no result, or of an unknown suite.
    """
    sounds = Sounds(page, embed)
    page.parent.mkdir(parents=True, exist_ok=True)
    sections = [_section(number, path, data or {}, sounds) for number, path in enumerate(results, 1)]
    links = "".join(f'<li><a href="#s{number}">{text(name)}</a></li>' for number, (name, _) in enumerate(sections, 1))
    body = "".join(content for _, content in sections)
    page.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{_CSS}</style></head><body>'
        f"<header><h1>{isolated(title)}</h1><nav aria-label='Result files'><ul>{links}</ul></nav></header>"
        f"<main>{body}</main><footer><p class='note'>Intervals are 95 %, clustered by question and voice. "
        "Published figures come from other judges, prompts and normalisers.</p></footer></body></html>\n",
        encoding="utf-8",
    )
    size = page.stat().st_size / 1e6
    log(f"{page}: {size:.1f} MB.")
    if size > 50:
        log("A browser takes long to open so much; --link leaves the sounds beside the page.")


def figures_of(path: Path, suite: str) -> dict[str, Any]:
    """The figures of a result file, by its suite."""
    if suite in live.SUITES:
        return live_summary.summarize(path)
    if suite not in SUITES:
        raise EvaluationError(f"{path}: there is no suite '{suite}' in this version.")
    return SUITES[suite].score(path)


def points_of(path: Path, suite: str, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Points from 0 to 100 of every judged item and setting; what failed is not among them."""
    if suite in live.SUITES:
        verdicts = (row for row in rows if row["kind"] == "verdict")
        shares = {(row["id"], row["setting"]): strict_points("json", str(row["text"])) for row in verdicts}
        return {key: value for key, value in shares.items() if value is not None}
    if not SUITES[suite].judged:
        return {}
    units = SUITES[suite].units(path)
    return {
        (item, figure.rpartition(" ")[2]): 100 * unit.hits / unit.size
        for figure, members in units.items()
        for item, unit in members.items()
    }


def _section(number: int, path: Path, data: Mapping[str, Path], sounds: Sounds) -> tuple[str, str]:
    header, rows = read_results(path)
    suite = str(header["suite"])
    sets = figures_of(path, suite)["sets"]
    recordings = _recordings(suite, data[suite]) if suite in data else {}
    name = suite if path.stem == suite else f"{suite}: {path.name}"
    parts = [f'<section id="s{number}" aria-labelledby="h{number}"><h2 id="h{number}">{isolated(name)}</h2>']
    parts.append(_provenance(header))
    parts += [_published(entry, sets) for entry in published(suite)]
    parts.append(_figures(sets))
    parts.append(_plots(sets))
    parts.append(_items(number, list(cards(rows, path, points_of(path, suite, rows), recordings, sounds))))
    return name, "".join(parts) + "</section>"


def _recordings(suite: str, folder: Path) -> dict[str, Path]:
    benchmark = live.load_benchmark(suite, folder) if suite in live.SUITES else SUITES[suite].load(folder, False)
    return {item.id: item.audio for item in benchmark.items if item.audio is not None}


def _provenance(header: Mapping[str, Any]) -> str:
    """What the figures rest on."""
    rows = [[text(name), isolated(_flat(value))] for name, value in header.items() if name not in ("kind", "format")]
    return f"<details><summary>What these figures rest on</summary>{table(['input', 'value'], rows)}</details>"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_flat(entry)}" for key, entry in value.items() if entry not in ("", None, {}))
    if isinstance(value, list):
        return "; ".join(map(_flat, value))
    return str(value)


def leaves(figures: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every figure of a nested mapping with the names that lead to it; an estimate and a list are one figure."""
    for name, value in figures.items():
        here = (*path, str(name))
        if isinstance(value, Mapping) and not {"value", "p50"} & set(value):
            yield from leaves(value, here)
        elif name == "speech_tax":
            for tax in value:
                yield (*path, "speech tax", f"{tax['from']} → {tax['to']}"), tax["difference"]
        elif value is not None:
            yield here, value


def _figures(sets: Mapping[str, Any]) -> str:
    """One table of all figures: a row each, a column a set."""
    columns = {name: {_label(path): _cell(value) for path, value in leaves(figures)} for name, figures in sets.items()}
    labels = dict.fromkeys(label for figures in columns.values() for label in figures)
    rows = [[text(label), *(figures.get(label, "") for figures in columns.values())] for label in labels]
    return table(["", *map(breakable, columns)], rows, "All figures")


def _label(path: Sequence[str]) -> str:
    shown = [part for part in path if part != "settings"]
    return ", ".join(_WORDS.get(part, part) for part in shown)


def _cell(value: Any) -> str:
    """A figure with its interval and number of items."""
    if isinstance(value, Mapping) and "p50" in value:
        return _lines(f"{value['p50']:.2f} s", f"p95 {value['p95']:.2f} s, n {value['items']}")
    if isinstance(value, Mapping):
        shown = "–" if value["value"] is None else f"{value['value']:.1f}"
        if "low" not in value:
            counts = [f"{value[name]} {_WORDS.get(name, name)}" for name in _COUNTS if name in value]
            return _lines(shown, ", ".join(counts))
        low, high = value["low"], value["high"]
        interval = "no interval" if low is None or high is None else f"{low:.1f} to {high:.1f}"
        return _lines(shown, f"{interval}, n {value['items']}")
    if isinstance(value, list):
        return _lines(str(len(value)), ", ".join(map(str, value[:3])) + (" …" if len(value) > 3 else ""))
    return text(f"{value:g}" if isinstance(value, float) else value)


def _lines(first: str, second: str) -> str:
    return f"{text(first)}<small>{isolated(second)}</small>" if second else text(first)


def _plots(sets: Mapping[str, Any]) -> str:
    intervals, times = [], []
    for name, figures in sets.items():
        for path, value in leaves(figures):
            label = f"{name}: {_label(path)}"
            if isinstance(value, Mapping) and {"value", "low"} <= set(value) and "speech tax" not in path:
                intervals.append(Interval(label, value["value"], value["low"], value["high"]))
            elif path[-1] in _TIMES and isinstance(value, Mapping):
                times.append((label, [value["p50"], value["p95"]]))
    plots = [
        interval_chart(intervals, "Figures with their 95 % intervals"),
        time_chart(times, "Seconds: median and 95th percentile"),
    ]
    return "".join(f'<div class="plot" tabindex="0">{plot}</div>' for plot in plots if plot)


def _published(entry: PublishedTable, sets: Mapping[str, Any]) -> str:
    """Measured figures first, then what others published; "" where nothing was measured that it has."""
    measured = [_measured(column, sets) for column in entry.columns]
    if all(value is None for value in measured):
        return ""
    header = ["system", "setting", *(text(column.title) for column in entry.columns)]
    rows = [("<b>measured here</b>", entry.measured_setting, measured)]
    rows += [(text(system), setting, list(values)) for system, setting, values in entry.rows]
    shown = [[system, text(setting), *map(_number, values)] for system, setting, values in rows]
    sources = "; ".join(text(source) for source in entry.sources)
    caption = f"{text(entry.title)}, {text(entry.unit)}. Sources: {sources}."
    return table(header, shown, caption)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}" if value < 10 else f"{value:.1f}"


def _measured(column: Column, sets: Mapping[str, Any]) -> float | None:
    names = list(sets) if column.path[0] == "*" else [column.path[0]]
    known = [(value, sets[name].get("items", 1)) for name in names if (value := _at(sets.get(name), column.path[1:]))]
    if not known:
        return None if not any(_at(sets.get(name), column.path[1:]) == 0 for name in names) else 0.0
    total = sum(items if isinstance(items, int) else 1 for _, items in known)
    return sum(value * (items if isinstance(items, int) else 1) for value, items in known) / total


def _at(figures: Any, path: Sequence[str]) -> float | None:
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return figures if isinstance(figures, int | float) else None


def _items(number: int, shown: Sequence[Card]) -> str:
    counts = {state: sum(card.state == state for card in shown) for state in MARKS}
    choices = "".join(
        f'<label><input type="radio" name="show{number}" value="{state}"> {text(MARKS[state][2:])} ({count})</label>'
        for state, count in counts.items()
        if count and state != "open"
    )
    every = f'<label><input type="radio" name="show{number}" value="all" checked> all ({len(shown)})</label>'
    fieldset = f"<fieldset><legend>Items</legend>{every}{choices}</fieldset>"
    return f"<h3>Every item</h3>{fieldset}" + "".join(card.html for card in shown)
