"""Dialogue files: what a line may say, what is refused, how often a dialogue is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baichuan_audio.data.dialogues import parse_dialogue, read_dialogues, write_dialogues
from baichuan_audio.data.mixture.weighted_sampling import SkillSampler
from baichuan_audio.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def row(**changes: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "What is hot?", "audio": "q"}
    reply = {"role": "assistant", "content": "Cold, yes.", "audio": "a"}
    return {"id": "d", "language": "en", "messages": [question, reply]} | changes


def test_the_line_in_the_docs_is_one() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    dialogue = parse_dialogue(json.loads(block))
    (exchange,) = dialogue.exchanges
    assert exchange.user == "What is hot?" and exchange.user_clip == "question/someone/1"
    assert exchange.reply == (("Cold,", "answer/Ada/1"), (" yes.", "answer/Ada/2"))
    assert dialogue.clips == {"question/someone/1", "answer/Ada/1", "answer/Ada/2"}
    assert (dialogue.voice, dialogue.skill, dialogue.weight) == ("Ada", "opposites", 1.0)


def test_what_is_left_out_has_a_default() -> None:
    dialogue = parse_dialogue(row())
    assert (dialogue.split, dialogue.skill, dialogue.voice, dialogue.weight) == ("train", "", None, 1.0)
    assert dialogue.exchanges[0].reply == (("Cold, yes.", "a"),)
    messages = [{"role": "user", "content": "Hot?"}, {"role": "assistant", "content": "Cold."}]
    assert parse_dialogue(row(messages=messages * 2)).clips == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "roles"),
        ({"messages": row()["messages"][:1]}, "assistant last"),
        ({"messages": row()["messages"][::-1]}, "roles"),
        ({"messages": [row()["messages"][0], {"role": "assistant"}]}, "lacks the entry 'content'"),
        ({"messages": [{"content": "x"}, {"content": "y"}]}, "lacks the entry 'role'"),
        ({"messages": [{"role": "user", "content": 5}, row()["messages"][1]]}, "content must be a text, not 5"),
        ({"messages": [row()["messages"][0] | {"audio": 3}, row()["messages"][1]]}, "audio must be the id of a clip"),
        ({"messages": [row()["messages"][0], row()["messages"][1] | {"segments": [{"text": "Warm"}]}]}, "'Warm'"),
        ({"messages": "hello"}, "wrong type"),
        ({"messages": [1, 2]}, "wrong type"),
        ({"weight": -1}, "weight must be a number from 0 on"),
        ({"weight": float("nan")}, "weight must be"),
        ({"weight": "heavy"}, "wrong type"),
    ],
)
def test_a_bad_line_names_its_dialogue(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"dialogue 'd'.*{message}"):
        parse_dialogue(row(**changes))


def test_files_are_read_by_split(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.jsonl"
    write_dialogues([row(id="a"), row(id="b", split="validation"), row(id="c", split="train")], path)
    assert [d.id for d in read_dialogues(path)] == ["a", "c"]
    assert [d.id for d in read_dialogues(path, ("validation", "train"))] == ["a", "b", "c"]
    assert [each.name for each in path.parent.iterdir()] == ["d.jsonl"]
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such dialogue file"):
        read_dialogues(tmp_path / "none.jsonl")


def test_weights_say_how_often_a_dialogue_is_drawn() -> None:
    weighted = [parse_dialogue(row(id=str(weight), weight=weight)) for weight in (0, 1, 3)]
    drawn, rng = SkillSampler(weighted, {}, {}), np.random.default_rng(0)
    counts = np.unique([drawn.pick(rng).id for _ in range(4000)], return_counts=True)
    assert list(counts[0]) == ["1", "3"] and counts[1][1] / 4000 == pytest.approx(0.75, abs=0.03)
