"""Lists as people have them: every row read, or one error that names file, line and encoding."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from baichuan_audio.config import load_recipe
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.safetensors_io import read_json
from baichuan_audio.text.lines import parse_rows, read_json_rows, read_lines, read_table, read_text


@dataclass(frozen=True)
class Recipe:
    steps: int = 1


ROWS = [{"id": "a", "text": "你好 \u2028 café"}, {"id": "b", "text": ""}]
PLAIN = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        (PLAIN + "\n").encode(),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        ("\n\n" + PLAIN.replace("\n", "\n \n") + "\n\n").encode(),
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"),
        json.dumps(ROWS).encode(),
        b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
        ("[\n" + PLAIN.replace("\n", ",\n") + "\n]").encode(),
    ],
)
def test_every_row_is_read(tmp_path: Path, data: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    assert [row for _, row in read_json_rows(path)] == ROWS


def test_one_object_is_one_row(tmp_path: Path):
    path = tmp_path / "row.json"
    for text in (json.dumps(ROWS[0]), json.dumps(ROWS[0], indent=1)):
        path.write_text(text, encoding="utf-8")
        assert [row for _, row in read_json_rows(path)] == ROWS[:1]
    path.write_text("")
    assert list(read_json_rows(path)) == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"a": 1}\n{"a": ', r"rows\.jsonl, line 2, is not JSON"),
        (b'{"a": 1}\n\n{"a": 1},\n{"a": 2}', r"line 3, is not JSON \(Extra data.*one array of objects"),
        (b"# a list\n{}", "line 1, is not JSON"),
        (b'{"a": 1}\n7\n', "line 2, is not a JSON object: '7'"),
        (b'[{"a": 1},\n{"a": }]', r"rows\.jsonl, line 2: the JSON array is broken"),
        (b'["a"]\n["b"]\n', r"line 2: the JSON array is broken"),
        (b'[{"a": 1}, 7]', "entry 2 of the array, is not a JSON object"),
        (b"[" * 100_000, r"rows\.jsonl.*the JSON array"),
        ('{"a": 1}\n{"a": "你好"}\n'.encode("gbk"), r"rows\.jsonl, line 2, is not UTF-8 \(as GB18030 it reads '你好"),
        (b'{"a": "caf\xe9"}', "line 1, is not UTF-8"),
        (b"\xff\xfea", r"rows\.jsonl looks like UTF-16 and is damaged"),
    ],
)
def test_a_broken_list_is_one_sentence(tmp_path: Path, data: bytes, error: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=error):
        list(read_json_rows(path))


def test_a_list_that_grows_ends_at_its_last_whole_row(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    assert len(list(read_json_rows(path, growing=True))) == 2
    path.write_text('{"a": 1}\n{"a": ')
    assert len(list(read_json_rows(path, growing=True))) == 1
    path.write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        list(read_json_rows(path, growing=True))


def test_tables(tmp_path: Path):
    path = tmp_path / "table.tsv"
    path.write_bytes(b"\xef\xbb\xbfpath\ttext\r\na.wav\thello, you\r\n\r\nb.wav\tbye")
    assert list(read_table(path)) == [
        (2, {"path": "a.wav", "text": "hello, you"}),
        (4, {"path": "b.wav", "text": "bye"}),
    ]
    path.write_text('path,text\na.wav,"hello, you"\nb.wav\n')
    with pytest.raises(DataError, match=r"table\.tsv, line 3: 1 cells under a header of 2"):
        list(read_table(path))
    path.write_text('path,text\na.wav,"hello\n')
    with pytest.raises(DataError, match="is no row of a table"):
        list(read_table(path))


def test_recipes_and_configurations_of_any_editor(tmp_path: Path):
    recipe = "# 配方\nsteps: 7\n"
    for data in (recipe.encode("utf-8-sig"), recipe.replace("\n", "\r\n").encode("utf-16"), recipe.strip().encode()):
        (tmp_path / "recipe.yaml").write_bytes(data)
        assert load_recipe(tmp_path / "recipe.yaml", Recipe).steps == 7
    (tmp_path / "recipe.yaml").write_bytes(recipe.encode("gbk"))
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line 1, is not UTF-8 \(as GB18030 it reads '配方'\)"):
        load_recipe(tmp_path / "recipe.yaml", Recipe)
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "config.json") == {}


def test_rows_of_another_form(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[1, 2]\n[3]\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2, is no pair"):
        list(parse_rows(path, lambda row: (row[0], row[1] if len(row) > 1 else int("x")), "pair"))
    with pytest.raises(DataError, match=r"none\.txt cannot be read \(No such file"):
        list(read_lines(tmp_path / "none.txt"))


def test_whole_texts_keep_their_lines(tmp_path: Path):
    path = tmp_path / "a.txt"
    for text in ("", "a", "a\n", "a\n\n", "\n\na\n \nb"):
        for data in (text.encode(), text.replace("\n", "\r\n").encode("utf-8-sig"), text.encode("utf-16")):
            path.write_bytes(data)
            assert read_text(path) == text
