"""What the tests of nano share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baichuan_audio.cli.app import build_parser
from nano import commands
from nano.stages import Stage

ROOT = Path(__file__).parents[3]

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors gain nothing from more, and threads of several processes wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], list[str]]:
    """Checks that a stage's command exists and takes its arguments, and returns these; nothing runs.

    A script that is no command of the project (`nano/fetch_parts.py`) only has to be there.
    """
    monkeypatch.setattr(commands, "guarded", lambda run, arguments: 0)  # the arguments are parsed

    def check(stage: Stage) -> list[str]:
        program, *words = stage.command
        if program == "-m":
            assert words.pop(0) == "baichuan_audio.cli"
            build_parser().parse_args(words)
        else:
            assert (ROOT / program).is_file()
            assert Path(program).parent.name == "nano"
            if Path(program).parent == Path("recipes/nano"):
                assert getattr(commands, Path(program).stem)(words) == 0
        return words

    return check
