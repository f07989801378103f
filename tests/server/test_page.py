"""The page in a real browser: a real server, a recording as microphone, what is played, shown and kept."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

import soundfile
from fake_engine import FakeEngine
from page_tools import (
    LiveServer,
    Wire,
    ask,
    browser_fixture,
    happens,
    needs_browser,
    server_fixture,
    state,
    texts,
    visit,
)

from baichuan_audio.server.settings import ServerSettings

needs_browser()

LONG = "well " * 60 + "done."  # twelve seconds
HOSTILE = "<img src=x onerror=window.hacked=1> <script>window.hacked=1</script> &lt;b&gt;"
TONE_HZ = 220
# Looked for in the page itself: on a busy machine seconds pass until the test would see them.
FIRST_WORDS = """() => new Promise((resolve) => {
  const text = () => document.querySelector(".turn.assistant .text")?.textContent;
  setInterval(() => document.body.dataset.state === "speaking" && text() && resolve(text()), 20);
  setTimeout(() => resolve(""), 60000);
})"""

# From now on the browser asks for the microphone, and waits until `allow` is called.
ASKING = """() => {
  const media = navigator.mediaDevices;
  const open = media.getUserMedia.bind(media);
  const allowed = new Promise((resolve) => (window.allow = resolve));
  window.asked = [];
  media.getUserMedia = (wish) => window.asked[window.asked.push(allowed.then(() => open(wish))) - 1];
}"""
ALLOW = "async () => { window.allow(); await Promise.all(window.asked); }"
TRACKS = "async () => (await Promise.all(window.asked)).map((stream) => stream.getAudioTracks()[0].readyState)"

COUNT_SOCKETS = """() => {
  const Socket = window.WebSocket;
  window.sockets = 0;
  window.WebSocket = class extends Socket {
    constructor(...given) { super(...given); window.sockets += 1; }
  };
}"""


browser = browser_fixture(2.5, 7.0, 30.0)
server = server_fixture(lambda: FakeEngine(delay=0.01))


@pytest.fixture
def page(browser, server):
    with visit(browser, server.url) as page:
        yield page


def kept(page, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def test_conversation_by_voice(page, server, tmp_path):
    """Question -> answer heard -> barge-in cuts it at what was heard -> button -> connection lost and found again."""
    server.restart(FakeEngine(delay=0.01, answer=LONG, transcript="what day is it"))
    wire = Wire(page)
    page.click("#talk")
    state(page, "listening")
    session = wire.wait("session.update")["session"]
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"

    first_words = page.evaluate(FIRST_WORDS)
    assert first_words and LONG.startswith(first_words.strip())
    assert len(first_words) < len(LONG) / 2  # words come as they are heard, the sound was here long ago
    assert texts(page, "user") == ["what day is it"]
    assert re.fullmatch(r"\d+\.\d\d s", page.text_content("#firstAudio"))
    happens(page, lambda: float(page.text_content("#buffered").split()[0]) > 1)

    cut = wire.wait("conversation.item.truncate")
    assert wire.all("input_audio_buffer.speech_started")[1:], "the second question interrupted"
    assert 500 < cut["audio_end_ms"] < 12_000
    first = page.locator(".turn.assistant").first
    assert "interrupted" in first.get_attribute("class")
    words_heard = len(first.locator(".text").text_content().split())
    assert words_heard * 200 == pytest.approx(cut["audio_end_ms"], abs=500)  # the tone has 200 ms a word
    wire.wait("conversation.item.truncated", 2)  # the server's own estimate, and what the page says
    assert wire.all("conversation.item.truncated")[-1]["audio_end_ms"] <= cut["audio_end_ms"]

    state(page, "speaking")
    page.wait_for_timeout(500)
    page.click("#interrupt")
    wire.wait("conversation.item.truncate", 2)
    state(page, "listening")

    wave, rate = soundfile.read(io.BytesIO(kept(page, "#download-sound")))
    assert (rate, wave.shape[1]) == (24000, 2)
    check_recording(wave, sum(event["audio_end_ms"] for event in wire.all("conversation.item.truncate")) / 1000)
    text = kept(page, "#download-text").decode()
    assert "You: what day is it" in text and "Baichuan: well well" in text and "[interrupted]" in text

    turns = len(texts(page, "user")) + len(texts(page, "assistant"))
    server.restart(FakeEngine(delay=0.01), away_s=0.5)
    wire.wait("session.created", 2)
    state(page, "listening")
    assert "continues" in page.text_content("#notice")
    page.wait_for_selector("#notice", state="hidden")  # it leaves by itself
    wire.wait("conversation.item.added", len(wire.all("conversation.item.added")))
    restored = [event for event in wire.all("conversation.item.create") if event["event_id"].startswith("quiet")]
    assert len(restored) == turns
    page.click("#end")
    state(page, "offline")


def check_recording(wave: np.ndarray, heard_s: float) -> None:
    """Left the voice that asked, right the tone that answered, for as long as it was heard."""
    user, assistant = wave.T
    assert np.sqrt((user**2).mean()) > 0.005
    sounding = np.abs(assistant) > 0
    assert sounding.mean() * len(assistant) / 24000 == pytest.approx(heard_s, abs=0.6)
    spectrum = np.abs(np.fft.rfft(assistant[sounding]))
    assert np.argmax(spectrum) * 24000 / (2 * (len(spectrum) - 1)) == pytest.approx(TONE_HZ, abs=3)


def test_written_question_and_hostile_text(page, server):
    """Typed without a microphone; whatever a text says, it stays text."""
    server.restart(FakeEngine(answer=HOSTILE))
    wire = Wire(page)
    ask(page, HOSTILE)
    wire.wait("response.done")
    state(page, "ready")
    assert texts(page, "user") == [HOSTILE] and texts(page, "assistant") == [HOSTILE]
    assert page.locator(".turn .text *").count() == 0
    page.click("#events summary")
    assert page.locator("#log img, #log script").count() == 0
    assert page.evaluate("window.hacked") is None
    assert server.engine.dialogues[-1].items[0][2] == [HOSTILE]


def test_held_to_talk(page, server):
    """The space bar sends what was said while it was down, from a microphone that the browser does not resample."""
    server.restart(FakeEngine())
    wire = Wire(page)
    page.evaluate(
        """() => {
          const usual = AudioContext.prototype.createMediaStreamSource;
          AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 24000) throw new DOMException("other rate", "NotSupportedError");
            return usual.call(this, stream);
          };
        }"""
    )
    page.check("[name=mode][value=push-to-talk]", force=True)
    page.click("#talk")
    state(page, "ready")
    assert wire.wait("session.update")["session"]["audio"]["input"]["turn_detection"] is None
    page.locator("#transcript").focus()
    page.keyboard.down(" ")
    state(page, "hearing")
    page.wait_for_timeout(5000)
    page.keyboard.up(" ")
    wire.wait("response.done")
    assert texts(page, "user") == ["hello world"]
    sound = server.engine.dialogues[-1].items[0][2][0]
    seconds = sound.waveform.shape[-1] / sound.sample_rate
    assert 4 < seconds < 30
    assert sound.waveform.abs().max() > 0.05  # the question lies in these seconds


def test_muted(page, server):
    """Nothing of the question leaves the page; silence does, so that the server finds the end of what was said."""
    server.restart(FakeEngine())
    wire = Wire(page)
    page.click("#talk")
    state(page, "listening")
    page.click("#talk")
    state(page, "muted")
    page.wait_for_timeout(300)  # what was on its way
    before = len(wire.all("input_audio_buffer.append"))
    page.wait_for_timeout(5000)
    sent = [base64.b64decode(event["audio"]) for event in wire.all("input_audio_buffer.append")[before:]]
    assert sent and not any(map(any, sent))
    page.click("#talk")
    state(page, "listening")


def test_a_microphone_that_is_not_allowed(page, server):
    """The person is told until it is; then there is nothing to tell any more."""
    server.restart(FakeEngine())
    page.evaluate(
        """() => {
          const media = navigator.mediaDevices;
          window.allow = () => delete media.getUserMedia;
          media.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
        }"""
    )
    page.click("#talk")
    state(page, "ready")
    assert page.is_visible("#notice") and "microphone is not allowed" in page.text_content("#notice")
    page.evaluate("() => window.allow()")
    page.click("#talk")
    state(page, "listening")
    assert not page.is_visible("#notice")


@pytest.mark.parametrize("again", [False, True])
def test_ended_while_the_browser_asks(page, server, again):
    """What is allowed after the end, for the sake of what was ended, does not stay open."""
    server.restart(FakeEngine())
    wire = Wire(page)
    page.evaluate(ASKING)
    page.click("#talk")
    happens(page, lambda: page.evaluate("window.asked.length") == 1)
    assert page.text_content("#state-words") == "Waiting for the microphone"
    page.click("#end")
    state(page, "offline")
    if again:
        page.click("#talk")
        happens(page, lambda: page.evaluate("window.asked.length") == 2)
    page.evaluate(ALLOW)
    if again:
        state(page, "listening")
    happens(page, lambda: page.evaluate(TRACKS) == (["ended", "live"] if again else ["ended"]))
    page.wait_for_timeout(500)
    assert page.get_attribute("body", "data-state") == ("listening" if again else "offline")
    assert len(wire.all("session.created")) == again
    assert page.evaluate("window.asked.length") == 1 + again


def test_unmuted_twice(page, server):
    """The browser is asked once, and one microphone is there to be closed."""
    server.restart(FakeEngine())
    ask(page, "hello")
    state(page, "ready")
    page.evaluate(ASKING)
    page.click("#talk")
    page.click("#talk")
    page.evaluate(ALLOW)
    state(page, "listening")
    assert page.evaluate(TRACKS) == ["live"]
    page.click("#end")
    state(page, "offline")
    assert page.evaluate(TRACKS) == ["ended"]


@pytest.mark.parametrize("key", ["abc/def=", "пароль"])  # for a WebSocket, for any request
def test_a_key_that_the_browser_cannot_send(page, server, key):
    server.restart(FakeEngine())
    page.fill("#key", key)
    page.press("#key", "Tab")
    ask(page, "hello")
    page.wait_for_selector("#messages[data-kind=key]")
    assert "characters" in page.text_content("#notice") and page.evaluate("document.activeElement.id") == "key"
    state(page, "offline")
    page.fill("#key", "")
    page.press("#key", "Tab")
    ask(page, "hello")
    state(page, "ready")
    assert not page.is_visible("#notice")


def test_full_house_and_keys(page, browser, server):
    server.restart(FakeEngine(max_sessions=1))
    taken = server.engine.open()
    ask(page, "hello")
    page.wait_for_selector("#messages[data-kind=retry]")
    assert re.fullmatch(r"The server is busy\. Trying again in \d+ s\.", page.text_content("#notice"))
    assert page.get_attribute("body", "data-state") == "waiting"
    assert page.text_content("#state-words") == "Waiting for the server"
    page.evaluate(COUNT_SOCKETS)
    server.engine.release()
    page.evaluate("for (const _ of [1, 2]) document.querySelector('#notice-action').click()")
    state(page, "ready")
    assert page.evaluate("window.sockets") == 1
    assert not page.is_visible("#notice")  # there was no connection before, so nothing is said of one found again
    assert taken is not None

    locked = LiveServer(FakeEngine(), ServerSettings(api_keys=("secret-7",)))
    try:
        page.goto(locked.url)
        ask(page, "hello")
        page.wait_for_selector("#messages[data-kind=key]")
        assert page.evaluate("document.activeElement.id") == "key"
        page.fill("#key", "secret-7")
        page.press("#key", "Tab")
        happens(page, lambda: page.evaluate("document.querySelectorAll('#voice option').length") == 3)
        ask(page, "hello")
        happens(page, lambda: texts(page, "assistant") == ["You said hello."])
    finally:
        locked.stop()


def test_settings_reach_the_server(page, server):
    server.restart(FakeEngine())
    wire = Wire(page)
    ask(page, "hello")
    state(page, "ready")
    page.select_option("#voice", "邻家女声")
    page.fill("#instructions", "Be brief.")
    page.click("#detection summary")
    page.locator("#silence").fill("800")

    def detection() -> dict[str, Any]:
        return wire.all("session.updated")[-1]["session"]["audio"]["input"]["turn_detection"]

    happens(page, lambda: detection()["silence_duration_ms"] == 800)
    ask(page, "and now?")
    wire.wait("response.done", 2)
    dialogue = server.engine.dialogues[-1]
    assert (dialogue.system, dialogue.voice) == ("Be brief.", "邻家女声")
    page.reload()
    happens(page, lambda: page.evaluate("document.querySelector('#voice').value") == "邻家女声")
    assert page.input_value("#instructions") == "Be brief."


def test_small_screen_in_chinese(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 640}, locale="zh-CN", has_touch=True)
    page = context.new_page()
    page.goto(server.url)
    assert page.text_content("#talk-words") == "开始对话"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#open-panel")
    assert page.evaluate("document.activeElement.id") == "close-panel"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-panel"
    page.click("#open-panel")
    for width, covered in ((1280, "detached"), (360, "attached")):  # it lies beside the rest, then over it again
        page.set_viewport_size({"width": width, "height": 640})
        page.wait_for_selector("[inert]", state=covered)
    page.keyboard.press("Escape")
    page.click("#language")
    assert page.text_content("#talk-words") == "Start talking" and page.get_attribute("html", "lang") == "en"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(":is(button, input, select, textarea):not([hidden])")]
             .filter((element) => !(element.ariaLabel || element.textContent.trim() || element.labels?.length))
             .map((element) => element.outerHTML)"""
    )
    assert nameless == []
    context.close()


def test_words_are_the_same_in_both_languages(page):
    different = page.evaluate(
        """async () => {
          const source = await (await fetch("modules/ui/i18n.js")).text();
          const keys = (from, to) => [...source.slice(source.indexOf(from), source.indexOf(to))
            .matchAll(/^ {4}"?([\\w.]+)"?:/gm)].map((match) => match[1]);
          const [en, zh] = [keys("  en: {", "  zh: {"), keys("  zh: {", "export const")];
          return [...en.filter((key) => !zh.includes(key)), ...zh.filter((key) => !en.includes(key))];
        }"""
    )
    assert different == []
