"""Error rates of speech recognition, computed from the result file alone.

References and hypotheses are kept as they are; `score` applies a normaliser to the result file, without the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import TokenErrors, token_errors
from ..results import outputs_by_set, read_results
from ..statistics import Estimate, rate
from .normalizers import DEFAULTS, fingerprint, normalize
from .scores.units import Unit, Units

VERSION = "1"


def score(path: Path, normalizers: Mapping[str, str] = DEFAULTS) -> dict[str, Any]:
    """Error rates of every subset in a result file: all its errors over all its tokens, in per cent.

    normalizers: for each language its name in `NORMALIZERS`. A recording that the system failed on counts with all its
    words missing; one whose reference has no token counts only in `empty_references`, and in
    `empty_transcripts` where the system heard no word either. Intervals treat a speaker's
    recordings as one cluster.
    """
    header, rows = read_results(path)
    return {
        "provenance": header,
        "normalizers": {name: fingerprint(name) for name in sorted(set(normalizers.values()))},
        "sets": {subset: _subset_score(members, normalizers) for subset, members in outputs_by_set(rows).items()},
    }


def _subset_score(rows: Sequence[Mapping[str, Any]], normalizers: Mapping[str, str]) -> dict[str, Any]:
    name = normalizers[rows[0]["language"]]
    references = [normalize(name, row["references"][0]) for row in rows]
    hypotheses = [normalize(name, str(row["replies"]["asr"].get("text", ""))) for row in rows]
    used = [index for index, reference in enumerate(references) if reference]
    errors = token_errors([references[index] for index in used], [hypotheses[index] for index in used])
    speakers = [rows[index]["speaker"] for index in used]
    estimate = corpus_rate(errors, speakers if all(speakers) else None)
    return {
        "normalizer": name,
        "error_rate": estimate,
        "errors": sum(item.errors for item in errors),
        "tokens": sum(item.count for item in errors),
        "items": len(rows),
        "failed": sum("error" in row["replies"]["asr"] for row in rows),
        "empty_references": len(rows) - len(used),
        "empty_transcripts": sum(
            not reference and not any(token.isalnum() for token in hypothesis)
            for reference, hypothesis in zip(references, hypotheses, strict=True)
        ),
    }


def error_units(path: Path, normalizers: Mapping[str, str] = DEFAULTS) -> Units:
    """Errors over tokens of every recording of a result file."""
    _, rows = read_results(path)
    units: Units = {}
    for subset, members in outputs_by_set(rows).items():
        for row in members:
            name = normalizers[row["language"]]
            if reference := normalize(name, row["references"][0]):
                text = str(row["replies"]["asr"].get("text", ""))
                (errors,) = token_errors([reference], [normalize(name, text)])
                unit = Unit(errors.errors, errors.count, speaker=row["speaker"])
                units.setdefault(f"{subset} asr", {})[row["id"]] = unit
    return units


def corpus_rate(errors: Sequence[TokenErrors], speakers: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Errors over tokens of all texts together in per cent, with its 95 % interval; None without a token."""
    if not sum(item.count for item in errors):
        return None
    return percent(rate([item.errors for item in errors], [item.count for item in errors], speakers))


def percent(estimate: Estimate, lowest: float = 0.0, highest: float = float("inf")) -> dict[str, Any]:
    """An estimate times 100, for a file: its interval within what is possible, None where nothing bounds it."""
    ends: list[float | None] = [100 * max(estimate.low, lowest), 100 * min(estimate.high, highest)]
    if math.isinf(estimate.high):
        ends = [None, None]  # a single question, or a single voice
    return {"value": 100 * estimate.value, "low": ends[0], "high": ends[1], "items": estimate.items}
