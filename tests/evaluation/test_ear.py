"""The independent ear: recogniser, closed vocabulary, Mandarin alignment."""

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")

from baichuan_audio.audio.waveform import load_waveform
from baichuan_audio.data.alignment.pinyin_phones import syllable_phones
from baichuan_audio.evaluation.alignment import Aligner, choices_right, distractors, syllables
from baichuan_audio.evaluation.asr import EnglishRecogniser, arpa, transcribe_all

SPEECH = Path(__file__).parents[1] / "fixtures" / "speech"
ENGLISH, MANDARIN = "has never been surpassed", "一点五倍以上是安全的"


def sound(name: str) -> np.ndarray:
    return load_waveform(SPEECH / name, 16_000).numpy()


@pytest.fixture(scope="module")
def english() -> np.ndarray:
    return sound("LJ001-0008.opus")


@pytest.fixture(scope="module")
def mandarin() -> np.ndarray:
    return sound("BAC009S0150W0126.opus")


def test_a_closed_vocabulary_hears_only_its_words(english: np.ndarray) -> None:
    texts = ["It has never rained.", "We have been surpassed!", "She has been here.", "qqqzz never"]
    recogniser = EnglishRecogniser(texts)
    assert recogniser.transcribe(english) == ENGLISH
    assert recogniser.transcribe(english) == ENGLISH  # nothing is carried from one utterance to the next
    assert recogniser.transcribe(np.zeros(1600, np.float32)) == ""


def test_processes_agree_with_one(english: np.ndarray) -> None:
    texts = ["has never been surpassed", "yes", "no"]
    assert list(transcribe_all([english, english], texts, processes=2)) == [ENGLISH] * 2


def test_language_model_is_normalised() -> None:
    sentences = [["a", "b"], ["a", "c"], ["b"]]
    lines = "".join(arpa(sentences)).splitlines()
    begin, end = lines.index("\\2-grams:"), lines.index("\\3-grams:")
    rows = [line.split("\t") for line in lines[begin + 1 : end] if line]
    after_a = {row[1].split()[1]: 10 ** float(row[0]) for row in rows if row[1].startswith("a ")}
    unigrams = {r[1]: r for r in (line.split("\t") for line in lines[lines.index("\\1-grams:") + 1 : begin] if line)}
    unseen = sum(10 ** float(r[0]) for word, r in unigrams.items() if word not in after_a and word != "<s>")
    backoff = 10 ** float(unigrams["a"][2])
    assert sum(after_a.values()) + backoff * unseen == pytest.approx(1.0, abs=0.15)  # <s> keeps a little
    assert after_a.keys() == {"b", "c"}


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
