"""The suites' published layouts: what is read from whole data sets, and what is told of broken ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from baichuan_audio.errors import DataError
from baichuan_audio.evaluation.suites.items import Benchmark, Item
from baichuan_audio.evaluation.suites.registry import SUITES
from baichuan_audio.evaluation.systems.base import item_waveform

from .conftest import RATE, tone, write_table
from .layouts import LAYOUTS, STORY, record, write

NET = "audio/net.wav"
CSV = Path("eval_datas/llama_questions/llama_questions.csv")
AUDIOS = CSV.parent / "audios"


def built(suite: str, root: Path) -> Path:
    root.mkdir(exist_ok=True)
    LAYOUTS[suite](root)
    return root


def load(suite: str, root: Path, strict: bool = False) -> Benchmark:
    return SUITES[suite].load(root, strict)


def faults_of(benchmark: Benchmark) -> list[str]:
    """What is wrong, beside the small number of items."""
    return [problem for problem in benchmark.problems if "were published" not in problem]


def by_id(benchmark: Benchmark) -> dict[str, Item]:
    return {item.id: item for item in benchmark.items}


@pytest.mark.parametrize("suite", LAYOUTS)
def test_a_whole_data_set_has_no_fault(suite: str, tmp_path: Path) -> None:
    benchmark = load(suite, built(suite, tmp_path / "data"))
    missing = [problem for problem in faults_of(benchmark) if not problem.endswith("this set is missing.")]
    assert benchmark.items and not missing and not benchmark.unusable
    assert len(by_id(benchmark)) == len(benchmark.items)
    assert load(suite, tmp_path / "data").digest() == benchmark.digest()


def test_wenetspeech_reads_parts_of_recordings(tmp_path: Path) -> None:
    items = by_id(load("wenetspeech", built("wenetspeech", tmp_path)))
    assert set(items) == {"TEST_NET/n1", "TEST_NET/n2", "TEST_MEETING/m1"}
    waveform, rate = item_waveform(items["TEST_NET/n2"])
    whole, _ = soundfile.read(tmp_path / NET, dtype="float32")
    assert rate == RATE and np.array_equal(waveform, whole[RATE:])
    assert len(item_waveform(items["TEST_NET/n1"])[0]) == RATE // 2


def test_kespeech_by_dialect(tmp_path: Path) -> None:
    items = load("kespeech", built("kespeech", tmp_path)).items
    assert [(item.subset, item.question, item.speaker) for item in items] == [
        ("Mandarin", "再见", "s1"), ("Beijing", "你好", "s1"), ("Ji-Lu", "谢谢", "s2"),
    ]  # fmt: skip
    assert items[1].raw_reference == "你好<SPOKEN_NOISE>"


def test_covost2_drops_what_is_to_be_removed(tmp_path: Path) -> None:
    items = load("covost2", built("covost2", tmp_path)).items
    assert [(item.question, item.references, item.language, item.speaker) for item in items] == [
        ("Good morning.", ("早上好。",), "en", "s0"), ("Good morning.", ("早上好。",), "en", "s1"),
    ]  # fmt: skip
    shutil.move(tmp_path / "covost_v2.en_zh-CN.test.tsv", tmp_path / "en" / "covost_v2.en_zh-CN.test.tsv")
    assert load("covost2", tmp_path).items == items


def test_seed_tts_has_prompts(tmp_path: Path) -> None:
    first, second = load("seed_tts", built("seed_tts", tmp_path)).items
    assert (first.question, first.language, first.audio) == ("Good morning.", "en", None)
    assert first.prompt_audio == second.prompt_audio == tmp_path / "en" / "prompt-wavs" / "p1.wav"


def test_reconstruction_takes_any_sounds_and_known_layouts(tmp_path: Path) -> None:
    items = by_id(load("reconstruction", built("reconstruction", tmp_path / "plain")))
    assert items["sounds/a.wav"].references == ("你好",) and items["sounds/a.wav"].language == "zh"
    assert items["sounds/b/c.wav"].references == ()
    read = load("reconstruction", built("librispeech", tmp_path / "libri"))
    assert read.name == "librispeech" and read.items[0].references == ("GOOD MORNING",)


def test_s2sbench_pairs_stories(tmp_path: Path) -> None:
    benchmark = load("s2sbench", built("s2sbench", tmp_path))
    assert [item.id for item in benchmark.items] == [
        "sstorycloze/0", "sstorycloze/1", "sstorycloze/2", "sstorycloze/3", "scmmlu/q1",
    ]  # fmt: skip
    assert [item.raw_reference for item in benchmark.items] == ["right", "wrong", "right", "wrong", "B"]
    assert benchmark.items[2].choices == ("She ate.",) and len(benchmark.items[4].choices) == 4
    assert faults_of(benchmark) == [f"{tmp_path / 'S2S/StoryCloze/zh_story.jsonl'}: this set is missing."]


def test_voicebench_in_parquet_equals_json_lines(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    plain = load("voicebench", built("voicebench", tmp_path))
    for table in tmp_path.glob("*/usa.jsonl"):
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        for row in rows:
            names = row["audio"] if isinstance(row["audio"], list) else [row["audio"]]
            sounds = [{"bytes": (table.parent / name).read_bytes(), "path": name} for name in names]
            row["audio"] = sounds if isinstance(row["audio"], list) else sounds[0]
        table.unlink()
        parquet.write_table(pyarrow.Table.from_pylist(rows), table.with_suffix(".parquet"))
    read = load("voicebench", tmp_path)
    assert [(item.id, item.question, item.references) for item in read.items] == [
        (item.id, item.question, item.references) for item in plain.items
    ]
    assert read.digest() == plain.digest()
    (tmp_path / "bbh" / "usa.parquet").write_bytes(b"PAR1")
    assert "this parquet file cannot be read" in faults_of(load("voicebench", tmp_path))[0]


def edited(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / path).read_text(encoding="utf-8")
        assert old in text
        (root / path).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def chinese_headers(root: Path) -> None:
    """A table that somebody translated."""
    write_table(root / CSV, [{"问题": "What?", "答案": "x", "audio_filename": "0.wav"}])


def with_mark(root: Path) -> None:
    """A byte order mark, as Notepad writes it."""
    table = root / "Tasks" / "ASR" / "test" / "text"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())


def not_a_number(root: Path) -> None:
    samples = tone()
    samples[100] = np.nan
    record(root / "a.wav", samples=samples, subtype="FLOAT")


BROKEN: list[tuple[str, str, Callable[[Path], Any], str]] = [
    ("missing folder", "covost2", lambda root: shutil.rmtree(root / "en"), "clips: the folder with Common Voice's"),
    (
        "missing table",
        "kespeech",
        lambda root: (root / "Tasks/ASR/test/utt2spk").unlink(),
        "utt2spk: this file is missing.",
    ),
    (
        "missing column",
        "covost2",
        edited("covost_v2.en_zh-CN.test.tsv", "translation", "x"),
        "column translation is missing",
    ),
    ("byte order mark", "kespeech", with_mark, ""),
    (
        "Chinese headers",
        "openaudiobench",
        chinese_headers,
        "column 'Questions', 'Answer' is missing; there are '问题', '答案'",
    ),
    ("repeated id", "seed_tts", edited("en/meta.lst", "b|", "a|"), "1 left out, a row that stands twice: a."),
    (
        "missing audio",
        "s2sbench",
        lambda root: (root / "S2S/cmmlu/cmmlu_rewrite/q1.wav").unlink(),
        "a recording that is missing: q1.",
    ),
    ("zero bytes", "wenetspeech", lambda root: (root / NET).write_bytes(b""), "a recording that is empty"),
    (
        "no audio",
        "voicebench",
        lambda root: (root / "bbh/1.wav").write_bytes(b"RIFFxxxx"),
        "a recording that is no audio file",
    ),
    ("NaN", "reconstruction", not_a_number, "a recording that is not finite (NaN or infinite samples): a.wav."),
    (
        "wrong rate",
        "librispeech",
        lambda root: record(root / "test-clean/61/70/61-70-0000.flac", 8000),
        "test-clean: 1 recordings are at 8000 Hz, 16000 Hz were published.",
    ),
    ("empty reference", "voicebench", edited("bbh/usa.jsonl", '"yes"', '""'), "1 left out, no reference: usa/00000."),
    (
        "surplus audio",
        "openaudiobench",
        lambda root: record(root / AUDIOS / "99.wav"),
        "1 recordings without a row were left out: 99.wav.",
    ),
    ("wrong count", "kespeech", lambda root: None, "3 items, 19668 were published."),
    ("no JSON", "wenetspeech", edited("WenetSpeech.json", '"path"', "path"), "this is no JSON from character"),
    (
        "segment without times",
        "wenetspeech",
        edited("WenetSpeech.json", '"end_time": 2.0', '"end_time": null'),
        "1 segments left out, without sid",
    ),
    (
        "half a story",
        "s2sbench",
        edited(f"S2S/StoryCloze/{STORY}", '"uttid": 3', '"uttid": 9'),
        "row 2 has no row 3 beside it",
    ),
    (
        "unknown answer",
        "s2sbench",
        edited("S2S/cmmlu/cmmlu_rewrite_4.jsonl", '"answer": "B"', '"answer": "E"'),
        "the answer of 'q1' is 'E', none of A to D",
    ),
    (
        "instruction without a rule",
        "voicebench",
        edited("ifeval/usa.jsonl", "no_comma", "no_dash"),
        "1 left out, no instructions that rules can check: usa/00000.",
    ),
    ("outside", "wenetspeech", edited("WenetSpeech.json", NET, "../../x.wav"), "4 segments left out"),
    ("cells", "seed_tts", edited("en/meta.lst", "|Night.", ""), "1 lines have not four or five cells"),
]
"""What is wrong, suite, how it is broken, and what is told ("": nothing, since it can be read)."""


@pytest.mark.parametrize(("fault", "suite", "ruin", "sentence"), BROKEN, ids=[entry[0] for entry in BROKEN])
def test_broken_data_is_told(
    fault: str, suite: str, ruin: Callable[[Path], Any], sentence: str, tmp_path: Path
) -> None:
    """In one sentence, the rest is read; or the sentence is the error, where nothing is left. `strict` stops."""
    root = built(suite, tmp_path / "data")
    before = load(suite, root).digest()
    ruin(root)
    try:
        benchmark = load(suite, root)
    except DataError as error:
        assert sentence in str(error) and "\n" not in str(error)
        return
    if not sentence:
        assert benchmark.digest() == before
        return
    assert sum(sentence in problem for problem in benchmark.problems) == 1, benchmark.problems
    with pytest.raises(DataError):
        load(suite, root, strict=True)


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_there(suite: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"there is n|this file is missing"):
            load(suite, folder)


def test_a_recording_outside_is_no_item(tmp_path: Path) -> None:
    record(tmp_path / "secret.wav")
    root = built("seed_tts", tmp_path / "data")
    write(root / "en" / "meta.lst", "a|x|../../secret.wav|Text.\n")
    with pytest.raises(DataError, match="a recording outside of en/"):
        load("seed_tts", root)
