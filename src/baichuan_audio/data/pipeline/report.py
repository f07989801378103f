"""One page about a run: hours, what each filter dropped and of which origin, distributions, speed, sounds to hear."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ...errors import BaichuanAudioError
from ..store.atomic import text_digest, write_text
from ..store.records import SAMPLE_RATE
from ..store.shards import ShardReader
from .audio_access import read_stretch
from .backends.speakers import unpack
from .engine.journal import stage_times
from .engine.outputs import read_lines
from .recipe import PipelineRecipe
from .run import load_run

_SOUNDS = 3  # of each reason and each kind
_BINS = 24
_HEARD_S = 12.0


@dataclass
class Voices:
    """The pieces of one speaker: seconds, ASR errors a unit against the text, embeddings."""

    seconds: float = 0.0
    errors: list[float] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)


@dataclass
class Tally:
    """What a run left, counted."""

    hours: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    dropped: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dropped_s: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    set_aside: dict[str, str] = field(default_factory=dict)
    voices: dict[str, Voices] = field(default_factory=lambda: defaultdict(Voices))


def tally(recipe: PipelineRecipe) -> Tally:
    """Counts the last run of a recipe. Raises DataError where there was none."""
    outputs, set_aside = load_run(recipe.work)
    totals = Tally(set_aside=set_aside)
    places: dict[str, dict[str, Any]] = {}
    for files in outputs.values():
        for stage, path in files:
            for state, row in read_lines(Path(path)):
                if state == "dropped":
                    key = (stage, _reason(row["reason"]))
                    totals.dropped[key][row["origin"]] += 1
                    totals.dropped_s[key] += round(row["seconds"])
                    if len(totals.examples[key]) < _SOUNDS:
                        totals.examples[key].append({**row, "place": places.get(row["id"])})
                elif "audio" in row and "start" in row:
                    places[row["id"]] = {name: row[name] for name in ("audio", "start", "end", "gain")}
                    if stage == "cut":
                        for name, value in row["scores"].items():
                            totals.scores[name].append(value)
                        totals.scores["seconds"].append((row["end"] - row["start"]) / SAMPLE_RATE)
                        _note_voice(totals.voices[row["speaker"] or "-"], row)
        places.clear()
    for entry in ShardReader(recipe.output).entries:
        for group, value in (("kind", entry.kind), ("language", entry.language), ("speaker", entry.speaker)):
            totals.hours[group][value or "-"] += entry.seconds
    return totals


def _note_voice(voice: Voices, row: Mapping[str, Any]) -> None:
    voice.seconds += (row["end"] - row["start"]) / SAMPLE_RATE
    if "disagreement" in row["scores"]:
        voice.errors.append(row["scores"]["disagreement"])
    if row["embedding"]:
        voice.embeddings.append(unpack(row["embedding"]))


def distinct_voices(totals: Tally, likeness: float = 0.7) -> int:
    """How many speakers are left when of any two whose mean embeddings have a cosine of `likeness` or more one goes."""
    chosen: list[np.ndarray] = []
    for _, voice in sorted(totals.voices.items()):
        if voice.embeddings:
            mean = np.mean(voice.embeddings, axis=0)
            mean = mean / max(float(np.linalg.norm(mean)), 1e-9)
            if all(float(mean @ other) < likeness for other in chosen):
                chosen.append(mean)
    return len(chosen)


def write_report(recipe: PipelineRecipe, output: str | Path) -> Tally:
    """Writes the page (one file, its sounds inside) and returns what it counts."""
    totals = tally(recipe)
    body = [
        f"<h1>Data: {html.escape(recipe.input)}</h1>",
        "<h2>Hours</h2>",
        *(_hours(group, totals.hours[group]) for group in ("kind", "language", "speaker")),
        "<h2>Dropped</h2>",
        _dropped(totals),
        "<h2>Set aside</h2>",
        _table(("source", "reason"), sorted(totals.set_aside.items())),
        f"<h2>Speakers and timbres ({distinct_voices(totals)} distinct)</h2>",
        _voices(totals),
        "<h2>Distributions of what was kept</h2>",
        *(_histogram(name, values) for name, values in sorted(totals.scores.items())),
        "<h2>Speed</h2>",
        _speed(Path(recipe.work)),
        "<h2>To hear: dropped</h2>",
        *_dropped_sounds(totals, Path(recipe.work) / "recordings"),
        "<h2>To hear: samples</h2>",
        *_sample_sounds(ShardReader(recipe.output)),
    ]
    write_text(Path(output), _PAGE.format(body="\n".join(body)))
    return totals


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Training data</title>
<style>body{{font:14px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}}
table{{border-collapse:collapse;margin:.5rem 0 1rem}}td,th{{border:1px solid #ccc;padding:.15rem .5rem;text-align:left}}
td.n{{text-align:right}}figure{{display:inline-block;margin:.5rem}}audio{{height:2rem;vertical-align:middle}}</style>
{body}</html>
"""


def _reason(text: str) -> str:
    """A reason without the figures in it, so that equal ones are counted together."""
    return text.partition(":")[0]


def _hours(group: str, seconds: Mapping[str, float]) -> str:
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    shown: list[tuple[str, ...]] = [(name, f"{value / 3600:.3f}") for name, value in rows[:30]]
    if len(rows) > 30:
        shown.append((f"{len(rows) - 30} more", f"{sum(value for _, value in rows[30:]) / 3600:.3f}"))
    return _table((group, "hours"), shown)


def _dropped(totals: Tally) -> str:
    origins = sorted({origin for counts in totals.dropped.values() for origin in counts})
    rows = [
        (
            stage,
            reason,
            str(sum(counts.values())),
            f"{totals.dropped_s[stage, reason] / 3600:.3f}",
            *(str(counts[origin]) for origin in origins),
        )
        for (stage, reason), counts in sorted(totals.dropped.items())
    ]
    return _table(("stage", "reason", "records", "hours", *origins), rows)


def _voices(totals: Tally) -> str:
    rows = [
        (name, f"{voice.seconds / 3600:.3f}", f"{np.mean(voice.errors):.3f}" if voice.errors else "-")
        for name, voice in sorted(totals.voices.items(), key=lambda item: -item[1].seconds)[:60]
    ]
    return _table(("speaker", "hours", "ASR errors a unit"), rows)


def _speed(work: Path) -> str:
    rows = [
        (stage, f"{time.took:.1f}", f"{time.cpu:.1f}", f"{time.audio / time.took:.1f}" if time.took else "-")
        for stage, time in sorted(stage_times(work).items())
    ]
    return _table(("stage", "wall seconds", "CPU seconds", "x real time"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = [f'<td class="{"n" if _number(cell) else ""}">{html.escape(cell)}</td>' for cell in row]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _histogram(name: str, values: Sequence[float]) -> str:
    counts, edges = np.histogram(values, bins=_BINS)
    top = max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{10 * i}" y="{60 - 60 * count / top:.1f}" width="9" height="{60 * count / top:.1f}" fill="#357"/>'
        for i, count in enumerate(counts.tolist())
    )
    median = float(np.median(values))
    caption = f"{html.escape(name)}: {edges[0]:.3g} to {edges[-1]:.3g}, median {median:.3g}, n {len(values)}"
    return f'<figure><svg width="{10 * _BINS}" height="60">{bars}</svg><figcaption>{caption}</figcaption></figure>'


def _dropped_sounds(totals: Tally, recordings: Path) -> list[str]:
    lines = []
    for (stage, reason), rows in sorted(totals.examples.items()):
        for row in rows:
            sound, region = "", row["place"]
            if region is not None:
                end = min(region["end"], region["start"] + round(_HEARD_S * SAMPLE_RATE))
                try:
                    waveform = read_stretch(recordings, region["audio"], region["start"], end, region["gain"])
                    sound = _sound(waveform)
                except BaichuanAudioError:  # the recordings of an older run may be gone
                    sound = ""
            text = html.escape(f"{stage}: {reason}; {row['id']} {row['detail'][:160]}")
            lines.append(f"<p>{sound} {text}</p>")
    return lines


def _sample_sounds(reader: ShardReader) -> list[str]:
    lines = []
    chosen: Counter[str] = Counter()
    for entry in sorted(reader.entries, key=lambda entry: text_digest("hear", entry.id)):
        if chosen[entry.kind] >= _SOUNDS or "flac" not in entry.members:
            continue
        chosen[entry.kind] += 1
        sample = reader.sample(entry)
        texts = " | ".join(segment.text.strip() for segment in sample.segments if segment.kind == "text")
        sound = _sound(reader.waveform(entry)[: round(_HEARD_S * SAMPLE_RATE)])
        lines.append(f"<p>{sound} <b>{entry.kind}</b> {html.escape(entry.id)}<br>{html.escape(texts[:300])}</p>")
    return lines


def _sound(waveform: np.ndarray) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<audio controls preload="none" src="data:audio/ogg;base64,{data}"></audio>'


def as_json(totals: Tally) -> str:
    """The page's figures for a program."""
    dropped = {f"{stage}: {reason}": dict(counts) for (stage, reason), counts in sorted(totals.dropped.items())}
    hours = {group: {name: round(s / 3600, 5) for name, s in counts.items()} for group, counts in totals.hours.items()}
    errors = {name: round(float(np.mean(v.errors)), 4) for name, v in sorted(totals.voices.items()) if v.errors}
    voices = {"distinct": distinct_voices(totals), "errors": errors}
    facts = {"hours": hours, "dropped": dropped, "set_aside": totals.set_aside, "voices": voices}
    return json.dumps(facts, ensure_ascii=False)
