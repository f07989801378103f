"""How far a judge can be trusted: whether it repeats itself, whether people agree with it, and what sways it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...text.lines import parse_rows
from ..suites.items import Item
from ..suites.openaudiobench import SETS, VerdictForm
from ..suites.scoring import strict_points
from .api import Judge

_RIGHT = 80.0
"""Points from which a verdict says that the conclusion is right: 4 of 5 in a rubric."""
_PADDING = {
    "en": " I hope that this helps; please tell me if you would like to know more about it.",
    "zh": "希望这对你有帮助，如果还想了解更多，请告诉我。",
}
"""What adds length to an answer and says nothing."""
_FIELDS = ("id", "set", "question", "references", "language", "answer", "right")


@dataclass(frozen=True)
class MarkedAnswer:
    """An answer and whether a person calls it right. source: where the answers of this kind come from."""

    item: Item
    answer: str
    right: bool
    source: str = ""


def read_marks(path: Path) -> list[MarkedAnswer]:
    """A JSON lines file of answers that a person marked. Raises DataError, naming the line."""
    marked = list(parse_rows(path, _marked, f"object with {', '.join(_FIELDS)}"))
    if not marked:
        raise DataError(f"{path}: there is no marked answer in it.")
    return marked


def _marked(row: Any) -> MarkedAnswer:
    name, subset, question, references, language, answer, right = (row[field] for field in _FIELDS)
    raw = str(row.get("raw_reference") or ";".join(references))
    item = Item(str(name), str(subset), None, str(question), tuple(references), raw, str(language))
    return MarkedAnswer(item, str(answer), bool(right), str(row.get("source", "")))


def measure_agreement(judges: Sequence[Judge], marked: Sequence[MarkedAnswer]) -> dict[str, Any]:
    """Judge marked answers several times -> agreement with people, flips, and what order and length change.

    judges: the same judge with another `repeat` each. A verdict that says no one thing counts as wrong. precision: of
    the answers that the judge calls right, the share that people do; recall: the other way round. order: how many
    verdicts change when the references stand in the other order, of answers with several. length: how many change
    when a sentence that says nothing follows the answer.
    """
    entries = [entry for entry in marked if judges[0].judges(entry.item)]
    if not entries:
        raise DataError("the judge can say nothing about these answers.")
    runs = [[_calls_right(judge, entry.item, entry.answer) for entry in entries] for judge in judges]
    first, people = runs[0], [entry.right for entry in entries]
    both = sum(a is True and b for a, b in zip(first, people, strict=True))
    called = sum(value is True for value in first)
    sources = {entry.source for entry in entries}
    several = [entry for entry in entries if len(entry.item.references) > 1]
    return {
        "answers": len(entries),
        "not_judged": len(marked) - len(entries),
        "kappa": _kappa(first, people),
        "kappa_by_source": {source: _kappa_of(source, entries, first) for source in sorted(sources)},
        "precision": both / called if called else None,
        "recall": both / sum(people) if any(people) else None,
        "unparsed": sum(value is None for value in first),
        "repeats": len(judges),
        "flips": sum(len(set(values)) > 1 for values in zip(*runs, strict=True)),
        "order": {"changed": sum(map(_order_matters(judges[0]), several)), "answers": len(several)},
        "length": _length_effect(judges[0], entries, first),
        "disagreements": [
            {"id": entry.item.id, "answer": entry.answer, "people": entry.right, "judge": value}
            for entry, value in zip(entries, first, strict=True)
            if (value is True) != entry.right
        ],
    }


def _kappa(first: Sequence[bool | None], people: Sequence[bool]) -> float:
    return cohen_kappa([str(value is True) for value in first], [str(right) for right in people])


def _kappa_of(source: str, entries: Sequence[MarkedAnswer], first: Sequence[bool | None]) -> dict[str, Any]:
    pairs = [(value, entry.right) for entry, value in zip(entries, first, strict=True) if entry.source == source]
    return {"answers": len(pairs), "kappa": _kappa([value for value, _ in pairs], [right for _, right in pairs])}


def _calls_right(judge: Judge, item: Item, answer: str) -> bool | None:
    """Whether the judge calls an answer right; None for a verdict that says no one thing."""
    form: VerdictForm = SETS[item.subset].verdict if judge.parses_official else "json"
    points = strict_points(form, judge.judge(item, answer).text)
    return None if points is None else points >= _RIGHT


def _order_matters(judge: Judge) -> Callable[[MarkedAnswer], bool]:
    def differs(entry: MarkedAnswer) -> bool:
        turned = tuple(reversed(entry.item.references))
        versions = (replace(entry.item, references=order, raw_reference=";".join(order)) for order in
                    (entry.item.references, turned))  # fmt: skip
        one, other = (_calls_right(judge, item, entry.answer) for item in versions)
        return one != other

    return differs


def _length_effect(judge: Judge, entries: Sequence[MarkedAnswer], before: Sequence[bool | None]) -> dict[str, int]:
    after = [_calls_right(judge, entry.item, entry.answer + _PADDING[entry.item.language]) for entry in entries]
    pairs = list(zip(before, after, strict=True))
    return {
        "made_right": sum(old is not True and new is True for old, new in pairs),
        "made_wrong": sum(old is True and new is not True for old, new in pairs),
        "answers": len(pairs),
    }


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two judges beyond chance (Cohen, 1960); 1 where both always give one and the same label.

    Raises ValueError for no or unequally many labels.
    """
    if not first or len(first) != len(second):
        raise ValueError("agreement needs as many labels on both sides, at least one.")
    count = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    chance = sum(first.count(label) * second.count(label) for label in set(first)) / count**2
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)
