"""Shared by the commands: model options, progress, timing, output files."""

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
DEFAULT_MODEL = f"${MODEL_VARIABLE}, or the only checkpoint in models/"
_MODEL_HELP = f"checkpoint directory or hub id (default: {DEFAULT_MODEL})"
QUIET_S = 2.0
"""Work that takes longer shows its progress."""
_LINE_S = 60.0  # between lines of progress where there is no terminal
_BAR = 20  # characters


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
    """Add a command with the common options.

    `run(arguments)` returns an exit code or None. `threads`: the default of --threads, for its help text.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if machine_readable:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    if model:
        group = parser.add_argument_group("model")
        group.add_argument("--model", metavar="DIR", help=_MODEL_HELP)
        group.add_argument("--vocoder", metavar="FILE", help="hift.pt, if the checkpoint has no vocoder")
        group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda if available)")
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


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add --quantize, which `load_model` follows."""
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4", "fp8"),
        metavar="KIND",
        help="smaller weights of the language model: int8 or int4; fp8 on a GPU (default: as stored)",
    )


def add_group(
    commands: Any, name: str, help_text: str, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> Any:
    """Add a command group -> the object to add its commands to; `parser_class`: of these commands."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    return parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True, parser_class=parser_class)


def positive(text: str) -> int:
    """Argument type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def default_model() -> str:
    """BAICHUAN_AUDIO_MODEL, or the only checkpoint in `models`, here or in the clone this package is installed from."""
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
    """Path of a repository file, here or in the clone that this package is installed from; None if there is none."""
    return next((root / name for root in _roots() if (root / name).is_file()), None)


def _roots() -> tuple[Path, Path]:
    return Path(), Path(__file__).resolve().parents[3]


def load_model(arguments: argparse.Namespace) -> BaichuanAudio:
    """Load the model that the options name, optimized for inference; shows progress."""
    name = arguments.model or default_model()
    with Progress(f"loading {name}"):
        from ..acceleration import load_for_inference

        device, dtype = choose_device(arguments)
        return load_for_inference(name, getattr(arguments, "quantize", None), dtype, device, arguments.vocoder)


def load_plain_model(arguments: argparse.Namespace) -> tuple[BaichuanAudio, str]:
    """Load the model that the options name, without optimizing it -> (model, its name)."""
    name = arguments.model or default_model()
    with Progress(f"loading {name}"):
        from ..checkpoint import load

        device, dtype = choose_device(arguments)
        return load(name, dtype=dtype, device=device, vocoder=arguments.vocoder), name


def choose_device(arguments: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that the options name; also sets threads and seed."""
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
    """`with Progress("encoding"):` shows on stderr, after two seconds, that work is going on.

    On a terminal one line counts the seconds and is cleared at the end; elsewhere one line is written.
    `update("3 of 10")` adds a detail. `started` and `seconds` are the start time and the duration.
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


class Bar:
    """Shows on stderr how many things are done, and how long the rest will take; without a terminal once a minute."""

    def __init__(self, label: str) -> None:
        self._label, self._terminal = label, sys.stderr.isatty()
        self._part, self._started, self._first, self._shown = "", 0.0, 0, 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def log(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self._clear()
        print(f"{self._label}: {sentence}", file=sys.stderr, flush=True)

    def update(self, part: str, done: int, total: int) -> None:
        """`done` of `total` things, named by `part`, are there."""
        now = time.monotonic()
        if part != self._part:
            self._part, self._started, self._first = part, now, done
            self._shown = now if not self._terminal else 0.0
        if now - self._shown < (0.2 if self._terminal else _LINE_S) and not (self._terminal and done == total):
            return
        self._shown = now
        filled = "#" * (_BAR * done // max(total, 1))
        line = f"{self._label} [{filled:<{_BAR}}] {done} of {total} {part}{self._left(now, done, total)}"
        print(
            f"\r\x1b[K{line}" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def _left(self, now: float, done: int, total: int) -> str:
        """The time that is left at the speed since the start of this part."""
        if done <= self._first or done == total:
            return ""
        seconds = (now - self._started) / (done - self._first) * (total - done)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"

    def _clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def check_text(model: BaichuanAudio, text: object) -> None:
    """Raise PromptError for a text that is not valid Unicode, or that spells a control token.

    The tokenizer would encode the spelling as ordinary text and the model would read its characters aloud, so it is
    most likely a mistake.
    """
    if not isinstance(text, str):
        return
    model.text_tokenizer.encode(text)
    for spelling in re.findall(r"<[^<>\s]+>", text):
        if model.text_tokenizer.token_id(spelling) is not None:
            raise PromptError(
                f"the text contains '{spelling}', the name of a control token, which is reserved; remove it."
            )


def check_output(path: str | None, suffixes: Sequence[str] = (), inputs: Sequence[str] = ()) -> None:
    """Raise BaichuanAudioError, before any work, for an output that cannot be written or would overwrite an input.

    Its name must end in one of `suffixes`, or, if none are given, in that of an audio format.
    """
    if path is None:
        return
    for given in inputs:
        if os.path.exists(given) and os.path.exists(path) and os.path.samefile(given, path):
            raise BaichuanAudioError(f"{path}: this is the input file; give another name for the output.")
    target = Path(path)
    if target.is_dir():
        raise BaichuanAudioError(f"{path}: this is a directory; give a file name for the output.")
    if not target.absolute().parent.is_dir():
        raise BaichuanAudioError(f"{path}: the folder {target.parent} does not exist; make it first.")
    if not suffixes:
        from ..audio.waveform import sound_format

        sound_format(target)
    if suffixes and target.suffix.lower() not in suffixes:
        raise BaichuanAudioError(f"{path}: the name must end in {' or '.join(suffixes)}.")


def print_json(value: object) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False), flush=True)


def show(arguments: argparse.Namespace, value: object, text: str) -> None:
    """Print a result: as one JSON value with --json, else as text."""
    if arguments.json:
        print_json(value)
    else:
        print(text)
