"""What the language model is fed with: which clips and words, in whose voice, how often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_workspace import SIZES, make_workspace, recipe
from torch import Tensor

import baichuan_audio
from baichuan_audio.data.alignment.token_alignment import UNKNOWN
from baichuan_audio.data.dialogues import Dialogue, Exchange
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.data.mixture.mixture import Mixture
from baichuan_audio.data.mixture.samplers import MixtureData
from baichuan_audio.data.mixture.tasks import SequenceFormat, spoken_words
from baichuan_audio.data.mixture.weighted_sampling import SkillSampler, SourceSampler, Utterance
from baichuan_audio.data.store.codes_store import CodesStore, encode_corpus, write_codes
from baichuan_audio.data.store.manifest import ClipStore
from baichuan_audio.text.language import voice_language
from baichuan_audio.training.language_model.data import make_mixture


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


@pytest.mark.parametrize(("share", "named"), [(0.0, {"Ada"}), (1.0, {"someone"})])
def test_reading_aloud_is_learnt_of_other_voices_too(
    workspace: Path, tmp_path: Path, share: float, named: set[str]
) -> None:
    model = baichuan_audio.load(workspace / "model")
    mixture = MixtureConfig(tasks={"tts": 1.0}, auxiliary_speaker_prob=share)
    mixture = make_mixture(recipe(workspace, tmp_path, mixture=mixture), model, "train")
    drawn = [mixture.draw(np.random.default_rng(seed)) for seed in range(9)]
    told = {model.text_tokenizer.decode(each.ids).split("【")[1].split("】")[0] for each in drawn}
    assert told == named


def test_some_words_of_a_clip_are_heard_alone(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, tokenizer = CodesStore(workspace / "codes")["train-q"], model.text_tokenizer
    write_codes({"train-q": codes[:, ::2]}, tmp_path / "fast")
    mixture = MixtureConfig(tasks={"asr": 1.0}, source_weights={"question": 1.0, "answer": 0.0}, excerpts=1.0)
    settings = recipe(
        workspace, tmp_path, mixture=mixture, alignment_loss_weight=1.0, additional_codes=(str(tmp_path / "fast"),)
    )
    mixture = make_mixture(settings, model, "train")
    told = set()
    for seed in range(60):
        sequence = mixture.draw(np.random.default_rng(seed))
        heard, words = sequence.codes, tokenizer.decode(sequence.ids[sequence.text_loss][:-1])
        told.add(words)
        places = [p for p in range(codes.shape[1]) if torch.equal(codes[:, p : p + heard.shape[1]], heard)]
        assert places or 0 < heard.shape[1] <= (codes.shape[1] + 1) // 2  # else of the fast ones
        named = sequence.aligned[sequence.aligned != UNKNOWN].tolist()
        assert set(named) <= {id for text in (words, " " + words) for id in tokenizer.encode(text)}
    assert told == {"What", "What is hot?", "is hot?"}  # nothing is aligned with the last word


def test_words_of_several_clips_of_a_speaker_are_heard_as_one(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, decode = CodesStore(workspace / "codes"), model.text_tokenizer.decode
    mixture = MixtureConfig(
        tasks={"asr": 1.0}, source_weights={"question": 0.0, "answer": 1.0}, excerpts=1.0, medley=1.0
    )
    mixture = make_mixture(recipe(workspace, tmp_path, mixture=mixture, phoneme_loss_weight=1.0), model, "train")
    assert mixture.context.data.aligner is not None
    told = set()
    for seed in range(6):
        sequence = mixture.draw(np.random.default_rng(seed))
        said = decode(sequence.ids[sequence.text_loss][:-1]).split()
        clips = ["train-a" if word == "Cold," else "train-b" for word in said]
        told.add(tuple(clips))
        assert len(said) == 4 and torch.equal(sequence.codes, torch.cat([codes[clip] for clip in clips], dim=1))
        named = sequence.phonemes[sequence.ids == model.special.audio_pad]
        assert torch.equal(
            named, torch.cat([mixture.context.data.aligner.phonemes(clip, codes[clip].shape[1]) for clip in clips])
        )
        assert {40, 41} <= set(named.flatten().tolist())
    assert len({clip for clips in told for clip in clips}) == 2 and len(told) > 2


def test_a_word_of_a_clip_gives_way_to_another_of_its_speaker(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, decode = CodesStore(workspace / "codes"), model.text_tokenizer.decode
    mixture = MixtureConfig(tasks={"asr": 1.0}, splices=1.0)
    mixture = make_mixture(recipe(workspace, tmp_path, mixture=mixture, phoneme_loss_weight=1.0), model, "train")
    question = codes["train-q"]  # alone in its voice; aligned are its words "What" and "is hot?"
    what, is_hot = question[:, :2], question[:, 2:]
    can_be = {
        "Cold,": codes["train-a"],  # of one word each, and of one voice
        "yes.": codes["train-b"],
        "What is hot?": question,
        "What What": torch.cat([what, what], dim=1),
        "is hot? is hot?": torch.cat([is_hot, is_hot], dim=1),
    }
    told = set()
    for seed in range(60):
        sequence = mixture.draw(np.random.default_rng(seed))
        words = decode(sequence.ids[sequence.text_loss][:-1])
        assert torch.equal(sequence.codes, can_be[words])
        told.add(words)
    assert told == set(can_be)


def test_questions_are_woven_of_words_that_a_voice_said_elsewhere(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, tokenizer = CodesStore(workspace / "codes"), model.text_tokenizer
    question = codes["train-q"]  # aligned are its words "what" and "is hot"
    what, is_hot = question[:, :2], question[:, 2:]
    sound = {
        "Is hot, what?": torch.cat([is_hot, what], dim=1),
        "What, what?": torch.cat([what, what], dim=1),
        "Is hot?": is_hot,
        "Cold?": None,  # nobody who asks has said it
        "Hot?": None,  # nor this by itself
    }
    mixture = MixtureConfig(tasks={"heard_dialogue": 1.0, "asr": 1.0}, text_question_prob=0.0, woven=1.0)
    aligner = make_mixture(
        recipe(workspace, tmp_path, mixture=mixture, phoneme_loss_weight=1.0), model, "train"
    ).context.data.aligner
    dialogues = [
        Dialogue(asked, "train", "en", "s", "Ada", (Exchange(asked, None, (("yes.", None),)),)) for asked in sound
    ]
    clips = [Utterance("train-q", "what is hot", speaker="someone"), Utterance("train-a", "cold", "Ada", speaker="Ada")]
    data = MixtureData(codes.__getitem__, dialogues, dialogues, clips, aligner)
    mixture = Mixture(mixture, SequenceFormat(tokenizer, model.special, SIZES), data)
    told = set()
    for seed in range(120):
        sequence = mixture.draw(np.random.default_rng(seed))
        written, heard = tokenizer.decode(sequence.ids[sequence.text_loss][:-1]), sequence.codes
        if written == "yes.":  # a dialogue; what cannot be said aloud is typed
            asked = next(
                asked for asked in sound if asked in tokenizer.decode(sequence.ids) or _same(sound[asked], heard)
            )
            assert _same(sound[asked], heard) if sound[asked] is not None else heard.shape[1] == 0
        else:  # transcribed, or another clip instead
            itself = any(clip.transcript == written for clip in clips)
            asked = "a clip" if itself else next(asked for asked in sound if spoken_words(asked) == written)
            assert itself or _same(sound[asked], heard)
        told.add((written == "yes.", asked))
    answered = {(True, asked) for asked in sound}
    assert told == answered | {(False, asked) for asked in ("Is hot, what?", "What, what?", "Is hot?", "a clip")}


@pytest.mark.parametrize("letters", [None, 5])
def test_replies_are_told_in_words_that_their_voice_said_elsewhere(
    workspace: Path, tmp_path: Path, letters: int | None
) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, tokenizer = CodesStore(workspace / "codes"), model.text_tokenizer
    yes, cold = codes["train-b"], codes["train-a"]
    mixture = MixtureConfig(tasks={"spoken_dialogue": 1.0}, text_question_prob=1.0, retold=1.0)
    aligner = make_mixture(
        recipe(workspace, tmp_path, mixture=mixture, phoneme_loss_weight=1.0), model, "train"
    ).context.data.aligner

    def asked(name: str, *replies: str, clip: str | None = None) -> Dialogue:
        return Dialogue(
            name, "train", "en", "s", "Ada", tuple(Exchange(name, None, ((reply, clip),)) for reply in replies)
        )

    recorded = asked("recorded", "yes.", clip="train-b")
    generated = [asked("two", "Yes, yes. Cold.", "Yes."), asked("first alone", "Cold.", "Hot."), asked("none", "Hot.")]
    clips = [Utterance("train-b", "yes", "Ada"), Utterance("train-a", "cold", "Ada")]
    data = MixtureData(codes.__getitem__, generated, [recorded], clips, aligner)
    mixture = Mixture(mixture, SequenceFormat(tokenizer, model.special, SIZES, letters), data)
    can_be = {
        "two": ("Yes, yes. Cold.Yes.", [yes, yes, cold, yes]),
        "first alone": ("Cold.", [cold]),  # nobody has said the next one
        "recorded": ("yes.", [yes]),  # instead of what cannot be told at all
    }
    told = set()
    for seed in range(40):
        sequence = mixture.draw(np.random.default_rng(seed))
        name = next(name for name in can_be if name in tokenizer.decode(sequence.ids))
        text, sound = can_be[name]
        assert tokenizer.decode(sequence.ids[sequence.text_loss]) == text
        assert torch.equal(sequence.codes, torch.cat(sound, dim=1))
        assert bool(sequence.audio_loss.any()) == (name == "recorded")
        told.add(name)
    assert told == set(can_be)


def _same(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and torch.equal(one, other)


def test_a_language_may_be_drawn_more_often_than_another() -> None:
    dialogues = [Dialogue(language, "train", language, "s", None, ()) for language in ("en", "en", "zh")]
    clips = [Utterance("a", "hot"), Utterance("b", "热"), Utterance("c", "cold", source="read")]
    for source, english in (
        (SkillSampler(dialogues, {}, {"zh": 6.0}), 0.25),
        (SkillSampler(dialogues, {}, {}), 2 / 3),
        (SourceSampler(clips, {"read": 0.0}, {"en": 3.0}), 0.75),
        (SourceSampler(clips, {}, {"zh": 0.0}), 1.0),
    ):
        rng = np.random.default_rng(0)
        drawn = [source.pick(rng) for _ in range(400)]
        found = [each.language if isinstance(each, Dialogue) else voice_language(each.transcript) for each in drawn]
        assert abs(found.count("en") / 400 - english) < 0.06 and len(source) == 3


def test_several_sentences_of_a_voice_are_read_in_one_go(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    codes, special = CodesStore(workspace / "codes"), model.special
    mixture = MixtureConfig(tasks={"tts": 1.0}, multi_sentence_prob=1.0)
    mixture = make_mixture(recipe(workspace, tmp_path, mixture=mixture), model, "train")
    told = set()
    for seed in range(12):
        sequence = mixture.draw(np.random.default_rng(seed))
        ids = sequence.ids.tolist()
        text = model.text_tokenizer.decode([id for id in ids[ids.index(special.system) :] if id < special.system])
        said = text[text.index("问题。") + 3 :].split()
        told.add(tuple(said))
        clips = ["train-a" if word.startswith("Cold") else "train-b" for word in said]
        assert len(said) == 3 and torch.equal(sequence.codes, torch.cat([codes[clip] for clip in clips], dim=1))
    assert len(told) > 3
    # A real person's voice has no name but the voice's.
    voices = [replace(each, speaker=None) for each in mixture.context.samplers.by_speaker["Ada"]]
    data = MixtureData(codes.__getitem__, utterances=voices, aligner=mixture.context.data.aligner)
    real = Mixture(mixture.context.config, SequenceFormat(model.text_tokenizer, special, SIZES), data)
    assert real.draw(np.random.default_rng(0)).codes.shape[1] > codes["train-a"].shape[1]


def test_what_is_heard_comes_at_other_speeds_too(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")
    chosen = ["train-q"]
    assert encode_corpus(model.tokenizer, ClipStore(workspace / "corpus"), tmp_path / "fast", chosen, speed=1.5) == 1
    everything = ClipStore(workspace / "corpus")  # a hundredth as fast, the others are longer than one piece
    assert encode_corpus(model.tokenizer, everything, tmp_path / "fast", speed=0.01) == 0
    usual, fast = CodesStore(workspace / "codes"), CodesStore(tmp_path / "fast")
    assert fast["train-q"].shape[1] < usual["train-q"].shape[1]
    mixture = make_mixture(
        recipe(
            workspace,
            tmp_path,
            mixture=MixtureConfig(tasks={"heard_dialogue": 1.0}),
            additional_codes=(str(tmp_path / "fast"),),
        ),
        model,
        "train",
    )
    rng = np.random.default_rng(0)
    lengths = {mixture.draw(rng).codes.shape[1] for _ in range(40)}
    assert lengths == {0, usual["train-q"].shape[1], fast["train-q"].shape[1]}
