"""Transcription: one prompt for each piece of speech, and their texts joined into one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..language_model.prompt import TRANSCRIBE_INSTRUCTION, Prompt, PromptBuilder
from ..language_model.sampling import Sampling
from ..language_model.text_tokenizer import TextTokenizer
from .reply import text_reply
from .runner import ReplyProgram
from .sequence import TokenSequence

_CJK_START = 0x2E80


def transcription_prompt(builder: PromptBuilder, codes: Tensor) -> Prompt:
    """codes [K, T] of one piece of speech -> the prompt that its transcript follows."""
    return builder.text(TRANSCRIBE_INSTRUCTION).audio(codes).build()


def transcription(
    sequence: TokenSequence, tokenizer: TextTokenizer, codes: Tensor, sampling: Sampling | None = None
) -> ReplyProgram:
    """The program that writes the transcript of codes [K, T] after its prompt; greedy by default."""
    max_new_tokens = 32 + 3 * codes.shape[1]  # far more than anyone can say in that time
    return text_reply(sequence, tokenizer, sampling or Sampling(), max_new_tokens)


class TranscriptAssembler:
    """Joins the transcripts of consecutive pieces as their texts arrive; `text` is the transcript so far.

    Space at either end of a piece is not part of it.
    """

    def __init__(self) -> None:
        self.text = ""
        self._pending = ""  # space that may end the piece
        self._piece_started = False

    def begin_piece(self) -> None:
        """The texts that follow belong to another piece."""
        self._pending, self._piece_started = "", False

    def push(self, text: str) -> str:
        """More text of the piece -> what it adds to `text`."""
        pending = self._pending + text
        if not self._piece_started:
            pending = pending.lstrip()
        words = pending.rstrip()
        self._pending = pending[len(words) :]
        if not words:
            return ""
        added = words if self._piece_started else _separator(self.text, words) + words
        self._piece_started = True
        self.text += added
        return added


def join_texts(texts: Sequence[str]) -> str:
    """Transcripts of consecutive pieces in one line; a space between words, none next to Chinese characters."""
    result = ""
    for text in filter(None, texts):
        result += _separator(result, text) + text
    return result


def _separator(before: str, after: str) -> str:
    return " " if before and ord(before[-1]) < _CJK_START and ord(after[0]) < _CJK_START else ""
