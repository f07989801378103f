"""The results as Markdown tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import needed_library

_COLOURS = {"reference": "#b0b0b0", "optimized": "#1f77b4", "int8": "#2ca02c", "int4": "#9467bd", "fp8": "#ff7f0e"}


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of a result of `run.measure`."""
    model, machine, limits = result["model"], result["machine"], result["ceilings"]
    facts = [machine["cpu"], f"{machine['threads']} of {machine['cores']} cores", f"torch {machine['torch']}"]
    if "instructions" in machine:
        facts[0] += f" ({machine['instructions']})"
    if "gpu" in machine:
        facts.insert(0, machine["gpu"])
    if machine.get("native") is False:
        facts.append("no C compiler")
    load = f", load average {machine['load_average']}" if "load_average" in machine else ""
    lines = [
        f"### {model['name']}, {model['type']} on {model['device']}",
        "",
        f"{'; '.join(facts)}. {machine['date']}{load}. Medians of {result['repeats']} interleaved repeats (fewer of "
        f"long stages), quartiles in brackets. Memory copies at {limits['bytes_per_second'] / 1e9:.1f} GB/s, matrix "
        f"products run at {limits['operations_per_second'] / 1e12:.2f} Tflop/s.",
        "",
        *_stages(result["stages"]),
        "",
        *_real_time(result["stages"]),
        *_startup(result.get("startup")),
        *_memory(result["memory"]),
        *_parity(result["parity"]),
        *_flow_steps(result.get("flow_steps", [])),
    ]
    return "\n".join(lines).rstrip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in [head, rule, *rows]]


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _stages(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for stage in stages:
        for path, row in stage["paths"].items():
            spread = f"[{milliseconds(row['low'])}, {milliseconds(row['high'])}]"
            faster = f"{row['times_faster']:.1f}" if "times_faster" in row else ""
            cpu = f"{row['cpu_times_faster']:.1f}" if "cpu_times_faster" in row else ""
            floor = milliseconds(row["floor"]) if "floor" in row else ""
            above = f"{row['times_floor']:.1f}" if "floor" in row else ""
            shown = f"{milliseconds(row['median'])} {spread}"
            rows.append([f"{stage['title']}, ms per {stage['unit']}", path, shown, faster, cpu, floor, above])
    head = ["stage", "path", "time", "× reference", "× reference, CPU time", "floor", "× floor"]
    return table(head, rows)


def _real_time(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for stage in stages:
        timed = {path: row["rtf"] for path, row in stage["paths"].items() if "rtf" in row}
        rows += [[stage["title"], path, f"{rtf:.3f}", f"{1 / rtf:.1f}"] for path, rtf in timed.items()]
    return [*table(["stage", "path", "RTF", "× real time"], rows), ""] if rows else []


def _startup(startup: Mapping[str, float] | None) -> list[str]:
    if startup is None:
        return []
    seconds, cpu = f"{startup['seconds']:.1f} s", f"{startup['cpu']:.1f} s"
    return [f"From a new interpreter to a model that is ready: {seconds} ({cpu} of CPU time).", ""]


def _memory(memory: Mapping[str, Any]) -> list[str]:
    rows = [[name, f"{size / 1e6:.1f}"] for name, size in memory["parts"].items()]
    for path, parts in memory["paths"].items():
        rows += [[f"{name}, {path}", f"{size / 1e6:.1f}"] for name, size in parts.items()]
    rows.append(["keys and values of 1000 positions", f"{memory['position'] / 1e3:.1f}"])
    if "peak" in memory:
        rows.append(["peak of this run, all paths together", f"{memory['peak'] / 1e6:.0f}"])
    return [*table(["memory", "MB"], rows), ""]


def _parity(parity: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [
        [
            kind,
            f"{row['text_error']:.3f}",
            f"{row['text_agreement']:.1%}",
            f"{row['code_error']:.3f}",
            f"{row['code_agreement']:.1%}",
        ]
        for kind, row in parity.items()
    ]
    head = ["weights", "error of text logits", "same token", "error of code logits", "same code"]
    return [*table(head, rows), ""] if rows else []


def _flow_steps(rows: Sequence[Mapping[str, float]]) -> list[str]:
    shown = [[f"{row['steps']}", milliseconds(row["seconds"]), f"{row['error']:.4f}"] for row in rows]
    return [*table(["solver steps", "ms", "error of the mel against 32 steps"], shown), ""] if rows else []


def _pyplot() -> Any:
    with needed_library("plots need matplotlib: pip install 'baichuan-audio[plot]'"):
        import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def plot_paths(result: Mapping[str, Any], file: Path) -> None:
    """Time per unit of every stage that has a reference path, with quartiles, and the floor as a mark."""
    pyplot = _pyplot()
    stages = [stage for stage in result["stages"] if "reference" in stage["paths"]]
    paths = list(stages[0]["paths"])
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.34 * len(stages) * len(paths)))
    for number, stage in enumerate(stages):
        for index, path in enumerate(paths):
            row = stage["paths"][path]
            at = number + (index + 0.5) / len(paths) * 0.8 - 0.4
            value, low, high = (1e3 * row[key] for key in ("median", "low", "high"))
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            label = path if number == 0 else None
            axes.barh(at, value, 0.8 / len(paths), xerr=error, color=_COLOURS.get(path), label=label, ecolor="#404040")
            if "floor" in row:
                axes.plot(1e3 * row["floor"], at, "|", color="black", markersize=9)
    axes.set_yticks(range(len(stages)), [f"{stage['title']} (per {stage['unit']})" for stage in stages])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms (| = floor)")
    axes.set_title(result["model"]["name"])
    axes.legend(loc="upper right")  # the bars there are the shortest
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def plot_sweep(rows: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Time to first audio and real-time factor over the number of concurrent dialogues."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    sessions = [row["sessions"] for row in rows]
    for key, label in (("first_audio_p50", "median"), ("first_audio_p95", "95th percentile")):
        left.plot(sessions, [row[key] for row in rows], marker="o", label=label)
    left.set_ylabel("time to first audio, s")
    left.legend()
    right.plot(sessions, [row["rtf_p50"] for row in rows], marker="o", label="median")
    right.plot(sessions, [row["rtf_p95"] for row in rows], marker="o", label="95th percentile")
    right.axhline(1.0, color="#b0b0b0", linestyle="--")
    right.set_ylabel("RTF")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("concurrent dialogues")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sessions, [str(count) for count in sessions])
        axes.set_ylim(bottom=0)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
