"""The examples of docs/serving.md run as they stand, against a server at another port."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")

from http_tools import serving

from baichuan_audio.cli.app import build_parser

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str, url: str) -> list[str]:
    matches = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [block.replace("http://127.0.0.1:8000/", url) for block in matches]


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        names: dict[str, object] = {}
        for block in blocks("python", server.url):
            exec(compile(block, "serving.md", "exec"), names)
        printed = capfd.readouterr().out
        assert "hello world" in printed and "You said" in printed and (tmp_path / "answer.wav").stat().st_size > 1000
        if not shutil.which("curl"):
            return
        commands = [line for block in blocks("sh", server.url) for line in block.replace("\\\n", " ").splitlines()]
        commands = [line for line in commands if line.startswith("curl ")]
        assert len(commands) == 4
        for line in commands:
            subprocess.run(["sh", "-c", line.replace("curl ", "curl --fail --silent --show-error ", 1)], check=True)
        printed = capfd.readouterr().out
        assert "hello world" in printed and "data: [DONE]" in printed


def test_named_options_exist():
    commands = next(action for action in build_parser()._actions if action.dest == "command").choices
    options = commands["serve"].format_help()
    for option in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert option in options, option
