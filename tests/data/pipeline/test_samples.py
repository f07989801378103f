"""Samples of every kind: what `inspect` shows equals golden files; masks, lineage, shards read by others."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from baichuan_audio.data.pipeline.inspect_sample import describe
from baichuan_audio.data.pipeline.run import run_pipeline
from baichuan_audio.data.pipeline.stages.assemble import Assemble
from baichuan_audio.data.sequences import SequenceBuilder
from baichuan_audio.data.store.records import (
    KINDS,
    SAMPLE_RATE,
    Clause,
    Draft,
    Piece,
    Sample,
    Word,
    from_mapping,
    to_json,
)
from baichuan_audio.data.store.shards import ShardReader, draw
from baichuan_audio.data.store.token_sequences import token_sequence
from baichuan_audio.errors import DataError

from .conftest import simple_recipe

GOLDEN = Path(__file__).parent / "golden"
SECOND = SAMPLE_RATE


def piece(name: str, start: float, clauses: list[str], **changes: object) -> Piece:
    """A piece of `clauses`, each 1.2 s long and of two words, from `start` seconds on."""
    first = round(start * SECOND)
    length = round(1.2 * SECOND)
    cut = [Clause(text, first + i * length, first + (i + 1) * length) for i, text in enumerate(clauses)]
    words = [
        Word(word, clause.start + 2400 + n * 9600, clause.start + 9600 + n * 9600)
        for clause in cut
        for n, word in enumerate(clause.text.split())
    ]
    values = {
        "id": f"{name}@{first}-{cut[-1].end}",
        "source": name,
        "audio": "0" * 32,
        "start": first,
        "end": cut[-1].end,
        "gain": 1.0,
        "license": "CC-BY-4.0",
        "origin": "example",
        "transforms": ("resampled 16000 -> 24000 Hz", "16 bit"),
        "language": "en",
        "speaker": "speaker-a",
        "text": " ".join(clauses),
        "words": tuple(words),
        "clauses": tuple(cut),
        "scores": {"mos_ovrl": 3.1},
    }
    return Piece(**{**values, **changes})  # type: ignore[arg-type]


def every_kind() -> dict[str, Draft]:
    """A draft of each of the eight kinds."""
    from baichuan_audio.data.pipeline.engine.stage import Context

    plain = [piece("talk", 0.0, ["Good morning,", "my friend."]), piece("talk", 4.0, ["How are", "you today?"])]
    ask = {"item": "q1", "kind": "aqa", "lines": "1", "role": "user", "answer": "Blue."}
    say = {"item": "t1", "kind": "s2tt", "lines": "1", "role": "user", "answer": "你好。"}
    talk = {"item": "d1", "kind": "sft", "lines": "2", "system": "You are Ada."}
    items = [
        piece("question", 0.0, ["Which colour?"], extra=ask),
        piece("greeting", 0.0, ["Hello there."], extra=say),
        piece("dialogue", 0.0, ["Hi Ada."], extra={**talk, "role": "user"}),
        piece("dialogue", 2.0, ["Hi there,", "my friend."], extra={**talk, "role": "reply"}, speaker="Ada"),
    ]
    drafts = Assemble().run([*plain, *items], Context(Path())).kept
    found: dict[str, Draft] = {}
    for draft in drafts:
        found.setdefault(draft.sample.kind, draft)
    return found


def fake_codes(sample: Sample) -> np.ndarray:
    """Codes [8, T] that fit the golden checkpoint's codebooks."""
    frames = round(sample.samples / 1920)
    return (np.arange(8)[:, None] + np.arange(frames)[None]) % 16


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_equals_its_golden_file(kind: str, model):
    sample = every_kind()[kind].sample
    page = describe(sample, None, fake_codes(sample), (model.text_tokenizer, model.special))
    golden = GOLDEN / f"{kind}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(page, encoding="utf-8")
    assert page == golden.read_text(encoding="utf-8")


def test_masks_are_those_of_the_report(model):
    """INTLV: no loss on audio. ITTS: loss on everything but the first text. Frames of a segment are its own."""
    drafts = every_kind()
    builder = SequenceBuilder(model.text_tokenizer, model.special, 8)
    intlv = token_sequence(drafts["intlv"].sample, fake_codes(drafts["intlv"].sample), builder)
    assert not intlv.audio_loss.any() and intlv.text_loss.any()
    sample = drafts["itts"].sample
    assert [segment.loss for segment in sample.segments] == [False, *[True] * 7]
    itts = token_sequence(sample, fake_codes(sample), builder)
    pads = int((itts.ids == model.special.audio_pad).sum())
    assert pads == round(sample.samples / 1920) and int(itts.audio_loss.sum()) == pads + 4
    first = len(model.text_tokenizer.encode("Good morning,"))
    assert not itts.text_loss[: first + 1].any()
    with pytest.raises(DataError, match="there are codes of 3 only"):
        token_sequence(sample, fake_codes(sample)[:, :3], builder)


def test_items_found_wrong_become_pairs():
    from baichuan_audio.data.pipeline.engine.stage import Context

    extra = {"item": "d1", "kind": "sft", "lines": "3", "role": "user"}
    pieces = [
        piece("d", 0.0, ["Hi Ada."], extra=extra),
        piece("d", 3.0, ["Hi there."], extra={**extra, "role": "reply"}),
    ]
    assert [draft.sample.kind for draft in Assemble().run(pieces, Context(Path())).kept] == ["asr", "tts"]


def test_passages_end_at_another_speaker_a_gap_and_300_seconds():
    same = [piece("talk", 3.0 * n, ["a b", "c d"]) for n in range(3)]
    other = dataclasses.replace(piece("talk", 9.0, ["e f", "g h"]), speaker="speaker-b")
    far = piece("talk", 60.0, ["i j", "k l"])
    stage = Assemble(longest_s=5.0)
    assert [len(p) for p in stage.passages([*same, other, far])] == [2, 1, 1, 1]
    drafts = Assemble(longest_s=300.0)._interleaved("itts", same)
    assert drafts[0].sample.seconds == pytest.approx(7.2) and "pieces joined" in drafts[0].sample.transforms
    assert [w.start for w in drafts[0].sample.words] == sorted(w.start for w in drafts[0].sample.words)


def test_records_survive_json():
    for draft in every_kind().values():
        assert from_mapping(Draft, json.loads(to_json(draft))) == draft
    with pytest.raises(DataError, match="type Sample"):
        from_mapping(Sample, {"id": "x", "colour": "red"})


def test_shards_are_read_by_index_and_by_webdataset_and_carry_their_lineage(manifest: Path, tmp_path: Path):
    run_pipeline(simple_recipe(tmp_path, manifest, shard_samples=5))
    reader = ShardReader(tmp_path / "shards")
    assert len(reader) == 12 and len({entry.shard for entry in reader.entries}) == 3
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    rows = {row["__key__"]: row for row in webdataset.WebDataset(urls, shardshuffle=False)}
    for entry in reader.entries:
        sample = reader.sample(entry)
        assert sample.license == "CC0-1.0" and sample.origin == "tests" and "16 bit" in sample.transforms
        assert len(reader.waveform(entry)) == sample.samples
        assert rows[entry.key]["flac"] == reader.member(entry, "flac")
        assert json.loads(rows[entry.key]["json"]) == json.loads(reader.member(entry, "json"))
    with pytest.raises(DataError, match="no sample 'nothing'"):
        reader.entry("nothing")
    with pytest.raises(DataError, match="no finished shards"):
        ShardReader(tmp_path)


def test_what_training_reads_depends_on_seed_and_number_alone():
    epoch = draw(10, [3], 0, 10)
    assert sorted(epoch) == list(range(10)) and draw(10, [3], 4, 6) == epoch[4:6]
    assert draw(10, [4], 0, 10) != epoch and draw(10, [3], 10, 20) != epoch
