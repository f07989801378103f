"""The figures of an OpenAudioBench result file: strict beside official scores, and what speech costs.

Everything is computed from the rows, so a file can be scored again at any time without a model or a judge. Strict:
every judged item counts, and what failed or cannot be parsed is wrong. Official: the published mean, which leaves such
items out; how many is always beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import token_errors
from ..results import outputs_by_set, read_results
from ..statistics import mcnemar, paired_difference, rate
from .asr import corpus_rate, percent
from .normalizers import DEFAULTS, normalize
from .openaudiobench import SETS, VerdictForm
from .scores.units import Unit, Units
from .scoring import official_points, strict_points

SETTINGS = ("t2t", "s2t", "s2s_text", "s2s_asr")
"""Typed question; spoken question, text only; text of the spoken reply; that reply's sound, read back by an ASR."""
_TAXES = (("s2t", "s2s_text"), ("s2s_text", "s2s_asr"), ("s2t", "s2s_asr"), ("t2t", "s2t"))


def summarize(path: Path) -> dict[str, Any]:
    """All figures of a result file, by set and setting; points run from 0 to 100."""
    header, rows = read_results(path)
    verdicts = {(row["id"], row["setting"]): row for row in rows if row["kind"] == "verdict"}
    subsets = outputs_by_set(rows)
    return {
        "provenance": header,
        "judge_models": sorted({row["model"] for row in verdicts.values()}),
        "sets": {name: _subset(name, members, verdicts, header) for name, members in subsets.items()},
        "recogniser": _recogniser_errors([row for row in rows if row["kind"] == "output"]),
    }


def answer_units(path: Path) -> Units:
    """Strict points of every judged item, as shares."""
    header, rows = read_results(path)
    verdicts = {(row["id"], row["setting"]): row for row in rows if row["kind"] == "verdict"}
    official = bool(header["judge"].get("parses_official"))
    units: Units = {}
    for name, members in outputs_by_set(rows).items():
        form: VerdictForm = SETS[name].verdict if official else "json"
        for setting in header["settings"]:
            for row in members:
                verdict = verdicts.get((row["id"], setting))
                failed = reply_text(row, setting) is None and (official or row["references"])
                if verdict is None and not failed:
                    continue
                points = strict_points(form, str(verdict["text"])) if verdict is not None else None
                unit = Unit((points or 0.0) / 100, 1.0, row["question"], row["speaker"], form in ("json", "score_is"))
                units.setdefault(f"{name} {setting}", {})[row["id"]] = unit
    return units


def reply_text(row: Mapping[str, Any], setting: str) -> str | None:
    """What is judged in a setting; None where the system or the recogniser failed, or was not asked."""
    reply = row["replies"].get("s2s" if setting.startswith("s2s") else setting)
    if reply is None or "error" in reply:
        return None
    return str(reply["asr" if setting == "s2s_asr" else "text"])


def _subset(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    verdicts: Mapping[tuple[str, str], Mapping[str, Any]],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    official = bool(header["judge"].get("parses_official"))
    form: VerdictForm = SETS[name].verdict if official else "json"
    points, settings = dict[str, dict[str, float]](), dict[str, Any]()
    for setting in header["settings"]:
        judged = {row["id"]: verdicts.get((row["id"], setting)) for row in rows}
        failed = [row["id"] for row in rows if reply_text(row, setting) is None]
        wrong = [row["id"] for row in rows if row["id"] in set(failed) and (official or row["references"])]
        texts = {item: str(verdict["text"]) for item, verdict in judged.items() if verdict is not None}
        parsed = {item: strict_points(form, text) for item, text in texts.items()}
        points[setting] = {item: value or 0.0 for item, value in parsed.items()} | dict.fromkeys(wrong, 0.0)
        settings[setting] = {
            "strict": _strict(rows, points[setting]) if points[setting] else None,
            "official": _official(form, list(texts.values()), len(failed)) if official else None,
            "unparsed": sorted(item for item, value in parsed.items() if value is None),
            "failed": sorted(failed),
            "not_judged": len(rows) - len(points[setting]),
        }
    data = header["data"]
    return {
        "items": {
            "published": SETS[name].items,
            "left_out": data["unusable"].get(name, 0),
            "evaluated": len(rows),
        },
        "metric": form if official else "match with references",
        "settings": settings,
        "speech_tax": _taxes(rows, points, binary=form in ("json", "score_is")),
    }


def _strict(rows: Sequence[Mapping[str, Any]], points: Mapping[str, float]) -> dict[str, Any]:
    counted = [row for row in rows if row["id"] in points]
    values = [points[row["id"]] / 100 for row in counted]
    return percent(rate(values, None, [row["question"] for row in counted], _voices(counted)), highest=1.0)


def _official(form: VerdictForm, texts: Sequence[str], failed: int) -> dict[str, Any]:
    """The published mean, rounded as published; None where it would divide by 0."""
    points = [value for text in texts if (value := official_points(form, text)) is not None]
    return {
        "value": round(sum(points) / len(points), 2) if points else None,
        "counted": len(points),
        "left_out": len(texts) - len(points) + failed,
    }


def _taxes(rows: Sequence[Mapping[str, Any]], points: Mapping[str, Mapping[str, float]], binary: bool) -> list[Any]:
    """Paired differences in points between settings, on the items that both have."""
    result = []
    for first, second in _TAXES:
        before, after = points.get(first), points.get(second)
        both = [row for row in rows if before and after and row["id"] in before and row["id"] in after]
        if not before or not after or not both:
            continue
        old, new = ([side[row["id"]] for row in both] for side in (before, after))
        difference = paired_difference(
            [value / 100 for value in old], [value / 100 for value in new],
            [row["question"] for row in both], _voices(both),
        )  # fmt: skip
        p_value = mcnemar([value == 100 for value in old], [value == 100 for value in new]) if binary else None
        result.append({"from": first, "to": second, "difference": percent(difference, -1.0, 1.0), "mcnemar_p": p_value})
    return result


def _voices(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    voices = [str(row["speaker"]) for row in rows]
    return voices if all(voices) and len(set(voices)) > 1 else None


def _recogniser_errors(outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How far the ASR that reads replies back can be trusted: its errors on the questions, whose words are known, and
    the difference between what spoken replies say in text and what it hears."""
    known = [(row, row["question"], row["question_asr"]) for row in outputs if row.get("question_asr") is not None]
    spoken = [
        (row, text, transcript)
        for row in outputs
        if (text := reply_text(row, "s2s_text")) is not None and (transcript := reply_text(row, "s2s_asr")) is not None
    ]
    if not known and not spoken:
        return None
    return {"known_speech": _by_language(known), "replies": _by_language(spoken)}


def _by_language(pairs: Sequence[tuple[Mapping[str, Any], str, str]]) -> dict[str, Any]:
    result = {}
    for language in sorted({row["language"] for row, _, _ in pairs}):
        name = DEFAULTS[language]
        texts = [(normalize(name, a), normalize(name, b)) for row, a, b in pairs if row["language"] == language]
        texts = [(reference, hypothesis) for reference, hypothesis in texts if reference]
        errors = token_errors([reference for reference, _ in texts], [hypothesis for _, hypothesis in texts])
        result[language] = {"normalizer": name, "error_rate": corpus_rate(errors)}
    return result
