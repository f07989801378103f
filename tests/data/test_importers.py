import json

import pytest

from baichuan_audio.data import readers
from baichuan_audio.data.importers import read_manifest
from baichuan_audio.errors import DataError


def rows_of():
    row = {"language": "zh", "license": "x", "source": "y", "speaker": None, "transcript": "樱桃"}
    return [{"path": f"{name}.wav"} | row for name in "ab"]


@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.csv", "m.tsv", "m.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_manifests_as_people_have_them(tmp_path, name, encoding, end):
    rows = rows_of()
    if name.endswith("sv"):
        mark = "," if name.endswith("csv") else "\t"
        text = "\n".join(
            mark.join(cell or "" for cell in cells) for cells in [rows[0], *(row.values() for row in rows)]
        )
    else:
        text = (
            json.dumps(rows, ensure_ascii=False)
            if name == "m.json"
            else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        )
    (tmp_path / name).write_bytes(((text + "\n").replace("\n", end) if end else text).encode(encoding))
    if encoding == "gb18030":
        with pytest.raises(DataError, match=rf"{name}, line \d+, is not UTF-8 \(as GB18030 it reads '樱桃"):
            list(read_manifest(tmp_path / name))
        return
    found = list(read_manifest(tmp_path / name))
    assert [(r.id, r.speaker, r.transcript) for r in found] == [("a", None, "樱桃"), ("b", None, "樱桃")]


def test_languages_by_any_name_and_speakers_by_number(tmp_path):
    rows = [row | {"language": name, "speaker": 7} for row, name in zip(rows_of(), ("Chinese", "en-US"), strict=True)]
    (tmp_path / "m.json").write_text(json.dumps(rows, indent=1))
    assert [(r.language, r.speaker) for r in read_manifest(tmp_path / "m.json")] == [("zh", "7"), ("en", "7")]


def test_rows_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "m.jsonl"
    first, second = rows_of()
    for rows, error in (
        ([first, first], r"m\.jsonl: the rows 1 and 2 both name the recording 'a'"),
        ([first, {"audio_filepath": "b.wav"}], r"line 2: the row lacks 'path', 'language', .*it has audio_filepath"),
        ([first, second | {"transcript": 7}], "line 2: 'transcript' must be a text, not 7"),
    ):
        path.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(DataError, match=error):
            list(read_manifest(path))
    (tmp_path / "t.txt").write_text("a.wav hello\n")
    with pytest.raises(DataError, match=r"t\.txt is no manifest: .*Name a manifest .*JSON lines"):
        list(read_manifest(tmp_path / "t.txt"))


def test_a_folder_is_no_manifest(tmp_path):
    with pytest.raises(DataError, match="is a folder, no manifest"):
        list(read_manifest(tmp_path))


def test_the_old_name_is_kept_for_one_release(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows_of())), encoding="utf-8")
    with pytest.warns(DeprecationWarning, match="importers.read_manifest"):
        assert [recording.id for recording in readers.read_recordings(tmp_path / "m.jsonl")] == ["a", "b"]
