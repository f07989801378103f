"""Figures by hand, and against the libraries of the field."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baichuan_audio.errors import ConfigError, MissingDependencyError
from baichuan_audio.evaluation.metrics import token_errors
from baichuan_audio.evaluation.results import EvaluationError, ResultFile
from baichuan_audio.evaluation.suites.scores import quality
from baichuan_audio.evaluation.suites.scores.compare import compare_results, power_table
from baichuan_audio.evaluation.suites.scores.likelihood import score_likelihoods
from baichuan_audio.evaluation.suites.scores.speech import score_codec, score_tts, seed_tts_error_rate
from baichuan_audio.evaluation.suites.scores.translation import score_translations
from baichuan_audio.evaluation.suites.scores.voicebench import refuses, stated_choice, stated_letter

EXACT = 1e-9


def row(item: str, replies: dict[str, Any], **fields: Any) -> dict[str, Any]:
    subset = item.partition("/")[0]
    return {
        "kind": "output", "id": item, "subset": subset, "question": item, "references": [], "raw_reference": "",
        "language": "en", "speaker": "", "replies": replies, **fields,
    }  # fmt: skip


def results(path: Path, rows: list[dict[str, Any]], **header: Any) -> Path:
    facts = {"suite": "x", "settings": [], "judge": {}, "data": {"digest": "d", "unusable": {}}, "limit": None}
    with ResultFile(path, facts | header) as file:
        for entry in rows:
            file.append(entry)
    return path


# -- against the libraries ----------------------------------------------------------------------------------------


def sentences(count: int) -> list[tuple[str, str]]:
    draw, words = random.Random(0), ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "dogs"]
    pairs = []
    for _ in range(count):
        reference = [draw.choice(words) for _ in range(draw.randint(4, 12))]
        guess = [word if draw.random() < 0.7 else draw.choice(words) for word in reference if draw.random() < 0.9]
        pairs.append((" ".join(reference), " ".join(guess)))
    return pairs


def test_error_rates_equal_jiwer_and_meeteval() -> None:
    jiwer, meeteval = pytest.importorskip("jiwer"), pytest.importorskip("meeteval")
    pairs = sentences(60)
    errors = token_errors([first.split() for first, _ in pairs], [second.split() for _, second in pairs])
    ours = sum(entry.errors for entry in errors) / sum(entry.count for entry in errors)
    assert ours == pytest.approx(jiwer.wer([first for first, _ in pairs], [second for _, second in pairs]), abs=EXACT)
    theirs = sum((meeteval.wer.siso_word_error_rate(*pair) for pair in pairs), meeteval.wer.ErrorRate.zero())
    assert ours == pytest.approx(theirs.error_rate, abs=EXACT)
    for entry, pair in zip(errors, pairs, strict=True):
        assert entry.errors == meeteval.wer.siso_word_error_rate(*pair).errors


def test_bleu_equals_sacrebleu(tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    english = sentences(40)
    chinese = [
        ("我 昨天 去 了 北京 。".replace(" ", ""), "我昨天去北京了。"),
        ("他有两只猫和一只狗。", "他有两只狗和一只猫。"),
    ]
    rows = [
        row(f"{name}/{number}", {"s2tt": {"text": guess}}, references=[reference])
        for name, pairs in (("zh-CN_en", english), ("en_zh-CN", chinese))
        for number, (reference, guess) in enumerate(pairs)
    ]
    rows[3]["replies"]["s2tt"] = {"error": "failed."}
    english[3] = (english[3][0], "")
    sets = score_translations(results(tmp_path / "r.jsonl", rows))["sets"]
    for name, pairs, tokenizer in (("zh-CN_en", english, "13a"), ("en_zh-CN", chinese, "zh")):
        theirs = sacrebleu.corpus_bleu([guess for _, guess in pairs], [[ref for ref, _ in pairs]], tokenize=tokenizer)
        assert sets[name]["bleu"]["value"] == pytest.approx(theirs.score, abs=EXACT)
        assert sets[name]["bleu"]["low"] <= theirs.score <= sets[name]["bleu"]["high"]
    assert sets["zh-CN_en"]["failed"] == 1


def speech(seconds: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Something that the measures take for speech, and a noisy copy [S] at 16 kHz."""
    import soxr

    from baichuan_audio.audio.reading import read_audio

    path = Path(__file__).parents[1] / "fixtures" / "speech" / "LJ001-0008.opus"
    waveform, rate = read_audio(path)
    clean = soxr.resample(waveform, rate, quality.RATE)[: round(seconds * quality.RATE)].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.01, len(clean)).astype(np.float32)
    return clean, clean + noise


def test_quality_equals_pesq_and_pystoi() -> None:
    pesq, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    clean, noisy = speech()
    measured = quality.QualityMeasures(["pesq", "stoi"]).against(clean, np.pad(noisy, (0, 50)))
    assert measured["pesq"] == pytest.approx(pesq.pesq(16000, clean, noisy, "wb"), abs=EXACT)
    assert measured["stoi"] == pytest.approx(pystoi.stoi(clean, noisy, 16000), abs=EXACT)
    silence = np.zeros(8000, np.float32)
    assert quality.QualityMeasures(["pesq", "stoi"]).against(silence, silence) == {"pesq": None, "stoi": None}


def test_dnsmos_and_likeness() -> None:
    pytest.importorskip("onnxruntime")
    try:
        measures = quality.QualityMeasures(["similarity", "dnsmos"])
    except MissingDependencyError as error:
        pytest.skip(str(error))
    clean, noisy = speech(3.0)
    assert measures.similarity(clean, clean)["similarity"] == pytest.approx(1, abs=1e-5)
    assert measures.similarity(clean, noisy)["similarity"] < 1
    assert measures.opinions(clean)["dnsmos"] > measures.opinions(noisy)["dnsmos"]
    assert measures.provenance()["measures"] == ["dnsmos", "similarity"]


def test_a_measure_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no measure 'nisqa'"):
        quality.QualityMeasures(["nisqa"])
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    with pytest.raises(MissingDependencyError, match="the measure pesq needs the package pesq"):
        quality.QualityMeasures(["pesq"])


def test_seed_tts_rule_on_250_texts() -> None:
    """The published rule, written a second time with zhon's list: marks, double blanks, case, characters."""
    jiwer = pytest.importorskip("jiwer")
    zhon = pytest.importorskip("zhon.hanzi")
    draw = random.Random(1)
    alphabet = {"en": "ab c'D,.-!  ", "zh": "天地玄黄，。！a "}
    compared = 0
    for number in range(250):
        language = "en" if number % 2 else "zh"
        truth, guess = ("".join(draw.choices(alphabet[language], k=draw.randint(3, 20))) for _ in range(2))
        ours, sides = seed_tts_error_rate(truth, guess, language), []
        for text in (truth, guess):
            kept = "".join(
                letter for letter in text if letter == "'" or letter not in zhon.punctuation + string.punctuation
            )
            kept = kept.replace("  ", " ")
            sides.append(" ".join(kept) if language == "zh" else kept.lower())
        if sides[0].split():
            assert ours == pytest.approx(jiwer.wer(*sides), abs=EXACT), (truth, guess)
            compared += 1
    assert compared > 200


# -- by hand ------------------------------------------------------------------------------------------------------


def test_likelihoods_by_hand(tmp_path: Path) -> None:
    def losses(*values: float) -> dict[str, Any]:
        return {"t2t_loss": {"losses": list(values)}, "s2t_loss": {"losses": list(values[::-1])}}

    stories = [(1.0, 2.0), (2.0, 1.0), (1.5, 1.5)]
    rows = [
        row(f"sstorycloze/{2 * number + index}", losses(value))
        for number, pair in enumerate(stories)
        for index, value in enumerate(pair)
    ]
    rows.append(row("scmmlu/a", losses(3.0, 1.0, 2.0, 1.0), raw_reference="B"))
    rows.append(row("scmmlu/b", losses(1.0, 2.0, 3.0, 4.0), raw_reference="B"))
    rows.append(row("scmmlu/c", {"t2t_loss": {"error": "too long."}, "s2t_loss": {"error": "x"}}, raw_reference="A"))
    figures = score_likelihoods(results(tmp_path / "r.jsonl", rows, settings=["t2t_loss", "s2t_loss"]))["sets"]
    story = figures["sstorycloze"]["settings"]["t2t_loss"]
    assert story["pairwise"]["value"] == pytest.approx(50) and story["pairwise"]["chance"] == 50
    assert story["official"] == {"value": pytest.approx(100 / 3), "pairs": 3}
    asked = figures["scmmlu"]["settings"]["t2t_loss"]
    # a: B beats A and C and ties with D; b: B beats C and D; c cannot be computed, and is wrong.
    assert asked["pairwise"]["value"] == pytest.approx(100 * ((2.5 + 2) / 3) / 3)
    assert asked["four_way"]["value"] == pytest.approx(100 * 0.5 / 3) and asked["four_way"]["chance"] == 25
    assert asked["official"] == {"value": pytest.approx(100 * 5 / 6), "pairs": 6} and asked["failed"] == 1
    spoken = figures["scmmlu"]["settings"]["s2t_loss"]  # the losses in reverse order
    assert spoken["four_way"]["value"] == 0 and spoken["official"]["value"] == pytest.approx(100 * 2 / 6)


def test_spoken_texts_by_hand(tmp_path: Path) -> None:
    rows = [
        row("en/a", {"tts": {"asr": "good morning", "measures": {"dnsmos": 3.0}}}, references=["Good morning."]),
        row("en/b", {"tts": {"asr": "good", "measures": {"dnsmos": 4.0}}}, references=["Good night all."]),
        row("en/c", {"tts": {"error": "failed."}}, references=["Why?"]),
    ]
    figures = score_tts(results(tmp_path / "r.jsonl", rows))["sets"]["en"]
    assert figures["error_rate"]["value"] == pytest.approx(100 * 3 / 6)  # two words of b, the one of c
    assert figures["official"] == {"value": pytest.approx(100 / 3, abs=1e-3), "counted": 2} and figures["failed"] == 1
    assert figures["dnsmos"]["value"] == 3.5 and figures["dnsmos"]["items"] == 2


def test_reconstructions_by_hand(tmp_path: Path) -> None:
    def version(asr: str, mae: float, pesq: float | None) -> dict[str, Any]:
        return {"asr": asr, "measures": {"mel_mae": mae, "pesq": pesq}}

    def codec(codes: list[list[int]], mae: float, pesq: float | None) -> dict[str, Any]:
        versions = {"original": version("a b", 0.0, 4.6), "vocoder": version("a b", 0.1, 4.0)}
        versions["decoded"] = version("a c", mae, pesq)
        return {"codec": {"codes": codes, "sizes": [4, 2], "frame_rate": 10.0, "seconds": 0.2, "versions": versions}}

    rows = [
        row("s/1", codec([[0, 1], [0, 0]], 0.2, 3.0), references=["a b"]),
        row("s/2", codec([[1, 0], [0, 0]], 0.4, None), references=["a b"]),
        row("s/3", {"codec": {"error": "too short."}}, references=["a b"]),
    ]
    figures = score_codec(results(tmp_path / "r.jsonl", rows))["sets"]["s"]
    assert (figures["items"], figures["failed"]) == (3, 1)
    original, decoded = figures["versions"]["original"], figures["versions"]["decoded"]
    assert original["error_rate"]["value"] == 0 and decoded["error_rate"]["value"] == 50
    assert decoded["mel_mae"]["value"] == pytest.approx(0.3)
    assert decoded["pesq"]["value"] == 3.0 and decoded["pesq"]["unmeasured"] == 1
    assert figures["codes"]["bits_per_second"] == 30.0
    assert [(book["unused"], round(book["perplexity"], 6)) for book in figures["codes"]["codebooks"]] == [
        (2, 2),
        (1, 1),
    ]
    assert figures["codes"]["entropy_bits_per_second"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is B.", "B"),
        ("C", "C"),
        ("b) because it floats", "B"),
        ("The correct option is (D), not the others.", "D"),
        ("答案是A。", "A"),
        ("The answer is a dog.", None),
        ("The answer is A or the answer is B.", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_stated_letters(reply: str, letter: str | None) -> None:
    assert stated_letter(reply) == letter


def test_stated_choices_and_refusals() -> None:
    assert stated_choice("Yes, it is.") == "yes" and stated_choice("It is (B).") == "b"
    assert stated_choice("Yes and no.") is None and stated_choice("Maybe.") is None
    assert refuses("I’m sorry, I can’t help.") and refuses("") and refuses("抱歉，不行。")
    assert not refuses("First, find a window.")


# -- comparisons --------------------------------------------------------------------------------------------------


def transcripts(path: Path, texts: list[str], **header: Any) -> Path:
    rows = [
        row(f"test/{number}", {"asr": {"text": text}}, references=["red green blue grey"], speaker=f"s{number % 3}")
        for number, text in enumerate(texts)
    ]
    return results(path, rows, suite="librispeech", settings=["asr"], **header)


def test_compare_is_paired(tmp_path: Path) -> None:
    right, wrong = "red green blue grey", "red green blue"
    first = transcripts(tmp_path / "a.jsonl", [wrong] * 6)
    second = transcripts(tmp_path / "b.jsonl", [right] * 3 + [wrong] * 3)
    (same,) = compare_results(first, first)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    (row_,) = compare_results(first, second)
    assert (row_.first, row_.second, row_.difference, row_.items) == (25, 12.5, -12.5, 6)
    assert row_.low is not None and row_.low < -12.5 < row_.high and row_.mcnemar_p is None
    (back,) = compare_results(second, first)
    assert (back.difference, back.low, back.high) == (12.5, -row_.high, -row_.low)


def test_compare_refuses_other_inputs(tmp_path: Path) -> None:
    first = transcripts(tmp_path / "a.jsonl", ["red"])
    for name, header in (("normalizers", {"normalizers": {"x": "y"}}), ("data", {"data": {"digest": "e"}})):
        other = transcripts(tmp_path / f"{name}.jsonl", ["red"], **header)
        with pytest.raises(EvaluationError, match=f"differ in {name}, so they cannot be compared"):
            compare_results(first, other)


def test_power_table() -> None:
    rows = power_table([1, 5, 30], [0.2], 0.8)
    assert [entry["items"] for entry in rows] == [15696, 626, None]
    with pytest.raises(ConfigError, match="points lie between"):
        power_table([0], [0.2], 0.8)
