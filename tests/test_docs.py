"""The READMEs and the pages in docs/ are run: Python blocks as they stand (test_docs_api.py has those of the API
page, server/test_docs_serving.py those that need a server), command lines through the parser.

They run in a folder where `models/nano` is a small random checkpoint and `question.wav` a second of sound. Commands
that would train or download for hours are only parsed.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from baichuan_audio.cli import main
from baichuan_audio.cli.app import build_parser, current_names

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*/*.md")),
    *sorted((ROOT / "models" / "nano").glob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "dev" / "LOG.md",
]
ELSEWHERE = {"api.md", "serving.md"}
ONLY_PARSED = {
    "checkpoint",
    "bench",
    "train",
    "data",
    "demo",
    "completion",
    "serve",
    "eval",
}


def blocks(page: Path, *languages: str) -> list[str]:
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """`baichuan-audio ...` lines of shell blocks, continued lines joined."""
    for block in blocks(page, "sh", "console", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] == "baichuan-audio":
                yield words[1:]


@pytest.fixture
def workplace(tiny_dir: Path, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_dir, tmp_path / "models" / "nano")
    for name in ("question.wav", "a.wav", "b.wav"):
        shutil.copy(question, tmp_path / name)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BAICHUAN_AUDIO_MODEL", raising=False)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, workplace: Path):
    """One after another in one namespace, as a reader would type them."""
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_run(page: Path, workplace: Path, capsys):
    for words in commands(page):
        arguments = build_parser().parse_args(current_names(words))
        elsewhere = getattr(arguments, "model", None) not in (None, "models/nano")
        if words[0] in ONLY_PARSED or elsewhere:
            continue
        assert main(words) == 0, f"{' '.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_recipes_and_targets_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    for recipe in re.findall(r"recipes/[\w/-]+\.(?:yaml|json|py|md)", text):
        assert (ROOT / recipe).is_file(), f"{page.name} names {recipe}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, flags=re.MULTILINE):
        assert (target[0] or target[1]) in targets, f"{page.name} names make {target}"
