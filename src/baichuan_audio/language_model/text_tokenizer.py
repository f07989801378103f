"""The text tokenizer of a checkpoint (`tokenizer.json`): text to ids, ids to text, and streamed decoding.

Control tokens are written by the program only. Text that spells one, such as "<C_Q>", is ordinary text: the encoder
used here is a second tokenizer without control tokens, so no input can produce one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from ..errors import CheckpointError, PromptError

FILE_NAME = "tokenizer.json"
SETTINGS_NAME = "tokenizer_config.json"  # read by other programs only
LONG_TEXT = 2000
"""Above this many characters, encoding takes more than a millisecond; it then releases the GIL."""
_REPLACEMENT = "�"  # in place of bytes that do not (yet) form a character
_MAX_TAIL = 3  # a UTF-8 character has at most four bytes, so at most three of an unfinished one


class TextTokenizer:
    """Text <-> ids of one checkpoint.

    `source` is the text of `tokenizer.json`, `settings` that of `tokenizer_config.json`; both are kept for saving.
    Raises CheckpointError when `source` is not a usable tokenizer.
    """

    def __init__(self, source: str, settings: str | None = None) -> None:
        self.source, self.settings = source, settings
        try:
            definition: dict[str, Any] = json.loads(source)
            self._decoder = Tokenizer.from_str(source)
            self._encoder = Tokenizer.from_str(json.dumps(_without_control_tokens(definition)))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{FILE_NAME}: not a tokenizer that can be read ({error}).") from error
        self._added = {str(token["content"]): int(token["id"]) for token in definition.get("added_tokens", [])}
        controls = {id for text, id in self._added.items() if _is_control(text)}
        for text in self._added:
            if _is_control(text) and controls.intersection(self.encode(text)):
                raise CheckpointError(f"{FILE_NAME}: text cannot spell '{text}' without making the control token.")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> TextTokenizer:
        """Read a checkpoint's `tokenizer.json`; raises CheckpointError when it cannot be used."""
        path = Path(path)
        try:
            source = path.read_text(encoding="utf-8")
            settings = path.with_name(SETTINGS_NAME)
            return cls(source, settings.read_text(encoding="utf-8") if settings.is_file() else None)
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: the text tokenizer cannot be read ({error}).") from error

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` (and `tokenizer_config.json`, where there was one) as they were read."""
        (Path(directory) / FILE_NAME).write_text(self.source, encoding="utf-8")
        if self.settings is not None:
            (Path(directory) / SETTINGS_NAME).write_text(self.settings, encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self._decoder.get_vocab(with_added_tokens=True).values()) + 1

    def token_id(self, text: str) -> int | None:
        """The id of a control token by its text, None when the tokenizer has no such token."""
        return self._added.get(text)

    def encode(self, text: str) -> list[int]:
        """Ordinary text -> ids; never a control token, whatever the text spells. PromptError for broken Unicode."""
        return list(self._encoding(text).ids)

    def _encoding(self, text: str) -> Encoding:
        """The ids of `text` and their offsets. Raises PromptError for anything but valid text."""
        if not isinstance(text, str):
            raise PromptError(f"text must be a string, not {type(text).__name__}.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError("the text holds a half of a surrogate pair; give valid Unicode.") from error
        if len(text) > LONG_TEXT:  # a batch releases the GIL
            return self._encoder.encode_batch([text], add_special_tokens=False)[0]
        return self._encoder.encode(text, add_special_tokens=False)

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Each id of `encode(text)` with the start and end of its characters in `text`."""
        encoding = self._encoding(text)
        return [(id, start, end) for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; control tokens leave no text."""
        return str(self._decoder.decode([int(id) for id in ids], skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A streaming decoder of ids."""
        return TextStream(self)


class TextStream:
    """Streaming decoder: ids one by one -> text as soon as its characters are complete.

    The pieces joined are the text of all ids; a piece never holds half a character.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # ids since the last one that ended with a whole character
        self._returned = 0  # characters of the window's text returned so far

    def push(self, id: int) -> str:
        """Add an id -> the text that it completes, perhaps empty."""
        self._window.append(id)
        text = self._tokenizer.decode(self._window)
        tail = len(text) - len(text.rstrip(_REPLACEMENT))
        stable = len(text) - min(tail, _MAX_TAIL)
        piece = text[self._returned : stable]
        self._returned = max(self._returned, stable)
        if tail == 0:
            self._window, self._returned = [], 0
        return piece

    def flush(self) -> str:
        """The rest of the text after the last id (including incomplete characters)."""
        rest = self._tokenizer.decode(self._window)[self._returned :]
        self._window, self._returned = [], 0
        return rest


def _is_control(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _without_control_tokens(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The same tokenizer without its control tokens, neither as added tokens nor as vocabulary entries."""
    plain = dict(definition)
    added = definition.get("added_tokens", [])
    plain["added_tokens"] = [token for token in added if not _is_control(token["content"])]
    plain["post_processor"] = None
    model = dict(definition["model"])
    if isinstance(model.get("vocab"), Mapping):
        controls = {token["content"] for token in added if _is_control(token["content"])}
        model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece not in controls}
    plain["model"] = model
    return plain
