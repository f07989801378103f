"""Mandarin alignment: syllables as phones, which text fits best, and what it is compared with."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")

from baichuan_audio.audio.waveform import load_waveform
from baichuan_audio.data.alignment.pinyin_phones import syllable_phones
from nano.evaluation.alignment import Aligner, choices_right, distractors, syllables

SPEECH = Path(__file__).parents[4] / "tests" / "fixtures" / "speech"
MANDARIN = "一点五倍以上是安全的"


@pytest.fixture(scope="module")
def mandarin() -> np.ndarray:
    return load_waveform(SPEECH / "BAC009S0150W0126.opus", 16_000).numpy()


def test_every_syllable_has_phones() -> None:
    from pypinyin import Style, lazy_pinyin

    common = (
        "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家"
    )
    rare = "女绿略虐儿嗯日次四知吃诗熊翁雪军泉窘润坐错锁"
    for syllable in lazy_pinyin(common + rare, style=Style.NORMAL, v_to_u=False):
        assert syllable_phones(syllable), syllable
    assert syllable_phones("xu") == "SH Y UW" and syllable_phones("shi") == "SH ER" and syllable_phones("cat") is None
    assert syllables("银行12") == ["yin", "hang", "shi", "er"]


def test_the_true_mandarin_text_fits_best(mandarin: np.ndarray) -> None:
    others = [
        "今天天气很好我们出去玩",
        "红色的反义词是什么颜色",
        "三加四等于七再乘以二呢",
        "我的名字叫做邻家女声啊",
        MANDARIN,
    ]
    assert list(choices_right([mandarin], [MANDARIN], others, num_texts=5)) == [True]
    aligner = Aligner()
    assert aligner.score(mandarin, MANDARIN) > aligner.score(mandarin, others[0])
    assert aligner.score(mandarin, "qqqzz") == -math.inf
    assert aligner.score(mandarin, "hello") < aligner.score(mandarin, MANDARIN)


def test_distractors_are_repeatable_and_differ() -> None:
    others = ["三加四", "三家四", "五加六", "很长很长很长的句子", "四减一"]
    chosen = distractors("三加四", others, 2)
    assert chosen == distractors("三加四", others, 2)
    assert set(chosen) <= {"五加六", "四减一"}  # 三家四 sounds the same


class _Shorter:
    """Chooses the text that sorts first, and says what it was built with."""

    def __init__(self, *arguments: str) -> None:
        assert arguments == ("base", "zh")

    def choose(self, waveform: np.ndarray, texts: list[Any]) -> int:
        return texts.index(min(texts))


def test_right_choices_are_counted_by_any_ear() -> None:
    sound = np.zeros(16_000)
    choices = choices_right(
        [sound] * 2, ["一", "三"], ["一", "三", "四"], recognizer=_Shorter, recognizer_arguments=("base", "zh")
    )
    assert list(choices) == [True, False]
