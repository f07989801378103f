"""Figures of spoken texts, and of recordings that were encoded and decoded again."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ....evaluation.metrics import codebook_use
from ...metrics import token_errors
from ...results import outputs_by_set, read_results
from ..asr import corpus_rate
from ..normalizers import DEFAULTS, fingerprint, normalize
from .units import Unit, Units, mean

VERSIONS = ("original", "vocoder", "decoded")
"""What is measured of a reconstruction: two ceilings, the recording itself and the vocoder on its true mel, and what
was decoded from the codes."""
_CODEC_MEASURES = ("mel_mae", "pesq", "stoi", "dnsmos", "distillmos", "utmos", "similarity")
_TTS_MEASURES = ("similarity", "dnsmos", "distillmos", "utmos")
_HANZI_MARKS = (
    "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u3000、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟"
    "…‧﹏﹑﹔·．！？｡。"
)
"""Chinese punctuation that seed-tts-eval takes out, as the package zhon lists it."""


def score_tts(path: Path) -> dict[str, Any]:
    """ASR errors, likeness to the prompt's voice and predicted MOS of every set of a result file.

    error_rate: over all texts together, a failed one with all its words missing. official: seed-tts-eval's rule,
    the mean of each text's error rate, over those that were spoken; `failed` were not.
    """
    header, rows = read_results(path)
    sets = {name: _tts_set(members) for name, members in outputs_by_set(rows).items()}
    names = sorted({DEFAULTS[row["language"]] for row in rows if row["kind"] == "output"})
    return {"provenance": header, "normalizers": {name: fingerprint(name) for name in names}, "sets": sets}


def seed_tts_error_rate(reference: str, hypothesis: str, language: str) -> float:
    """Error rate of one text by seed-tts-eval's rule: marks but the apostrophe taken out, characters for Mandarin."""
    texts = []
    for text in (reference, hypothesis):
        for mark in _HANZI_MARKS + string.punctuation:
            if mark != "'":
                text = text.replace(mark, "")
        text = text.replace("  ", " ")
        texts.append(" ".join(text) if language == "zh" else text.lower())
    (errors,) = token_errors([texts[0].split()], [texts[1].split()])
    return errors.errors / errors.count if errors.count else float("nan")


def _tts_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    replies = [row["replies"]["tts"] for row in rows]
    spoken = [(row, reply) for row, reply in zip(rows, replies, strict=True) if "error" not in reply]
    rates = [seed_tts_error_rate(row["references"][0], reply["asr"] or "", row["language"]) for row, reply in spoken]
    rates = [value for value in rates if not math.isnan(value)]
    return {
        "normalizer": DEFAULTS[rows[0]["language"]],
        "error_rate": _error_rate(rows, [str(reply.get("asr") or "") for reply in replies]),
        "official": {"value": round(100 * sum(rates) / len(rates), 3) if rates else None, "counted": len(rates)},
        **_means(_TTS_MEASURES, [(row, reply.get("measures", {})) for row, reply in spoken]),
        "items": len(rows),
        "failed": len(rows) - len(spoken),
    }


def tts_units(path: Path) -> Units:
    """Errors over tokens of every text."""
    _, rows = read_results(path)
    return {
        f"{name} tts": _error_units(members, [str(row["replies"]["tts"].get("asr") or "") for row in members])
        for name, members in outputs_by_set(rows).items()
    }


def score_codec(path: Path) -> dict[str, Any]:
    """Quality of each of VERSIONS, use of the codebooks and bit rate, for every set of a result file."""
    header, rows = read_results(path)
    return {"provenance": header, "sets": {name: _codec_set(members) for name, members in outputs_by_set(rows).items()}}


def _codec_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [row for row in rows if "error" not in row["replies"]["codec"]]
    result: dict[str, Any] = {"items": len(rows), "failed": len(rows) - len(done), "versions": {}}
    for version in VERSIONS:
        measured = [(row, row["replies"]["codec"]["versions"][version]) for row in done]
        texts = [(row, entry["asr"]) for row, entry in measured if row["references"] and entry.get("asr") is not None]
        result["versions"][version] = {
            "error_rate": _error_rate([row for row, _ in texts], [text for _, text in texts]) if texts else None,
            **_means(_CODEC_MEASURES, [(row, entry["measures"]) for row, entry in measured]),
        }
    if done:
        result["codes"] = _codes([row["replies"]["codec"] for row in done])
    return result


def codec_units(path: Path) -> Units:
    """The mel error of every recording."""
    _, rows = read_results(path)
    units: Units = {}
    for name, members in outputs_by_set(rows).items():
        for row in members:
            if "error" not in row["replies"]["codec"]:
                value = row["replies"]["codec"]["versions"]["decoded"]["measures"]["mel_mae"]
                units.setdefault(f"{name} decoded mel_mae", {})[row["id"]] = Unit(value, speaker=row["speaker"])
    return units


def _codes(replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Codebook use over all recordings, and bits a second: as stored, and by the entropy of each codebook's codes."""
    sizes, frame_rate = replies[0]["sizes"], replies[0]["frame_rate"]
    use = codebook_use([torch.tensor(reply["codes"]) for reply in replies], sizes)
    return {
        "frames": sum(len(reply["codes"][0]) for reply in replies),
        "frame_rate_hz": frame_rate,
        "bits_per_second": sum(math.log2(size) for size in sizes) * frame_rate,
        "entropy_bits_per_second": sum(math.log2(book.perplexity) for book in use) * frame_rate,
        "codebooks": [{"size": book.size, "unused": book.dead, "perplexity": book.perplexity} for book in use],
    }


def _means(names: Sequence[str], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """The mean of each measure that was taken; `unmeasured` counts the sounds in which a measure saw no speech."""
    result: dict[str, Any] = {}
    for name in names:
        taken = [(row, measures[name]) for row, measures in rows if name in measures]
        values = [(row["speaker"], value) for row, value in taken if value is not None]
        if taken:
            figure = mean([value for _, value in values], [speaker for speaker, _ in values])
            result[name] = (figure or {"value": None}) | {"unmeasured": len(taken) - len(values)}
    return result


def _error_rate(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> dict[str, Any] | None:
    name = DEFAULTS[rows[0]["language"]]
    pairs = [
        (normalize(name, row["references"][0]), normalize(name, text), row["speaker"])
        for row, text in zip(rows, texts, strict=True)
    ]
    pairs = [pair for pair in pairs if pair[0]]
    speakers = [speaker for _, _, speaker in pairs]
    errors = token_errors([reference for reference, _, _ in pairs], [text for _, text, _ in pairs])
    return corpus_rate(errors, speakers if all(speakers) and len(set(speakers)) > 1 else None)


def _error_units(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> dict[str, Unit]:
    units = {}
    for row, text in zip(rows, texts, strict=True):
        name = DEFAULTS[row["language"]]
        (errors,) = token_errors([normalize(name, row["references"][0])], [normalize(name, text)])
        units[row["id"]] = Unit(errors.errors, errors.count, speaker=row["speaker"])
    return units
