"""The closed world: replies are checked against facts computed here, and held-out content stays held out."""

import dataclasses
import hashlib
import itertools
import json
import random
import re

import pytest

from baichuan_audio.data.dialogues import parse_dialogue
from baichuan_audio.text.normalization.number_words import english_number, mandarin_number
from nano.corpus.plan import Plan, PlanSizes
from nano.corpus.voices import HELD_OUT_VOICES, OUTPUT_VOICES, QUESTION_VOICES
from nano.dialogues import generate_dialogues
from nano.skills import SKILLS, NoContentError
from nano.skills.arithmetic import content_key
from nano.skills.base import split_of
from nano.skills.spelling import CHARACTERS

ENGLISH = {english_number(number): number for number in range(6000)}
CHINESE = {mandarin_number(number): number for number in range(6000)} | {"两": 2}
OPERATIONS = {"plus": "+", "minus": "-", "times": "*", "加": "+", "减": "-", "乘以": "*"}
FACTORS = {("hour", "minutes"): 60, ("day", "hours"): 24, ("century", "years"): 100, ("kilometer", "meters"): 1000}


def turns(skill, count=400, split="train", languages=("en", "zh")):
    for number in range(count):
        language = languages[number % len(languages)]
        try:
            yield language, SKILLS[skill](random.Random(f"{skill}{number}{split}"), language, split)
        except NoContentError:  # e.g. nothing is held out about this unit
            continue


def test_characters_to_spell_can_be_told_apart_by_voice():
    pypinyin = pytest.importorskip("pypinyin")
    sounds = [tuple(pypinyin.lazy_pinyin(character, style=pypinyin.Style.TONE3)) for character in CHARACTERS]
    assert len(set(sounds)) == len(sounds) == 40


def test_numbers():
    assert english_number(0) == "zero" and english_number(342) == "three hundred forty two"
    assert [mandarin_number(number) for number in (0, 10, 14, 20, 105, 110, 1010, 2000)] == (
        ["零", "十", "十四", "二十", "一百零五", "一百一十", "一千零一十", "二千"]
    )
    assert len(ENGLISH) == 6000 and len(CHINESE) == 6001


def read_sum(reply: str) -> tuple[int, str, int, int]:
    """Operands and result of a reply, after the result has been checked."""
    match = re.fullmatch(r"(.+?) (plus|minus|times) (.+) is (.+)\.", reply.lower()) or re.fullmatch(
        r"(.+?)(加|减|乘以)(.+)等于(.+)。", reply
    )
    names = ENGLISH if reply.isascii() else CHINESE
    a, b, value = (names[match[group]] for group in (1, 3, 4))
    operation = OPERATIONS[match[2]]
    assert value == {"+": a + b, "-": a - b, "*": a * b}[operation] and value >= 0
    return a, operation, b, value


def test_arithmetic_is_right_and_follow_ups_go_on_from_the_result():
    for _, dialogue in turns("arithmetic"):
        before = None
        for turn in dialogue:
            (reply,) = turn.reply
            a, _, _, value = read_sum(reply)
            assert before in (None, a)
            assert value <= 100
            before = value


def test_contents_of_a_small_split_are_found_in_the_end(monkeypatch: pytest.MonkeyPatch):
    # With so few draws most dialogues fail at first.
    monkeypatch.setattr("nano.skills.base._MAX_DRAWS", 4)
    assert len(list(generate_dialogues(1, 20, "validation"))) == 20


def test_counting_runs_between_the_numbers_asked_for():
    for _, (turn, *_) in turns("counting"):
        ends = [int(number) for number in re.findall(r"\d+", turn.typed)]
        names = ENGLISH if turn.typed.isascii() else CHINESE
        said = [names[word] for word in re.split(r", |，", turn.reply[0].lower().rstrip(".。"))]
        assert said[0] == ends[0] and said[-1] == ends[1]
        step = 1 if ends[0] < ends[1] else -1
        assert all(b - a == step for a, b in itertools.pairwise(said))


def test_calendar_agrees_with_the_standard_library():
    import calendar

    days, months = list(calendar.day_name), list(calendar.month_name)[1:]
    for _, dialogue in turns("calendar", languages=("en",)):
        for turn in dialogue:
            relation, item, answer = re.fullmatch(r"(After|Before) (\w+) comes (\w+)\.", turn.reply[0]).groups()
            cycle = days if item in days else months
            assert cycle[(cycle.index(item) + (1 if relation == "After" else -1)) % len(cycle)] == answer
    for _, dialogue in turns("calendar", languages=("zh",)):
        for turn in dialogue:
            item, relation, answer = re.fullmatch(r"(.+)(之后|之前)是(.+)。", turn.reply[0]).groups()
            if item.startswith("星期"):
                assert ("一二三四五六天".index(answer[-1]) - "一二三四五六天".index(item[-1])) % 7 == (
                    1 if relation == "之后" else 6
                )
            else:
                assert (CHINESE[answer[:-1]] - CHINESE[item[:-1]]) % 12 == (1 if relation == "之后" else 11)


def test_units_and_spelling():
    seen = set()
    for _, dialogue in turns("units", languages=("en",)):
        for turn in dialogue:
            amount, large, value, small = re.fullmatch(r"(\w+) (\w+) ha(?:s|ve) (.+) (\w+)\.", turn.reply[0]).groups()
            large = {"centuries": "century"}.get(large, large.rstrip("s"))
            if (large, small) in FACTORS:
                seen.add((large, small))
                assert ENGLISH[value] == ENGLISH[amount.lower()] * FACTORS[large, small]
    assert seen == set(FACTORS)
    for _, dialogue in turns("spelling", languages=("en",)):
        for turn in dialogue:
            word, letters = turn.reply[0].rstrip(".").split(" is spelled ")
            assert letters.replace(", ", "").lower() == word.lower() and word.lower() in turn.user.lower()


def test_repeat_says_the_same_and_backwards_reverses():
    for language, dialogue in turns("repeat"):
        first = dialogue[0]
        assert first.user.endswith(first.reply[0])
        if len(dialogue) == 2 and dialogue[1].reply != first.reply:
            comma = ", " if language == "en" else "，"
            said, back = (turn.reply[0].lower().rstrip(".。").split(comma) for turn in dialogue)
            assert back == said[::-1]


@pytest.mark.parametrize("skill", sorted(set(SKILLS) - {"hear"}))
def test_first_questions_of_test_are_never_asked_in_training(skill):
    trained = {(tuple(turn.user for turn in dialogue)) for _, dialogue in turns(skill, 600)}
    held_out = [tuple(turn.user for turn in dialogue) for _, dialogue in turns(skill, 40, "test")]
    openings = {users[0] for users in trained}
    assert held_out and not openings & {users[0] for users in held_out}


def test_operands_are_held_out_whatever_the_phrasing():
    keys = [content_key("en", a, "+", b) for a in range(21) for b in range(21)]
    share = sum(split_of(key) == "test" for key in keys) / len(keys)
    assert 0.05 < share < 0.16


def test_dialogues_are_a_function_of_their_arguments_and_well_formed():
    first = list(generate_dialogues(3, 150, "train"))
    assert first == list(generate_dialogues(3, 150, "train"))
    assert first[:20] == list(generate_dialogues(3, 20, "train"))
    assert first != list(generate_dialogues(4, 150, "train"))
    for row in [*first, *generate_dialogues(3, 60, "test")]:
        dialogue = parse_dialogue(row)
        assert 1 <= len(dialogue.exchanges) <= 3 and dialogue.voice in OUTPUT_VOICES
        for exchange in dialogue.exchanges:
            assert not re.search(r"\d|[{}]", exchange.answer)
            if not row["typed"]:
                assert not re.search(r"\d", exchange.user)
    assert {row["language"] for row in generate_dialogues(0, 30, "train", ("zh",))} == {"zh"}


def test_plan_keeps_test_voices_out_of_training():
    plan = Plan(0, PlanSizes(120, 24, 48, 0.1, 8, 4, 4))
    held_out = {name for voices in HELD_OUT_VOICES.values() for name in voices}
    trained = {name for voices in QUESTION_VOICES.values() for name in voices}
    assert not held_out & (trained | set(OUTPUT_VOICES))
    settings = [setting for voices in QUESTION_VOICES.values() for setting in voices.values()]
    assert not any(setting in settings for voices in HELD_OUT_VOICES.values() for setting in voices.values())
    for job in plan.jobs.values():
        if job.kind != "answer":
            assert (job.speaker in held_out) == (job.split == "test")
        assert job.augment == (job.speaker not in OUTPUT_VOICES)
    for dialogue in plan.dialogues:
        for exchange in parse_dialogue(dialogue).exchanges:
            assert exchange.clips <= plan.jobs.keys()


def test_what_is_generated_stays_the_same():
    """The corpus and the texts of training are functions of their seeds; a changed draw makes other ones."""
    rows = [*generate_dialogues(1, 300, "train"), *generate_dialogues(4, 60, "test")]
    plan = Plan(0, PlanSizes(40, 6, 6, read_train=8, read_validation=2, read_test=2))
    dialogues = [parse_dialogue(row) for row in [*rows, *plan.dialogues]]
    seen = [
        [d.id, d.split, d.language, d.skill, d.voice, [[e.user, e.user_clip, e.reply] for e in d.exchanges]]
        for d in dialogues
    ]
    jobs = [dataclasses.astuple(job) for job in plan.jobs.values()]
    digest = hashlib.sha256(json.dumps([seen, jobs]).encode()).hexdigest()
    assert digest == "cdf8fb1e2a396b89e629bed8c56070b30153a25f96721393bc4f11d3ceb9613d"
