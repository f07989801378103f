"""The backends that need no download: each gives the same for the same sound, whatever came before it."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from baichuan_audio.data.alignment.viterbi import ctc_path
from baichuan_audio.data.pipeline.backends.aligners import AlignedUnit, align_by_ctc, pronounced
from baichuan_audio.data.pipeline.backends.asr import Hypothesis
from baichuan_audio.data.pipeline.backends.registry import load_backend
from baichuan_audio.data.pipeline.engine.local import LocalExecutor
from baichuan_audio.data.pipeline.engine.ray_executor import RayExecutor
from baichuan_audio.data.pipeline.engine.stage import Context
from baichuan_audio.data.pipeline.spoken_units import distribute, edit_distance, error_rate, spoken, units
from baichuan_audio.data.pipeline.stages import recognise
from baichuan_audio.data.pipeline.stages.align import Align
from baichuan_audio.data.pipeline.stages.repetition import Repetition, longest_loop
from baichuan_audio.data.store.records import Piece
from baichuan_audio.errors import ConfigError, MissingDependencyError

EXAMPLES = Path(__file__).parents[3] / "examples"
ENGLISH = (
    "the earliest book printed with movable types the gutenberg or forty two line bible of about fourteen fifty five"
)
MANDARIN = "公募基金管理业务规范"


def sound(name: str) -> np.ndarray:
    samples, rate = soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")
    return soxr.resample(samples, rate, 16_000)


def test_a_short_gap_within_a_mandarin_clause_belongs_to_the_character_before_it():
    """At a mark it stays a pause; so does a longer one."""
    text, times = "一二，三四", [(0.1, 0.3), (0.4, 0.6), (0.7, 0.9), (1.2, 1.4)]
    aligned = [
        AlignedUnit(unit.first, unit.end, start, end) for unit, (start, end) in zip(units(text), times, strict=True)
    ]
    piece = Piece("p", "s", "a", 0, 36_000, 1.0, "CC0-1.0", "tests", (), text=text)
    words = Align(edge_db=0.0)._words(piece, aligned, np.zeros(24_000, np.float32))
    assert [(word.start / 24_000, word.end / 24_000) for word in words] == [
        (pytest.approx(start), pytest.approx(end)) for start, end in [(0.1, 0.4), (0.4, 0.6), (0.7, 0.9), (1.2, 1.4)]
    ]


def test_alignment_finds_every_word_in_order_and_remembers_nothing():
    aligner = load_backend("aligner", "pocketsphinx")
    english = aligner(sound("real-sentence-en"), ENGLISH, "en")
    mandarin = aligner(sound("real-sentence-zh"), MANDARIN, "zh")
    assert len(english) == len(ENGLISH.split()) and len(mandarin) == len(MANDARIN)
    for found in (english, mandarin):
        assert all(one.end_s <= other.start_s + 0.02 for one, other in itertools.pairwise(found))
    again = aligner(sound("real-sentence-en"), ENGLISH, "en")
    assert [(u.start_s, u.end_s) for u in again] == [(u.start_s, u.end_s) for u in english]
    assert aligner(sound("real-sentence-zh"), "", "zh") is None
    # Figures are aligned as they are said, words that no dictionary has by their letters.
    assert aligner(sound("real-sentence-en"), ENGLISH.replace("forty two", "42").replace("gutenberg", "gutnbrgx"), "en")


def test_units_of_figures_and_unknown_words_are_pronounced():
    named = {unit.spoken: words for unit, words in pronounced("42 块 for you", "zh")}
    assert named["42"] == ["pinyin-si", "pinyin-shi", "pinyin-er"] and named["块"] == ["pinyin-kuai"]


def test_viterbi_takes_the_likeliest_path_and_a_known_text_its_places():
    probabilities = np.full((8, 4), 0.01)
    for time, symbol in enumerate([0, 1, 1, 0, 2, 0, 3, 3]):
        probabilities[time, symbol] = 0.97
    path = ctc_path(np.log(probabilities), [1, 2, 3])
    assert path is not None and path[0].tolist() == [1, 4, 6] and path[1].tolist() == [2, 4, 7]
    assert ctc_path(np.log(probabilities[:2]), [1, 2, 3]) is None
    times = align_by_ctc(np.log(probabilities), "a bc", "en", {"a": 1, "b": 2, "c": 3}, 0, 0.8)
    assert times is not None and [(round(u.start_s, 2), round(u.end_s, 2)) for u in times] == [(0.1, 0.3), (0.4, 0.8)]
    assert align_by_ctc(np.log(probabilities), "a b", "en", {"a": 1}, 0, 0.8) is None


def test_silero_hears_speech_and_not_silence_in_any_blocks():
    if importlib.util.find_spec("silero_vad") is None:
        pytest.skip("silero-vad is not installed")
    detect = load_backend("vad", "silero")
    samples = np.concatenate([np.zeros(16_000, np.float32), sound("real-sentence-zh"), np.zeros(16_000, np.float32)])
    whole = detect([samples])
    assert whole[:20].max() < 0.3 and whole.max() > 0.9 and len(whole) == len(samples) // 512
    parts = detect(np.split(samples, [1000, 7000, 30_000]))
    assert np.allclose(parts, whole, atol=1e-4)


def test_texts_are_compared_by_what_is_said():
    assert spoken("I have 2 cats!", "en") == spoken("i have two cats", "en")
    assert [unit.spoken for unit in units("你好, Bob’s 3.5")] == ["你", "好", "bob's", "3.5"]
    assert edit_distance(["a", "b", "c", "d"], ["a", "x", "c"]) == 2 and edit_distance([], ["a"]) == 1
    assert error_rate(["a"], []) == 1.0 and error_rate([], []) == 0.0
    reference = ["one", "two", "three", "four", "five", "six"]
    assert distribute(reference, [["one", "to", "three"], [], ["four", "six"]]) == [3, 3, 6]


@pytest.mark.parametrize(
    ("text", "language", "seconds", "reason"),
    [
        ("and then he said and then he said and then he said and then he said", "en", 8.0, "repeated words"),
        ("Thanks for watching!", "en", 3.0, "invented by the recogniser"),
        ("today we go to the market and buy some fresh bread and fruit", "en", 1.0, "more words than time"),
        ("yes", "en", 20.0, "fewer words than time"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "en", 3.0, "impossible word"),
        ("...", "en", 3.0, "no words"),
        ("很好很好很好很好很好", "zh", 3.0, "repeated words"),
        ("今天天气很好，我们去公园散步吧。", "zh", 3.5, None),
        ("Row, row, row your boat, gently down the stream.", "en", 4.0, None),
    ],
)
def test_loops_and_inventions_are_told_from_speech(text: str, language: str, seconds: float, reason: str | None):
    assert Repetition().reason(text, language, seconds) == reason


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("i acceded as he cloused the door", None),  # how a small recogniser writes a child: most letters are right
        ("how about this for a change", "0.8"),
    ],
)
def test_transcripts_are_compared_by_letters(monkeypatch: pytest.MonkeyPatch, written: str, rate: str | None):
    monkeypatch.setattr(recognise, "read_piece", lambda folder, piece: np.zeros(16_000, np.float32))
    monkeypatch.setattr(recognise, "load_backend", lambda kind, name: lambda samples, language: Hypothesis(written))
    text = "i asked as she closed the door"
    piece = Piece("p@0-1", "p", "0", 0, 1, 1.0, "CC0", "t", (), language="en", text=text, given=True)
    result = recognise.Recognise(recognisers=("one",)).run([piece], Context(Path()))
    assert len(result.kept) == (rate is None)
    if rate is None:
        assert result.kept[0].scores["disagreement"] > 0.35 > result.kept[0].scores["letter_disagreement"]
    else:
        assert result.dropped[0].detail.startswith(rate)


def test_loops_are_counted_at_any_length():
    assert longest_loop(["a", "b", "a", "b", "a", "b"]) == 3 and longest_loop(["a", "a", "a", "a"]) == 4
    assert longest_loop(["a", "b", "c", "d"]) == 1


@pytest.mark.parametrize(
    ("kind", "name", "library"),
    [
        ("vad", "pyannote", "pyannote"),
        ("overlap", "pyannote", "pyannote"),
        ("speakers", "ecapa", "speechbrain"),
        ("asr", "funasr", "funasr"),
        ("aligner", "qwen3", "qwen_asr"),
        ("tts", "cosyvoice", "cosyvoice"),
        ("mos", "distillmos", "distillmos"),
        ("language", "voxlingua", "speechbrain"),
    ],
)
def test_what_a_laboratory_uses_is_named_when_it_is_missing(kind: str, name: str, library: str):
    with pytest.raises(MissingDependencyError, match=rf"needs {library}: pip install"):
        load_backend(kind, name)


def test_models_that_are_not_there_are_named():
    with pytest.raises((ConfigError, MissingDependencyError), match=r"cannot be had|needs faster_whisper"):
        load_backend("asr", "whisper:/no/such/folder")
    with pytest.raises((ConfigError, MissingDependencyError), match=r"ctc:HUB-ID|needs transformers"):
        load_backend("aligner", "ctc")


@pytest.mark.slow
def test_ray_makes_the_same_bytes(manifest: Path, tmp_path: Path):
    pytest.importorskip("ray.data")
    import ray

    from baichuan_audio.data.pipeline.run import run_pipeline

    from .conftest import simple_recipe
    from .test_engine import fingerprint

    run_pipeline(simple_recipe(tmp_path / "inline", manifest), LocalExecutor(0))
    for attempt in range(3):
        try:
            run_pipeline(simple_recipe(tmp_path / "ray", manifest), RayExecutor(2))
            break
        except Exception as error:  # Ray gives its own processes half a minute to start: too little on a busy machine
            if "timed out during startup" not in str(error):
                raise
            if attempt == 2:
                pytest.skip(f"Ray does not start on this machine: {error}")
        finally:
            ray.shutdown()
    assert fingerprint(tmp_path / "ray" / "shards") == fingerprint(tmp_path / "inline" / "shards")
