"""The page on small, low and zoomed screens, in light and dark, for the keyboard, in Chinese."""

from __future__ import annotations

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
    visit,
)

needs_browser()

SCREENS = [  # in CSS pixels; a window of 1280 x 800 has 640 x 400 at 200 %, one of 1280 x 1024 has 320 x 256 at 400 %
    (1280, 800, "en-US"),
    (390, 844, "zh-CN"),
    (360, 640, "en-US"),
    (360, 640, "zh-CN"),
    (320, 568, "en-US"),
    (640, 360, "en-US"),
    (640, 360, "zh-CN"),
    (667, 320, "en-US"),
    (640, 400, "en-US"),
    (320, 256, "en-US"),
    (320, 256, "zh-CN"),
]
CONTROLS = ("#talk", "#end", "#interrupt", "#message", "#write button", "#sound", "#language", "#theme")

# Whether a point in the middle of an element belongs to it, and all of it lies in the window.
REACHED = """(element) => {
  element.scrollIntoView({ block: "nearest" });
  const box = element.getBoundingClientRect();
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  const inside = box.left >= -1 && box.right <= innerWidth + 1 && box.top >= -1 && box.bottom <= innerHeight + 1;
  return element.contains(top) && inside;
}"""
LINES = "(element) => element.getBoundingClientRect().height / parseFloat(getComputedStyle(element).lineHeight)"

# Every text that is seen with less contrast than WCAG 2.2 AA asks for: [ratio, text].
FAINT = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(colour).map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const faint = [];
  const check = (element, colour, text) => {
    const [a, b] = [luminance(colour), luminance(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const { fontSize, fontWeight } = getComputedStyle(element);
    const large = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push([ratio.toFixed(2), text]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(":disabled, .unseen, option, script")) continue;
    check(element, getComputedStyle(element).color, node.data.trim());
    count += 1;
  }
  for (const field of document.querySelectorAll("input[placeholder], textarea[placeholder]")) {
    check(field, getComputedStyle(field, "::placeholder").color, field.placeholder);
  }
  return { faint, count };
}"""


browser = browser_fixture(60.0, 1.0)
server = server_fixture(lambda: FakeEngine())


def converse(page: Any, rounds: int = 1) -> FakeRealtime:
    fake = FakeRealtime(page)
    page.click("#talk")
    state(page, "listening")
    for number in range(rounds):
        fake.hear(f"user_{number}", "what day is it after monday, and which one is it the day before that one")
        fake.reply(f"reply_{number}", "After Monday comes Tuesday.", 0.2)
        happens(page, lambda: page.locator(".turn.assistant .note:not(:empty)").count() == number + 1)  # noqa: B023
        state(page, "listening")
    return fake


@pytest.mark.parametrize(("width", "height", "locale"), SCREENS)
def test_everything_is_within_reach(browser, server, width, height, locale):
    """No sideways scrolling; suggestions, controls, turns and every setting can be brought into the window and hit."""
    viewport = {"width": width, "height": height}
    with visit(browser, server.url, viewport=viewport, device_scale_factor=2, locale=locale) as page:

        def fits() -> bool:
            return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

        assert fits()
        for button in page.locator("#suggestions button").all():
            assert button.evaluate(REACHED), button.text_content()
        converse(page, 2)
        assert fits()
        for control in CONTROLS:
            assert page.locator(control).evaluate(REACHED), control
        for words in page.locator("#controls span:visible, #state-words").all():
            if words.evaluate("(element) => element.getBoundingClientRect().width > 1"):
                assert words.evaluate(LINES) < 1.5, words.text_content()  # in one line
        assert page.locator(".turn .text").last.evaluate(REACHED)
        assert page.locator(".turn .foot button:visible").count() == 8
        for button in page.locator(".turn .foot button:visible").all():
            assert button.evaluate(REACHED)
        if page.locator("#open-panel").is_visible():
            page.click("#open-panel")
            page.wait_for_timeout(400)
        for field in page.locator(
            "#panel :is(button, select, textarea, input:not([type=radio]), .choice label, summary):visible"
        ).all():
            assert field.evaluate(REACHED), field.evaluate("(element) => element.outerHTML")
        assert fits()


@pytest.mark.parametrize(("width", "height"), [(360, 640), (640, 360), (640, 400)])
def test_suggestions_are_seen_at_once(browser, server, width, height):
    """Without scrolling, all of them, on a phone in either hand and at 200 %."""
    with visit(browser, server.url, viewport={"width": width, "height": height}) as page:
        hidden = page.evaluate(
            """() => [...document.querySelectorAll("#suggestions button, #talk, #message")].filter((element) => {
              const box = element.getBoundingClientRect();
              return !element.contains(document.elementFromPoint(box.x + box.width / 2, box.bottom - 2));
            }).map((element) => element.textContent)"""
        )
        assert hidden == []


def test_the_newest_turn_stays_in_view(browser, server):
    """When a message takes some of the room; but not for a reader who has gone back."""
    with visit(browser, server.url, viewport={"width": 360, "height": 640}) as page:
        fake = converse(page, 3)
        left = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
        section = page.locator("#transcript")
        assert section.evaluate(left) < 2
        fake.send("error", error={"message": "It failed. " * 20})
        page.wait_for_selector("#messages[data-kind=error]")
        happens(page, lambda: section.evaluate(left) < 2)
        section.evaluate("(box) => (box.scrollTop = 0)")
        page.wait_for_timeout(200)
        fake.hear("late", "one more")
        page.click("#notice-close")
        page.wait_for_timeout(200)
        assert section.evaluate("(box) => box.scrollTop") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, server, scheme):
    with visit(browser, server.url, color_scheme=scheme) as page:
        fake = converse(page)
        fake.hear("nothing", "")
        for details in page.locator("details").all():
            details.evaluate("(element) => (element.open = true)")
        checks = {"conversation": page.evaluate(FAINT)}
        page.click("#sound")
        fake.send("error", error={"message": "It failed."})
        page.wait_for_selector("#messages[data-kind=error]")
        page.click("#talk")
        state(page, "muted")
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)  # colours fade
        checks["error, muted"] = page.evaluate(FAINT)
        page.evaluate("""() => (document.getElementById("messages").dataset.kind = "hint")""")
        checks["hint"] = page.evaluate(FAINT)
        for name, check in checks.items():
            assert check["faint"] == [], name
            assert check["count"] > 30, name


def test_keyboard_reaches_everything(browser, server):
    """In the order of the page, each with a ring around it."""
    with visit(browser, server.url) as page:
        converse(page)
        page.click("#events summary")
        page.locator(".skip").focus()
        reached, rings = [], []
        for _ in range(60):
            page.keyboard.press("Tab")
            name, ring = page.evaluate(
                """() => {
                  const element = document.activeElement;
                  const style = getComputedStyle(element.matches("[name=mode]") ? element.parentElement : element);
                  const name = element.id || element.getAttribute("aria-label") || element.textContent.trim();
                  return [name, style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth)];
                }"""
            )
            if name == "log":
                break
            reached.append(name)
            rings.append(ring)
        wanted = ["language", "theme", "transcript", "Play again", "Copy the text", "sound", "talk", "end", "message"]
        settings = ["microphone", "volume", "voice", "instructions", "download-text", "new", "key"]
        order = [reached.index(name) for name in wanted + settings]
        assert order == sorted(order), reached
        assert reached.count("Play again") == 2 and reached.count("Copy the text") == 2
        assert min(rings) >= 2, list(zip(reached, rings, strict=True))


def test_reduced_motion(browser, server):
    with visit(browser, server.url, reduced_motion="reduce") as page:
        converse(page)
        ask(page, "hello")
        state(page, "thinking")
        moving = page.evaluate("document.getAnimations().length")
        assert moving == 0
    with visit(browser, server.url) as page:
        converse(page)
        ask(page, "hello")
        state(page, "thinking")
        assert page.evaluate("document.getAnimations().length") > 0  # so that the check above can fail


def test_chinese_text_says_that_it_is(browser, server):
    """Its language on every text of it, whatever the page's, and fonts that have its characters on any system."""
    with visit(browser, server.url) as page:
        fake = FakeRealtime(page)
        assert page.get_attribute("#language", "lang") == "zh-CN"
        languages = page.locator("#suggestions button").evaluate_all("(all) => all.map((element) => element.lang)")
        assert languages == ["en", "en", "zh-CN"]
        ask(page, "日本的首都是哪里？")
        state(page, "thinking")
        fake.reply("reply", "是东京, Tokyo.", 0.2)
        page.wait_for_selector(".turn.assistant .text[lang=zh-CN]")
        assert page.get_attribute(".turn.user .text", "lang") == "zh-CN"
        families = page.locator(".turn.user .text").evaluate("(element) => getComputedStyle(element).fontFamily")
        for family in ("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei"):
            assert family in families
        kinds = page.evaluate(
            """async () => {
              const { languageOf } = await import("./modules/ui/transcript_view.js");
              return ["hello", "你好 OK", "東京へ行きます", "42", "한국"].map(languageOf);
            }"""
        )
        assert kinds == ["en", "zh-CN", "", "", ""]
