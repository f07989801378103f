"""Training sequences: ids, masks and frames position by position, and equality with what inference writes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baichuan_audio.data import sequences
from baichuan_audio.data.alignment.token_alignment import TokenAligner, token_ends
from baichuan_audio.data.dialogues import parse_dialogue
from baichuan_audio.data.mixture.batches import Batches
from baichuan_audio.data.mixture.config import TASK_NAMES, MixtureConfig
from baichuan_audio.data.mixture.mixture import Mixture
from baichuan_audio.data.mixture.samplers import MixtureData, Samplers
from baichuan_audio.data.mixture.tasks import TASKS as TASK_FUNCTIONS
from baichuan_audio.data.mixture.tasks import SequenceFormat
from baichuan_audio.data.mixture.weighted_sampling import Utterance
from baichuan_audio.data.sequences import SequenceBuilder, TokenSequence, Turn, split_reply
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.generation.events import SegmentEnd, TextDelta
from baichuan_audio.generation.reply import ReplySampling, spoken_reply
from baichuan_audio.generation.runner import run_program
from baichuan_audio.language_model import sampling as sampling_module
from baichuan_audio.language_model.prompt import PromptBuilder
from baichuan_audio.text.phonemes import SYMBOLS


@pytest.fixture
def builder(model: Any) -> SequenceBuilder:
    return SequenceBuilder(model.text_tokenizer, model.special, 8)


def frames(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 16, (8, count), generator=torch.Generator().manual_seed(seed))


def told(model: Any, sequence: TokenSequence) -> list[str]:
    """Each id by its control name or text, with T where it is learnt as text, A where it predicts a frame."""
    special = model.special
    names = {
        getattr(special, name): f"<{name}>" for name in special.__dataclass_fields__ if name != "others"
    }  # fmt: skip
    return [
        names.get(id, model.text_tokenizer.decode([id])) + " " + "T" * text + "A" * audio
        for id, text, audio in zip(
            sequence.ids.tolist(), sequence.text_loss.tolist(), sequence.audio_loss.tolist(), strict=True
        )
    ]


def test_spoken_dialogue_position_by_position(model: Any, builder: SequenceBuilder) -> None:
    turns = [
        Turn(frames(2), [("Hi", frames(2, 1)), ("!", frames(1, 2))]),
        Turn("x", [("y", frames(1, 3))]),
    ]
    built = sequences.dialogue(builder, "s", turns, spoken=True)
    assert told(model, built) == [
        "<system> ", "s ",
        "<user> ", "<audio_start> ", "<audio_pad> ", "<audio_pad> ", "<audio_end> ",
        "<audiotext_start> ", "<assistant> ",
        "H T", "i T", "<audiogen_start> TA", "<audio_pad> A", "<audio_pad> A", "<audiogen_end> ",
        "! T", "<audiogen_start> TA", "<audio_pad> A", "<audiogen_end> ", "<end_of_text> T",
        "<user> ", "x ",
        "<audiotext_start> ", "<assistant> ",
        "y T", "<audiogen_start> TA", "<audio_pad> A", "<audiogen_end> ", "<end_of_text> T",
    ]  # fmt: skip
    assert torch.equal(built.codes, torch.cat([frames(2), frames(2, 1), frames(1, 2), frames(1, 3)], dim=1))


def test_text_only_reply_is_one_piece_without_speech_marks(model: Any, builder: SequenceBuilder) -> None:
    built = sequences.dialogue(builder, "", [Turn("x", [("y,", frames(1)), ("z", None)])], spoken=False)
    assert told(model, built) == ["<system> ", "<user> ", "x ", "<assistant> ", "y T", ", T", "z T", "<end_of_text> T"]
    assert built.codes.shape == (8, 0)


def test_masks_of_the_other_tasks(model: Any, builder: SequenceBuilder) -> None:
    heard = ["<audio_start> ", "<audio_pad> ", "<audio_end> "]
    said = ["<audio_pad> A", "<audiogen_end> "]
    asr = told(model, sequences.transcription(builder, frames(1), "y"))
    assert asr[-5:] == [*heard, "y T", "<end_of_text> T"] and not any("T" in each[-2:] for each in asr[:-5])
    response = told(model, sequences.audio_response(builder, "p", frames(1), "y"))
    assert response == ["p ", *heard, "y T", "<end_of_text> T"]
    assert told(model, sequences.speech(builder, "s", [("x", frames(1)), ("y", frames(1))])) == [
        "<system> ", "s ", "<audiotext_start> ", "<assistant> ",
        "x ", "<audiogen_start> A", *said, "y ", "<audiogen_start> A", *said,
    ]  # fmt: skip
    assert told(model, sequences.interleaved_heard(builder, [frames(1), "x", frames(1)])) == [
        *heard, "x T", *heard, "<end_of_text> T",
    ]  # fmt: skip
    assert told(model, sequences.interleaved_spoken(builder, [("x", frames(1)), ("y", frames(1))])) == [
        "x ", "<audiogen_start> A", *said, "y T", "<audiogen_start> TA", *said, "<end_of_text> T",
    ]  # fmt: skip
    assert told(model, sequences.pure_audio(builder, frames(1))) == ["<audiogen_start> A", *said]


def test_sequence_equals_what_the_session_writes(model: Any, builder: SequenceBuilder, monkeypatch: Any) -> None:
    """The model is made to choose the training reply; ids and codes must then be those of the sequence."""
    replies = [[("Fine. I", frames(3, 1)), (" am,", frames(1, 2)), (" really.", frames(2, 3))], [("No.", frames(2, 4))]]
    questions: list[str | Tensor] = [frames(4, 5), "And you?"]
    turns = [Turn(question, reply) for question, reply in zip(questions, replies, strict=True)]
    built = sequences.dialogue(builder, "sys", turns, spoken=True)

    wanted: list[int] = []
    monkeypatch.setattr(sampling_module, "draw_rows", lambda *_: [wanted.pop(0)])
    size, special = model.language_model.codebook_sizes[0], model.special
    live = model.start([special.system, *model.text_tokenizer.encode("sys")])
    spoken: list[Tensor] = []
    for question, reply in zip(questions, replies, strict=True):
        prompt = PromptBuilder(model.text_tokenizer, special, 8).user()
        prompt = prompt.text(question) if isinstance(question, str) else prompt.audio(question)
        prompt = prompt.reply(spoken=True).build()
        live.prefill(prompt.ids, prompt.codes)
        for text, said in reply:
            wanted += model.text_tokenizer.encode(text)
            if text != " am,":  # a later clause that ends at a mark needs no audiogen_start from the model
                wanted.append(special.audiogen_start)
            wanted += [*said.T.flatten().tolist(), size]
        wanted.append(special.end_of_text)
        events = list(run_program(live, spoken_reply(live, model.text_tokenizer, ReplySampling())))
        spoken += [event.codes for event in events if isinstance(event, SegmentEnd)]
        texts = [event.text for event in events if isinstance(event, TextDelta)]
        assert "".join(texts) == "".join(text for text, _ in reply)
    assert not wanted
    assert live.ids == built.ids.tolist()
    assert torch.equal(torch.cat([questions[0], *spoken], dim=1), built.codes)  # type: ignore[list-item]


def test_replies_are_cut_at_their_clauses() -> None:
    assert split_reply("Five. It is odd, yes!", ["Five.", "It is odd,", "yes!"]) == ["Five.", " It is odd,", " yes!"]
    assert split_reply("好的，是五。", ["好的，", "是五。"]) == ["好的，", "是五。"]
    for clauses in (["Five."], ["It is", "Five."], ["Six."]):
        with pytest.raises(DataError):
            split_reply("Five. It is", clauses)


def test_a_clause_without_audio_cannot_be_spoken(builder: SequenceBuilder) -> None:
    with pytest.raises(DataError, match="no audio"):
        sequences.dialogue(builder, "s", [Turn("x", [("y", None)])], spoken=True)


def row(name: str) -> dict[str, Any]:
    return {
        "id": name, "split": "train", "language": "en", "skill": "opposites", "voice": "Ada",
        "messages": [
            {"role": "user", "content": "Hot?", "audio": "q"},
            {"role": "assistant", "content": "Cold. Yes.",
             "segments": [{"text": "Cold.", "audio": "a"}, {"text": "Yes.", "audio": "b"}]},
        ],
    }  # fmt: skip


def mixture(model: Any, **mixture: Any) -> Mixture:
    codes = {name: frames(3 + index, index) for index, name in enumerate("qab")}
    dialogue = parse_dialogue(row("d"))
    clips = [Utterance("q", "Hot?"), Utterance("a", "Cold.", "Ada")]
    layout = SequenceFormat(model.text_tokenizer, model.special, model.language_model.codebook_sizes)
    return Mixture(MixtureConfig(**mixture), layout, MixtureData(codes.__getitem__, [dialogue], [dialogue], clips))


TASKS = {
    "text_dialogue": 1, "heard_dialogue": 1, "spoken_dialogue": 1, "asr": 1, "tts": 1,
    "heard_interleaved": 1, "spoken_interleaved": 1, "pure_audio": 1,
}  # fmt: skip


def test_every_task_draws_and_data_order_depends_on_seed_and_step_alone(model: Any) -> None:
    made = mixture(model, tasks=TASKS)
    one, other = (Batches(made.draw, 200, seed=3, group=4) for _ in range(2))
    straight = [one(step) for step in range(8)]
    for step in (6, 1, 7):  # in any order
        again = other(step)
        assert len(again) == len(straight[step]) > 0
        assert all(
            torch.equal(a.ids, b.ids) and torch.equal(a.codes, b.codes)
            for a, b in zip(again, straight[step], strict=True)
        )
    assert {made.draw(np.random.default_rng(seed)).kind for seed in range(60)} == set(TASKS)
    lengths = [sum(map(len, batch)) for batch in straight]
    assert min(lengths) > 100 and max(lengths) < 350


def test_skills_are_drawn_by_their_weight(model: Any) -> None:
    both = [dataclasses.replace(parse_dialogue(row("d")), skill=skill) for skill in ("sums", "colours")]

    def drawn(**mixture: Any) -> tuple[set[str], set[str]]:
        tasks = {"text_dialogue": 1.0, "heard_dialogue": 1.0}
        samplers = Samplers(MixtureConfig(tasks, **mixture), MixtureData(lambda _: frames(3), both, both))
        texts, dialogues, rng = samplers.texts, samplers.dialogues, np.random.default_rng(0)
        return {texts.pick(rng).skill for _ in range(40)}, {dialogues.pick(rng).skill for _ in range(40)}

    assert drawn() == ({"sums", "colours"}, {"sums", "colours"})
    assert drawn(skill_weights={"sums": 0.0}) == ({"colours"}, {"colours"})


def test_only_replies_whose_every_clause_has_a_clip_are_spoken(model: Any) -> None:
    silent, half = row("silent"), row("half")
    silent["messages"][1] = {"role": "assistant", "content": "Cold."}
    half["messages"][1]["segments"][1]["audio"] = None
    dialogues = [parse_dialogue(each) for each in (row("spoken"), silent, half)]
    samplers = Samplers(MixtureConfig({"spoken_dialogue": 1.0}), MixtureData(lambda _: frames(3), [], dialogues))
    rng = np.random.default_rng(0)
    assert {samplers.spoken_dialogues.pick(rng).id for _ in range(40)} == {"spoken"}
    assert {samplers.dialogues.pick(rng).id for _ in range(40)} == {"spoken", "silent", "half"}


def test_a_task_without_data_and_an_unknown_task_are_named(model: Any) -> None:
    with pytest.raises(DataError, match="'tts'"):
        layout = SequenceFormat(model.text_tokenizer, model.special, (4,) * 8)
        Mixture(MixtureConfig(tasks={"tts": 1.0}), layout, MixtureData(frames))
    with pytest.raises(ConfigError, match="no task 'spoken_dialog'; did you mean 'spoken_dialogue'"):
        MixtureConfig(tasks={"spoken_dialog": 1.0})
    with pytest.raises(ConfigError, match="above 0"):
        MixtureConfig(tasks={"asr": 0.0})
    assert set(TASK_FUNCTIONS) == set(TASK_NAMES)


def test_speech_is_cut_where_its_words_end(model: Any) -> None:
    """Two words of known times."""
    pytest.importorskip("pocketsphinx")
    phonemes = [SYMBOLS.index(name) for name in ("T", "UW", "F", "AO", "R")]
    alignment = (np.array([0, *phonemes, 0]), np.array([16, 20, 32, 40, 50, 64, 90]))
    spans = [(7, 0, 3), (8, 3, 8), (9, 8, 9)]  # "two", " four", "."
    assert token_ends("two four.", alignment, spans) == [(0, 32.0), (3, 64.0)]
    other = (alignment[0][[0, 1, 2, 3, 4, 4, 5, 6]], np.array([16, 20, 32, 40, 45, 50, 64, 90]))  # a sound more
    assert [first for first, _ in token_ends("two four.", other, spans)] == [0, 3]

    aligned = TokenAligner(model.text_tokenizer, {"clip": alignment}.get, 12.5)
    assert aligned.split("clip", "two four.", 11, 3) == [("two", 4), (" four.", 11)]
    assert aligned.split("clip", "two four.", 3, 3) == [("two four.", 3)]  # nothing is left for the second
    assert (
        aligned.split("clip", "two four.", 11, 9) == aligned.split("other", "two four.", 11, 3) == [("two four.", 11)]
    )
