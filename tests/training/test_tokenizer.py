"""The tokenizer stage: it learns, only what may change does, and a stopped run goes on exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baichuan_audio.audio.mel import MelConfig, whisper_log_mel
from baichuan_audio.audio_tokenizer.encoder import sinusoids
from baichuan_audio.audio_tokenizer.quantizer import QuantizerRecipe, codebooks, quantize
from baichuan_audio.checkpoint import load
from baichuan_audio.data.store.manifest import SAMPLE_RATE, ClipStore, ClipWriter
from baichuan_audio.errors import DataError, TrainingError
from baichuan_audio.layers.attention import TransformerLayer
from baichuan_audio.text.phonemes import SYMBOLS, phonetic_symbols
from baichuan_audio.training.common.checkpointing import load_training_state
from baichuan_audio.training.common.distributed import run
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.tokenizer import batch as tokenizer_batch
from baichuan_audio.training.tokenizer import train as stage
from baichuan_audio.training.tokenizer.batch import prepare
from baichuan_audio.training.tokenizer.clip_batches import ClipSampler
from baichuan_audio.training.tokenizer.embedding_ctc import (
    EmbeddingCtc,
    embed_codebooks_as_text,
    text_units,
    trained_embedding_ctc,
    units_of,
)
from baichuan_audio.training.tokenizer.frozen_text_model import FrozenTextModel
from baichuan_audio.training.tokenizer.local_attention import local_attention_init
from baichuan_audio.training.tokenizer.recipe import AugmentRecipe, LossWeights, TokenizerRecipe
from baichuan_audio.training.tokenizer.text_loss import edit_distance


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few seconds of tones that stand for words."""
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    with ClipWriter(root) as writer:
        for index in range(12):
            seconds = 0.6 + 0.05 * (index % 6)
            time = np.arange(int(24000 * seconds)) / 24000
            tone = 0.3 * np.sin(2 * np.pi * (200 + 60 * (index % 4)) * time) + 0.01 * random.standard_normal(len(time))
            writer.add(
                tone.astype(np.float32),
                id=f"clip{index}",
                language="en",
                speaker="tone",
                transcript=["one", "two", "three", "four"][index % 4],
                source="synthetic",
                license="Apache-2.0",
                split="train" if index < 9 else "validation",
                kind="read",
            )
    return root


@pytest.fixture
def recipe(corpus: Path, tmp_path: Path) -> TokenizerRecipe:
    config = {
        "audio_config": {
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 40,
            "max_audio_seconds": 4,
            "segment_norm": False,
            "vq_config": {"codebook_sizes": [16, 8, 8]},
        },
        "vocoder_config": {"channels": [16, 16]},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return TokenizerRecipe(
        output=str(tmp_path / "run"),
        config=str(path),
        steps=30,
        seed=3,
        log_every=1,
        sample_every=1000,
        checkpoint_every=1000,
        dataset=str(corpus),
        batch_seconds=4.0,
        crop_seconds=2.0,
        optimizer=OptimizerRecipe(learning_rate=3e-3, warmup_steps=3, schedule="constant"),
        quantize_start_step=10,
        ramp_steps=5,
        text_width=16,
    )


def changed(recipe: TokenizerRecipe, **values: object) -> TokenizerRecipe:
    return TokenizerRecipe(**{**recipe.__dict__, **values})  # type: ignore[arg-type]


def log(recipe: TokenizerRecipe) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(recipe.output) / "log.jsonl").read_text().splitlines()]


def test_it_learns_and_quantises(recipe: TokenizerRecipe) -> None:
    stage.train(changed(recipe, sample_every=30))
    rows = [row for row in log(recipe) if "loss" in row]
    assert rows[-1]["refined_mel"] < 0.75 * rows[0]["refined_mel"]
    assert "commitment" not in rows[9] and rows[10]["commitment"] > 0
    report = next(row for row in log(recipe) if "validation/mel_l1" in row)
    assert report["validation/perplexity_0"] > 1.5
    assert list((Path(recipe.output) / "samples").glob("*.png"))


def test_resume_is_exact(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    whole = changed(recipe, steps=14)
    stage.train(whole)
    stopped = changed(whole, output=str(tmp_path / "stopped"), checkpoint_every=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "optimizer_step", _stop_at(8, run.optimizer_step))
        with pytest.raises(KeyboardInterrupt):
            stage.train(stopped)
    stage.train(stopped)
    first, second = (stage.build(whole) for _ in range(2))
    for settings, (tokenizer, head) in ((whole, first), (stopped, second)):
        assert load_training_state(settings.output, {"tokenizer": tokenizer, "phonetic_head": head}, {}) == 14
    for a, b in zip(first, second, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name


def _stop_at(step: int, original: object) -> object:
    def optimizer_step(*arguments: object) -> object:
        if arguments[4] == step:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[operator]

    return optimizer_step


def test_hearing_comes_before_the_mel(recipe: TokenizerRecipe) -> None:
    staged = changed(
        recipe,
        weights=LossWeights(frame=1.0),
        mel_start_step=6,
        mel_share=0.5,
        quantize_start_step=8,
        steps=10,
    )
    write_alignment(Path(recipe.dataset))
    stage.train(staged)
    rows = [row for row in log(staged) if "loss" in row]
    found = [set(row) & {"frame", "phonetic", "refined_mel", "commitment"} for row in rows]
    assert found[0] == found[5] == {"frame", "phonetic"}
    assert found[7] == {"frame", "phonetic", "refined_mel"} and "commitment" in found[9]
    assert rows[-1]["frame"] < rows[0]["frame"] - 0.1


def test_a_batch_with_nothing_to_learn_is_no_error(recipe: TokenizerRecipe) -> None:
    unread = LossWeights(phonetic=0.0)
    silent = changed(recipe, weights=unread, mel_start_step=100, quantize_start_step=100, steps=2)
    stage.train(silent)
    assert [row["loss"] for row in log(silent) if "loss" in row] == [0.0, 0.0]


def test_labels_follow_speed_and_crop(recipe: TokenizerRecipe) -> None:
    tokenizer, _ = stage.build(recipe)
    batch = ClipSampler(ClipStore(recipe.dataset), recipe, 0).batch(0)
    ends = np.array([20, 40, 200])
    alignments = {batch.ids[0]: (np.array([3, 4, 5]), ends)}
    labels = prepare(batch, tokenizer, None, (0, 0), alignments).labels
    assert labels.shape[1] % 4 == 0 and (labels[1:] == -100).all()
    assert labels[0].tolist() == [3] * 10 + [4] * 10 + [5] * (labels.shape[1] - 20)
    cropped = replace(batch, starts=[SAMPLE_RATE // 5] * len(batch.ids))
    assert prepare(cropped, tokenizer, None, (0, 0), alignments).labels[0].tolist()[:11] == [4] * 10 + [5]
    twice = AugmentRecipe(speed_range=(2.0, 2.0), noise_share=0.0)
    assert prepare(batch, tokenizer, twice, (0, 0), alignments).labels[0].tolist()[:11] == [3] * 5 + [4] * 5 + [5]


def write_alignment(root: Path) -> None:
    rows = [json.dumps([f"clip{i}", [0, 3 + i % 4, 0], [10, 50, 90]]) for i in range(12)]
    (root / "alignments.jsonl").write_text("\n".join(rows) + "\n")


def test_attention_begins_next_door() -> None:
    layers = torch.nn.ModuleList([TransformerLayer(192, 4, 32)])
    local_attention_init(layers, ((-3, -1, 1, 3),))
    places = sinusoids(40, 192)
    attention = layers[0].self_attn
    query, key = (p(places).unflatten(-1, (4, -1)).transpose(0, 1) for p in (attention.q_proj, attention.k_proj))
    looked = (query @ key.transpose(1, 2)).argmax(-1)
    for head, away in enumerate((-3, -1, 1, 3)):
        off = (looked[head, 5:35] - torch.arange(5, 35) - away).abs().float().median()
        assert off <= 1, (head, away)


def test_the_text_model_is_frozen_and_its_loss_reaches_the_encoder(
    recipe: TokenizerRecipe, checkpoint_dir: Path
) -> None:
    tokenizer, head = stage.build(recipe)
    text_model = FrozenTextModel(str(checkpoint_dir), head.spread.in_features)
    frozen = text_model._frozen[0]
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    sampler = ClipSampler(ClipStore(recipe.dataset), recipe, 0)
    batch = prepare(sampler.batch(0), tokenizer, recipe.augment, (0, 0))
    optimizer = torch.optim.AdamW([*tokenizer.parameters(), *text_model.parameters()], lr=3e-3)
    values = []
    for _ in range(8):
        losses = stage.compute_losses(tokenizer, head, batch, recipe, 0, text_model)
        optimizer.zero_grad()
        losses["text"].backward()
        optimizer.step()
        values.append(float(losses["text"].detach()))
    assert values[-1] < values[0]
    assert tokenizer.encoder.conv1.weight.grad is not None and tokenizer.encoder.conv1.weight.grad.abs().sum() > 0
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in before.items())
    assert {name for name, _ in text_model.named_parameters()} == {"projection.weight", "projection.bias"}


def test_codebooks_change_only_once_quantisation_has_begun(recipe: TokenizerRecipe) -> None:
    tokenizer, head = stage.build(recipe)
    sampler = ClipSampler(ClipStore(recipe.dataset), recipe, 0)
    batch = prepare(sampler.batch(0), tokenizer, recipe.augment, (0, 0))
    book = codebooks(tokenizer.bridge.vq_list)[0]
    before = book.embed.clone()
    stage.compute_losses(tokenizer, head, batch, recipe, recipe.quantize_start_step - 1)
    assert torch.equal(before, book.embed)
    stage.compute_losses(tokenizer, head, batch, recipe, recipe.quantize_start_step)
    assert not torch.equal(before, book.embed)


def test_a_tokenizer_goes_on_once_the_head_can_read_it(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    stage.train(changed(recipe, steps=12))
    further = changed(
        recipe,
        output=str(tmp_path / "further"),
        init_from=recipe.output,
        quantize_start_step=0,
        ramp_steps=0,
        head_warmup_steps=2,
    )
    known, first_head = stage.build(further)
    assert not torch.equal(
        codebooks(known.bridge.vq_list)[0].embed, codebooks(stage.build(recipe)[0].bridge.vq_list)[0].embed
    )
    for steps, learns in ((2, False), (4, True)):
        run = changed(further, steps=steps, checkpoint_every=1)
        stage.train(run)
        now, head = stage.build(run)
        load_training_state(run.output, {"tokenizer": now, "phonetic_head": head}, {})
        same = {name: torch.equal(value, now.state_dict()[name]) for name, value in known.state_dict().items()}
        assert all(same.values()) if not learns else not any(same[name] for name, _ in known.named_parameters())
        assert all(same[name] for name in same if ".codebook." in name) != learns
        assert not torch.equal(head.out.weight, first_head.out.weight)


def test_what_is_decoded_went_through_the_codebooks(recipe: TokenizerRecipe) -> None:
    tokenizer, _ = stage.build(recipe)
    torch.manual_seed(0)
    lengths, width = torch.tensor([30, 20]), codebooks(tokenizer.bridge.vq_list)[0].embed.shape[1]
    vectors = torch.randn(2, 30, width, requires_grad=True)
    for level, book in enumerate(codebooks(tokenizer.bridge.vq_list)):
        book.embed.copy_(torch.randn(book.embed.shape) / (1 + level))
    levels = len(tokenizer.codebook_sizes)

    def passed(share: float, dropout: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What is passed on, and the sums of the first 0.. entries that it may be."""
        books = tokenizer.bridge.vq_list
        codes = quantize(books, vectors.detach())
        sums = [sum(b.lookup(codes[..., k]) for k, b in enumerate(codebooks(books)[:n])) for n in range(levels + 1)]
        quantizer = QuantizerRecipe(quantizer_dropout=dropout)
        return stage._through_codebooks(tokenizer, vectors, lengths, quantizer, share)[0], sums

    through, sums = passed(1.0, 0.0)
    assert torch.allclose(through[0], sums[-1][0], atol=1e-5) and torch.equal(through[1, 20:], vectors[1, 20:])
    (gradient,) = torch.autograd.grad(through.sum(), vectors)
    assert (gradient == 1).all()  # straight through
    assert torch.equal(passed(0.0, 0.0)[0], vectors)
    for _ in range(8):
        through, sums = passed(1.0, 1.0)
        kept = [
            n
            for n, some in enumerate(sums)
            if isinstance(some, torch.Tensor) and torch.allclose(through[0], some[0], atol=1e-5)
        ]
        assert len(kept) == 1 and 1 <= kept[0] < levels


def test_quantised_share_rises_from_a_tenth_to_all(recipe: TokenizerRecipe) -> None:
    shares = [stage.quantised_share(step, recipe) for step in (9, 10, 15, 99)]
    assert shares[0] == 0 and shares[1] == pytest.approx(0.1) and shares[2:] == [1.0, 1.0]


def test_batches_follow_from_seed_and_step_alone(recipe: TokenizerRecipe) -> None:
    store = ClipStore(recipe.dataset)
    first, second = (ClipSampler(store, recipe, 5) for _ in range(2))
    for step in (7, 3):
        assert torch.equal(first.batch(step).waveforms, second.batch(step).waveforms)
    assert not torch.equal(first.batch(1).samples, ClipSampler(store, recipe, 6).batch(1).samples)


def test_phonetic_symbols_of_both_languages() -> None:
    assert [SYMBOLS[i] for i in phonetic_symbols("Seven, 你好!")] == [
        *["S", "EH", "V", "AH", "N"],
        " ",
        *"ni3",
        " ",
        *"hao3",
    ]
    assert [SYMBOLS[i] for i in phonetic_symbols("zzqx")] == list("zzqx")


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3


def test_warped_frequencies_are_those_of_another_voice(recipe: TokenizerRecipe) -> None:
    """A tone through a vocal tract a tenth shorter is that of a lower voice; decoded clips stay as they are."""

    class Most(np.random.Generator):
        def uniform(self, low: float, high: float, count: int) -> np.ndarray:  # type: ignore[override]
            return np.full(count, high)

    tone = [torch.sin(2 * torch.pi * pitch * torch.arange(16000) / 16000) for pitch in (2000.0, 2000.0 / 1.1)]
    mel = MelConfig(16000, 400, 160, 80)
    heard, lower = (whisper_log_mel(each, mel, 30.0)[None] for each in tone)
    warped = tokenizer_batch._warp(heard, mel, 0.1, Most(np.random.PCG64(0)))
    assert (
        warped.shape == heard.shape and warped.mean(-1).argmax() == lower.mean(-1).argmax() != heard.mean(-1).argmax()
    )

    tokenizer, _ = stage.build(recipe)
    batch = ClipSampler(ClipStore(recipe.dataset), recipe, 0).batch(0)
    augment = AugmentRecipe(speed_range=(1.0, 1.0), noise_share=0.0, warp=0.2)
    plain, some = (prepare(batch, tokenizer, augment, (0, 0), decoded=n).log_mel for n in (None, 1))
    assert torch.equal(plain[0], some[0]) and not torch.equal(plain[1], some[1])


def test_a_ctc_loss_over_text_embeddings_teaches_where_the_words_are(
    recipe: TokenizerRecipe, tiny_dir: Path, tmp_path: Path
) -> None:
    recipe = changed(recipe, steps=80, sample_every=80, checkpoint_every=80, text_embeddings=str(tiny_dir))
    recipe = changed(recipe, augment=AugmentRecipe(speed_range=(1.0, 1.0), noise_share=0.0))
    stage.train(recipe)
    losses = [row["embedding_ctc"] for row in log(recipe) if "embedding_ctc" in row]
    assert np.median(losses[-20:]) < 0.5 * np.median(losses[:20])
    assert any("validation/unit_errors_en" in row for row in log(recipe))

    model = load(tiny_dir, dtype=torch.float32)
    ctc = trained_embedding_ctc(recipe.output, model)
    two = [number for (number,) in text_units("two", model.text_tokenizer)]
    assert [ctc.units[column - 1].tolist() for column in ctc.numbers("two")] == [[number] for number in two]
    assert ctc.numbers("two") == ctc.numbers("two 中"), "a unit that no transcript has"
    further = changed(recipe, init_from=recipe.output, output=str(tmp_path / "further"), steps=1, quantize_start_step=0)
    stage.train(changed(further, optimizer=OptimizerRecipe(learning_rate=0.0, warmup_steps=0)))
    torch.testing.assert_close(trained_embedding_ctc(further.output, model).projection.weight, ctc.projection.weight)
    with pytest.raises(TrainingError, match="embedding_ctc"):
        stage.train(without := changed(recipe, output=str(tmp_path / "without"), text_embeddings=None))
        trained_embedding_ctc(without.output, model)


def test_a_chinese_character_is_one_unit(tiny_dir: Path) -> None:
    tokenizer = load(tiny_dir).text_tokenizer
    first, second, *word = text_units("今天no", tokenizer)
    assert list(first) == tokenizer.encode("今") and list(second) == tokenizer.encode("天")
    assert [number for (number,) in word] == tokenizer.encode(" no")
    with pytest.raises(DataError, match="transcript"):
        units_of([None, ""], tokenizer)


def test_audio_embeddings_start_as_those_of_the_text(tiny_dir: Path) -> None:
    model = load(tiny_dir, dtype=torch.float32)
    books = [book.embed for book in codebooks(model.tokenizer.bridge.vq_list)]
    model.language_model.embed_tokens.weight.data.mul_(10)  # large beside what is not text
    torch.manual_seed(0)
    for book in books:
        torch.nn.init.normal_(book)
    units = units_of(["one two three"], model.text_tokenizer)
    ctc = EmbeddingCtc(model, units, books[0].shape[1])
    torch.nn.init.zeros_(ctc.projection.weight)
    torch.nn.init.normal_(ctc.blank.weight)
    codes = torch.stack([torch.randint(len(book), (3000,)) for book in books])
    ends = [embedding.weight[-1].clone() for embedding in model.language_model.audio_embed_layers]
    explained = embed_codebooks_as_text(model, ctc, codes)
    vectors = torch.stack([book[row] for book, row in zip(books, codes, strict=True)]).sum(0)
    spread = ctc.expected(vectors).var(0).sum()
    left = (model.language_model.embed_frames(codes) - ctc.expected(vectors)).var(0).sum()
    assert 0.5 < explained < 1 and left < 0.5 * spread
    for end, embedding in zip(ends, model.language_model.audio_embed_layers, strict=True):
        assert torch.equal(end, embedding.weight[-1])
