"""The argument parser and the program's exit codes; an error is one sentence, a traceback needs --debug."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import BaichuanAudioError, ConfigError
from ..version import __version__
from . import bench, chat, checkpoint, codes, data, demo, evaluation, serve, train
from .common import add_command

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

_INSTALL = {
    "bash": 'eval "$(baichuan-audio completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(baichuan-audio completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "baichuan-audio completion fish > ~/.config/fish/completions/baichuan-audio.fish",
    "tcsh": "baichuan-audio completion tcsh > ~/.baichuan-audio.tcsh, and source that in ~/.tcshrc",
}


COMMANDS = {
    "assemble": "checkpoint assemble",
    "data codes": "data encode",
}
"""Old command -> new command. Old names are accepted for one release, with one line of warning."""

MOVED = {
    "eval nano": "python recipes/nano/evaluate.py",
    "data nano": "python recipes/nano/make_corpus.py",
}
"""Commands that are now scripts of the project in recipes/nano -> what to run in a clone of the repository."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. Imports nothing heavier than argparse."""
    parser = argparse.ArgumentParser(
        prog="baichuan-audio",
        description="An end-to-end speech dialogue model: chat, transcribe, speak, encode audio, serve, train.",
        epilog="The model is --model, else BAICHUAN_AUDIO_MODEL, else the only checkpoint in models/.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (chat, codes, serve, demo, data, checkpoint, train, evaluation, bench):
        group.add_commands(commands)
    completion = add_command(
        commands,
        "completion",
        run_completion,
        "Print a completion script for a shell.",
        model=False,
        machine_readable=False,
    )
    completion.add_argument("shell", choices=tuple(_INSTALL))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 1 unexpected failure, 130 interrupted."""
    if sys.stdin is None:  # closed by the caller
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (open as long as the program runs)
    for stream in (sys.stdout, sys.stderr):  # print on a terminal that lacks a character, too
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = build_parser().parse_args(current_names(sys.argv[1:] if argv is None else argv))
    except BaichuanAudioError as error:
        return _complain(str(error), BAD_INPUT)
    debug = getattr(arguments, "debug", False)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "huggingface_hub", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return int(arguments.run(arguments) or 0)
    except BaichuanAudioError as error:
        if debug:
            raise
        return _complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("stopped.", INTERRUPTED)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename:  # e.g. a name too long, a full disk
            return _complain(f"{error.filename}: {error.strerror}.", BAD_INPUT)
        text = " ".join(str(error).split()) or "no message"
        return _complain(f"unexpected failure: {type(error).__name__}: {text} (--debug shows where).", FAILED)


def current_names(argv: Sequence[str]) -> list[str]:
    """The command line `argv` with new names for old ones, and `eval SUITE` as `eval run SUITE`.

    Raises ConfigError for a command that has moved out.
    """
    words = list(argv)
    for length in (1, 2):
        old, rest = " ".join(words[:length]), words[length:]
        if old in MOVED:
            raise ConfigError(
                f"'{old}' is no longer a command of this package; in a clone of the repository run: "
                f"{' '.join([MOVED[old], *rest])}"
            )
        if old in COMMANDS:
            print(
                f"baichuan-audio: '{old}' is now called '{COMMANDS[old]}'; the old name goes with the next release.",
                file=sys.stderr,
            )
            return [*COMMANDS[old].split(), *rest]
    if words[:1] == ["eval"] and words[1:2] and not words[1].startswith("-") and words[1] not in evaluation.COMMANDS:
        return ["eval", "run", *words[1:]]  # the name of a suite
    return words


def _complain(sentence: str, code: int) -> int:
    print(f"baichuan-audio: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def run_completion(arguments: argparse.Namespace) -> None:
    """Print a script with which the shell completes commands, options and file names."""
    import shtab

    parser = build_parser()
    _complete_files(parser, {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY})
    print(shtab.complete(parser, shell=arguments.shell))  # zsh needs its first line as it is
    print(f"# install with: {_INSTALL[arguments.shell]}")


def _complete_files(parser: argparse.ArgumentParser, kinds: dict[str, Any]) -> None:
    """Let options with the metavar FILE or DIR, and positional arguments without choices, complete file names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in {id(command): command for command in action.choices.values()}.values():
                _complete_files(command, kinds)
        elif not action.choices and (not action.option_strings or action.metavar in kinds):
            name = action.metavar if isinstance(action.metavar, str) else ""
            action.complete = kinds.get(name, kinds["FILE"])  # type: ignore[attr-defined]


def entry_point() -> None:
    """Entry point of the installed `baichuan-audio`."""
    sys.exit(main())
