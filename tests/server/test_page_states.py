"""What the page says of a conversation: turns without speech, stopped replies, time, metrics, lost connections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

from fake_engine import FakeEngine
from page_tools import (
    FakeRealtime,
    ask,
    browser_fixture,
    happens,
    needs_browser,
    server_fixture,
    state,
    texts,
    visit,
)

needs_browser()


# Everything that the page tells those who listen to it, and every sentence that stood above the controls.
HISTORY = """() => {
  const follow = (id) => {
    const seen = [];
    const look = () => {
      const text = document.getElementById(id).textContent;
      if (text && text !== seen.at(-1)) seen.push(text);
    };
    new MutationObserver(look).observe(document.getElementById(id), { childList: true, subtree: true });
    return seen;
  };
  window.announced = follow("announce");
  window.noticed = follow("notice");
}"""


browser = browser_fixture(0.5, 60.0)
server = server_fixture(lambda: FakeEngine())


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    with visit(browser, server.url) as page:
        page.evaluate(HISTORY)
        yield page


@pytest.fixture
def fake(page) -> FakeRealtime:
    return FakeRealtime(page)


def notes(page) -> list[str]:
    return list(page.locator(".turn .note").all_text_contents())


def test_a_turn_without_speech(page, fake):
    """It is told once, nobody is waited for, and it is no part of what was said."""
    page.click("#talk")
    state(page, "listening")
    fake.hear("first", "")
    page.wait_for_selector(".turn.user .note:has-text('I heard nothing.')")
    state(page, "listening")
    assert page.evaluate("window.announced") == ["I heard nothing."]
    assert not page.locator(".turn.user .text").is_visible()
    fake.hear("second", " ")
    happens(page, lambda: page.locator(".turn").get_attribute("data-item") == "second")
    assert notes(page) == ["I heard nothing."]
    fake.hear("third", "what day is it")
    fake.reply("reply", "Tuesday.", 0.3)
    happens(page, lambda: texts(page, "assistant") == ["Tuesday."])
    with page.expect_download() as download:
        page.click("#download-text")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["You: what day is it", "Baichuan: Tuesday."]


@pytest.mark.parametrize("code", [None, "no_speech", "failed"])
def test_a_held_turn_without_speech(page, fake, code):
    """The page asks for a reply to it; the server leaves that without an answer, or refuses it with an error."""
    page.check("[name=mode][value=push-to-talk]", force=True)
    page.click("#talk")
    state(page, "ready")
    page.locator("#transcript").focus()
    page.keyboard.down(" ")
    page.wait_for_timeout(600)
    page.keyboard.up(" ")
    happens(page, lambda: len(fake.all("response.create")) == 1)
    state(page, "thinking")
    if code:
        cause = fake.all("response.create")[0]["event_id"]
        fake.send("error", error={"code": code, "message": "It cannot be answered.", "event_id": cause})
        state(page, "ready")
        assert page.evaluate("window.noticed") == ([] if code == "no_speech" else ["It cannot be answered."])
    fake.send("input_audio_buffer.committed", item_id="held")
    fake.transcribe("held", "")
    page.wait_for_selector(".turn.user .note:has-text('I heard nothing.')")
    state(page, "ready")


@pytest.mark.parametrize(
    ("reason", "words", "restored"),
    [
        ("max_output_tokens", "stopped at the length limit", 2),
        ("repetition", "stopped: it repeated itself or ran on too long", 1),
    ],
)
def test_a_reply_that_was_stopped(page, fake, reason, words, restored):
    """Said under the reply, in words. What the server does not keep is not given back to it after a lost line."""
    ask(page, "count")
    state(page, "thinking")
    fake.reply("reply", "one one one one", 0.3, "incomplete", reason)
    page.wait_for_selector(f".turn.assistant .note:has-text('{words}')")
    happens(page, lambda: texts(page, "assistant") == ["one one one one"])
    assert re.fullmatch(rf"(answered after \d\.\d s · )?{words}", notes(page)[1])
    before = len(fake.all("conversation.item.create"))
    fake.close(1011)
    happens(page, lambda: len(fake.sockets) == 2)
    happens(page, lambda: len(fake.all("conversation.item.create")) == before + restored)


def test_busy_and_lost_are_told_apart(page, fake):
    """One sentence at a time: what has happened, and when it is tried again."""
    ask(page, "hello")
    state(page, "thinking")
    fake.send("error", error={"code": "server_full", "message": "all 8 conversations are taken; try again."})
    fake.close(1013, "server_full")
    state(page, "waiting")
    happens(page, lambda: len(fake.sockets) == 2)
    state(page, "ready")
    page.evaluate("() => { window.noticed.length = 0; }")
    fake.close(1011)
    state(page, "connecting")
    happens(page, lambda: len(fake.sockets) == 3)
    state(page, "ready")
    happens(page, lambda: "Reconnected. The conversation continues." in page.evaluate("window.noticed"))
    assert page.evaluate("window.noticed[0]") == "The connection was lost. Trying again in 1 s."
    page.wait_for_selector("#notice", state="hidden")


def test_busy_is_all_that_is_said(page, fake):
    ask(page, "hello")
    state(page, "thinking")
    page.evaluate("() => { window.noticed.length = 0; }")
    fake.send("error", error={"code": "server_full", "message": "all 8 conversations are taken; try again."})
    fake.close(1013, "server_full")
    page.wait_for_selector("#notice:has-text('in 1 s')")
    assert page.evaluate("window.noticed") == ["The server is busy. Trying again in 1 s."]
    assert page.locator("#messages :is(p, button):visible").count() == 2  # the sentence and "Reconnect now"


def test_time_and_metrics(page, fake):
    """The time runs while the conversation does; metrics are sentences, the numbers lie folded below."""
    assert not page.is_visible("#elapsed")
    assert page.text_content("#metrics-text") == "No answers yet."
    ask(page, "hello")
    state(page, "thinking")
    fake.reply("one", "Tuesday.", 0.3)
    page.wait_for_selector(".turn.assistant .note:has-text('answered after')")
    assert re.search(r"answered after \d\.\d s", notes(page)[1])
    happens(page, lambda: page.text_content("#elapsed") >= "0:03")
    sentence = r"The answer began after \d\.\d s\. Playback had (no gaps|one gap|\d+ gaps)\."  # a busy machine has gaps
    happens(page, lambda: re.fullmatch(sentence, page.text_content("#metrics-text")) is not None)
    assert not page.is_visible("#firstAudio")
    page.click("summary:has-text('Details')")
    assert page.is_visible("#firstAudio") and page.text_content("#played") == "0.30 s"
    state(page, "ready")
    ask(page, "and then?")
    state(page, "thinking")  # a reply that comes before its question is sent has no time to be told
    fake.reply("two", "Wednesday.", 0.3)
    happens(page, lambda: "typically" in page.text_content("#metrics-text"))
    page.click("#language")
    assert "后开始回答" in page.text_content("#metrics-text") and "后开始回答" in notes(page)[1]
    page.click("#end")
    stopped = page.text_content("#elapsed")
    page.wait_for_timeout(1500)
    assert page.text_content("#elapsed") == stopped != "0:00"
    page.click("#new")
    assert not page.is_visible("#elapsed") and page.text_content("#played") == "–"


def test_a_long_conversation_shows_hours(page):
    shown = page.evaluate(
        """async () => {
          const { clockText } = await import("./modules/ui/stopwatch.js");
          return [0, 59_999, 60_000, 3_599_000, 3_661_000].map(clockText);
        }"""
    )
    assert shown == ["0:00", "0:59", "1:00", "59:59", "1:01:01"]


def test_who_listens_to_the_page_is_told_once(page, fake):
    """Whole turns, and only those that no voice says; not every word as it comes, nor every state."""
    ask(page, "hello")
    state(page, "thinking")
    fake.reply("one", "one two three four five six", 1.0)
    happens(page, lambda: texts(page, "assistant") == ["one two three four five six"])
    state(page, "ready")
    assert page.evaluate("window.announced") == []
    page.click("#sound")
    ask(page, "again")
    fake.reply("two", "今天之后是明天。", 0.5)
    happens(page, lambda: page.evaluate("window.announced") == ["Baichuan: 今天之后是明天。"])
    assert page.get_attribute("#announce", "lang") == "zh-CN"
    live = page.evaluate(
        """() => [...document.querySelectorAll("[aria-live], [role=status], [role=alert], [role=log], [role=timer]")]
          .filter((element) => element.getAttribute("aria-live") !== "off").map((element) => element.id)"""
    )
    assert sorted(live) == ["announce", "notice"]
