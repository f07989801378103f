"""The results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
