"""Writes docs/page.png and docs/page.zh.png: the page in a conversation with nano, by microphone, then in writing.

Run it after `make test`, which installs the browser, with a Chinese font (fonts-wqy-zenhei) at hand:
.venv/bin/python scripts/page_picture.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "server"))
from page_tools import browser_flags, chromium, write_microphone  # noqa: E402

PORT = 8471
CONVERSATIONS = (
    ("en-US", "en-day.wav", "What is the capital of Japan?", "page.png"),
    ("zh-CN", "zh-cherry.wav", "日本的首都是哪里？", "page.zh.png"),
)


def main() -> None:
    command = [sys.executable, "-m", "baichuan_audio.cli", "serve", "models/nano", "--port", str(PORT)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if str(PORT) in line)  # it says where once it is ready
        with sync_playwright() as driver:
            for conversation in CONVERSATIONS:
                take_picture(driver, *conversation)
    finally:
        server.terminate()
        server.wait(30)


def take_picture(driver: Any, locale: str, recording: str, typed: str, picture: str) -> None:
    """Ask by microphone, then in writing, and keep what the page shows when both have been answered aloud."""
    with tempfile.TemporaryDirectory() as folder:
        microphone = Path(folder) / "microphone.wav"
        write_microphone(microphone, ROOT / "examples" / recording, (2.0, 60.0))
        browser = driver.chromium.launch(executable_path=chromium(), args=browser_flags(microphone))
        page = browser.new_page(viewport={"width": 1280, "height": 800}, locale=locale, color_scheme="light")
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.click("#talk")
        answers = page.locator(".turn.assistant .text")
        for number in range(2):
            if number:
                page.fill("#message", typed)
                page.press("#message", "Enter")
            answers.nth(number).wait_for(timeout=60_000)
            page.wait_for_timeout(3000)  # until it has been said
            page.wait_for_selector("body[data-state=listening]")
        page.screenshot(path=ROOT / "docs" / picture)
        browser.close()


if __name__ == "__main__":
    main()
