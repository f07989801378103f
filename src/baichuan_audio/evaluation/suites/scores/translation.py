"""BLEU of translations, by sacrebleu, with intervals by a bootstrap over speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import needed_library
from ...results import outputs_by_set, read_results
from ..covost2 import LANGUAGES
from .units import Unit, Units

TOKENIZERS = {"zh": "zh", "en": "13a"}
RESAMPLES = 1000
_ORDERS = 4


def score_translations(path: Path) -> dict[str, Any]:
    """Corpus BLEU of each direction of a result file; a failed translation counts as an empty one."""
    header, rows = read_results(path)
    sets = {}
    for direction, members in outputs_by_set(rows).items():
        statistics = bleu_statistics(members, LANGUAGES[direction][1])
        draws = resampled(statistics, members)
        low, high = np.percentile([bleu(draw) for draw in draws], [2.5, 97.5])
        sets[direction] = {
            "bleu": {
                "value": bleu(statistics.sum(axis=0)),
                "low": float(low),
                "high": float(high),
                "items": len(members),
            },
            "tokenizer": TOKENIZERS[LANGUAGES[direction][1]],
            "items": len(members),
            "failed": sum("error" in row["replies"]["s2tt"] for row in members),
        }
    return {"provenance": header, "sets": sets}


def translation_units(path: Path) -> Units:
    """BLEU of every sentence by itself, for paired comparisons; the figure of a set is `score_translations`'s."""
    _, rows = read_results(path)
    units: Units = {}
    for direction, members in outputs_by_set(rows).items():
        for row, statistics in zip(members, bleu_statistics(members, LANGUAGES[direction][1]), strict=True):
            unit = Unit(bleu(statistics) / 100, speaker=row["speaker"])
            units.setdefault(f"{direction} sentence BLEU", {})[row["id"]] = unit
    return units


def bleu_statistics(rows: Sequence[Mapping[str, Any]], language: str) -> np.ndarray:
    """What BLEU sums over sentences [N, 10]: matches and n-grams of each order, lengths of both sides."""
    metric = _sacrebleu().BLEU(tokenize=TOKENIZERS[language], effective_order=True)
    statistics = np.zeros((len(rows), 2 * _ORDERS + 2))
    for index, row in enumerate(rows):
        text = str(row["replies"]["s2tt"].get("text", ""))
        sentence = metric.sentence_score(text, list(row["references"]))
        statistics[index] = [*sentence.counts, *sentence.totals, sentence.sys_len, sentence.ref_len]
    return statistics


def bleu(total: np.ndarray) -> float:
    """Corpus BLEU from the sums of `bleu_statistics`."""
    counts = [int(value) for value in total]
    score = _sacrebleu().BLEU.compute_bleu(
        correct=counts[:_ORDERS],
        total=counts[_ORDERS : 2 * _ORDERS],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method="exp",
    )
    return float(score.score)


def resampled(statistics: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Sums over RESAMPLES draws of whole speakers (of sentences, where the layout tells no speaker) [R, 10]."""
    speakers = [row["speaker"] or row["id"] for row in rows]
    numbers = {name: index for index, name in enumerate(dict.fromkeys(speakers))}
    by_speaker = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(by_speaker, [numbers[name] for name in speakers], statistics)
    count = len(numbers)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return weights @ by_speaker


def _sacrebleu() -> Any:
    with needed_library("BLEU needs sacrebleu: pip install 'baichuan-audio[eval]'."):
        from sacrebleu import metrics
    return metrics
