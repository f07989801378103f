"""Fourteen faults in known places: how many of each a pipeline catches, and what it drops without reason."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ...data.pipeline.audio_access import Samples
from ...data.pipeline.engine.local import Executor
from ...data.pipeline.engine.outputs import read_lines
from ...data.pipeline.recipe import PipelineRecipe
from ...data.pipeline.run import RunResult, run_pipeline
from ...data.pipeline.spoken_units import join, units
from ...data.store.records import SAMPLE_RATE
from .clips import Clip, clipped, music, telephone

FAULTS = (
    "wrong transcript", "shifted transcript", "wrong language", "music", "two speakers", "clipped",
    "8 kHz upsampled", "looped words", "duplicate", "truncated", "zero bytes", "NaN", "0.05 s", "long",
)  # fmt: skip


@dataclass(frozen=True)
class FaultRow:
    """One fault: items, how many were caught, and by which stages with which reason."""

    fault: str
    items: int
    caught: int
    reasons: dict[str, int]


def write_faults(clips: Sequence[Clip], folder: Path, count: int, seed: int, long_s: float = 300.0) -> dict[str, str]:
    """Writes `count` items of each fault and as many clean ones as there are clips left, with a manifest; returns the
    fault of each id ("" for clean ones). Of "long" there is one item, `long_s` long, to be split and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    order = [clips[index] for index in rng.permutation(len(clips))]
    faults: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for fault in FAULTS:
        for number in range(1 if fault == "long" else count):
            clip, other = order.pop(), order[int(rng.integers(len(order)))]
            others = [c for c in order if c.language == clip.language and c.speaker != clip.speaker]
            other = others[int(rng.integers(len(others)))] if others else other
            name = f"{fault.replace(' ', '-').replace('.', '')}-{number:03d}"
            rows.append(_make(fault, name, clip, other, order, folder, rng, long_s))
            faults[name] = fault
    for number, clip in enumerate(order):
        name = f"clean-{number:04d}"
        rows.append(_row(clip, name, _write(folder / f"{name}.wav", clip.samples())))
        faults[name] = ""
        # A duplicate is a copy of a clean item in another codec and at another level.
        if number < count and f"duplicate-{number:03d}" in faults:
            copy = _write(folder / f"duplicate-{number:03d}.ogg", clip.samples() * np.float32(0.6))
            rows = [row for row in rows if row["id"] != f"duplicate-{number:03d}"]
            rows.append(_row(clip, f"duplicate-{number:03d}", copy))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return faults


def _make(
    fault: str,
    name: str,
    clip: Clip,
    other: Clip,
    pool: list[Clip],
    folder: Path,
    rng: np.random.Generator,
    long_s: float,
) -> dict[str, Any]:
    path, samples = folder / f"{name}.wav", clip.samples()
    change: dict[str, Any] = {}
    if fault == "wrong transcript":
        change["transcript"] = other.transcript
    elif fault == "shifted transcript":
        change["transcript"] = _shifted(clip, other)
    elif fault == "wrong language":
        change["language"] = "zh" if clip.language == "en" else "en"
    elif fault == "looped words":
        named = units(clip.transcript)
        change["transcript"] = join([clip.transcript[: named[min(3, len(named) - 1)].end]] * 6, clip.language)
    elif fault == "long":
        change |= {"transcript": None, "language": None}
    change_sound: dict[str, Callable[[], Samples]] = {
        "music": lambda: music(len(samples) / SAMPLE_RATE, rng),
        "two speakers": lambda: _two(samples, other.samples(), bool(rng.random() < 0.5)),
        "clipped": lambda: clipped(samples, 4.0),
        "8 kHz upsampled": lambda: telephone(samples),
        "NaN": lambda: np.where(np.arange(len(samples)) == len(samples) // 2, np.nan, samples).astype(np.float32),
        "0.05 s": lambda: samples[: SAMPLE_RATE // 20],
        "long": lambda: _long(pool, clip.language, long_s, rng),
    }
    path = _write(path, change_sound.get(fault, lambda: samples)(), "FLOAT" if fault == "NaN" else "PCM_16")
    if fault == "zero bytes":
        path.write_bytes(b"")
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    return {**_row(clip, name, path), **change}


def _two(first: Samples, second: Samples, at_once: bool) -> Samples:
    """The second voice over the first, or cutting in half-way."""
    if at_once:
        size = min(len(first), len(second))
        return 0.7 * (first[:size] + second[:size])
    return np.concatenate([first[: len(first) * 6 // 10], second[: len(second) * 6 // 10]])


def _shifted(clip: Clip, other: Clip) -> str:
    """As if the cut had been made too late: the first two fifths are missing, the next clip's stand at the end."""
    spoken, following = units(clip.transcript), units(other.transcript)
    rest = clip.transcript[spoken[len(spoken) * 2 // 5].first :]
    return join([rest, other.transcript[: following[len(following) * 2 // 5].end]], clip.language)


def _long(pool: list[Clip], language: str, seconds: float, rng: np.random.Generator) -> Samples:
    """Clips of one language that are used for nothing else, again and again if there are too few."""
    same = [clip for clip in pool if clip.language == language]
    chosen = same[: min(len(same) // 2, max(2, int(seconds / 6)))]
    for clip in chosen:
        pool.remove(clip)
    parts: list[Samples] = []
    length = 0
    while length < seconds * SAMPLE_RATE:
        parts += [
            chosen[int(rng.integers(len(chosen)))].samples(),
            np.zeros(int(rng.uniform(0.3, 1.5) * SAMPLE_RATE), np.float32),
        ]
        length += sum(len(part) for part in parts[-2:])
    return np.concatenate(parts)


def _write(path: Path, samples: Samples, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, SAMPLE_RATE, subtype=subtype if path.suffix == ".wav" else None)
    return path


def _row(clip: Clip, name: str, path: Path) -> dict[str, Any]:
    return {
        "id": name,
        "path": path.name,
        "language": clip.language,
        "speaker": clip.speaker,
        "transcript": clip.transcript,
        "license": clip.license,
        "source": clip.origin,
    }


def judge_faults(result: RunResult, faults: dict[str, str]) -> tuple[list[FaultRow], FaultRow]:
    """A row for each fault, and one for the clean items (`caught` are then false drops).

    An item counts as caught when nothing of it is left after the last stage before samples are made; the long one when
    it is neither dropped nor ends the run, but split.
    """
    caught: dict[str, int] = defaultdict(int)
    items: dict[str, int] = defaultdict(int)
    reasons: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, fault in faults.items():
        items[fault] += 1
        kept, why = _left(result, name)
        good = kept > 1 if fault == "long" else kept == 0
        if good:
            caught[fault] += 1
        if kept == 0:
            reasons[fault][": ".join(why.split(": ")[:2])] += 1  # without the numbers of the one file
    rows = [FaultRow(fault, items[fault], caught[fault], dict(reasons[fault])) for fault in FAULTS if items[fault]]
    return rows, FaultRow("clean", items[""], caught[""], dict(reasons[""]))


def _left(result: RunResult, source: str) -> tuple[int, str]:
    """Pieces that are left of a source, and the reason for the last that was dropped."""
    kept, why = 0, result.set_aside.get(source, "?")
    for stage, path in result.outputs.get(source, ()):
        if stage == "assemble":
            break
        kept = 0
        for state, row in read_lines(Path(path)):
            if state == "kept":
                kept += 1
            else:
                why = f"{stage}: {row['reason']}"
    return kept, why


def measure_faults(
    recipe: PipelineRecipe, faults: dict[str, str], executor: Executor
) -> tuple[list[FaultRow], FaultRow]:
    """Runs the recipe over what `write_faults` wrote and judges it."""
    return judge_faults(run_pipeline(recipe, executor), faults)


def faults_table(rows: Sequence[FaultRow], clean: FaultRow) -> str:
    """The rows as Markdown."""
    lines = ["| fault | items | caught | by |", "| --- | --- | --- | --- |"]
    for row in rows:
        by = ", ".join(f"{reason} {count}" for reason, count in sorted(row.reasons.items(), key=lambda item: -item[1]))
        lines.append(f"| {row.fault} | {row.items} | {row.caught / max(1, row.items):.2f} | {by or '-'} |")
    by = ", ".join(f"{reason} {count}" for reason, count in sorted(clean.reasons.items(), key=lambda item: -item[1]))
    lines.append(f"| clean items dropped | {clean.items} | {clean.caught / max(1, clean.items):.3f} | {by or '-'} |")
    return "\n".join(lines) + "\n"
