"""Test items that were trained on are detected, in texts and in sounds; others are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from baichuan_audio.audio.reading import read_audio
from baichuan_audio.data.store.manifest import ClipWriter
from baichuan_audio.data.store.records import Sample, Segment
from baichuan_audio.data.store.shards import ShardWriter, flac_bytes, write_index
from baichuan_audio.errors import ConfigError
from baichuan_audio.evaluation.suites import contamination as contamination_module
from baichuan_audio.evaluation.suites.contamination import (
    TrainingIndex,
    contamination,
    fingerprint,
    ngram_hashes,
    read_training,
    shifted_fingerprints,
)

from .layouts import record, write, write_lines

SPEECH = Path(__file__).parents[1] / "fixtures" / "speech"
SENTENCE = "the quick brown fox jumps over the lazy dog by the river"


def sound(name: str) -> tuple[np.ndarray, int]:
    return read_audio(SPEECH / name)


def recordings() -> list[str]:
    return sorted(path.name for path in SPEECH.glob("*.opus"))


def test_eight_grams() -> None:
    assert len(list(ngram_hashes(SENTENCE))) == 12 - 8 + 1
    assert len(list(ngram_hashes("Two words."))) == 1 and list(ngram_hashes("...")) == []
    assert list(ngram_hashes("THE Quick")) == list(ngram_hashes("the quick!"))
    index = TrainingIndex(np.unique(np.fromiter(ngram_hashes(SENTENCE), np.uint64)))
    assert index.text_share([SENTENCE]) == 1
    assert index.text_share(["The quick brown fox jumps over the lazy cat"]) == pytest.approx(0.5)
    assert index.text_share(["by the river"]) == 0  # a shorter text has to be a text of the training data
    assert index.text_share(["..."]) == 0


def test_a_sound_is_detected_louder_noisier_and_within_another(tmp_path: Path) -> None:
    first, second, *_ = recordings()
    waveform, rate = sound(first)
    noise = np.random.default_rng(0)
    trained = np.concatenate([noise.normal(0, 0.02, rate).astype(np.float32), waveform, waveform[: rate // 3]])
    index = TrainingIndex(frames=fingerprint(trained, rate))
    changed = (0.4 * waveform + noise.normal(0, 0.002, len(waveform))).astype(np.float32)
    path = tmp_path / "x.ogg"
    soundfile.write(path, changed, rate, format="OGG", subtype="VORBIS")
    assert index.holds_sound(shifted_fingerprints(waveform, rate))
    assert index.holds_sound(shifted_fingerprints(*read_audio(path)))
    assert index.holds_sound(shifted_fingerprints(waveform[rate // 2 :], rate))
    other, other_rate = sound(second)
    assert not index.holds_sound(shifted_fingerprints(other, other_rate))
    assert not index.holds_sound(shifted_fingerprints(np.zeros(5 * rate, np.float32), rate))
    assert not index.holds_sound(shifted_fingerprints(waveform[: rate // 2], rate))  # too short to tell


def test_a_benchmark_against_shards_manifests_and_texts(tmp_path: Path) -> None:
    first, second, *_ = recordings()
    root = tmp_path / "data" / "test-clean" / "61" / "70"
    for number, name in enumerate((first, second)):
        record(root / f"61-70-000{number}.flac", samples=sound(name)[0], rate=sound(name)[1])
    write(root / "61-70.trans.txt", f"61-70-0000 {SENTENCE.upper()}\n61-70-0001 NOTHING OF THIS KIND\n")

    shards = tmp_path / "shards"
    shards.mkdir()
    sample = Sample(
        "s1", "asr", "en", "x", "CC0-1.0", "o", "o", (), 24_000, (Segment("text", SENTENCE), Segment("audio"))
    )  # fmt: skip
    waveform, rate = sound(first)
    writer = ShardWriter(shards / "0.tar", "0.tar")
    writer.add(sample, {"flac": flac_bytes(soxr.resample(waveform, rate, 24_000).astype(np.float32))})
    writer.close()
    write_index(shards, writer.entries, {})
    figures = contamination(read_training([shards]), "librispeech", tmp_path / "data")
    assert figures["sets"]["test-clean"] == {
        "items": 2, "any_text": 1, "half_text": 1, "audio": 1,
        "listed": {"test-clean/61-70-0000.flac": {"text_share": 1.0, "audio": True}},
    }  # fmt: skip

    write_lines(
        tmp_path / "m.jsonl", [{"path": str(SPEECH / second), "transcript": "x"}, {"turns": [{"text": SENTENCE}]}]
    )
    write(tmp_path / "t.txt", "nothing of this kind\n")
    both = contamination(read_training([tmp_path / "m.jsonl", tmp_path / "t.txt"]), "librispeech", tmp_path / "data")
    listed = both["sets"]["test-clean"]["listed"]
    assert listed["test-clean/61-70-0001.flac"] == {"text_share": 1.0, "audio": True}
    assert listed["test-clean/61-70-0000.flac"] == {"text_share": 1.0, "audio": False}
    assert both["training"] != figures["training"] and json.dumps(both)
    with pytest.raises(ConfigError, match=r"folders of shards, clip stores, \.jsonl manifests or \.txt files"):
        read_training([tmp_path / "x.csv"])


def test_a_clip_store_is_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detected at any shift against the frames of the index, in a store of other recordings too."""
    with ClipWriter(tmp_path / "store") as writer:
        for name in recordings()[1:]:
            waveform, rate = sound(name)
            writer.add(
                soxr.resample(waveform, rate, 24_000), id=name, language="en", speaker="s", transcript=SENTENCE,
                source="x", license="CC0-1.0", split="train", kind="real",
            )  # fmt: skip
        writer.add(
            soxr.resample(*sound(recordings()[0]), 24_000), id="held-out", language="en", speaker="s", transcript="x",
            source="x", license="CC0-1.0", split="test", kind="real",
        )  # fmt: skip
    cache = tmp_path / "out" / "index.npz"
    index = read_training([tmp_path / "store"], cache)
    assert index.text_share([SENTENCE]) == 1
    for name in recordings():
        waveform, rate = sound(name)
        for shift in (0.0, 0.007, 0.02, 0.04, 0.3):
            cut = waveform[round(shift * rate) :]
            assert index.holds_sound(shifted_fingerprints(cut, rate)) == (name != recordings()[0]), (name, shift)
    monkeypatch.setattr(contamination_module, "_samples", lambda path: pytest.fail("read again"))
    again = read_training([tmp_path / "store"], cache)
    assert (again.frames == index.frames).all() and (again.ngrams == index.ngrams).all()
