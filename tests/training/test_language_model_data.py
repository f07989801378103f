"""What the language model is trained on: sequences of shards, their masks, packs that equal single sequences."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_workspace import LAYOUTS, codes_of, sample, shards_of_every_kind, write_shards
from torch.utils._python_dispatch import TorchDispatchMode

from baichuan_audio.data.mixture.config import MixtureConfig, ShardSet
from baichuan_audio.data.mixture.packing import balanced, pack_efficiency
from baichuan_audio.data.mixture.shard_sequences import ShardSequences
from baichuan_audio.data.sequences import SequenceBuilder, TokenSequence
from baichuan_audio.data.store.records import KINDS, Segment, Word
from baichuan_audio.data.store.token_sequences import sequence_length, token_sequence
from baichuan_audio.data.store.word_segments import segments_by_words
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.language_model.packed import packed_hidden
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.training.language_model import losses as loss_module
from baichuan_audio.training.language_model.batch import Batch, hidden_states
from baichuan_audio.training.language_model.data import sequence_format
from baichuan_audio.training.language_model.losses import LossMeter, losses, target_counts, total_loss
from baichuan_audio.training.language_model.recipe import TRAINABLE, LanguageModelRecipe
from baichuan_audio.training.language_model.steps import WINDOW, Collator, TrainingData
from baichuan_audio.training.language_model.train import learning_parts
from conftest import CHECKPOINT

GOLDEN = Path(__file__).parent / "golden" / "kinds.json"


def sequence(model: BaichuanAudio, kind: str, number: int = 0, repeats: int = 1) -> TokenSequence:
    one = sample(kind, number, repeats)
    builder = SequenceBuilder(model.text_tokenizer, model.special, 8)
    return token_sequence(one, codes_of(one), builder).named(one.id, kind)


def every_kind(model: BaichuanAudio) -> list[TokenSequence]:
    return [sequence(model, kind, repeats=2 if kind in ("itts", "intlv") else 1) for kind in KINDS]


def recipe(shards: Path, output: Path, **changes: Any) -> LanguageModelRecipe:
    values: dict[str, Any] = {
        "stage": "sft", "init_from": str(CHECKPOINT), "output": str(output), "dataset": (ShardSet(str(shards)),),
        "steps": 4, "tokens_per_step": 200, "threads": 1, "validation_sequences": 6, "read_back": (),
    }  # fmt: skip
    return LanguageModelRecipe(**(values | changes))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards_of_every_kind(tmp_path_factory.mktemp("shards") / "codes")


@pytest.fixture
def trained(model: BaichuanAudio) -> BaichuanAudio:
    """A copy that a test may change."""
    return copy.deepcopy(model).requires_grad_(True)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_every_kind_equal_golden_tensors(model: BaichuanAudio, kind: str) -> None:
    """ids, the positions with a loss and their targets, of a batch with another sequence before it."""
    one = sequence(model, kind)
    for numbers in (None, (0, 1)):
        batch = Collator(model)([one, one], numbers)
        of_second = batch.documents(batch.text_at) == 1
        frames_of_second = batch.documents(batch.frame_at) == 1
        start = len(one)
        tensors = {
            "ids": batch.ids.flatten()[start:].tolist(),
            "text_at": (batch.text_at[of_second] - start).tolist(),
            "text": batch.text[of_second].tolist(),
            "frame_at": (batch.frame_at[frames_of_second] - start).tolist(),
            "frames": batch.frames[frames_of_second][:, :2].tolist(),
        }
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
        if os.environ.get("WRITE_GOLDEN"):
            GOLDEN.write_text(json.dumps(golden | {kind: tensors}, indent=None).replace('"ids"', '\n"ids"') + "\n")
        else:
            assert tensors == golden[kind]


def test_a_pack_equals_its_sequences_alone(model: BaichuanAudio) -> None:
    rows = every_kind(model)
    collator = Collator(model)
    packed = collator(rows, range(len(rows)))
    with torch.no_grad():
        together = hidden_states(model.language_model, packed).split(packed.lengths)
        for row, states in zip(rows, together, strict=True):
            hidden, logits = model.language_model(row.ids[None], row.codes)
            torch.testing.assert_close(model.language_model.lm_head(states), logits[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(states, hidden[0], rtol=0, atol=1e-5)
        counts = target_counts([packed])
        alone = LossMeter()
        for row in rows:
            batch = collator([row])
            alone.add(losses(model.language_model, model.audio_head, batch), batch)
        whole = LossMeter()
        whole.add(losses(model.language_model, model.audio_head, packed), packed)
    assert whole.means() == pytest.approx(alone.means(), rel=1e-5) and len(whole.means()) == 2 * len(counts)
    assert whole.by_sample() == pytest.approx(alone.by_sample(), rel=1e-4) and len(whole.by_sample()) == len(rows)


def test_one_document_moves_nothing_in_another(model: BaichuanAudio) -> None:
    first, second = sequence(model, "itts"), sequence(model, "sft")
    other = TokenSequence(**{**vars(first), "ids": first.ids.flip(0).clamp(max=20), "codes": first.codes[:, :0]})
    packed = [Collator(model)([one, second], (0, 1)) for one in (first, other)]
    embedded = model.language_model.embed(packed[0].ids, packed[0].codes).detach().requires_grad_(True)
    packed_hidden(model.language_model, embedded, packed[0].lengths)[0, len(first) :].square().sum().backward()
    assert embedded.grad is not None and not embedded.grad[0, : len(first)].any() and embedded.grad[0, -1].any()
    with torch.no_grad():
        states = [hidden_states(model.language_model, batch)[len(first) :] for batch in packed]
    assert torch.equal(*states)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "sft"])
def test_gradients_are_zero_where_frozen(trained: BaichuanAudio, tmp_path: Path, shards: Path, stage: str) -> None:
    parts = learning_parts(trained, stage)
    rows = every_kind(trained)
    batch = Collator(trained)(rows, range(len(rows)))
    values = losses(trained.language_model, trained.audio_head, batch)
    total_loss(values, target_counts([batch]), recipe(shards, tmp_path, stage=stage), 8).backward()
    moved = {name for name, parameter in parts.named_parameters() if parameter.grad is not None}
    learning = {name for name, parameter in parts.named_parameters() if parameter.requires_grad}
    assert moved == learning and all(parameter.grad is None for parameter in trained.flow.parameters())
    text = {"language_model.embed_tokens.weight", "language_model.lm_head.weight"}
    assert bool(moved & text) == (stage == "sft") and TRAINABLE[stage]
    layers = any(name.startswith("language_model.layers.") for name in moved)
    assert layers == (stage != "stage1")


def test_gradients_are_zero_where_there_is_no_loss(trained: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """At positions without a target; and in the audio head where all audio is input."""
    rows = every_kind(trained)
    batch = Collator(trained)(rows, range(len(rows)))
    leaves: list[torch.Tensor] = []

    def leaf(*arguments: Any) -> torch.Tensor:
        leaves.append(hidden_states(*arguments).detach().requires_grad_(True))
        return leaves[0]

    with monkeypatch.context() as patch:
        patch.setattr(loss_module, "hidden_states", leaf)
        values = losses(trained.language_model, trained.audio_head, batch)
    torch.stack([each.nll.sum() for each in values.values()]).sum().backward()
    assert leaves[0].grad is not None
    with_gradient = leaves[0].grad.abs().sum(1).nonzero()[:, 0]
    assert with_gradient.tolist() == sorted({*batch.text_at.tolist(), *batch.frame_at.tolist()})
    trained.zero_grad()
    heard = [sequence(trained, kind) for kind in ("intlv", "asr", "aqa", "s2tt")]
    values = losses(trained.language_model, trained.audio_head, Collator(trained)(heard, range(4)))
    assert set(values) == {"text"}
    values["text"].nll.sum().backward()
    assert all(parameter.grad is None for parameter in trained.audio_head.parameters())


def test_logits_in_parts_are_the_same_and_never_there_all_at_once(
    trained: BaichuanAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [sequence(trained, "sft", number) for number in range(6)]
    batch = Collator(trained)(rows, range(6))
    vocabulary = trained.language_model.config.vocab_size

    class Largest(TorchDispatchMode):
        """The most rows of logits over the vocabulary."""

        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._log_softmax.default and result.shape[1] == vocabulary:
                self.rows = max(self.rows, result.shape[0])
            return result

    results = []
    for most in (1 << 26, 5 * vocabulary):
        monkeypatch.setattr(loss_module, "MAX_LOGITS", most)
        trained.zero_grad()
        with Largest() as largest:
            values = losses(trained.language_model, trained.audio_head, batch)
            torch.stack([each.nll.sum() for each in values.values()]).sum().backward()
        assert largest.rows == (len(batch.text) if most == 1 << 26 else 5) and len(batch.text) > 20
        gradients = [p.grad.clone() for p in trained.parameters() if p.grad is not None]
        results.append(({name: each.nll.detach() for name, each in values.items()}, gradients))
    (whole, gradients), (parts, gradients_of_parts) = results
    assert all(torch.allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6) for name in whole)
    for one, other in zip(gradients, gradients_of_parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_packs_are_full_and_hold_everything() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.0, 1.0, 4000), 12, 4000).astype(int).tolist()  # median 148, as of speech pairs
    packs = balanced(lengths, sum(lengths) // 8192)
    assert sorted(index for pack in packs for index in pack) == list(range(4000))
    sums = [sum(lengths[index] for index in pack) for pack in packs]
    assert pack_efficiency(sums) >= 0.97 and max(sums) < 1.05 * 8192


def test_every_sequence_comes_once_an_epoch_and_hours_weigh(model: BaichuanAudio, tmp_path: Path, shards: Path) -> None:
    more = write_shards(tmp_path / "more", [sample("asr", number) for number in range(9)])
    layout = sequence_format(model)
    plain = ShardSequences([ShardSet(str(shards)), ShardSet(str(more))], layout)
    total = sum(each.length for each in plain.sequences)
    epoch = [each.id for number in range(5) for each in plain.window(number, total // 5 + 1, seed=3)]
    assert set(epoch) == {each.id for each in plain.sequences} and len(epoch) <= len(plain.sequences) + 9
    weighed = ShardSequences(
        [ShardSet(str(shards), kinds=dict.fromkeys(KINDS[:-1], 0.0)), ShardSet(str(more), weight=3.0)], layout
    )
    ids = [each.id for number in range(40) for each in weighed.window(number, 100, seed=3)]
    share = sum(id_.startswith("more/asr") for id_ in ids) / len(ids)
    assert share == pytest.approx(27 / 30, abs=0.02)  # 9 samples read three times as often as 3
    hours = sum(sample("asr", n).seconds for n in range(9)) / 3600
    by_hours = ShardSequences([ShardSet(str(shards)), ShardSet(str(more), hours=2 * hours)], layout)
    ids = [each.id for number in range(40) for each in by_hours.window(number, 100, seed=3)]
    assert sum(id_.startswith("more") for id_ in ids) / len(ids) == pytest.approx(18 / 42, abs=0.03)
    with pytest.raises(ConfigError, match="no kind 'itt'"):
        ShardSequences([ShardSet(str(shards), kinds={"itt": 1.0})], layout)
    with pytest.raises(DataError, match="the model has 4"):
        ShardSequences([ShardSet(str(shards))], replace(layout, codebook_sizes=[9] * 4)).sequences[0].load()


def test_long_samples_are_split_or_named(
    model: BaichuanAudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [sample("itts", 0, 9), sample("intlv", 0, 9), sample("sft", 0), sample("asr", 0)]
    folder = write_shards(tmp_path / "long", samples)
    builder = SequenceBuilder(model.text_tokenizer, model.special, 8)
    longest = sequence_length(samples[2], builder, 8) - 1
    settings = recipe(folder, tmp_path / "run", max_sequence_length=longest, tokens_per_step=40)
    TrainingData(settings, model)
    assert "2 samples are longer" in capsys.readouterr().err
    assert (tmp_path / "run" / "left_out.txt").read_text().startswith("long/sft:train0\t")
    parts = ShardSequences(settings.shards, sequence_format(model), max_length=longest)
    for one in samples[:2]:
        whole = token_sequence(one, codes_of(one), builder)
        loaded = [each.load() for each in parts.sequences if each.id.startswith(f"long/{one.id}#")]
        assert len(loaded) > 1 and torch.equal(torch.cat([part.ids for part in loaded]), whole.ids)
        assert torch.equal(torch.cat([part.codes for part in loaded], dim=1), whole.codes)
        assert max(map(len, loaded)) <= longest
        assert [each.length for each in parts.sequences if each.kind == one.kind] == [len(part) for part in loaded]


def test_steps_depend_on_seed_and_step_alone(model: BaichuanAudio, tmp_path: Path, shards: Path) -> None:
    data, later = TrainingData(recipe(shards, tmp_path), model), TrainingData(recipe(shards, tmp_path), model)
    steps = [[each.id for each in data.sequences(step)] for step in range(2 * WINDOW)]
    assert [each.id for each in later.sequences(WINDOW + 3)] == steps[WINDOW + 3]
    assert [each.id for each in TrainingData(recipe(shards, tmp_path, seed=1), model).sequences(0)] != steps[0]
    four = TrainingData(recipe(shards, tmp_path, packs_per_step=4), model)
    for world in (1, 2, 4):
        batches = [batch for rank in range(world) for batch in four.batches(5, rank, world)]
        assert sorted(name for batch in batches for name, _ in batch.names) == sorted(steps[5])
    with pytest.raises(ConfigError, match="a multiple of 3"):
        four.batches(0, 0, 3)
    with pytest.raises(ConfigError, match="raise tokens_per_step"):
        TrainingData(recipe(shards, tmp_path, packs_per_step=64), model).packs(0)


def test_any_split_into_packs_gives_the_same_gradient(trained: BaichuanAudio, tmp_path: Path, shards: Path) -> None:
    trained.requires_grad_(False)
    parts = learning_parts(trained, "sft")
    changes = {"audio_head_fraction": 0.5}

    def gradients(packs: int) -> tuple[list[torch.Tensor], dict[str, int]]:
        settings = recipe(shards, tmp_path, packs_per_step=packs, **changes)
        batches = TrainingData(settings, trained).batches(1)
        counts = target_counts(batches)
        parts.zero_grad()
        for batch in batches:
            total_loss(losses(trained.language_model, trained.audio_head, batch), counts, settings, 8).backward()
        return [p.grad.clone() for p in parts.parameters() if p.grad is not None], counts

    (whole, counts), (split, other_counts) = gradients(1), gradients(3)
    assert counts == other_counts and counts["code_1"] < counts["code_0"]
    scale = max(float(gradient.abs().max()) for gradient in whole)
    assert max(float((a - b).abs().max()) for a, b in zip(whole, split, strict=True)) <= 1e-6 * max(1.0, scale)


def test_recipes_name_their_data(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        recipe(shards, tmp_path, dataset=None)
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "clips.jsonl").write_text("")
    both = recipe(shards, tmp_path, dataset=(ShardSet(str(shards)), ShardSet(str(clips))))
    assert both.clip_store == str(clips) and [each.path for each in both.shards] == [str(shards)] and both.packed
    plain = recipe(shards, tmp_path, dataset="folder", mixture=MixtureConfig(tasks={"asr": 1.0}))
    assert plain.clip_store == "folder" and not plain.shards and not plain.packed


def test_clauses_are_cut_into_runs_of_words(model: BaichuanAudio) -> None:
    """As the model speaks where its config says so: the text is one run ahead of its speech."""
    frame, words = 1920, ("good", "morning", "dear", "friend")
    times = tuple(Word(word, 5 * frame * i + 100, 5 * frame * (i + 1)) for i, word in enumerate(words))
    text = "Good morning dear friend."
    segments = (Segment("text", text, loss=True), Segment("audio", text, 0, 20 * frame, loss=True))
    whole = replace(sample("itts"), samples=20 * frame, segments=segments, words=times)
    cut = segments_by_words(whole, model.text_tokenizer, 4)
    assert [each.text for each in cut.segments[::2]] == ["Good morning", " dear", " friend."]
    assert [each.frames for each in cut.segments[1::2]] == [(0, 5), (5, 10), (10, 20)]
    assert all(each.loss for each in cut.segments) and segments_by_words(whole, model.text_tokenizer, 99) == replace(
        whole, segments=(segments[0], replace(segments[1], text=""))
    )
    unknown = replace(whole, words=(Word("bad", 0, 100),))
    assert len(segments_by_words(unknown, model.text_tokenizer, 4).segments) == 2


def test_batches_move_whole(model: BaichuanAudio) -> None:
    batch = Collator(model)([sequence(model, "sft")], (0,)).to("cpu")
    assert isinstance(batch, Batch) and batch.lengths == (batch.ids.shape[1],) and batch.numbers == (0,)


assert LAYOUTS.keys() == set(KINDS)
