"""What the commands share: model options, progress, timing, output files."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import BaichuanAudioError, CheckpointError, PromptError

if TYPE_CHECKING:
    import torch

    from ..model import BaichuanAudio

MODEL_VARIABLE = "BAICHUAN_AUDIO_MODEL"
DEFAULT_MODEL = f"${MODEL_VARIABLE}, or the one checkpoint in models/"
_MODEL_HELP = f"checkpoint directory or hub id (default: {DEFAULT_MODEL})"
QUIET_S = 2.0
"""What takes longer than this shows that it is alive."""


def add_command(
    commands: Any,
    name: str,
    run: Any,
    help_text: str,
    *,
    model: bool = True,
    machine_readable: bool = True,
    seed: bool = True,
    threads: str = "all cores",
) -> argparse.ArgumentParser:
    """A command with the options that all have; `run(arguments) -> exit code or None`; `threads`: their default."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if machine_readable:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    if model:
        group = parser.add_argument_group("model")
        group.add_argument("--model", metavar="DIR", help=_MODEL_HELP)
        group.add_argument("--vocoder", metavar="FILE", help="hift.pt, where the checkpoint does not hold it")
        group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
        group.add_argument(
            "--dtype",
            default="auto",
            choices=("auto", "float32", "bfloat16", "float16"),
            help="type of the weights (default: float32 on a CPU, bfloat16 elsewhere)",
        )
        group.add_argument("--threads", type=positive, metavar="N", help=f"CPU threads (default: {threads})")
        parser.set_defaults(seed=None)
        if seed:
            group.add_argument("--seed", type=int, metavar="N", help="makes the sampling repeatable")
    return parser


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def default_model() -> str:
    """BAICHUAN_AUDIO_MODEL, or the one checkpoint in `models`, here or in the clone this package is installed from."""
    if os.environ.get(MODEL_VARIABLE):
        return os.environ[MODEL_VARIABLE]
    for root in _roots():
        checkpoints = sorted(path.parent for path in root.glob("models/*/config.json"))
        if len(checkpoints) > 1:
            names = ", ".join(map(str, checkpoints))
            raise CheckpointError(
                f"no model was named, and there are several ({names}); give --model DIR or set {MODEL_VARIABLE}."
            )
        if checkpoints:
            return str(checkpoints[0])
    raise CheckpointError(
        f"no model was named, and there is none in the folder models; give --model DIR or set {MODEL_VARIABLE}."
    )


def in_clone(name: str) -> Path | None:
    """A file of the repository, here or in the clone that this package is installed from."""
    return next((root / name for root in _roots() if (root / name).is_file()), None)


def _roots() -> tuple[Path, Path]:
    return Path(), Path(__file__).resolve().parents[3]


def load_model(arguments: argparse.Namespace) -> BaichuanAudio:
    """The model that the options name, ready for inference, with a sign of life while it loads."""
    model, name = load_plain_model(arguments)
    with Progress(f"preparing {name}"):
        from ..acceleration import optimize_for_inference

        return optimize_for_inference(model)


def load_plain_model(arguments: argparse.Namespace) -> tuple[BaichuanAudio, str]:
    """The model that the options name as `load` gives it, and its name."""
    name = arguments.model or default_model()
    with Progress(f"loading {name}"):
        from ..checkpoint import load

        device, dtype = choose_device(arguments)
        return load(name, dtype=dtype, device=device, vocoder=arguments.vocoder), name


def choose_device(arguments: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Device and type that the options name; sets threads and seed as well."""
    import torch

    from ..checkpoint import checked_device

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    target = checked_device(device)
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = "float32" if target.type == "cpu" else "bfloat16"
    return target, getattr(torch, dtype)


class Progress:
    """`with Progress("encoding"):` shows on stderr, after two seconds, that work goes on and for how long.

    On a terminal one line counts the seconds and vanishes at the end; elsewhere one line is written.
    `update("3 of 10")` adds how far it got.
    """

    def __init__(self, label: str) -> None:
        self._label, self._detail = label, ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def update(self, detail: str) -> None:
        self._detail = detail

    def __enter__(self) -> Progress:
        self.started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self.started
        self._done.set()
        self._thread.join()

    def _show(self) -> None:
        if self._done.wait(QUIET_S):
            return
        if not sys.stderr.isatty():
            print(f"{self._label} ...", file=sys.stderr, flush=True)
            return
        while not self._done.wait(0.25):
            elapsed = time.perf_counter() - self.started
            print(f"\r\x1b[K{self._label} ... {self._detail} {elapsed:.0f} s", end="", file=sys.stderr, flush=True)
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def check_text(model: BaichuanAudio, text: object) -> None:
    """Refuse a text that is no Unicode, or that spells a control token.

    To the model it would be ordinary text; but nobody says such a thing, so it is most likely a mistake, and what
    would be heard is its characters.
    """
    if not isinstance(text, str):
        return
    model.text_tokenizer.encode(text)
    for spelling in re.findall(r"<[^<>\s]+>", text):
        if model.text_tokenizer.token_id(spelling) is not None:
            raise PromptError(
                f"the text holds '{spelling}', the spelling of a control token, which only the program may give; "
                "leave it out."
            )


def check_output(path: str | None, suffixes: Sequence[str] = (), inputs: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, or would replace an input, before minutes are spent on making it.

    Its name must end in one of `suffixes`; without any, in that of a format of audio.
    """
    if path is None:
        return
    for given in inputs:
        if os.path.exists(given) and os.path.exists(path) and os.path.samefile(given, path):
            raise BaichuanAudioError(f"{path}: this is the file to read; give another name for the output.")
    target = Path(path)
    if target.is_dir():
        raise BaichuanAudioError(f"{path}: this is a directory; give the name of a file to write.")
    if not target.absolute().parent.is_dir():
        raise BaichuanAudioError(f"{path}: the folder {target.parent} does not exist; make it first.")
    if not suffixes:
        from ..audio.waveform import sound_format

        sound_format(target)
    if suffixes and target.suffix.lower() not in suffixes:
        raise BaichuanAudioError(f"{path}: the name must end in {' or '.join(suffixes)}.")


def print_json(value: object) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False), flush=True)
