"""One card an item: what was asked and replied, to read and to hear, with the verdict and its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics import token_errors
from ..suites.normalizers import DEFAULTS, normalize
from .charts import timeline
from .html import isolated, text
from .sounds import Sounds

_RIGHT = 50.0  # points from which an item counts as right in the list
NAMES = {
    "t2t": "typed question, text",
    "s2t": "spoken question, text",
    "s2s": "spoken question, spoken reply",
    "s2s_text": "text of the spoken reply",
    "s2s_asr": "its sound, by an ASR",
    "asr": "transcript",
    "live": "live reply",
}


@dataclass(frozen=True)
class Verdict:
    """A verdict row and its points from 0 to 100; None where it says no one thing."""

    row: Mapping[str, Any]
    points: float | None


@dataclass(frozen=True)
class Card:
    """HTML of one item, and its state: right, wrong, failed or open (not judged)."""

    state: str
    html: str


def cards(
    rows: Sequence[Mapping[str, Any]],
    results: Path,
    points: Mapping[tuple[str, str], float],
    recordings: Mapping[str, Path],
    sounds: Sounds,
) -> Iterator[Card]:
    """Cards of all output rows. results: their file. points: of each item and setting, from 0 to 100. recordings: the
    questions' files by item, where they are there."""
    verdicts: dict[str, list[Verdict]] = {}
    for row in rows:
        if row["kind"] == "verdict":
            key = (str(row["id"]), str(row["setting"]))
            verdicts.setdefault(key[0], []).append(Verdict(row, points.get(key)))
    for row in rows:
        if row["kind"] == "output":
            recording = recordings.get(row["id"])
            yield _card(row, verdicts.get(row["id"], []), results.parent, recording, sounds)


def _card(
    row: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    folder: Path,
    recording: Path | None,
    sounds: Sounds,
) -> Card:
    state = _state(row, verdicts)
    question = str(row.get("question", "")) or row["id"]
    heading = "Spoken" if "asr" in row.get("replies", {}) else "Asked"
    parts = [f"<p><b>{heading}</b> {isolated(question)}</p>", sounds.player(recording, f"question {row['id']}")]
    references = row.get("references") or ()
    if references and heading == "Asked":
        listed = " · ".join(isolated(reference) for reference in references)
        parts.append(f"<p><b>Right</b> {listed}</p>")
    parts += _live(row, folder, sounds) if "segments" in row else _replies(row, folder, sounds)
    if "error" in row:
        parts.append(f'<p class="failed"><b>Failed</b> {isolated(row["error"])}</p>')
    parts += [_shown_verdict(verdict) for verdict in verdicts]
    summary = f'<span class="mark">{MARKS[state]}</span> {isolated(question[:140])} <code>{isolated(row["id"])}</code>'
    inner = "".join(parts)
    return Card(state, f'<details class="item {state}"><summary>{summary}</summary><div>{inner}</div></details>')


MARKS = {"right": "✓ right", "wrong": "✗ wrong", "failed": "! failed", "open": "– not judged"}


def _state(row: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Failed before wrong before right: a card shows the worst of its settings."""
    replies = row.get("replies", {})
    if "error" in row or any("error" in reply for reply in replies.values()):
        return "failed"
    if "asr" in replies:
        errors, _ = transcript_errors(row)
        return "wrong" if errors else "right"
    if not verdicts:
        return "open"
    return "right" if all((verdict.points or 0.0) >= _RIGHT for verdict in verdicts) else "wrong"


def transcript_errors(row: Mapping[str, Any]) -> tuple[int, int]:
    """Errors of a transcript and tokens of its reference, after the suite's normaliser."""
    name = DEFAULTS[row["language"]]
    reference = normalize(name, row["references"][0])
    hypothesis = normalize(name, str(row["replies"]["asr"].get("text", "")))
    (result,) = token_errors([reference], [hypothesis]) if reference else (None,)
    return (0, 0) if result is None else (result.errors, result.count)


def _replies(row: Mapping[str, Any], folder: Path, sounds: Sounds) -> list[str]:
    parts = []
    for kind, reply in row.get("replies", {}).items():
        name = NAMES.get(kind, kind)
        if "text" in reply:
            parts.append(f"<p><b>{text(name)}</b> {isolated(reply['text'])}</p>")
        if "error" in reply:
            parts.append(f'<p class="failed"><b>Failed</b> {isolated(reply["error"])}</p>')
        if reply.get("audio"):
            parts.append(sounds.player(folder / str(reply["audio"]), f"reply to {row['id']}"))
        if reply.get("asr") is not None:
            parts.append(f"<p><b>{text(NAMES['s2s_asr'])}</b> {isolated(reply['asr'])}</p>")
        for version, entry in reply.get("versions", {}).items():
            parts.append(f"<p><b>{text(version)}</b> {isolated(entry.get('asr') or '')} {_measures(entry)}</p>")
            parts.append(sounds.player(folder / str(entry["audio"]), f"{version} of {row['id']}"))
        if reply.get("measures"):
            parts.append(f"<p><b>Measures</b> {_measures(reply)}</p>")
        if "losses" in reply:
            listed = ", ".join(f"{loss:.3f}" for loss in reply["losses"])
            parts.append(f"<p><b>{text(name)}, nats a token, the right text first</b> {text(listed)}</p>")
        if kind == "asr":
            errors, count = transcript_errors(row)
            parts.append(f"<p><b>Verdict</b> {errors} errors of {count} words or characters</p>")
    return parts


def _measures(entry: Mapping[str, Any]) -> str:
    """Quality of a sound, as names and values."""
    return text(", ".join(f"{name} {value:.3g}" for name, value in entry.get("measures", {}).items()))


def _live(row: Mapping[str, Any], folder: Path, sounds: Sounds) -> list[str]:
    reply = "".join(str(piece) for _, piece in row["words"]).strip()
    parts = [f"<p><b>Reply</b> {isolated(reply) or 'nothing'}</p>"]
    parts.append(sounds.player(folder / str(row["audio"]), f"reply to {row['id']}"))
    parts.append(timeline(float(row["seconds"]), row.get("window"), row["segments"], row["cuts"]))
    times = [f"{name} {value:.2f} s" for name, value in _times(row).items()]
    if times:
        parts.append(f"<p><b>Times</b> {text(', '.join(times))}</p>")
    return parts


def _times(row: Mapping[str, Any]) -> dict[str, float]:
    from ..live.full_duplex import score

    outcomes = score(row) if "task" in row else {"response_s": row.get("response_s")}
    names = {"response_s": "response after", "stop_s": "stopped after"}
    times = {name: outcomes.get(key) for key, name in names.items()}
    times["sending at most behind"] = row.get("lag_s")
    return {name: float(value) for name, value in times.items() if value is not None}


def _shown_verdict(verdict: Verdict) -> str:
    setting, points = str(verdict.row["setting"]), verdict.points
    shown = "says no one thing" if points is None else f"{points:g} of 100"
    judge = text(verdict.row.get("model", ""))
    return (
        f"<p><b>Verdict, {text(NAMES.get(setting, setting))}</b> {shown}, by {judge}</p>"
        f'<p class="reason">{isolated(verdict.row["text"])}</p>'
    )
