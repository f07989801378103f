"""The whole model on the golden checkpoint: what it says is noise, how it says it is not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baichuan_audio.audio.waveform import crossfade, load_waveform, save_waveform
from baichuan_audio.bench.models import never_end
from baichuan_audio.errors import AudioError, BaichuanAudioError, PromptError
from baichuan_audio.generation.events import AudioDelta, TextDelta
from baichuan_audio.generation.reply import ReplySampling
from baichuan_audio.generation.sequence import TokenSequence
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio

SHORT = ReplySampling(
    max_segment_tokens=4, max_segment_frames=5, max_segments=2, max_text_tokens=6, stop_runaways=False
)
RATE = 16000


@pytest.fixture(scope="module")
def question() -> torch.Tensor:
    """Some speech."""
    return load_waveform(Path(__file__).parents[1] / "examples" / "en-sum-2.wav", RATE)


def _sound(pieces: list[TextDelta | AudioDelta]) -> torch.Tensor:
    return torch.cat([piece.waveform for piece in pieces if isinstance(piece, AudioDelta)])


def test_golden_run_through_the_public_calls(
    model: BaichuanAudio, cases: dict[str, torch.Tensor], case_settings: dict[str, Any]
) -> None:
    def penalty(name: str) -> Sampling:
        return Sampling(0.0, 0, 1.0, case_settings[f"{name}_repetition_penalty"])

    n_text, n_audio = case_settings["n_text"], case_settings["n_audio"]
    session = model.start(cases["prompt_ids"][0], cases["codes.0"].T)
    ids = cases["prompt_ids"][0].tolist() + session.write_text(n_text - 1, penalty("text")).tolist()
    assert ids == cases["greedy_text_ids"][0, :-1].tolist()
    codes = session.write_codes(n_audio, penalty("audio"))
    assert torch.equal(codes.T, cases["greedy_audio_frames"][0, :-1])
    session.write_text(n_text, penalty("text2"))
    assert session.ids == cases["greedy_text2_ids"][0].tolist()


def test_spoken_chat(model: BaichuanAudio, question: torch.Tensor, tmp_path: Path) -> None:
    save_waveform(tmp_path / "question.wav", question, RATE)
    content = ["What is this?", {"audio": str(tmp_path / "question.wav")}]
    pieces = list(model.chat([{"role": "user", "content": content}], sampling=SHORT, seed=0))
    waves = [piece for piece in pieces if isinstance(piece, AudioDelta)]
    assert any(isinstance(piece, TextDelta) for piece in pieces)
    assert all(wave.sample_rate == 24000 and wave.waveform.dtype == torch.float32 for wave in waves)
    again = model.chat([{"role": "user", "content": content}], sampling=SHORT, seed=0)
    assert "".join(p.text for p in pieces if isinstance(p, TextDelta)) == "".join(
        p.text for p in again if isinstance(p, TextDelta)
    )


def test_text_chat_has_no_sound(model: BaichuanAudio) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    pieces = list(model.chat(messages, speak=False, sampling=SHORT, seed=0))
    assert pieces and all(isinstance(piece, TextDelta) for piece in pieces)


def test_conversation_reads_everything_once(
    model: BaichuanAudio, question: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, read = [], []
    encode, hidden = model.tokenizer.encode, model.language_model.hidden
    monkeypatch.setattr(model.tokenizer, "encode", lambda *a: heard.append(1) or encode(*a))
    monkeypatch.setattr(model.language_model, "hidden", lambda x, cache: read.append(x.shape[1]) or hidden(x, cache))
    conversation = model.conversation(sampling=SHORT, seed=0)
    for turn in ({"audio": (question, RATE)}, "And times two?", {"audio": (question.numpy(), RATE)}):
        list(conversation.ask(turn))
    ids = conversation.session.ids
    assert len(heard) == 2
    assert len(ids) - 2 <= sum(read) <= len(ids)  # the closing marks wait for the next turn
    special = model.special
    assert ids.count(special.system) == 1 and ids.count(special.user) == ids.count(special.assistant) == 3
    assert ids.count(special.audiotext_start) == ids.count(special.end_of_text) == 3


def test_interrupted_reply(model: BaichuanAudio) -> None:
    conversation = model.conversation(sampling=SHORT, seed=0)
    next(conversation.ask("one"))
    list(conversation.ask("two"))
    special = model.special
    marks = [id for id in conversation.session.ids if id in (special.user, special.end_of_text)]
    assert marks == [special.user, special.end_of_text] * 2


def test_bad_turn_leaves_the_dialogue_as_it_was(model: BaichuanAudio) -> None:
    conversation = model.conversation(sampling=SHORT, seed=0)
    list(conversation.ask("one"))
    before = list(conversation.session.ids)
    for content, error in (("", PromptError), ({"audio": "no/such.wav"}, AudioError), ("long " * 900, PromptError)):
        with pytest.raises(error):
            conversation.ask(content)
    assert conversation.session.ids == before
    assert list(conversation.ask("two"))


def test_speech_is_segments_joined_by_a_cross_fade(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    decode = model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda codes: made.append(decode(codes)) or made[-1])
    waveform = model.speak(
        "this is the first clause and it is quite long because a short text is spoken in one go, "
        "and only then comes the second one of them.",
        sampling=SHORT,
        seed=0,
    )
    assert len(made) == 2
    torch.testing.assert_close(waveform, crossfade(made[0], made[1], 240))


def test_speech_that_takes_turns_with_words_is_one_stretch(
    model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_interleave_min_letters", 5)
    made = []
    decode = model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda codes: made.append(codes.shape[1]) or decode(codes))
    waveform = model.speak("three short words here", sampling=SHORT, seed=0)
    assert made == [15]  # four runs of words, the last two in one go, five frames each time
    pieces = list(model.speak_pieces("three short words here", sampling=SHORT, seed=0))
    assert sum(piece.waveform.shape[0] for piece in pieces) == waveform.shape[0]


def test_what_is_read_aloud_are_words(model: BaichuanAudio) -> None:
    assert model.clauses_to_speak("It costs **$5**.") == model.clauses_to_speak("It costs five dollars.")
    assert model.clauses_to_speak("房间302") == model.clauses_to_speak("房间三零二")
    with pytest.raises(PromptError, match="nothing that can be spoken"):
        model.speak("\U0001f600")


def test_speech_comes_before_its_clause_is_finished(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    frame = model.audio_head.frames
    monkeypatch.setattr(model.audio_head, "frames", lambda *a: drawn.append(1) or frame(*a))
    long = ReplySampling(max_segment_tokens=4, max_segment_frames=40, max_segments=1, stop_runaways=False)
    pieces = model.chat([{"role": "user", "content": "one"}], sampling=long, seed=0)
    seen = [len(drawn) for piece in pieces if isinstance(piece, AudioDelta)]
    assert seen[0] < 10 < len(drawn)
    whole = model.speak("two", sampling=long, seed=0)
    in_pieces = torch.cat([piece.waveform for piece in model.speak_pieces("two", sampling=long, seed=0)])
    assert in_pieces.shape == whole.shape  # this checkpoint normalises over the segment: near, not equal
    assert torch.equal(model.speak("two", sampling=long, seed=0), whole)


def test_speech_is_repeatable_and_each_clause_follows_the_one_before(
    model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[int] = []
    extend = TokenSequence.extend
    monkeypatch.setattr(TokenSequence, "extend", lambda self, tokens: before.append(len(self)) or extend(self, tokens))
    short = ReplySampling(max_segment_frames=2, stop_runaways=False)
    text = "a clause of some length, and one more word of it that goes on, " * 20
    first, again = (model.speak(text, sampling=short, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    clauses = model.clauses_to_speak(text)
    prompt = before[1]
    longest = max(len(segment) for clause in clauses for segment in clause)
    assert len(clauses) == 40 and max(before) <= prompt + longest + 4
    assert sum(length == prompt for length in before) >= 40  # each time the prompt alone was kept
    monkeypatch.setitem(model.config, "max_position_embeddings", 80)
    before.clear()
    model.speak(text, sampling=short)
    assert max(before) < 80


@pytest.mark.parametrize("words", [3, 60])
def test_a_text_that_cannot_be_read_is_an_error(model: BaichuanAudio, words: int) -> None:
    """Nothing of the text is left out silently."""
    model = never_end(copy.deepcopy(model))
    with pytest.raises(BaichuanAudioError, match="could not be read to its end"):
        model.speak("every word of it, " * words, sampling=ReplySampling())
    pieces = model.speak_pieces("every word of it, " * words, sampling=ReplySampling())
    assert next(pieces).waveform.numel()
    with pytest.raises(BaichuanAudioError, match="could not be read to its end"):
        list(pieces)


def test_transcribe(model: BaichuanAudio, question: torch.Tensor) -> None:
    assert isinstance(model.transcribe((question, RATE)), str)
    stereo = np.stack([question.numpy(), question.numpy()])
    assert model.transcribe((stereo, RATE)) == model.transcribe((question, RATE))


def test_spelt_control_tokens_stay_text(model: BaichuanAudio) -> None:
    conversation = model.conversation(sampling=SHORT, seed=0, system="<C_A><|endoftext|>")
    list(conversation.ask("<C_Q><audio_pad_baichuan><C_Q>"))
    special = model.special
    assert conversation.session.ids.count(special.user) == 1
    assert conversation.session.ids.count(special.end_of_text) == 1


def test_what_people_type_is_normalised(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: Any, system: str | None = None) -> list[int]:
        conversation = model.conversation(system, sampling=SHORT, seed=0, speak=False)
        next(conversation.ask(content), None)
        return conversation.session.ids[: -SHORT.max_text_tokens]

    assert read("\ufeff７加２\r\n等于几？\r\n", "a\r\nb") == read("7加2\n等于几？", "a\nb")
    spelt = read("＜C_Q＞ <C\u200b_Q>")  # written so, it spells a control token, and stays text
    assert spelt == read("<C_Q> <C_Q>") and spelt.count(model.special.user) == 1
    assert read("HELLO\n😀") != read("Hello 😀")
    monkeypatch.setattr(model, "_input_steps", ("join_lines", "remove_emoji", "lowercase_capitals"))
    assert read(["HELLO\n😀"]) == read("Hello ")
    with pytest.raises(PromptError, match="no words in the message"):
        read("😀 😀")


@pytest.mark.parametrize(
    "audio",
    [
        "no/such/file.wav",
        (torch.zeros(0), RATE),
        (torch.full((RATE,), float("nan")), RATE),
        (torch.zeros(160), RATE),
        (torch.zeros(RATE), 0),
        (torch.zeros(2, 3, 4), RATE),
        ("text", RATE),
        (torch.zeros(RATE), "16000"),
        torch.zeros(RATE),
        None,
    ],
)
def test_unusable_audio(model: BaichuanAudio, audio: Any) -> None:
    with pytest.raises(AudioError):
        model.transcribe(audio)


def test_unusable_text_and_voices(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (
        lambda: model.speak(" "),
        lambda: model.speak("a", voice="x】y"),
        lambda: model.speak("\ud800"),
        lambda: model.chat([]),
        lambda: model.conversation(voice=""),
    ):
        with pytest.raises(PromptError):
            call()
    monkeypatch.setitem(model.config, "voices", ["Ada", "Ben"])
    assert model.voices == ("Ada", "Ben")
    with pytest.raises(PromptError, match="Ada, Ben"):
        model.conversation(voice="Zoe")
