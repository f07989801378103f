"""The page's sound, sample by sample: its worklets and modules run in a browser without a clock."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

from page_tools import chromium, needs_browser

from baichuan_audio.server.web import static_files as static_page

playwright = needs_browser()

STAGE = """
  globalThis.AudioWorkletProcessor = class {
    constructor() { this.port = { posted: [], postMessage: (message) => this.port.posted.push(message) }; }
  };
  globalThis.made = {};
  globalThis.registerProcessor = (name, kind) => (made[name] = kind);
  globalThis.currentFrame = 0;
  globalThis.run = (player, blocks) => {
    const all = [];
    for (let i = 0; i < blocks; i++) {
      const output = new Float32Array(128);
      player.process([], [[output]]);
      all.push(...output);
      currentFrame += 128;
    }
    return all;
  };
  globalThis.tell = (player, message) => player.port.onmessage({ data: message });
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stage(browser):
    """A page that has the files and plays the part of the worklet's scope."""
    page = browser.new_page()
    folder = static_page.__file__.replace("static_files.py", "")
    page.route("**/*", lambda route: serve(route, folder))
    page.goto("http://page.test/")
    page.evaluate(f"() => {{ {STAGE} }}")
    yield page
    page.close()


def serve(route, folder: str) -> None:
    path = route.request.url.removeprefix("http://page.test/")
    if path.endswith(".js"):
        route.fulfill(path=f"{folder}/{path}", content_type="text/javascript")
    else:
        route.fulfill(body="<!doctype html><title>stage</title>", content_type="text/html")


def play(stage, script: str):
    return stage.evaluate(
        f"""async () => {{
          globalThis.sampleRate = 24000;
          await import("http://page.test/worklets/player.js");
          const player = new made.player();
          const push = (item, values) => tell(player, {{ type: "push", item, samples: Float32Array.from(values) }});
          const posted = (type) => player.port.posted.filter((message) => message.type === type);
          {script}
        }}"""
    )


def test_player_plays_everything_in_order(stage):
    """Pieces of odd sizes, two items: nothing is lost, doubled or moved, and the reports add up to it."""
    result = play(
        stage,
        """
        let value = 0;
        for (const size of [700, 1, 999, 1500]) push("a", Array.from({ length: size }, () => ++value / 10000));
        tell(player, { type: "end", item: "a" });
        push("b", Array(50).fill(0.5));
        tell(player, { type: "end", item: "b" });
        const output = run(player, 40);
        const reported = posted("played").flatMap((report) => [...report.samples]);
        return { output, reported, positions: posted("played").map((r) => [r.item, r.position, r.frame]),
                 finished: posted("finished"), started: posted("started") };
        """,
    )
    expected = [*np.arange(1, 3201) / 10000, *[0.5] * 50]
    np.testing.assert_allclose(result["output"][: len(expected)], expected, atol=1e-6)
    assert not any(result["output"][len(expected) :])
    np.testing.assert_allclose(result["reported"], expected, atol=1e-6)
    assert [(r["item"], r["position"]) for r in result["finished"]] == [("a", 3200), ("b", 50)]
    assert [(r["item"], r["frame"]) for r in result["started"]] == [("a", 0), ("b", 3200)]
    assert result["positions"][:2] == [["a", 1024, 0], ["a", 2048, 1024]]


def test_flush_fades_and_tells_exactly(stage):
    result = play(
        stage,
        """
        push("a", Array(24000).fill(0.5));
        const before = run(player, 10);
        tell(player, { type: "flush", id: 7 });
        push("late", []);
        const after = run(player, 10);
        const reported = posted("played").reduce((sum, report) => sum + report.samples.length, 0);
        return { before, after, flushed: posted("flushed"), reported };
        """,
    )
    (flushed,) = result["flushed"]
    assert (flushed["id"], flushed["item"], flushed["position"]) == (7, "a", 1280 + 120)
    assert result["reported"] == flushed["position"]
    tail = np.array([0.5, *result["after"]])
    assert np.abs(np.diff(tail)).max() < 0.006 and not tail[122:].any()


def test_flush_before_the_first_sample(stage):
    result = play(
        stage,
        """
        push("a", Array(100).fill(0.5));
        tell(player, { type: "flush", id: 1 });
        return { output: run(player, 3), flushed: posted("flushed") };
        """,
    )
    assert not any(result["output"])
    assert (result["flushed"][0]["item"], result["flushed"][0]["position"]) == (None, 0)


def test_gap_is_counted_and_refilled(stage):
    result = play(
        stage,
        """
        push("a", Array(1536).fill(0.25));
        const output = run(player, 20);
        push("a", Array(1000).fill(0.25));
        output.push(...run(player, 4));
        push("a", Array(4000).fill(0.25));
        output.push(...run(player, 40));
        return { output, gaps: posted("gap"), position: posted("played").at(-1).position };
        """,
    )
    assert [gap["samples"] for gap in result["gaps"]] == [24 * 128 - 1536]
    assert np.count_nonzero(result["output"]) == 1536 + 5000


@pytest.mark.parametrize("rate", [24000, 44100, 48000, 96000])
def test_capture_resamples(stage, rate):
    """A 1 kHz tone comes out as that tone at 24 kHz; one above 12 kHz does not come back as another."""
    result = stage.evaluate(
        """async (rate) => {
          globalThis.sampleRate = rate;
          await import("http://page.test/worklets/capture.js");
          const hear = (hertz) => {
            const capture = new made.capture();
            for (let start = 0; start < rate; start += 128) {
              const tone = (_, i) => Math.sin((2 * Math.PI * hertz * (start + i)) / rate);
              capture.process([[Float32Array.from({ length: 128 }, tone)]]);
              currentFrame += 128;
            }
            return capture.port.posted.flatMap((message) => [...message.samples]);
          };
          return [hear(1000), rate > 30000 ? hear(14000) : []];
        }""",
        rate,
    )
    tone, alias = np.array(result[0]), np.array(result[1])
    assert len(tone) == pytest.approx(24000, abs=1600)
    steady = tone[2000:-2000]
    time = np.arange(len(steady)) / 24000
    basis = np.stack([np.sin(2 * np.pi * 1000 * time), np.cos(2 * np.pi * 1000 * time)], 1)
    weights, *_ = np.linalg.lstsq(basis, steady, rcond=None)
    assert np.hypot(*weights) == pytest.approx(1, abs=0.01)
    assert np.abs(steady - basis @ weights).max() < 0.01
    if len(alias):
        assert np.abs(alias[2000:-2000]).max() < 0.03


def test_captions_follow_the_sound(stage):
    result = stage.evaluate(
        """async () => {
          const { Captions } = await import("http://page.test/modules/audio/captions.js");
          const captions = new Captions();
          captions.addText("The answer is ");
          captions.addText("nine.");
          const before = captions.textAt(0);
          captions.addSamples(48000);
          captions.addText(" 我很高兴");
          captions.addSamples(24000);
          const steps = [0, 1, 24000, 48000, 60001].map((played) => captions.textAt(played));
          captions.addText(" Bye!");
          captions.finish();
          return { before, steps, last: captions.textAt(72000) };
        }"""
    )
    assert result["before"] == ""
    assert result["steps"] == ["", "The", "The answer", "The answer is nine.", "The answer is nine. 我很"]
    assert result["last"] == "The answer is nine. 我很高兴 Bye!"


def test_captions_of_words_that_come_with_their_sound(stage):
    """Pieces of a word or two, the blank first, as a model sends them that takes turns every few words."""
    result = stage.evaluate(
        """async () => {
          const { Captions } = await import("http://page.test/modules/audio/captions.js");
          const captions = new Captions();
          for (const piece of ["I", " am", " here", " now", "，", "你", "好"]) {
            captions.addText(piece);
            captions.addSamples(4800);
          }
          const steps = [0, 4700, 4801, 7200, 9600, 12000, 14401, 24001, 33600];
          return steps.map((played) => captions.textAt(played));
        }"""
    )
    expected = ["", "I", "I ", "I am", "I am", "I am here", "I am here ", "I am here now，你", "I am here now，你好"]
    assert result == expected


def test_recording_lays_both_sides_on_one_clock(stage):
    result = stage.evaluate(
        """async () => {
          const { Recording } = await import("http://page.test/modules/audio/recording.js");
          const recording = new Recording();
          recording.add("user", 1.0, new Int16Array(2400).fill(100), 0);
          recording.add("assistant", 1.05, new Int16Array(2400).fill(-7), 0);
          return [...new Uint8Array(await recording.toWav().arrayBuffer())];
        }"""
    )
    wave = np.frombuffer(bytes(result)[44:], "<i2").reshape(-1, 2)
    assert len(wave) == 1200 + 2400
    assert (wave[:2400, 0] == 100).all() and not wave[2400:, 0].any()
    assert (wave[1200:, 1] == -7).all() and not wave[:1200, 1].any()


def test_base64_keeps_every_sample(stage):
    result = stage.evaluate(
        """async () => {
          const { toBase64, fromBase64, toInt16 } = await import("http://page.test/modules/audio/pcm.js");
          const samples = Int16Array.from({ length: 9001 }, (_, i) => i * 7 - 30000);
          return [...toInt16(fromBase64(toBase64(samples)))].map((value, i) => Math.abs(value - samples[i]));
        }"""
    )
    assert max(result) <= 1


def test_a_turn_is_found_in_the_recording(stage):
    """By positions on its side, through pauses on the clock; never more than is kept, and nothing when it is gone."""
    result = stage.evaluate(
        """async () => {
          const { Recording } = await import("http://page.test/modules/audio/recording.js");
          const recording = new Recording(10);
          const second = (value) => new Int16Array(24000).fill(value);
          for (const n of [0, 1, 2, 3]) recording.add("user", n < 2 ? n : n + 3, second(n + 1), n * 24000);
          recording.add("assistant", 2, second(-1), 0);
          const clip = (from, to) => [...(recording.clip("user", from, to) ?? [])];
          const kept = clip(12000, 60000);
          recording.add("assistant", 10.5, second(-2), 24000);
          const held = recording.sides.user.length + recording.sides.assistant.length;
          return { kept, gone: recording.clip("user", 12000, 60000), later: clip(48000, 50000),
                   never: recording.clip("user", 99e6, 99e6 + 5), held };
        }"""
    )
    assert result["kept"] == [1] * 12000 + [2] * 24000 + [3] * 12000
    assert result["gone"] is None and result["never"] is None
    assert result["later"] == [3] * 2000 and result["held"] == 4


def test_silence_of_the_microphone(stage):
    """Five seconds of nothing at first; later a pause of half a minute; a quiet room is not nothing."""
    result = stage.evaluate(
        """async () => {
          const { SilenceMonitor } = await import("http://page.test/modules/audio/silence_monitor.js");
          const told = [];
          const monitor = new SilenceMonitor((silent) => told.push(silent));
          const listen = (seconds, value) => {
            for (let i = 0; i < seconds * 10; i++) monitor.add(new Float32Array(2400).fill(value));
            return [...told];
          };
          const steps = [listen(4.8, 0), listen(0.4, 0.0005), listen(0.1, 0.002), listen(29, 0), listen(2, 0)];
          monitor.reset();
          return [...steps, listen(4, 0), listen(60, 0.0015), listen(10, 0)];
        }"""
    )
    told = [True, False, True, False]
    assert result == [[], told[:1], told[:2], told[:2], told[:3], told, told, told]


@pytest.mark.parametrize(
    ("voices", "advised"),
    [
        (["", ""], True),
        (["comes Tuesday", "After Monday comes"], True),
        (["", None, ""], True),  # None: a reply that is played to its end
        (["", None, None, ""], False),
        (["Tuesday", "Tuesday"], False),  # a person repeats a word
        (["what about Sunday", "and the day after that"], False),
        (["星期二是", "星期一之后"], True),
        (["那星期天呢", "谢谢你"], False),
    ],
)
def test_echo_of_the_replies(stage, voices, advised):
    told = stage.evaluate(
        """async (voices) => {
          const { EchoDetector } = await import("http://page.test/modules/audio/echo_detector.js");
          let count = 0;
          const echo = new EchoDetector(() => (count += 1));
          voices.forEach((voice, item) => {
            if (voice === null) return echo.completed();
            echo.interrupted(item, "After Monday comes Tuesday. 星期一之后是星期二。");
            echo.transcribed(item, voice);
            echo.transcribed("another", "");
          });
          return count > 0;
        }""",
        voices,
    )
    assert told == advised
