"""The parser, and what happens to errors: one sentence, a code, no traceback unless asked for."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import BaichuanAudioError
from ..version import __version__
from . import bench, codes, completion, data_pipeline, demo, info, make, serve, talk, work

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; importing nothing heavier than argparse."""
    parser = argparse.ArgumentParser(
        prog="baichuan-audio",
        description="Speech in, speech out: chat, transcribe, speak, code audio, and train the model that does it.",
        epilog="The model is --model, or else BAICHUAN_AUDIO_MODEL, or else the one checkpoint in models/.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in (talk, codes, serve, info, demo, data_pipeline, make, work, bench, completion):
        group.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 1 anything unforeseen."""
    if sys.stdin is None:  # closed by the caller
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (open as long as the program runs)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shall not cost an answer
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
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
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename:  # a name too long, a disk that is full
            return _complain(f"{error.filename}: {error.strerror}.", BAD_INPUT)
        text = " ".join(str(error).split()) or "no further word"
        return _complain(f"unexpected failure: {type(error).__name__}: {text} (--debug shows where).", FAILED)


def _complain(sentence: str, code: int) -> int:
    print(f"baichuan-audio: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def entry_point() -> None:
    """What the installed `baichuan-audio` runs."""
    sys.exit(main())
