"""What a person hears and is heard with: the choice of microphone, volume, playing a turn again, advice about sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

import soundfile
from fake_engine import FakeEngine
from page_tools import (
    QUESTION,
    FakeRealtime,
    Wire,
    ask,
    browser_flags,
    chromium,
    happens,
    needs_browser,
    server_fixture,
    state,
    texts,
    visit,
    write_microphone,
)

playwright = needs_browser()

ANSWER = "one two three four five six seven eight nine ten"  # two seconds of a tone with a peak of 0.3

# The loudest sample that leaves the page since `loudest` was set to 0, every buffer that is played again, and for each
# piece of the microphone's sound that is sent meanwhile whether there is anything in it.
TAP = """() => {
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (to, ...rest) {
    if (this instanceof GainNode && to instanceof AudioDestinationNode) {
      window.meterOut = new AnalyserNode(this.context, { fftSize: 2048 });
      connect.call(this, window.meterOut);
    }
    return connect.call(this, to, ...rest);
  };
  window.loudest = 0;
  const samples = new Float32Array(2048);
  setInterval(() => {
    window.meterOut?.getFloatTimeDomainData(samples);
    window.loudest = Math.max(window.loudest, ...samples);
  }, 20);
  const send = WebSocket.prototype.send;
  window.sentMeanwhile = [];
  WebSocket.prototype.send = function (text) {
    const { audio } = JSON.parse(text);
    if (audio && document.body.dataset.state === "replaying") window.sentMeanwhile.push(/[^A=]/.test(audio));
    return send.call(this, text);
  };
  const Source = window.AudioBufferSourceNode;
  window.replayed = [];
  window.AudioBufferSourceNode = class extends Source {
    constructor(context, options) { super(context, options); window.replayed.push(options.buffer); }
  };
}"""

# Every stream that the page opens, with what it asked for.
STREAMS = """() => {
  const media = navigator.mediaDevices;
  const open = media.getUserMedia.bind(media);
  window.streams = [];
  media.getUserMedia = async (wish) => {
    const stream = await open(wish);
    window.streams.push({ exact: wish.audio.deviceId?.exact ?? "", track: stream.getAudioTracks()[0] });
    return stream;
  };
}"""
OPENED = "() => window.streams.map(({ exact, track }) => [exact, track.label, track.readyState])"
UNPLUG = "() => { const { track } = window.streams.at(-1); track.stop(); track.dispatchEvent(new Event('ended')); }"


@pytest.fixture(scope="module")
def driver():
    with playwright.sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(driver, tmp_path_factory: pytest.TempPathFactory):
    microphone = tmp_path_factory.mktemp("page") / "microphone.wav"
    write_microphone(microphone, QUESTION, (2.5, 60.0))
    quiet, rate = soundfile.read(microphone)
    room = 0.003 * np.random.default_rng(0).standard_normal(len(quiet) + 60 * rate)  # no speech, but not nothing
    soundfile.write(microphone, np.pad(quiet, (0, 60 * rate)) + room, rate, subtype="PCM_16")
    browser = driver.chromium.launch(executable_path=chromium(), args=browser_flags(microphone))
    yield browser
    browser.close()


server = server_fixture(lambda: FakeEngine(delay=0.002, answer=ANSWER, transcript="what day is it"))


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    with visit(browser, server.url, permissions=["microphone", "clipboard-read", "clipboard-write"]) as page:
        yield page


def options(page) -> list[str]:
    return list(page.locator("#microphone option").all_text_contents())


def test_microphone_is_chosen_and_remembered(page):
    """The list names the devices; another one takes over at once, muted as before; the next visit opens the same."""
    page.evaluate(STREAMS)
    page.click("#talk")
    state(page, "listening")
    happens(page, lambda: len(options(page)) > 2)
    assert options(page)[0] == "System default" and not page.is_visible("#microphone-later")
    name = options(page)[-1]
    page.click("#talk")
    state(page, "muted")
    page.select_option("#microphone", label=name)
    happens(page, lambda: len(page.evaluate(OPENED)) == 2)
    (first, second) = page.evaluate(OPENED)
    assert first[0] == "" and first[2] == "ended"
    assert second[0] != "" and second[1:] == [name, "live"]
    state(page, "muted")
    happens(page, lambda: page.evaluate("window.streams[1].track.enabled") is False)

    page.reload()
    page.evaluate(STREAMS)
    assert page.evaluate("document.querySelector('#microphone').selectedOptions[0].textContent") == name
    page.click("#talk")
    state(page, "listening")
    assert [stream[:2] for stream in page.evaluate(OPENED)] == [second[:2]]


def test_remembered_microphone_is_not_connected(page):
    """The default stands in, and the list says so."""
    page.add_init_script(  # before the page reads it: the page before may still write its own
        "localStorage.setItem('baichuan-audio', JSON.stringify({ microphone: 'gone', microphoneName: 'Desk mic' }))"
    )
    page.reload()
    page.evaluate(STREAMS)
    page.click("#talk")
    state(page, "listening")
    happens(page, lambda: "Desk mic (not connected)" in options(page))
    assert [stream[0] for stream in page.evaluate(OPENED)] == [""]


def test_microphone_is_unplugged(page):
    """Another one takes over and is named, in news that leaves; with none left the person can write."""
    page.evaluate(STREAMS)
    page.click("#talk")
    state(page, "listening")
    page.evaluate(UNPLUG)
    page.wait_for_selector("#notice:has-text('Now using “Fake')")
    state(page, "listening")
    assert [stream[2] for stream in page.evaluate(OPENED)] == ["ended", "live"]
    page.wait_for_selector("#notice", state="hidden")
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotFoundError"));
        }"""
    )
    page.evaluate(UNPLUG)
    state(page, "ready")
    assert page.text_content("#notice") == "No microphone was found. You can write instead."
    assert page.text_content("#talk-words") == "Unmute"


def test_microphone_is_unplugged_in_the_middle_of_a_question(page):
    """What was said until then is answered; the page does not go on hearing."""
    page.evaluate(STREAMS)
    page.click("#talk")
    state(page, "hearing")
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'AbortError')); }"
    )
    page.evaluate(UNPLUG)
    happens(page, lambda: page.locator(".turn.assistant").count() > 0)
    state(page, "ready")


def test_volume_and_mute(page):
    """The slider's half is a quarter of the amplitude; off is off, is seen, and is remembered."""
    page.evaluate(TAP)

    def loudest() -> float:
        page.wait_for_selector("body:is([data-state=offline], [data-state=ready])")
        page.evaluate("window.loudest = 0")
        ask(page, "hello")
        state(page, "speaking")
        page.wait_for_timeout(500)
        return float(page.evaluate("window.loudest"))

    assert loudest() == pytest.approx(0.3, abs=0.03)
    page.locator("#volume").fill("0.5")
    assert page.text_content("#volume-value") == "50 %"
    assert loudest() == pytest.approx(0.075, abs=0.01)
    page.click("#sound")
    assert page.text_content("#volume-value") == "Sound off" and page.is_visible("#sound span")
    assert page.get_attribute("#sound", "aria-label") == "Turn the sound on"
    assert loudest() < 1e-3
    page.reload()
    assert page.is_visible("#sound span")
    page.click("#sound")
    assert page.text_content("#volume-value") == "50 %"
    page.locator("#volume").fill("0")
    assert page.is_visible("#sound span")


def test_play_again_and_copy(page):
    """A reply sounds as it did; a question is what the microphone took; nobody is listened to meanwhile."""
    page.evaluate(TAP)
    wire = Wire(page)
    page.click("#talk")
    wire.wait("response.done")
    state(page, "listening")
    reply, question = page.locator(".turn.assistant").first, page.locator(".turn.user").first

    page.evaluate("window.loudest = 0")
    reply.get_by_role("button", name="Play again").click()
    state(page, "replaying")
    state(page, "listening")
    assert page.evaluate("window.loudest") == pytest.approx(0.3, abs=0.03)
    sent = page.evaluate("window.sentMeanwhile")[5:-2]  # without what was on its way
    assert sent and not any(sent)
    assert set(wire.all("input_audio_buffer.append")[5]["audio"]) - set("A=")  # and before, what the room sounds like
    played = np.array(page.evaluate("[...window.replayed[0].getChannelData(0)]"))
    assert len(played) / 24000 == pytest.approx(2.0, abs=0.05)
    assert np.abs(played).max() == pytest.approx(0.3, abs=0.01)

    question.get_by_role("button", name="Play again").click()
    state(page, "replaying")
    question.get_by_role("button", name="Stop playing").click()
    state(page, "listening")
    heard = np.array(page.evaluate("[...window.replayed[1].getChannelData(0)]"))
    spoken, rate = soundfile.read(QUESTION)
    assert len(heard) / 24000 == pytest.approx(len(spoken) / rate, abs=1.2)
    assert np.abs(heard).max() > 0.05
    loud = np.flatnonzero(np.abs(heard) > 0.02)
    assert loud[0] < 0.6 * 24000 and loud[-1] > 0.5 * len(heard)  # its beginning is there, and its end

    reply.get_by_role("button", name="Copy the text").click()
    reply.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    page.evaluate("Object.defineProperty(navigator.clipboard, 'writeText', { value: () => Promise.reject() })")
    question.get_by_role("button", name="Copy the text").click()
    question.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "what day is it"

    page.click("#end")
    state(page, "offline")
    page.evaluate("window.loudest = 0")
    reply.get_by_role("button", name="Play again").click()
    happens(page, lambda: page.evaluate("window.loudest") > 0.2)
    reply.get_by_role("button", name="Stop playing").click()


def test_question_interrupts_what_is_played_again(page):
    """And its reply, too, can be played again, from its own beginning to its end."""
    page.evaluate(TAP)
    ask(page, "hello")
    happens(page, lambda: texts(page, "assistant") == [ANSWER])
    state(page, "ready")
    assert not page.locator(".turn.user").get_by_role("button", name="Play again").is_visible()  # it was written
    page.locator(".turn.assistant").get_by_role("button", name="Play again").click()
    state(page, "replaying")
    ask(page, "and then?")
    state(page, "speaking")
    assert page.locator(".turn.replaying").count() == 0
    state(page, "ready")
    page.locator(".turn.assistant").last.get_by_role("button", name="Play again").click()
    state(page, "replaying")
    seconds = page.evaluate("window.replayed.map((buffer) => buffer.duration)")
    assert seconds == pytest.approx([2.0, 2.0], abs=0.05)


def test_a_microphone_that_gives_nothing(driver, server, tmp_path):
    """It is named, with a way to the choice; a dismissed hint stays away."""
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(48000 * 120), 48000, subtype="PCM_16")
    browser = driver.chromium.launch(executable_path=chromium(), args=browser_flags(silence))
    with visit(browser, server.url) as page:
        page.click("#talk")
        state(page, "listening")
        page.wait_for_timeout(1500)
        assert not page.is_visible("#notice")
        page.wait_for_selector("#messages[data-kind=hint]")
        assert "I hear nothing from “Fake" in page.text_content("#notice")
        page.click("#notice-action")
        assert page.evaluate("document.activeElement.id") == "microphone"
        page.click("#notice-close")
        assert not page.is_visible("#notice")
        page.click("#talk")
        page.click("#talk")
        page.wait_for_timeout(6500)
        assert not page.is_visible("#notice")
        page.click("#end")
    browser.close()


def test_replies_that_interrupt_themselves(page):
    """Their own words, or none, interrupt two of them: headphones are advised. A person's words are no echo."""
    fake = FakeRealtime(page)
    page.click("#talk")
    state(page, "listening")
    for number, words in enumerate(("what about Sunday", "After Monday comes", "")):
        fake.reply(f"reply_{number}", "After Monday comes Tuesday.", 20)
        state(page, "speaking")
        page.wait_for_timeout(300)
        assert not page.is_visible("#notice")
        fake.hear(f"voice_{number}", words)
        happens(page, lambda: page.locator(".turn.assistant.interrupted").count() == number + 1)  # noqa: B023
    page.wait_for_selector("#notice:has-text('Headphones help')")


def test_a_browser_without_echo_cancellation(page):
    fake = FakeRealtime(page)
    page.evaluate(
        """() => {
          const settings = MediaStreamTrack.prototype.getSettings;
          MediaStreamTrack.prototype.getSettings = function () {
            return { ...settings.call(this), echoCancellation: false };
          };
        }"""
    )
    page.click("#talk")
    state(page, "listening")
    assert not page.is_visible("#notice")
    fake.reply("reply", "Tuesday.", 0.5)
    page.wait_for_selector("#notice:has-text('Wear headphones')")
