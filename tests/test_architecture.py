"""The house rules that a machine can check: which way imports point, how long files are, what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import baichuan_audio

SOURCE = Path(baichuan_audio.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
PROJECT_ROOT = Path(__file__).parents[1] / "recipes"
PROJECTS = sorted(PROJECT_ROOT.rglob("*.py"))

# In the order the data walks through: a part may import itself and what stands above it.
ORDER = (
    "version",
    "errors",
    "text",
    "spoken_text",
    "config",
    "safetensors_io",
    "audio",
    "layers",
    "audio_tokenizer",
    "flow_decoder",
    "vocoder",
    "synthesis",
    "language_model",
    "generation",
    ("model", "conversation"),  # a model begins conversations, which ask it
    "pretrained",
    ("checkpoint", "adapters", "assembled", "compressed"),  # a checkpoint may be put together from several files
    "reference",
    "acceleration",
    "engine",
    "server",
    "data",
    "training",
    "evaluation",
    "bench",
    "cli",
    "__main__",
)

RANKS = {name: rank for rank, names in enumerate(ORDER) for name in ([names] if isinstance(names, str) else names)}

PUBLIC = [
    "AudioDelta",
    "AudioError",
    "BaichuanAudio",
    "BaichuanAudioError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingDependencyError",
    "NoSpeechError",
    "PromptError",
    "PromptTooLongError",
    "ReplySampling",
    "Sampling",
    "TextDelta",
    "TextPiece",  # the name of TextDelta in 0.1, for one release
    "TrainingError",
    "WaveformPiece",  # of AudioDelta
    "__version__",
    "load",
    "save",
]


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[str]:
    """Parts of this package that a module imports, in functions too."""
    package = ["baichuan_audio", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "baichuan_audio" else [module]
        for name in names:
            if name.startswith("baichuan_audio."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_upward(path: Path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in RANKS, f"'{part}' has no place in the order"
    for imported in imported_parts(path):
        if imported in RANKS:
            assert RANKS[imported] <= RANKS[part], f"{part} must not import {imported}"


@pytest.mark.parametrize("path", [*MODULES, *PROJECTS], ids=str)
def test_files_stay_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_the_package_knows_nothing_of_nano():
    """A project that uses the package has its own folder; only the table of commands that moved there names it."""
    moved = {SOURCE / "cli" / "app.py"}
    for path in SOURCE.rglob("*"):
        if path.suffix in (".py", ".js", ".html", ".c") and path not in moved:
            assert not re.search(r"\bnano\b", path.read_text(encoding="utf-8"), re.IGNORECASE), path


def test_public_names():
    assert sorted(baichuan_audio.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(baichuan_audio, name) is not None
    assert baichuan_audio.TextPiece is baichuan_audio.TextDelta
    assert baichuan_audio.WaveformPiece is baichuan_audio.AudioDelta
    with pytest.raises(AttributeError):
        baichuan_audio.nonsense  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_object_changes_its_class(path: Path):
    """Variants are made by factories that return new objects."""
    assert not re.search(r"\.__class__\s*=[^=]", path.read_text(encoding="utf-8"))


def test_importing_loads_nothing_heavy():
    """Neither the package nor the parser may cost a user the seconds that torch takes."""
    code = (
        "import sys, baichuan_audio, baichuan_audio.cli.app as m; m.build_parser();"
        "print([x for x in ('torch', 'numpy', 'matplotlib', 'tokenizers', 'soundfile') if x in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_core_needs_only_core_libraries():
    """At the top of a module stand only core libraries; what an extra brings is imported where it is used.

    The server as a whole needs its extra: its modules are only imported by what serves.
    """
    allowed = {"torch", "numpy", "safetensors", "tokenizers", "soundfile", "soxr", "huggingface_hub", "baichuan_audio"}
    allowed |= set(sys.stdlib_module_names)
    server = {"anyio", "fastapi", "onnxruntime", "prometheus_client", "pydantic"}
    server |= {"pydantic_core", "starlette", "uvicorn", "websockets"}
    for path in MODULES:
        allowed_here = allowed | server if part_of(path) == "server" else allowed
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            foreign = {name.split(".")[0] for name in names} - allowed_here
            assert not foreign, f"{path.relative_to(SOURCE)} imports {foreign} at its top"


MOST_SIBLINGS = 12
LARGER_FOLDERS = {
    SOURCE / "cli": "one file a group of commands",
    SOURCE / "evaluation" / "suites": "one file a benchmark, beside what runs and scores them",
    SOURCE: "the list of the package's parts, in the order of ORDER",
    SOURCE / "data" / "pipeline": "one file for each concern of a run",
    SOURCE / "data" / "pipeline" / "stages": "one file a stage",
    SOURCE / "server": "a folder for each concern beside the five files that they share",
    SOURCE / "text" / "normalization": "one file for each class of expressions",
    PROJECT_ROOT / "nano" / "nano" / "skills": "one file a skill",
}


def test_folders_stay_small():
    """More siblings than a reader can keep in mind are a concept without a folder; exceptions have a reason."""
    folders = {path.parent for path in [*MODULES, *PROJECTS]}
    for folder in sorted(folders):
        siblings = [path for path in folder.iterdir() if path.name != "__pycache__"]
        assert len(siblings) <= MOST_SIBLINGS or folder in LARGER_FOLDERS, f"{folder}: {len(siblings)} siblings"
