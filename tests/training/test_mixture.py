"""Which dialogues and clips the language model is fed with, and how often; where replies are cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_workspace import make_workspace, recipe

import baichuan_audio
from baichuan_audio.data.dialogues import Dialogue
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.data.mixture.weighted_sampling import SkillSampler, SourceSampler, Utterance
from baichuan_audio.data.store.codes_store import CodesStore
from baichuan_audio.errors import ConfigError
from baichuan_audio.text.language import voice_language
from baichuan_audio.training.language_model.data import make_mixture


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


@pytest.mark.parametrize(("letters", "pieces"), [(2, 2), (None, 1)])
def test_a_clip_is_read_aloud_by_runs_of_words_or_as_a_whole(
    workspace: Path, tmp_path: Path, letters: int | None, pieces: int
) -> None:
    shutil.copytree(workspace / "corpus", tmp_path / "corpus")
    sounds = json.dumps(["train-q", [0, *[40] * 8], [10, *range(14, 46, 4)]])  # as many as "What is hot" has
    (tmp_path / "corpus" / "alignments.jsonl").write_text(sounds + "\n")
    model = baichuan_audio.load(workspace / "model")
    model.config = {**model.config, "interleave_min_letters": letters, "voices": ["someone"]}
    tts = MixtureConfig(tasks={"tts": 1.0}, source_weights={"question": 1.0, "answer": 0.0})
    mixture = make_mixture(recipe(workspace, tmp_path, mixture=tts, dataset=str(tmp_path / "corpus")), model, "train")
    for seed in range(4):
        sequence = mixture.draw(np.random.default_rng(seed))
        assert torch.equal(sequence.codes, CodesStore(workspace / "codes")["train-q"])
        assert int((sequence.ids == model.special.audiogen_start).sum()) == pieces
    if letters:
        with pytest.raises(ConfigError, match="interleave_min_letters needs the alignments"):
            make_mixture(recipe(workspace, tmp_path, mixture=tts, dataset=None), model, "train")


def test_clips_are_weighed_by_their_source_kind_or_speaker(workspace: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(workspace / "model")

    def drawn(weights: dict[str, float]) -> set[str]:
        config = MixtureConfig(tasks={"asr": 1.0}, source_weights=weights)
        mixture = make_mixture(recipe(workspace, tmp_path, mixture=config), model, "train")
        rng = np.random.default_rng(0)
        return {mixture.draw(rng).id.removeprefix("train-") for _ in range(60)}

    assert drawn({"someone": 1.0, "answer": 0.0}) == {"q"}
    assert drawn({"A*": 1.0, "question": 0.0}) == drawn({"answer": 1.0, "question": 0.0}) == {"a", "b"}
    assert drawn({"synthetic": 1.0}) == {"q", "a", "b"}
    with pytest.raises(ConfigError, match=r"names librispeech, but no clip has that .*; there are synthetic"):
        drawn({"synthetic": 1.0, "librispeech": 3.0})


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
