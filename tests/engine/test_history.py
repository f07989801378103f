"""What the model reads of a dialogue: order, forgetting, cutting to what was heard. No engine, no thread."""

from __future__ import annotations

from typing import Any

import pytest

from baichuan_audio.engine.history import History, HistoryItem
from baichuan_audio.errors import PromptError

FRAME = (1,) * 8


def user(model: Any, id: str, text: str) -> HistoryItem:
    return HistoryItem(id, "user", list(model.text_tokenizer.encode(text)))


def spoken(model: Any, id: str, *clauses: tuple[str, int]) -> HistoryItem:
    special = model.special
    tokens: list[Any] = [special.audiotext_start, special.assistant]
    for text, frames in clauses:
        tokens += [*model.text_tokenizer.encode(text), special.audiogen_start, *[FRAME] * frames, special.audiogen_end]
    return HistoryItem(id, "assistant", [*tokens, special.end_of_text])


def told(model: Any, tokens: list[Any]) -> str:
    """A sequence in letters: S system, U user, T and A before a reply, < speech >, one dot a frame, $ its end."""
    special = model.special
    names = {
        special.system: "S", special.user: "U", special.audiotext_start: "T", special.assistant: "A",
        special.audiogen_start: "<", special.audiogen_end: ">", special.end_of_text: "$",
    }  # fmt: skip
    return "".join(
        "." if isinstance(token, tuple) else names.get(token) or model.text_tokenizer.decode([token])
        for token in tokens
    )


@pytest.fixture
def history(small: Any) -> History:
    return History(small, 100)


def test_order_and_marks(small: Any, history: History) -> None:
    history.add(user(small, "1", "hi"))
    history.add(user(small, "2", "there"))
    history.add(spoken(small, "3", ("yes,", 2)))
    history.add(HistoryItem("4", "system", text="be brief"))
    history.add(user(small, "5", "why"))
    assert told(small, history.prompt("sys", True)) == "Ssys\nbe briefUhithereTAyes,<..>$UwhyTA"
    history.add(user(small, "0", "first "), "root")
    history.add(user(small, "1b", "you "), "1")
    history.remove("3")
    assert told(small, history.prompt("", False)) == "Sbe briefUfirst hiyou therewhyA"
    history.add(HistoryItem("6", "assistant", history.text_reply_tokens("ok")))
    assert told(small, history.prompt("", False)).endswith("whyAok$A")
    for wrong in (lambda: history.add(user(small, "1", "x")), lambda: history.remove("9"), lambda: history.find("9"),
                  lambda: history.add(user(small, "x", "x"), "9")):  # fmt: skip
        with pytest.raises(PromptError):
            wrong()


def test_cut_to_what_was_heard(small: Any, history: History) -> None:
    def cut(seconds: float) -> tuple[str, str]:
        history.items = [spoken(small, "1", ("one two,", 6), (" three four,", 7), (" five.", 4))]
        return history.truncate("1", seconds), told(small, history.items[0].tokens)

    whole = "TAone two,<......> three four,<.......> five.<....>$"
    first, second, third = (0.08 * frames - 0.02 for frames in (6, 7, 4))  # the last code of a segment gives 60 ms
    assert cut(first + second + third - 0.02) == ("one two, three four, five.", whole)
    assert cut(60.0)[1] == whole
    assert cut(first) == ("one two,", "TAone two,<......>$")
    assert cut(first + 0.5 * second) == ("one two, three", "TAone two,<......> three<....>$")
    assert cut(0.3) == ("one", "TAone<....>$")
    assert cut(0.0) == ("", "") and cut(0.1) == ("", "")
    history.add(user(small, "2", "hm"))
    assert told(small, history.prompt("", True)) == "SUhmTA"  # an unheard reply is not read
    for id in ("1", "2", "3"):
        with pytest.raises(PromptError):
            history.truncate(id, 1.0)


def test_continuous_speech_is_cut_without_cross_fades(
    small: Any, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "_interleave_min_letters", 5)
    for seconds, heard in ((0.46, "one two"), (0.46 + 0.56, "one two three four"), (0.46 + 0.36, "one two three")):
        history.items = [spoken(small, "1", ("one two", 6), (" three four", 7), (" five.", 4))]
        assert history.truncate("1", seconds) == heard


def test_chinese_is_cut_between_characters(small: Any, history: History) -> None:
    history.items = [spoken(small, "1", ("你好朋友，", 10))]
    assert history.truncate("1", 0.4) == "你好"


def test_oldest_turns_are_forgotten(small: Any, history: History) -> None:
    for turn in range(8):
        history.add(user(small, f"u{turn}", "question"))
        prompt = history.prompt("system", True)
        assert len(prompt) <= 75 and told(small, prompt).startswith("SsystemUquestionTA")
        history.add(spoken(small, f"a{turn}", ("an answer", 8)))
    kept = [item.id for item in history.items if not item.dropped]
    assert kept[0].startswith("u") and kept[-1] == "a7" and len(kept) % 2 == 0
    assert len(history.items) == 16  # the forgotten ones can still be cut or deleted
    assert history.truncate("a0", 0.0) == ""
    history.remove("u0")


def test_forgetting_leaves_room_for_some_turns(small: Any, history: History) -> None:
    forgot = []
    for turn in range(12):
        history.add(user(small, f"u{turn}", "what?"))
        before = sum(item.dropped for item in history.items)
        history.prompt("", False)
        forgot.append(sum(item.dropped for item in history.items) - before)
        history.add(HistoryItem(f"a{turn}", "assistant", history.text_reply_tokens("five.")))
    assert max(forgot) >= 4 and 0 in forgot[forgot.index(max(forgot)) + 1 :]


def test_too_long_is_an_error(small: Any, history: History) -> None:
    with pytest.raises(PromptError, match="75 can be answered"):
        history.check_size(user(small, "1", "x" * 90))
    history.add(user(small, "1", "short"))
    with pytest.raises(PromptError, match="system text"):
        history.prompt("s" * 90, True)
    with pytest.raises(PromptError, match="1601 characters long, far more than can be read"):
        history.check_text("x" * 1601)
    history.check_audio(75 / 12.5)
    with pytest.raises(PromptError, match="7 s of audio, and at most 6 s can be answered"):
        history.check_audio(7.0)


def test_what_fails_or_leaves_no_trace_forgets_nothing(small: Any, history: History) -> None:
    for turn in range(4):
        history.add(user(small, f"u{turn}", "question"))
        history.add(HistoryItem(f"a{turn}", "assistant", history.text_reply_tokens("the answer")))
    history.add(user(small, "last", "why"))
    with pytest.raises(PromptError, match="system text and message"):
        history.prompt("s" * 90, True)
    assert len(history.prompt("s" * 30, True, drop=False)) <= 75
    assert not any(item.dropped for item in history.items)
    assert told(small, history.prompt("", True)).startswith("SU") and any(item.dropped for item in history.items)


def test_system_text_is_encoded_once_however_much_is_forgotten(
    small: Any, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = small.text_tokenizer.encode
    monkeypatch.setattr(small.text_tokenizer, "encode", lambda text: encoded.append(text) or encode(text))
    for turn in range(30):
        history.add(user(small, f"u{turn}", "question"))
        history.add(HistoryItem(f"a{turn}", "assistant", [small.special.assistant, small.special.end_of_text]))
    history.add(user(small, "last", "why"))
    encoded.clear()
    for _ in range(3):
        assert len(history.prompt("be brief", False)) <= 75
    assert encoded == ["be brief"]
    with pytest.raises(PromptError, match="characters long"):
        history.prompt("s" * 2000, False)
    assert encoded == ["be brief"]


def test_a_dialogue_has_so_many_items_and_no_more(small: Any, history: History) -> None:
    history.items = [HistoryItem(str(number), "user", [1]) for number in range(4096)]
    with pytest.raises(PromptError, match="4096 items"):
        history.add(HistoryItem("more", "user"))
    history.items[0].dropped, history.items[1].tokens = True, []
    history.add(HistoryItem("more", "user"))
