"""The page's files as they are served: complete, nothing from elsewhere, and headers that keep it so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

from fake_engine import FakeEngine
from fastapi.testclient import TestClient

from baichuan_audio.server.app import create_app
from baichuan_audio.server.web import static_files as static_page

FOLDER = Path(static_page.__file__).parent
FILES = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.rglob("*")
    if path.is_file() and path.suffix not in {".py", ".pyc"}
)
TEXTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in FILES}


@pytest.fixture(scope="module")
def client():
    return TestClient(create_app(FakeEngine()), base_url="http://localhost")


def test_every_file_is_served(client):
    for name in FILES:
        answer = client.get("/" if name == "index.html" else f"/{name}")
        assert (answer.status_code, answer.text) == (200, TEXTS[name])
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/../app.py").status_code == 404
    assert client.get("/modules/").status_code == 404


def test_policy_is_strict(client):
    headers = client.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
    assert "microphone=(self)" in headers["permissions-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_nothing_from_elsewhere_and_nothing_inline():
    for name, text in TEXTS.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"'`]+", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text), name
    page = TEXTS["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


def test_every_import_and_word_exists():
    for name, text in TEXTS.items():
        for target in re.findall(r"from \"(\..*?)\"|import\(\"(\..*?)\"\)", text):
            path = (FOLDER / name).parent / next(filter(None, target))
            assert path.is_file(), f"{name} imports {path.name}"
    known = set(re.findall(r'^ {4}"?([\w.]+)"?:', TEXTS["modules/ui/i18n.js"], re.MULTILINE))
    used = set(re.findall(r'data-i18n(?:-[a-z-]+)?="([\w.]+)"', TEXTS["index.html"]))
    for name in FILES:
        if name.endswith(".js"):
            used |= set(re.findall(r'\bt\("([\w.]+)"', TEXTS[name]))
    assert used <= known, used - known
