"""Speech recognition data as published, its normalisers, and error rates computed from the file alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.evaluation.statistics import Estimate
from baichuan_audio.evaluation.suites import asr
from baichuan_audio.evaluation.suites.items import Benchmark
from baichuan_audio.evaluation.suites.normalizers import NORMALIZERS, fingerprint, normalize
from baichuan_audio.evaluation.suites.registry import SUITES
from baichuan_audio.evaluation.suites.run import run_suite

from .conftest import RATE, ScriptedSystem, tone

LOADERS = {name: SUITES[name].load for name in ("librispeech", "aishell1", "fleurs")}


def record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(), RATE)


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for split, speaker in (("test-clean", "61"), ("test-clean", "121"), ("dev-other", "116")):
        folder = tmp_path / "LibriSpeech" / split / speaker / "70"
        for index in range(2):
            record(folder / f"{speaker}-70-000{index}.flac")
        (folder / f"{speaker}-70.trans.txt").write_text(
            f"{speaker}-70-0000 HE BEGAN A CONFUSED COMPLAINT\n{speaker}-70-0001 IT WASN'T THE COLOUR\n"
        )
    return tmp_path


@pytest.fixture
def aishell1(tmp_path: Path) -> Path:
    base = tmp_path / "data_aishell"
    for name in ("BAC009S0764W0121", "BAC009S0764W0122"):
        record(base / "wav" / "test" / "S0764" / f"{name}.wav")
    (base / "transcript").mkdir()
    (base / "transcript" / "aishell_transcript_v0.8.txt").write_text(
        "BAC009S0002W0122 而 对 楼市\n"
        "BAC009S0764W0121 甚至 出现 交易 几乎 停滞 的 情况\n"
        "BAC009S0764W0122 一二 线 城市\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture
def fleurs(tmp_path: Path) -> Path:
    for language, raw, text in (
        ("en_us", 'However, it\'s "new".', "however it's new"),
        ("cmn_hans_cn", "这是 2023 年。", "这是 2023 年"),
    ):
        record(tmp_path / language / "test" / "1.wav")
        table = tmp_path / "metadata" / language / "test.tsv"
        table.parent.mkdir(parents=True)
        table.write_text(f"1\t1.wav\t{raw}\t{text}\th o w\t3200\tMALE\n", encoding="utf-8")
    return tmp_path


def problems(benchmark: Benchmark) -> list[str]:
    """What is wrong, beside the small number of items."""
    return [problem for problem in benchmark.problems if not problem.endswith("were published.")]


def test_librispeech(librispeech: Path) -> None:
    benchmark = LOADERS["librispeech"](librispeech)
    assert problems(benchmark) == [] and len(benchmark.items) == 6
    assert "test-clean: 4 items, 2620 were published." in benchmark.problems
    assert {item.subset for item in benchmark.items} == {"test-clean", "dev-other"}
    first = benchmark.items[0]
    assert (first.speaker, first.language, first.references) == ("121", "en", ("HE BEGAN A CONFUSED COMPLAINT",))
    assert LOADERS["librispeech"](librispeech / "LibriSpeech").digest() == benchmark.digest()


def test_aishell1(aishell1: Path) -> None:
    benchmark = LOADERS["aishell1"](aishell1)
    assert problems(benchmark) == [] and [item.speaker for item in benchmark.items] == ["S0764", "S0764"]
    assert benchmark.items[1].references == ("一二 线 城市",)


def test_fleurs_in_both_layouts(fleurs: Path) -> None:
    benchmark = LOADERS["fleurs"](fleurs)
    assert problems(benchmark) == []
    english, chinese = benchmark.items
    assert (english.language, english.question, english.raw_reference) == (
        "en",
        "however it's new",
        'However, it\'s "new".',
    )
    assert chinese.language == "zh"
    digest = benchmark.digest()
    for language in ("en_us", "cmn_hans_cn"):
        shutil.move(fleurs / "metadata" / language / "test.tsv", fleurs / language / "test.tsv")
        (fleurs / language / "audio").mkdir()
        shutil.move(fleurs / language / "test", fleurs / language / "audio" / "test")
    assert LOADERS["fleurs"](fleurs).digest() == digest


CHAPTER = Path("LibriSpeech/test-clean/61/70")
TRANSCRIPT = Path("data_aishell/transcript/aishell_transcript_v0.8.txt")
RECORDINGS = Path("data_aishell/wav/test/S0764")


def appended(path: Path, line: str) -> Callable[[Path], None]:
    def append(root: Path) -> None:
        with (root / path).open("a", encoding="utf-8") as file:
            file.write(line)

    return append


BROKEN: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "librispeech",
        lambda root: (root / CHAPTER / "61-70.trans.txt").unlink(),
        "61-70.trans.txt: this file is missing.",
    ),
    ("librispeech", lambda root: (root / CHAPTER / "61-70-0000.flac").unlink(), "that is missing: 61-70-0000.flac."),
    (
        "librispeech",
        lambda root: (root / CHAPTER / "61-70-0000.flac").write_bytes(b"x"),
        "no audio file: 61-70-0000.flac.",
    ),
    (
        "librispeech",
        appended(CHAPTER / "61-70.trans.txt", "61-70-0001 AGAIN\n"),
        "1 names stand twice, the first counts",
    ),
    (
        "librispeech",
        appended(CHAPTER / "61-70.trans.txt", "61-70-0009\n"),
        "a recording that is missing: 61-70-0009.flac.",
    ),
    ("librispeech", lambda root: record(root / CHAPTER / "x.flac"), "1 recordings without a transcript: x.flac."),
    ("aishell1", lambda root: (root / RECORDINGS / "BAC009S0764W0121.wav").write_bytes(b""), "that is empty"),
    ("aishell1", lambda root: record(root / RECORDINGS / "new.wav"), "1 recordings without a transcript: new.wav."),
    ("fleurs", appended(Path("metadata/en_us/test.tsv"), "2\tx.wav\n"), "1 lines with less than four columns"),
    ("fleurs", lambda root: (root / "metadata/en_us/test.tsv").unlink(), "test.tsv: this file is missing."),
    ("fleurs", appended(Path("metadata/en_us/test.tsv"), "1\t1.wav\ta\ta\n"), "a recording named twice: 1.wav."),
]


@pytest.mark.parametrize(("suite", "ruin", "sentence"), BROKEN)
def test_broken_data_is_told(request: pytest.FixtureRequest, suite: str, ruin: Any, sentence: str) -> None:
    root = request.getfixturevalue(suite)
    ruin(root)
    benchmark = LOADERS[suite](root)
    assert len(problems(benchmark)) == 1 and sentence in problems(benchmark)[0], benchmark.problems
    with pytest.raises(DataError):
        LOADERS[suite](root, True)


@pytest.mark.parametrize("suite", LOADERS)
def test_nothing_there(tmp_path: Path, suite: str) -> None:
    with pytest.raises(DataError, match=r"there is no"):
        LOADERS[suite](tmp_path)
    with pytest.raises(DataError, match=r"there is no such folder"):
        LOADERS[suite](tmp_path / "nowhere")


def test_transcript_missing(aishell1: Path) -> None:
    (aishell1 / TRANSCRIPT).unlink()
    with pytest.raises(DataError, match=r"aishell_transcript_v0\.8\.txt: this file is missing\.$"):
        LOADERS["aishell1"](aishell1)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("whisper-en", "Mr. Smith's colour, won't it? [noise]", "mister smith is color will not it"),
        ("whisper-en", "Twenty-one", "21"),
        ("plain-en", "IT WASN’T the Colour: 21!", "it wasn't the colour 21"),
        ("characters-zh", "甚至 出现，交易", "甚 至 出 现 交 易"),
        ("characters-zh", "2023年 iPhone", "二 零 二 三 年 iphone"),
        ("characters-zh", "請開門", "请 开 门"),
    ],
)
def test_normalisers(name: str, text: str, expected: str) -> None:
    assert " ".join(normalize(name, text)) == expected


def test_every_normaliser_has_its_own_fingerprint() -> None:
    assert len({fingerprint(name) for name in NORMALIZERS}) == len(NORMALIZERS)
    with pytest.raises(ConfigError, match="no normaliser 'x'"):
        normalize("x", "")


def test_error_rates_by_hand_and_again_offline(librispeech: Path, tmp_path: Path) -> None:
    """Two texts of five words each, read twice: one with a word left out, one spelt otherwise; then one that fails."""
    system = ScriptedSystem(
        {"HE BEGAN A CONFUSED COMPLAINT": "He began a confused.", "IT WASN'T THE COLOUR": "it wasn't the color"}
    )
    output = tmp_path / "r.jsonl"
    figures = run_suite("librispeech", librispeech, system, output, log=lambda _: None)
    clean = figures["sets"]["test-clean"]
    # whisper-en writes "was not": 5 words in both transcripts. Two recordings of each text: 2 errors of 20 words.
    assert (clean["errors"], clean["tokens"], clean["items"]) == (2, 20, 4)
    assert clean["error_rate"]["value"] == pytest.approx(10.0)
    again = asr.score(output, {"en": "plain-en"})["sets"]["test-clean"]
    assert (again["errors"], again["tokens"]) == (4, 18)  # "colour" is another word here, "wasn't" is one
    failing = ScriptedSystem(system.replies, failing=("HE BEGAN A CONFUSED COMPLAINT",), name="failing")
    failed = run_suite("librispeech", librispeech, failing, tmp_path / "f.jsonl", log=lambda _: None)
    clean = failed["sets"]["test-clean"]
    assert (clean["errors"], clean["tokens"], clean["failed"]) == (10, 20, 2)


def test_recordings_of_your_own_and_silence(tmp_path: Path) -> None:
    rows = [
        {"path": "a/1.wav", "transcript": "Good morning", "language": "en", "speaker": "x"},
        {"path": "a/2.wav", "transcript": "你好", "language": "zh", "set": "mandarin"},
        *({"path": f"quiet/{number}.wav", "transcript": "", "language": "en"} for number in range(3)),
        {"path": "../outside.wav", "transcript": "No", "language": "en", "set": "a"},
        {"path": "a/missing.wav", "transcript": "No", "language": "en"},
        {"path": "a/1.wav", "language": "en"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for row in rows[:5]:
        record(tmp_path / row["path"])
    record(tmp_path.parent / "outside.wav")
    load = SUITES["recordings"].load
    assert [item.id for item in load(tmp_path).items] == ["a/a/1.wav", "mandarin/a/2.wav"] + [
        f"quiet/quiet/{number}.wav" for number in range(3)
    ]
    told = " ".join(load(tmp_path).problems)
    assert "row 8 lacks a path, a transcript or a language" in told and "a recording outside of" in told
    assert "a recording that is missing: a/missing.wav" in told
    with pytest.raises(DataError, match=r"manifest\.jsonl: this file is missing"):
        load(tmp_path / "a")
    system = ScriptedSystem({"Good morning": "good evening", "你好": "你好", "": "thank you"})
    sets = run_suite("recordings", tmp_path, system, tmp_path / "r.jsonl", log=lambda _: None)["sets"]
    assert {name: (figures["errors"], figures["tokens"]) for name, figures in sets.items()} == {
        "a": (1, 2), "mandarin": (0, 2), "quiet": (0, 0),
    }  # fmt: skip
    assert sets["quiet"]["error_rate"] is None
    assert (sets["quiet"]["empty_references"], sets["quiet"]["empty_transcripts"]) == (3, 0)
    silent = ScriptedSystem({**system.replies, "": "..."}, name="silent")
    sets = run_suite("recordings", tmp_path, silent, tmp_path / "s.jsonl", log=lambda _: None)["sets"]
    assert sets["quiet"]["empty_transcripts"] == 3


def test_characters_of_mandarin(aishell1: Path, tmp_path: Path) -> None:
    system = ScriptedSystem(
        {"甚至 出现 交易 几乎 停滞 的 情况": "甚至出现交易几乎停止的情况。", "一二 线 城市": "一二线城市"}
    )
    figures = run_suite("aishell1", aishell1, system, tmp_path / "r.jsonl", log=lambda _: None)
    test = figures["sets"]["test"]
    assert (test["errors"], test["tokens"], test["normalizer"]) == (1, 18, "characters-zh")


def test_equals_jiwer_over_all_texts() -> None:
    import jiwer

    references = [["a", "b", "c", "d"], ["e"], ["f", "g"]]
    hypotheses = [["a", "x", "c"], ["e", "e", "e"], []]
    errors = asr.token_errors(references, hypotheses)
    whole = jiwer.wer([" ".join(text) for text in references], [" ".join(text) for text in hypotheses])
    assert sum(item.errors for item in errors) / sum(item.count for item in errors) == pytest.approx(whole, abs=1e-12)
    assert asr.corpus_rate([asr.TokenErrors(0, 0)]) is None


def test_intervals_stay_within_what_is_possible() -> None:
    assert asr.percent(Estimate(0.9, 0.7, 1.1, 5), highest=1.0) == {"value": 90, "low": 70, "high": 100, "items": 5}
    assert asr.percent(Estimate(0.1, -0.2, 0.4, 5))["low"] == 0
    one_voice = asr.corpus_rate([asr.TokenErrors(1, 4), asr.TokenErrors(0, 4)], ["S1", "S1"])
    assert one_voice == {"value": 12.5, "low": None, "high": None, "items": 2}
