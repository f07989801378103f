"""OpenAudioBench as published, and what is said about data sets that are broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from baichuan_audio.errors import DataError
from baichuan_audio.evaluation.suites.openaudiobench import SETS, load, split_references

from .conftest import RATE, ROWS, tone, write_table


def test_published_numbers() -> None:
    assert {name: form.items for name, form in SETS.items()} == {
        "reasoning_qa": 202,
        "llama_questions": 300,
        "web_questions": 1000,
        "trivia_qa": 1000,
        "alpaca_eval": 199,
    }
    assert sum(form.items for form in SETS.values()) == 2701


def test_all_five_sets_are_read(benchmark_dir: Path) -> None:
    benchmark = load(benchmark_dir)
    items = {item.id: item for item in benchmark.items}
    assert len(items) == sum(len(rows) for rows in ROWS.values())
    assert items["reasoning_qa/0.wav"].raw_reference == "7"
    assert items["reasoning_qa/0.wav"].language == "zh"
    assert items["web_questions/0.wav"].references == ("George Seifert", "Dom Capers", "John Fox")
    assert items["web_questions/0.wav"].raw_reference == "George Seifert;Dom Capers;John Fox"
    assert items["trivia_qa/0.wav"].references == ("prague", "praha")
    assert items["alpaca_eval/0.wav"].references == ()
    assert items["llama_questions/2.wav"].question == "Which planet is the largest, and why?"
    # Nothing but the numbers differs from the published tree.
    assert len(benchmark.problems) == 5 and all("were published." in problem for problem in benchmark.problems)


def test_eval_datas_itself_gives_the_same(benchmark_dir: Path) -> None:
    assert load(benchmark_dir / "eval_datas").digest() == load(benchmark_dir).digest()


@pytest.mark.parametrize(
    ("raw", "commas", "expected"),
    [
        ("Paris", False, ("Paris",)),
        ("a; b ;;c", False, ("a", "b", "c")),
        ("['x', \"y's\"]", False, ("x", "y's")),
        ('["x", "y"]', True, ("x", "y")),
        ("city of paris, paris france", True, ("city of paris", "paris france")),
        ("Washington, D.C.", False, ("Washington, D.C.",)),
        ("[broken", False, ("[broken",)),
        ("[__import__('os')]", False, ("[__import__('os')]",)),
    ],
)
def test_references_in_one_cell(raw: str, commas: bool, expected: tuple[str, ...]) -> None:
    assert split_references(raw, commas) == expected


LLAMA = Path("eval_datas") / "llama_questions"
TABLE = LLAMA / "llama_questions.csv"


def rewrite(root: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    rows = [{**row, "audio_filename": f"{index}.wav"} for index, row in enumerate(ROWS["llama_questions"])]
    write_table(root / TABLE, change(rows))


def without_column(root: Path) -> None:
    rewrite(root, lambda rows: [{key: row[key] for key in ("Questions", "audio_filename")} for row in rows])


def ragged(root: Path) -> None:
    text = (root / TABLE).read_text(encoding="utf-8-sig")
    (root / TABLE).write_text(text + "a question, that nobody, quoted, 9.wav\n", encoding="utf-8")


def changed_row(**cells: str) -> Callable[[Path], None]:
    return lambda root: rewrite(root, lambda rows: [rows[0] | cells, *rows[1:]])


def only_header(root: Path) -> None:
    (root / TABLE).write_text("Questions,Answer,audio_filename\n", encoding="utf-8")


def surplus(root: Path) -> None:
    for index in range(5):
        shutil.copy(root / LLAMA / "audios" / "0.wav", root / LLAMA / "audios" / f"extra{index}.mp3")


def written(name: Path, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content) and None


def gb18030(root: Path) -> None:
    rows = [{**row, "audio_filename": f"{index}.wav"} for index, row in enumerate(ROWS["reasoning_qa"])]
    write_table(root / "eval_datas" / "reasoning_qa" / "reasoning_qa.csv", rows, "gb18030")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
BROKEN: dict[str, tuple[Callable[[Path], None], str, int]] = {
    # what is broken: how, what is said, items of llama_questions that are left
    "set missing": (lambda root: shutil.rmtree(root / LLAMA), "this set is missing.", 0),
    "table missing": (lambda root: (root / TABLE).unlink(), "this file is missing.", 0),
    "table empty": (written(TABLE, b""), "this file is empty.", 0),
    "header only": (only_header, "there is no row below the header.", 0),
    "column missing": (without_column, "column 'Answer' is missing; there are 'Questions', 'audio_filename'.", 0),
    "table is a pointer": (written(TABLE, LFS), "this is a Git LFS pointer, not the file; run 'git lfs pull'.", 0),
    "table is no text": (written(TABLE, b"PK\3\4\0\0\0xlsx"), "this is no text file.", 0),
    "unknown encoding": (written(TABLE, b"Questions,\xff\xff\x80"), "neither UTF-8 nor GB18030", 0),
    "open quote": (written(TABLE, b'Questions,Answer,audio_filename\n"a,b,c'), "this is no CSV file", 0),
    "cells": (ragged, "row 5 has not as many cells as the header and left out.", 3),
    "audio folder missing": (
        lambda root: shutil.rmtree(root / LLAMA / "audios"),
        "the folder with the recordings is missing.",
        0,
    ),
    "recording missing": (
        lambda root: (root / LLAMA / "audios" / "1.wav").unlink(),
        "1 left out, a recording that is missing: 1.wav.",
        2,
    ),
    "recording empty": (
        written(LLAMA / "audios" / "1.wav", b""),
        "1 left out, a recording that is empty: 1.wav.",
        2,
    ),
    "recording is a pointer": (
        written(LLAMA / "audios" / "1.wav", LFS),
        "1 left out, a recording that is a Git LFS pointer: 1.wav.",
        2,
    ),
    "recording is something else": (
        written(LLAMA / "audios" / "1.wav", b"<html>404</html>"),
        "1 left out, a recording that is no audio file: 1.wav.",
        2,
    ),
    "recording twice": (changed_row(audio_filename="1.wav"), "1 left out, a row that stands twice: 1.wav.", 2),
    "recording outside": (
        changed_row(audio_filename="../../../secret.wav"),
        "1 left out, a recording outside of audios/: ../../../secret.wav.",
        2,
    ),
    "no file name": (changed_row(audio_filename=""), "1 left out, no name: (no name).", 2),
    "no question": (changed_row(Questions=" "), "1 left out, no question: 0.wav.", 2),
    "no reference": (changed_row(Answer=""), "1 left out, no reference: 0.wav.", 2),
    "surplus": (surplus, "5 recordings without a row were left out: extra0.mp3, extra1.mp3, extra2.mp3 and 2 more.", 3),
    "Excel in China": (gb18030, "the text is gb18030, not UTF-8; it was converted.", 3),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_is_told_in_one_sentence(benchmark_dir: Path, name: str) -> None:
    ruin, sentence, left = BROKEN[name]
    usual = set(load(benchmark_dir).problems)
    ruin(benchmark_dir)
    benchmark = load(benchmark_dir)
    new = [problem for problem in benchmark.problems if problem not in usual and "were published." not in problem]
    assert any(sentence in problem for problem in new), new
    assert all("\n" not in problem and problem.endswith(".") for problem in new)
    assert sum(item.subset == "llama_questions" for item in benchmark.items) == left
    assert sum(item.subset != "llama_questions" for item in benchmark.items) == 5
    with pytest.raises(DataError):
        load(benchmark_dir, strict=True)


def test_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such folder; give the one that holds eval_datas\.$"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is none of the sets reasoning_qa"):
        load(tmp_path)


def test_every_byte_counts_in_the_hash(benchmark_dir: Path) -> None:
    before = load(benchmark_dir).digest()
    assert load(benchmark_dir).digest() == before
    soundfile.write(benchmark_dir / LLAMA / "audios" / "2.wav", -tone(), RATE)
    assert load(benchmark_dir).digest() != before
