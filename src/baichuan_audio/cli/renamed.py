"""Command names of the previous release: accepted for one more release, with one line of warning on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import ConfigError

COMMANDS = {
    "start": "checkpoint init",
    "carry": "checkpoint transfer",
    "grow": "checkpoint expand",
    "average": "checkpoint average",
    "assemble": "checkpoint assemble",
    "data codes": "data encode",
    "data said": "data sample-codes",
    "data takes": "data rejection-sample",
}
"""Old command -> new command."""

OPTIONS = {
    "data codes": {"--only": "--kinds"},
    "data takes": {"--tries": "--num-candidates", "--tokenizer": "--phoneme-scorer"},
}
"""Old command -> its old options and their new names."""

MOVED = {
    "eval nano": "python recipes/nano/evaluate.py",
    "data nano": "python recipes/nano/make_corpus.py",
}
"""Commands that are now scripts of the project in recipes/nano -> what to run in a clone of the repository."""


def current_names(argv: Sequence[str]) -> list[str]:
    """The command line `argv` with new names for old ones. Raises ConfigError for a command that has moved out."""
    words = list(argv)
    for length in (1, 2):
        old, rest = " ".join(words[:length]), words[length:]
        if old in MOVED:
            raise ConfigError(
                f"'{old}' is no longer a command of this package; in a clone of the repository run: "
                f"{' '.join([MOVED[old], *rest])}"
            )
        if old in COMMANDS:
            options = OPTIONS.get(old, {})
            renamed = [option for option in options if any(word.partition("=")[0] == option for word in rest)]
            before = " ".join([old, *renamed])
            after = " ".join([COMMANDS[old], *(options[option] for option in renamed)])
            print(
                f"baichuan-audio: '{before}' is now called '{after}'; the old name goes with the next release.",
                file=sys.stderr,
            )
            return [*COMMANDS[old].split(), *(_renamed_option(word, options) for word in rest)]
    return words


def _renamed_option(word: str, options: dict[str, str]) -> str:
    name, equals, value = word.partition("=")
    return f"{options.get(name, name)}{equals}{value}"
