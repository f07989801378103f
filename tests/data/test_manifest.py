import numpy as np
import pytest
import torch

from baichuan_audio.data.store.manifest import ClipStore, ClipWriter, normalise_transcript
from baichuan_audio.errors import DataError

FIELDS = {
    "language": "en",
    "speaker": "Ada",
    "transcript": "hello",
    "source": "synthetic",
    "license": "free",
    "split": "train",
    "kind": "read",
}


def tone(samples, rate=24_000):
    return (0.3 * np.sin(np.arange(samples) / rate * 440 * 2 * np.pi)).astype(np.float32)


def test_store_returns_what_was_written(tmp_path):
    first, second = tone(3000), tone(500)
    with ClipWriter(tmp_path) as writer:
        writer.add(first, id="a", **FIELDS)
        writer.add(second, id="b", **{**FIELDS, "split": "test"}, text="Hello.")
    store = ClipStore(tmp_path)
    assert [clip.id for clip in store.clips] == ["a", "b"]
    torch.testing.assert_close(store.waveform("a"), torch.from_numpy(first), atol=1e-4, rtol=0)
    torch.testing.assert_close(store.waveform("b", 100, 50), torch.from_numpy(second[100:150]), atol=1e-4, rtol=0)
    assert [clip.id for clip in store.select(split="test")] == ["b"]
    assert (store["a"].text, store["b"].text) == (None, "Hello.")
    with pytest.raises(DataError, match="no clip 'c'"):
        store["c"]


def test_store_grows_while_it_is_read_and_writer_goes_on(tmp_path):
    writer = ClipWriter(tmp_path)
    writer.add(tone(1000), id="a", **FIELDS)
    store = ClipStore(tmp_path)
    writer.add(tone(700), id="b", **FIELDS)
    assert len(store) == 1
    store.refresh()
    assert store.waveform("b").shape == (700,)
    writer.close()
    # A crash can leave half a line and samples that no line names.
    with (tmp_path / "clips.jsonl").open("a") as lines:
        lines.write('{"id": "half')
    with (tmp_path / "waveforms.int16").open("ab") as samples:
        samples.write(b"\x00" * 77)
    assert len(ClipStore(tmp_path)) == 2
    with ClipWriter(tmp_path) as again:
        assert again.ids == {"a", "b"}
        assert again.add(tone(300), id="c", **FIELDS).offset == 1700
        with pytest.raises(DataError, match="already"):
            again.add(tone(300), id="c", **FIELDS)
        with pytest.raises(DataError, match="split"):
            again.add(tone(300), id="e", **{**FIELDS, "split": "dev"})
        again.set_splits({"a": "test", "d": "test"})
        again.add(tone(200), id="d", **FIELDS)
    assert {clip.id: clip.split for clip in ClipStore(tmp_path).clips} == dict.fromkeys("bcd", "train") | {"a": "test"}
    torch.testing.assert_close(ClipStore(tmp_path).waveform("c"), torch.from_numpy(tone(300)), atol=1e-4, rtol=0)


def test_one_writer_at_a_time(tmp_path):
    with ClipWriter(tmp_path) as first:
        first.add(tone(300), id="a", **FIELDS)
        first.set_splits({"a": "test"})
        with pytest.raises(DataError, match="another process"):
            ClipWriter(tmp_path)
    ClipWriter(tmp_path).close()


def test_bad_stores_are_named(tmp_path):
    with pytest.raises(DataError, match="no clip store"):
        ClipStore(tmp_path)
    (tmp_path / "clips.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match="lacks"):
        ClipStore(tmp_path)


def test_transcripts_hold_words_alone():
    assert normalise_transcript("It’s 'OK', isn't it?", "en") == "it's ok isn't it"
    assert normalise_transcript("你好，世界。", "zh") == "你好世界"
    assert normalise_transcript("打8.5折", "zh") is None
    assert normalise_transcript("multiple_keywords.wav", "en") is None
    assert normalise_transcript(None, "en") is None


def test_a_store_without_its_last_newline_is_whole(tmp_path):
    with ClipWriter(tmp_path) as writer:
        writer.add(tone(300), id="a", **FIELDS)
    lines = tmp_path / "clips.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().rstrip(b"\n"))
    assert len(ClipStore(tmp_path)) == 1
    with ClipWriter(tmp_path) as again:
        assert again.add(tone(300), id="b", **FIELDS).offset == 300
    assert [clip.id for clip in ClipStore(tmp_path).clips] == ["a", "b"]
    lines.write_text("[" + lines.read_text("utf-8-sig").strip().replace("\n", ",") + "]")
    with pytest.raises(DataError, match="not JSON lines"):
        ClipWriter(tmp_path)
