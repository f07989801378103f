"""What a model says itself: the clearest of its readings, and codes in place of the encoder's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_workspace import make_workspace, recipe
from torch import Tensor

import baichuan_audio
from baichuan_audio.cli.app import main
from baichuan_audio.data.dialogues import write_dialogues
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.data.mixture.takes import Take, read_rejected, read_takes, write_takes
from baichuan_audio.data.store.codes_store import CodesStore
from baichuan_audio.errors import DataError, TrainingError
from baichuan_audio.training.common.checkpointing import save_training_state
from baichuan_audio.training.language_model import takes
from baichuan_audio.training.language_model.data import make_mixture
from baichuan_audio.training.language_model.sampled_codes import sample_codes, sampling_mixture
from baichuan_audio.training.language_model.takes import PhonemeScorer, record_takes, texts_to_read
from baichuan_audio.training.tokenizer.text_loss import PhoneticHead


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_workspace(tmp_path_factory.mktemp("takes"))
    config = baichuan_audio.load(root / "model").tokenizer.config
    torch.manual_seed(1)
    head = PhoneticHead(config.d_model * config.avg_pooler, 24)
    save_training_state(root / "ear", 1, {"phonetic_head": head}, {})
    return root


def take(text: str, voice: str = "Ada", frames: int = 3) -> Take:
    words = text.split(" ")
    runs = [(" " * (n > 0) + word, torch.randint(70, (4, frames + n))) for n, word in enumerate(words)]
    return Take(text, voice, tuple(runs), 0.25)


def test_takes_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [take("Cold, yes."), take("热。", "邻家女声", 5)]
    assert write_takes(written, tmp_path) == 2
    for one, other in zip(written, read_takes(tmp_path), strict=True):
        assert (one.text, one.voice, one.error_rate) == (other.text, other.voice, other.error_rate)
        for (words, codes), (others, again) in zip(one.runs, other.runs, strict=True):
            assert words == others and torch.equal(codes, again)
    (tmp_path / "takes.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"takes\.jsonl, line 1, is no take \(no 'runs'\)"):
        read_takes(tmp_path)
    assert write_takes(written, tmp_path, [("冷。", "Ada")]) == 2 and read_rejected(tmp_path) == [("冷。", "Ada")]
    (tmp_path / "unclear.jsonl").write_text('["one"]\n')
    with pytest.raises(DataError, match=r"unclear\.jsonl, line 1, is no text with its voice"):
        read_rejected(tmp_path)


def test_the_model_learns_to_say_its_takes(workspace: Path, tmp_path: Path) -> None:
    model, mine = baichuan_audio.load(workspace / "model"), take("Yes. Cold.")
    write_takes([mine], tmp_path)
    for share in (1.0, 0.0):
        settings = recipe(
            workspace, tmp_path, takes=str(tmp_path), mixture=MixtureConfig(tasks={"tts": 1.0}, takes=share)
        )
        sequence = make_mixture(settings, model, "train").draw(np.random.default_rng(0))
        assert torch.equal(sequence.codes, torch.cat([codes for _, codes in mine.runs], dim=1)) == bool(share)
        assert bool(sequence.audio_loss.any()) and not bool(sequence.text_loss.any())
    assert not len(make_mixture(settings, model, "validation").context.samplers.takes)


def test_a_retold_reply_that_was_recorded_is_learnt_as_sound(workspace: Path, tmp_path: Path) -> None:
    model, mine = baichuan_audio.load(workspace / "model"), take("Cold, yes.")
    write_takes([mine], tmp_path)
    mixture = MixtureConfig(tasks={"spoken_dialogue": 1.0}, retold=1.0, text_question_prob=1.0)
    settings = recipe(workspace, tmp_path, takes=str(tmp_path), mixture=mixture, phoneme_loss_weight=1.0)
    sequence = make_mixture(settings, model, "train").draw(np.random.default_rng(0))
    assert torch.equal(sequence.codes, torch.cat([codes for _, codes in mine.runs], dim=1))
    assert bool(sequence.audio_loss.any()) and bool(sequence.text_loss.any())


def test_the_clearest_reading_is_kept_and_a_stopped_recording_goes_on(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = baichuan_audio.load(workspace / "model")
    monkeypatch.setattr(takes, "_MAX_ERROR_RATE", 100.0)  # an untaught head reads nothing right
    model.config["reply_sampling"] = {"max_segment_frames": 6, "codes": {"temperature": 1.0}}
    heard: list[tuple[Tensor, float]] = []

    class RecordingScorer(PhonemeScorer):
        def score(self, codes: Tensor, text: str) -> tuple[float, float]:
            unlikely, wrong = super().score(codes, text)
            heard.append((codes, unlikely))
            return unlikely, wrong

    scorer, texts = RecordingScorer(model, workspace / "ear"), [("Cold, yes.", "Ada"), ("yes.", "邻家女声")]
    assert record_takes(model, scorer, texts[:1], tmp_path, 4) == 1
    said = torch.cat([codes for _, codes in read_takes(tmp_path)[0].runs], dim=1)
    assert len({unlikely for _, unlikely in heard}) > 1
    assert torch.equal(said, min(heard, key=lambda each: each[1])[0])

    heard.clear()
    assert record_takes(model, scorer, texts, tmp_path, 2) == 2  # the first is not read again
    found = read_takes(tmp_path)
    assert [(each.text, each.voice) for each in found] == texts and len(heard) <= 2
    assert torch.equal(torch.cat([codes for _, codes in found[0].runs], dim=1), said)
    assert "".join(words for words, _ in found[0].runs) == "Cold, yes."
    monkeypatch.setattr(takes, "_MAX_ERROR_RATE", 0.0)
    heard.clear()
    another = [*texts, ("yes.", "Ada")]
    assert record_takes(model, scorer, another, tmp_path, 1) == 2 and len(heard) == 1
    assert record_takes(model, scorer, another, tmp_path, 1) == 2 and len(heard) == 1  # nor is what was not clear
    with pytest.raises(DataError, match="none of 2 texts was read with at most 0% phoneme errors"):
        record_takes(model, scorer, texts, tmp_path / "none", 1)
    with pytest.raises(TrainingError, match="no training state"):
        PhonemeScorer(model, tmp_path)


def test_texts_are_the_training_replies_in_the_models_voices(workspace: Path, tmp_path: Path) -> None:
    settings = recipe(workspace, tmp_path)
    assert texts_to_read(settings, ["Ada"], 10) == [("Cold, yes.", "Ada")]
    with pytest.raises(DataError, match="no dialogues in the model's voices"):
        texts_to_read(settings, ["Ben"], 10)
    rows = []
    for number in range(20):
        reply = {"role": "assistant", "content": "Cold" + ", no" * number + "."}
        messages = [{"role": "user", "content": "Hot?"}, reply]
        rows.append({"id": str(number), "language": "en", "voice": ("Ada", "Ben")[number % 2], "messages": messages})
    write_dialogues(rows, tmp_path / "more.jsonl")
    many = replace(settings, dialogues=(str(tmp_path / "more.jsonl"), *settings.dialogues))
    some = texts_to_read(many, ["Ada", "Ben"], 12)
    assert len(set(some)) == 12 and some == texts_to_read(many, ["Ada", "Ben"], 12)


def test_said_codes_are_the_models_own_for_the_same_frames(workspace: Path, tmp_path: Path) -> None:
    model, true = baichuan_audio.load(workspace / "model"), CodesStore(workspace / "codes")
    settings = recipe(workspace, tmp_path, alignment_loss_weight=1.0, additional_codes=("nowhere",))
    mixture = sampling_mixture(settings, model)  # opens nothing that is only heard
    assert sample_codes(model, mixture, tmp_path / "said") == 2
    said = CodesStore(tmp_path / "said")
    assert "train-q" not in said  # a question's voice
    for clip in ("train-a", "train-b"):
        assert said[clip].shape == true[clip].shape and not torch.equal(said[clip], true[clip])
        assert all(int(row.max()) < size for row, size in zip(said[clip], model.tokenizer.codebook_sizes, strict=True))
    # a head that is sure of the true codes says just those
    model.audio_head.logits_at = _sure_of(true, model)  # type: ignore[method-assign]
    sample_codes(model, mixture, tmp_path / "sure")
    sure = CodesStore(tmp_path / "sure")
    assert all(torch.equal(sure[clip], true[clip]) for clip in ("train-a", "train-b"))


def _sure_of(true: CodesStore, model: baichuan_audio.BaichuanAudio):  # type: ignore[no-untyped-def]
    order = sorted(("train-a", "train-b"), key=lambda clip: true[clip].shape[1])
    wanted = torch.cat([true[clip] for clip in order], dim=1)

    def logits_at(states: Tensor, before: Tensor) -> Tensor:
        level = before.shape[1]
        size = model.tokenizer.codebook_sizes[level] + 1
        return 100.0 * torch.nn.functional.one_hot(wanted[level], size).float()

    return logits_at


@pytest.mark.parametrize(
    ("command", "missing"), [("sample-codes", "--model"), ("rejection-sample", "--phoneme-scorer")]
)
def test_the_commands_say_what_they_lack(command: str, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["data", command])
    assert missing in capsys.readouterr().err
