"""Fixtures that many tests share: the golden checkpoint and its cases."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; programs that tests start inherit it

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
GOLDEN = FIXTURES / "tiny-a"
EXAMPLES = TESTS.parent / "examples"
CHECKPOINT = GOLDEN / "checkpoint"
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]


# The longest files, in real time: they are given to the workers first.
FIRST = ("tests/server/test_page", "tests/server/test_replicas")

# Files that `make test-quick` leaves out: they train, start programs, play in real time or run whole replies.
SLOW = (
    *("recipes/", "tests/bench/", "tests/training/", "tests/acceleration/", "tests/data/", "tests/engine/"),
    *("tests/server/test_page", "tests/server/test_replicas", "tests/server/test_serve", "tests/server/test_costly"),
    *("tests/server/test_realtime", "tests/server/test_docs_serving", "tests/server/test_http_schema"),
    *("tests/server/test_connections", "tests/server/test_speech_in", "tests/audio/test_voice_activity"),
    *("tests/test_bad_input", "tests/test_checkpoint", "tests/test_cli", "tests/test_docs", "tests/test_frozen"),
    *("tests/test_model", "tests/test_startup", "tests/synthesis/", "tests/vocoder/"),
    *("tests/evaluation/test_live_run", "tests/evaluation/test_report", "tests/evaluation/test_bundle"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow files; longest first. `--dist loadfile` keeps each file on one worker for its shared fixtures."""

    def in_any(item: pytest.Item, prefixes: tuple[str, ...]) -> bool:
        return item.path.relative_to(TESTS.parent).as_posix().startswith(prefixes)

    for item in items:
        if in_any(item, SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not in_any(item, FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.nodeid)


def _seed(name: str) -> None:
    """Random numbers of a test and of a fixture follow from its name, whatever ran before it on this worker."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from more threads, and two workers would compete for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_dir() -> Path:
    """A released-layout directory with random weights (bfloat16) and a HiFT vocoder."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def cases() -> dict[str, torch.Tensor]:
    """Inputs and outputs of every stage for that checkpoint, computed in float32."""
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="session")
def case_settings() -> dict[str, object]:
    """Counts and penalties of the golden greedy run."""
    return json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="session")
def model():
    """The golden checkpoint in float32; shared, so tests must not change it."""
    import baichuan_audio

    return baichuan_audio.load(CHECKPOINT, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session", params=DEVICES)
def plain(request: pytest.FixtureRequest, model):
    """That model, on every device there is."""
    return copy.deepcopy(model).to(request.param)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with short replies and two voices, for the command line: random weights never stop."""
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    shutil.copytree(CHECKPOINT, directory)
    config = json.loads((directory / "config.json").read_text())
    config["reply_sampling"] = {
        "stop_runaways": False,  # random weights do nothing else
        "max_segments": 2,
        "max_segment_tokens": 5,
        "max_segment_frames": 4,
        "max_text_tokens": 8,
    }
    config["voices"] = ["邻家女声", "Ada"]
    config["flow_matching_config"]["diffusion_steps"] = 2
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def tiny(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That checkpoint as the command line's default model."""
    monkeypatch.setenv("BAICHUAN_AUDIO_MODEL", str(tiny_dir))
    return tiny_dir


@pytest.fixture(scope="session")
def question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of speech as a file."""
    path = tmp_path_factory.mktemp("audio") / "question.wav"
    samples, rate = soundfile.read(EXAMPLES / "en-day.wav", frames=24000, start=6000)
    soundfile.write(path, samples, rate)
    return path
