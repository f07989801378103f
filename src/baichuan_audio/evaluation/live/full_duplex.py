"""Full-Duplex-Bench v1.0 and v1.5 in their published layout, and what a session's record says about each task.

Layout: `v1_0/<source>_<task>/<id>/` with `input.wav` and `pause.json`, `turn_taking.json` or `interrupt.json`;
`v1_5/<task>/<id>/` with `input.wav`, `clean_input.wav` and `metadata.json`. Recordings may also be FLAC or Opus.
Sources: arXiv 2503.04721 and 2507.23159; the rule of taking over is that of the published evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..suites.items import AUDIO_SUFFIXES, audio_problem, named, read_text
from .timeline import MERGE_GAP_S, count_words

NAME = "full_duplex_bench"
VERSION = "1"
V1_TASKS = {
    "pause_handling": "pause.json",
    "turn_taking": "turn_taking.json",
    "backchannel": "",
    "user_interruption": "interrupt.json",
}
"""Tasks of v1.0 with their annotations; a folder's name ends with its task."""
OVERLAPS = ("user_interruption", "user_backchannel", "talking_to_other", "background_speech")
"""Tasks of v1.5: what sounds while the model speaks. Only the first is meant for it."""
_SHORT_S = 1.0
_FEW_WORDS = 3
_FORMAL_S = 3.0  # speech longer than this takes over, whatever its words (the published rule for backchannels)
_BACKCHANNEL_WORDS = 2
_STOP_S = 2.0  # after the end of an interruption, until when a reply that stops has stopped because of it


@dataclass(frozen=True)
class LiveItem:
    """One recording. task: of V1_TASKS or OVERLAPS. window: seconds of the pause, of the turn's end, or of the overlap;
    None where the task has none. text: what is known of its words."""

    id: str
    subset: str
    task: str
    audio: Path
    window: tuple[float, float] | None
    text: str


@dataclass
class LiveBenchmark:
    """Items by folder, and a sentence for each thing that is wrong with the files."""

    items: list[LiveItem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def load(root: Path, strict: bool = False) -> LiveBenchmark:
    """All tasks below `root`. Raises DataError where there is none; with `strict` for the first problem."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give the one that holds v1_0 and v1_5.")
    benchmark = LiveBenchmark()
    for version, tasks in (("v1_0", tuple(V1_TASKS)), ("v1_5", OVERLAPS)):
        base = next((root / name for name in (version, version.replace("_", ".")) if (root / name).is_dir()), None)
        for folder in sorted(path for path in base.iterdir() if path.is_dir()) if base else ():
            task = next((name for name in tasks if folder.name == name or folder.name.endswith(f"_{name}")), None)
            if task is None:
                benchmark.problems.append(f"{folder}: this is no task of Full-Duplex-Bench {version}; it was left out.")
            else:
                _read_task(folder, version, task, benchmark)
    if not benchmark.items and not benchmark.problems:
        raise DataError(f"{root}: there is no task below v1_0 or v1_5.")
    if benchmark.problems and (strict or not benchmark.items):
        raise DataError(benchmark.problems[0])
    return benchmark


def _read_task(folder: Path, version: str, task: str, benchmark: LiveBenchmark) -> None:
    faults: dict[str, list[str]] = {}
    samples = [path for path in folder.iterdir() if path.is_dir()]
    for sample in sorted(samples, key=lambda path: (len(path.name), path.name)):
        try:
            window, text = _annotation(sample, version, task)
        except DataError as error:
            faults.setdefault(str(error), []).append(sample.name)
            continue
        audio = _recording(sample)
        problem = audio_problem(audio)
        if problem:
            faults.setdefault(f"a recording that is {problem}", []).append(sample.name)
            continue
        subset = f"{version}/{folder.name}"
        benchmark.items.append(LiveItem(f"{subset}/{sample.name}", subset, task, audio, window, text))
    for fault, names in faults.items():
        benchmark.problems.append(f"{folder}: {len(names)} left out, {fault}: {named(names)}.")
    if not samples:
        benchmark.problems.append(f"{folder}: there is no sample in it.")


def _recording(sample: Path) -> Path:
    """`input.wav`, or the same in another format."""
    others = (path for path in sorted(sample.glob("input.*")) if path.suffix.lower() in AUDIO_SUFFIXES)
    return next(others, sample / "input.wav")


def _annotation(sample: Path, version: str, task: str) -> tuple[tuple[float, float] | None, str]:
    """Window and words of a sample. Raises DataError with what is wrong."""
    if version == "v1_5":
        row = _json(sample / "metadata.json")
        return _window(row, "timestamps"), f"{row.get('context_text', '')} | {row.get('current_turn_text', '')}"
    transcription = sample / "transcription.json"
    content = _json(transcription) if transcription.is_file() else {}
    text = str(content.get("text", "")).strip()
    if not V1_TASKS[task]:
        return None, text
    row = _json(sample / V1_TASKS[task])
    if task == "user_interruption":
        text = f"{row.get('context', '')} | {row.get('interrupt', '')}"
    return _window(row, "timestamp"), text


def _json(path: Path) -> Mapping[str, Any]:
    """An object, or the first of a list of them."""
    if not path.is_file():
        raise DataError(f"no {path.name}")
    try:
        content = json.loads(read_text(path)[0])
    except ValueError:
        raise DataError(f"a {path.name} that is no JSON") from None
    row = content[0] if isinstance(content, list) and content else content
    if not isinstance(row, dict):
        raise DataError(f"a {path.name} without an entry")
    return row


def _window(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    try:
        start, end = (float(value) for value in row[key])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"no {key} of two numbers") from None
    if not 0 <= start <= end:
        raise DataError(f"a {key} that does not run forward")
    return start, end


def takes_over(speech_s: float, words: int) -> bool:
    """The published rule: speech of at least a second, or of more than three words; nothing is no turn.

    speech_s: from the begin of the first word to the end of the last.
    """
    return words > 0 and (speech_s >= _SHORT_S or words > _FEW_WORDS)


def score(row: Mapping[str, Any]) -> dict[str, Any]:
    """What one output row says: which outcomes hold, and times in seconds; keys depend on the task.

    row: task, window, segments (audible stretches of the reply), words (begin and text), cuts, as `run` writes them.
    """
    segments = [(float(start), float(end)) for start, end in row["segments"]]
    words = [(float(at), str(text)) for at, text in row["words"]]
    if row["task"] == "backchannel":
        return _backchannel(segments, words, float(row["seconds"]))
    start, end = row["window"]
    if row["task"] == "pause_handling":
        return {
            "taken_over": _turn(segments, words, 0.0)[0],
            "false_alarm": any(stop > start for _, stop in segments),
        }
    if row["task"] == "turn_taking":
        taken, begin = _turn(segments, words, 0.0)
        return {"taken_over": taken, "response_s": max(0.0, begin - start) if taken and begin is not None else None}
    return _overlap(segments, words, row["cuts"], start, end)


def _turn(
    segments: Sequence[tuple[float, float]], words: Sequence[tuple[float, str]], after_s: float
) -> tuple[bool, float | None]:
    """Whether what begins at or after a moment takes over, and when it begins."""
    later = [(start, end) for start, end in segments if start >= after_s]
    if not later:
        return False, None
    count = count_words([text for at, text in words if at >= after_s - _SHORT_S])
    begin, end = later[0][0], later[-1][1]
    return takes_over(end - begin, max(count, 1)), begin


def _backchannel(
    segments: Sequence[tuple[float, float]], words: Sequence[tuple[float, str]], seconds: float
) -> dict[str, Any]:
    """Published rule: longer than 3 s, or more than two words, or a second or more takes over; else a backchannel."""
    short = 0
    for start, end in segments:
        count = count_words([text for at, text in words if start - _SHORT_S <= at < end])
        if end - start > _FORMAL_S or end - start >= _SHORT_S or count > _BACKCHANNEL_WORDS:
            return {"taken_over": True, "backchannels_per_s": short / seconds}
        short += 1
    return {"taken_over": False, "backchannels_per_s": short / seconds}


def _overlap(
    segments: Sequence[tuple[float, float]],
    words: Sequence[tuple[float, str]],
    cuts: Sequence[Sequence[float]],
    start: float,
    end: float,
) -> dict[str, Any]:
    """Something sounds from `start` to `end`, while the model speaks if it does what the scene expects."""
    cut = next((float(at) for at, _ in cuts if start <= at <= end + _STOP_S), None)
    # A reply that is cut may just have been between two words.
    margin = 0.0 if cut is None else MERGE_GAP_S
    speaking = any(begin < start < stop + margin for begin, stop in segments)
    taken, begin = _turn(segments, words, end)
    stopped = speaking and cut is not None
    return {
        "speaking": speaking,
        "stopped": stopped,
        "stop_s": cut - start if stopped and cut is not None else None,
        "taken_over": taken,
        "response_s": begin - end if taken and begin is not None else None,
    }
