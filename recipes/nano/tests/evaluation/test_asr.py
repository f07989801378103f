"""The independent recogniser: closed vocabulary, language model, several processes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")

from baichuan_audio.audio.waveform import load_waveform
from nano.evaluation.asr import EnglishRecognizer, arpa, transcribe_all

SPEECH = Path(__file__).parents[4] / "tests" / "fixtures" / "speech"
ENGLISH = "has never been surpassed"


def sound(name: str) -> np.ndarray:
    return load_waveform(SPEECH / name, 16_000).numpy()


@pytest.fixture(scope="module")
def english() -> np.ndarray:
    return sound("LJ001-0008.opus")


def test_a_closed_vocabulary_hears_only_its_words(english: np.ndarray) -> None:
    texts = ["It has never rained.", "We have been surpassed!", "She has been here.", "qqqzz never"]
    recogniser = EnglishRecognizer(texts)
    assert recogniser.transcribe(english) == ENGLISH
    assert recogniser.transcribe(np.zeros(1600, np.float32)) == ""


def test_nothing_carries_over_from_one_utterance_to_the_next(english: np.ndarray) -> None:
    """The noise filter included: scores are the same to the last bit after something loud."""
    recogniser = EnglishRecognizer(["It has never rained.", "We have been surpassed!"])
    scores = []
    for _ in range(2):
        recogniser.transcribe(english)
        scores.append([(part.word, part.start_frame, part.ascore) for part in recogniser._decoder.seg()])
        recogniser.transcribe(np.random.default_rng(0).normal(0, 0.3, 16000).astype(np.float32))
    assert scores[0] == scores[1]


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
