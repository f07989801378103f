"""Language-model training: losses fall, frozen sets hold, a resumed run equals the unbroken one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_workspace import SIZES, TEXTS, WORDS, log_of, make_workspace, recipe
from torch.nn import functional as F

import baichuan_audio
from baichuan_audio.audio_tokenizer.quantizer import dequantize
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.data.sequences import SequenceBuilder, Turn, dialogue, interleaved_heard, transcription
from baichuan_audio.data.store.codes_store import CodesStore, encode_corpus, write_codes
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.language_model.build_tokenizer import CONTROL_TOKENS, build_text_tokenizer
from baichuan_audio.language_model.text_tokenizer import TextTokenizer
from baichuan_audio.training.common.distributed.run import TrainingRun
from baichuan_audio.training.common.initialise import embed_codebooks, initialise_audio
from baichuan_audio.training.common.logging import TrainingLog
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.language_model.batch import collate, depth_loss_subset
from baichuan_audio.training.language_model.losses import losses, target_counts, total_loss
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.language_model.samples import LanguageModelSamples
from baichuan_audio.training.language_model.train import learning_parts, train
from baichuan_audio.training.tokenizer.recipe import TokenizerRecipe
from baichuan_audio.training.tokenizer.train import train as train_tokenizer


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


@pytest.mark.parametrize("stage", ["text", "stage1", "stage2", "sft"])
def test_only_what_may_learn_changes_and_the_loss_falls(workspace: Path, tmp_path: Path, stage: str) -> None:
    tasks = {"text_dialogue": 1.0} if stage == "text" else {"spoken_dialogue": 1.0, "asr": 1.0}
    train(recipe(workspace, tmp_path, stage=stage, mixture=MixtureConfig(tasks=tasks), steps=10))
    rows = [row["loss"] for row in log_of(tmp_path) if "loss" in row]
    assert np.mean(rows[-3:]) < np.mean(rows[:2])
    before = baichuan_audio.load(workspace / "model").state_dict()
    after = baichuan_audio.load(tmp_path / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    text_ends = {"language_model.embed_tokens.weight", "language_model.lm_head.weight"}
    audio_ends = ("language_model.audio_embed_layers.", "audio_head.")
    assert changed and all(name.startswith(("language_model.", "audio_head.")) for name in changed)
    assert not any(name.endswith(("linear1.bias", "linear2.bias")) for name in changed)
    if stage == "text":
        assert text_ends < changed and not any(name.startswith(audio_ends) for name in changed)
    elif stage == "stage1":
        assert all(name.startswith(audio_ends) for name in changed)
    elif stage == "stage2":
        assert not changed & text_ends and any(".layers." in name for name in changed)
    else:
        assert text_ends < changed and any(name.startswith(audio_ends) for name in changed)


def test_a_resumed_run_equals_the_unbroken_one(workspace: Path, tmp_path: Path) -> None:
    schedule = OptimizerRecipe(learning_rate=5e-3, warmup_steps=2, schedule="constant")
    train(recipe(workspace, tmp_path / "one", optimizer=schedule))
    train(recipe(workspace, tmp_path / "two", optimizer=schedule, steps=4))
    train(recipe(workspace, tmp_path / "two", optimizer=schedule))
    one, two = (baichuan_audio.load(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row["loss"] for row in log_of(tmp_path / "one") if "loss" in row] == [
        row["loss"] for row in log_of(tmp_path / "two") if "loss" in row
    ]


def test_a_run_stopped_between_its_last_two_files_ends_like_the_others(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(workspace, tmp_path / "whole"))

    save = TrainingRun.save

    def stop_at_the_end(run: TrainingRun, step: int) -> None:
        if step == 8:
            raise KeyboardInterrupt
        save(run, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", stop_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(workspace, tmp_path / "stopped"))
    train(recipe(workspace, tmp_path / "stopped"))
    one, two = (baichuan_audio.load(tmp_path / name / "model").state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_first_id_is_never_a_target(workspace: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    builder = SequenceBuilder(model.text_tokenizer, model.special, 4)
    heard = interleaved_heard(builder, ["hot", torch.zeros(4, 2, dtype=torch.long), "Cold"])
    batch = collate([heard, heard], model.special.end_of_text, model.special.audio_pad, SIZES)
    assert heard.text_loss[1:3].any() and not heard.text_loss[0]
    targets = batch.text_at.tolist()
    assert min(targets) == 0 and len(heard) - 1 not in targets and len(heard) in targets


def test_samples_are_asked_of_the_model_as_it_is(workspace: Path, tmp_path: Path) -> None:
    short = {"max_segments": 1, "max_segment_frames": 20, "max_segment_tokens": 4}
    for name in ("model", "speaker"):
        shutil.copytree(workspace / "model", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text()) | {"reply_sampling": short}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    speaker = baichuan_audio.load(tmp_path / "speaker")
    torch.nn.init.zeros_(speaker.tokenizer.decoder.layer_norm.weight)  # other sounds for the same codes
    torch.nn.init.ones_(speaker.tokenizer.decoder.layer_norm.bias)
    baichuan_audio.save(speaker, tmp_path / "speaker")
    changes = {"init_from": str(tmp_path / "model"), "steps": 1, "validation_sequences": 0}
    train(recipe(workspace, tmp_path / "own", **changes))
    train(recipe(workspace, tmp_path / "lent", preview_decoder=str(tmp_path / "speaker"), **changes))
    own, lent = (sorted((tmp_path / name / "samples").iterdir()) for name in ("own", "lent"))
    assert [path.suffix for path in own] == [path.suffix for path in lent] == [".png", ".txt", ".wav"]
    assert own[1].read_text() == lent[1].read_text() and own[1].read_text().startswith("What is hot?\n")
    assert own[2].read_bytes() != lent[2].read_bytes()
    saved = [baichuan_audio.load(tmp_path / name / "model").state_dict() for name in ("own", "lent")]
    assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())  # the voice stays apart
    assert list((tmp_path / "own" / "tensorboard").iterdir())


def test_a_voice_may_come_while_training_runs(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"preview_decoder": str(tmp_path / "speaker"), "validation_sequences": 0, "sample_every": 2}
    shutil.copytree(workspace / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    short = {"max_segments": 1, "max_segment_frames": 20, "max_segment_tokens": 4}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"reply_sampling": short}))
    settings = recipe(workspace, tmp_path / "run", init_from=str(tmp_path / "model"), **changes)
    samples = LanguageModelSamples(settings, baichuan_audio.load(tmp_path / "model"))
    assert "speaker: does not exist yet; until then samples are text only" in capsys.readouterr().err
    with TrainingLog(tmp_path / "run", 4, 0) as log:
        samples.log(2, log)
        shutil.copytree(tmp_path / "model", tmp_path / "speaker")
        samples.log(4, log)
    kinds: dict[str, list[str]] = {}
    for path in sorted((tmp_path / "run" / "samples").iterdir()):
        kinds.setdefault(path.stem, []).append(path.suffix)
    assert list(kinds.values()) == [[".txt"], [".png", ".txt", ".wav"]]


def test_batch_targets_and_losses_by_hand(workspace: Path) -> None:
    """Two rows of different length: every loss equals the one computed row by row from the whole logits."""
    model = baichuan_audio.load(workspace / "model")
    builder = SequenceBuilder(model.text_tokenizer, model.special, 4)
    codes = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 0, 1], [9, 9, 8]])
    rows = [
        dialogue(builder, "x", [Turn("ab", [("hot", codes), ("a", codes[:, :1])])], spoken=True),
        transcription(builder, codes, "Cold"),
    ]
    batch = collate(rows, model.special.end_of_text, model.special.audio_pad, SIZES)
    assert batch.frames.tolist() == [[1, 4, 7, 9], [2, 5, 0, 9], [3, 6, 1, 8], SIZES, [1, 4, 7, 9], SIZES]
    values = losses(model.language_model, model.audio_head, batch)
    found = {name: target.nll.mean() for name, target in values.items()}
    text, frames = [], []
    for row in rows:
        hidden, logits = model.language_model(row.ids[None], row.codes)
        targets = row.text_loss.nonzero()[:, 0]
        text.append(F.cross_entropy(logits[0, targets - 1], row.ids[targets], reduction="none"))
        for position in row.audio_loss.nonzero()[:, 0].tolist():
            ends = row.ids[position + 1] != model.special.audio_pad
            heard = int((row.ids[: position + 1] == model.special.audio_pad).sum())
            target = torch.tensor(SIZES) if ends else row.codes[:, heard]
            every = model.audio_head.logits(hidden[:, position], target[None])
            frames.append([F.cross_entropy(logits, target[k : k + 1]) for k, logits in enumerate(every)])
    assert torch.allclose(found["text"], torch.cat(text).mean(), rtol=1e-5)

    def total(**settings: float) -> torch.Tensor:
        tasks = MixtureConfig(tasks={"asr": 1.0})
        weights = LanguageModelRecipe(stage="sft", init_from="", output="", steps=1, mixture=tasks, **settings)  # type: ignore[arg-type]
        return total_loss(values, target_counts([batch]), weights, 4)

    for level in range(4):
        expected = torch.stack([frame[level] for frame in frames]).mean()
        assert torch.allclose(found[f"code_{level}"], expected, rtol=1e-5)
    assert torch.allclose(total(), found["text"] + sum(found[f"code_{k}"] for k in range(4)) / 4)
    weighted = (5 * found["code_0"] + sum(found[f"code_{k}"] for k in range(1, 4))) / 8
    assert torch.allclose(total(codebook0_weight=5.0), found["text"] + weighted)
    subset = losses(model.language_model, model.audio_head, depth_loss_subset(batch, 0.5, 0, 0))
    assert len(subset["code_0"].nll) == 6 and len(subset["code_2"].nll) == 3
    assert torch.allclose(subset["code_0"].nll.mean(), found["code_0"], rtol=1e-5)
    assert subset["code_2"].nll.mean() != found["code_2"]


def test_text_tokenizer_brings_every_text_back_and_never_makes_a_control_token(tmp_path: Path) -> None:
    built = build_text_tokenizer(TEXTS, WORDS)
    tokenizer = TextTokenizer(built.to_str())
    for text in ("What is hot?", "whatever  is\n\t hot", "é 😀 龘 <0x41>", "".join(CONTROL_TOKENS), " ", ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {built.token_to_id(token) for token in CONTROL_TOKENS} & set(ids)
    assert len(tokenizer.encode("What is hot?")) == 4 and len(tokenizer.encode(" hut")) == 4


def test_codes_store_keeps_what_it_has_and_names_what_it_lacks(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baichuan_audio.layers.precision.fast_bfloat16", lambda device: False)  # `encode` is exact
    store = CodesStore(workspace / "codes")
    assert len(store) == 6 and len(store["train-q"]) == 4 and "train-q" in store
    clips = ClipStore(workspace / "corpus")
    write_codes({"train-q": store["train-q"] * 0}, tmp_path)

    tokenizer = baichuan_audio.load(workspace / "model").tokenizer
    assert encode_corpus(tokenizer, clips, tmp_path, batch_seconds=0.1) == 5
    again = CodesStore(tmp_path)
    assert not again["train-q"].any()
    assert torch.equal(again["train-a"], tokenizer.encode(clips.waveform("train-a"), 24_000))
    encode_corpus(tokenizer, clips, tmp_path / "all")
    assert torch.equal(again["train-a"], CodesStore(tmp_path / "all")["train-a"])  # alone or in a batch
    with ClipWriter(tmp_path / "clips") as writer:
        for name, samples in (("short", 300), ("long", 31 * 24_000), ("fitting", 12_000)):
            writer.add(
                np.full(samples, 0.1, np.float32), id=name, language="en", speaker="s", transcript=None, source="x",
                license="CC0", split="train", kind="real",
            )  # fmt: skip
    assert encode_corpus(tokenizer, ClipStore(tmp_path / "clips"), tmp_path / "few") == 1  # neither too short nor long
    assert "fitting" in CodesStore(tmp_path / "few")
    with pytest.raises(DataError, match="'nobody'"):
        again["nobody"]
    with pytest.raises(DataError, match="no readable codes"):
        CodesStore(tmp_path / "nowhere")


def test_stopped_encoding_keeps_what_it_has(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baichuan_audio.data.store.codes_store._WRITTEN_EVERY_S", 0.0)
    clips = ClipStore(workspace / "corpus")
    tokenizer = baichuan_audio.load(workspace / "model").tokenizer

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_corpus(tokenizer, clips, tmp_path, batch_seconds=0.1, progress=stop)
    assert len(CodesStore(tmp_path)) == 1
    assert encode_corpus(tokenizer, clips, tmp_path) == 5


def test_recipes_are_checked(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage 'stage3'; did you mean 'stage"):
        recipe(workspace, tmp_path, stage="stage3")
    with pytest.raises(ConfigError, match="audio_head_fraction"):
        recipe(workspace, tmp_path, audio_head_fraction=0.0)


def test_fresh_audio_leaves_the_text_model(workspace: Path) -> None:
    before, model = (baichuan_audio.load(workspace / "model") for _ in range(2))
    initialise_audio(model)
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed and all(
        name.startswith(("language_model.audio_embed_layers.", "audio_head.heads.")) for name in changed
    )


def test_embeddings_from_codebooks_add_up_to_the_projected_vector(workspace: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    ends = [embedding.weight[-1].clone() for embedding in model.language_model.audio_embed_layers]
    embed_codebooks(model, model.tokenizer)
    codes = torch.stack([torch.randint(size, (40,)) for size in SIZES])
    embedded = model.language_model.embed_frames(codes)
    vectors = dequantize(model.tokenizer.bridge.vq_list, codes.T)
    # one linear map takes every vector to its embedding
    solution = torch.linalg.lstsq(vectors, embedded).solution
    torch.testing.assert_close(vectors @ solution, embedded, rtol=1e-3, atol=1e-5)
    assert 0.005 < float(embedded.std()) < 0.5
    for end, embedding in zip(ends, model.language_model.audio_embed_layers, strict=True):
        assert torch.equal(end, embedding.weight[-1])


def test_audio_embeddings_start_as_text_by_the_tokenizers_ctc_head(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TokenizerRecipe(
        output=str(tmp_path / "tokenizer"), config=str(workspace / "template.json"), dataset=str(workspace / "corpus"),
        text_embeddings=str(workspace / "model"), steps=2, quantize_start_step=1, ramp_steps=1, batch_seconds=2.0,
    )  # fmt: skip
    train_tokenizer(source)
    start = {"stage": "stage1", "steps": 1, "reset_audio_embeddings": True, "codebook_source": source.output}
    embeddings = []
    for as_text in (False, True):
        train(recipe(workspace, tmp_path / str(as_text), **start, embeddings_as_text=as_text))
        assert ("spoken text" in capsys.readouterr().err) == as_text
        embeddings.append(baichuan_audio.load(tmp_path / str(as_text) / "model").language_model.audio_embed_layers)
    assert not torch.equal(embeddings[0][0].weight, embeddings[1][0].weight)
    with pytest.raises(ConfigError, match="codebook_source"):
        recipe(workspace, tmp_path / "none", embeddings_as_text=True)


def test_learning_parts_freeze_every_other_part(workspace: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    learning_parts(model, "sft")
    assert not any(p.requires_grad for part in (model.tokenizer, model.flow, model.vocoder) for p in part.parameters())
