"""Training tasks as token sequences: what each position holds, and which positions have a loss.

Every layout is the one of inference (docs/model.md, 7 and 8). Of a sequence's N positions:

- `text_loss[n]`: id n is a text target, predicted by position n - 1. Never a forced id (audio_pad, the
  audiogen_end after a segment).
- `audio_loss[n]`: position n predicts a code frame: audiogen_start predicts the segment's first frame, each
  frame the next, the last one "end of audio" (target codebook_sizes[k] for every k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DataError
from ..language_model.prompt import TRANSCRIBE_INSTRUCTION, PromptBuilder, SpecialTokens
from ..language_model.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class TokenSequence:
    """ids [N] and codes [K, P] int64 (P = number of audio_pad ids), text_loss [N] and audio_loss [N] bool.

    id and kind name the sample in logs: where it comes from, and its task or kind.
    """

    ids: Tensor
    codes: Tensor
    text_loss: Tensor
    audio_loss: Tensor
    id: str = ""
    kind: str = ""

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def named(self, id: str, kind: str = "") -> TokenSequence:
        """The same sequence under a name."""
        return replace(self, id=id, kind=kind)


@dataclass(frozen=True)
class Turn:
    """A user's question as text or as codes [K, T], and the reply in clauses, each with its codes or None."""

    user: str | Tensor
    reply: Sequence[tuple[str, Tensor | None]]


class SequenceBuilder:
    """The prompt builder of inference with the loss masks; `finish` returns a sequence and starts the next."""

    def __init__(self, tokenizer: TextTokenizer, special: SpecialTokens, num_codebooks: int) -> None:
        self._tokenizer, self._special, self._num_codebooks = tokenizer, special, num_codebooks
        self._restart()

    def _restart(self) -> None:
        self._prompt = PromptBuilder(self._tokenizer, self._special, self._num_codebooks)
        self._text_loss: list[bool] = []
        self._audio_loss: list[bool] = []

    def _mark(self, learn: bool = False) -> None:
        """Mark the ids that were added last as text targets or not; none of them predicts a frame."""
        self._text_loss += [learn] * (len(self._prompt) - len(self._text_loss))
        self._audio_loss += [False] * (len(self._prompt) - len(self._audio_loss))

    def text(self, text: str, learn: bool = False) -> None:
        self._prompt.text(text)
        self._mark(learn)

    def system(self, text: str) -> None:
        self._prompt.system(text)
        self._mark()

    def user(self) -> None:
        self._prompt.user()
        self._mark()

    def reply(self, spoken: bool) -> None:
        self._prompt.reply(spoken)
        self._mark()

    def user_audio(self, codes: Tensor) -> None:
        """A user's audio, codes [K, T], without loss on it."""
        self._prompt.audio(codes)
        self._mark()

    def spoken(self, codes: Tensor, learn_start: bool = True, learn: bool = True) -> None:
        """A generated segment, codes [K, T]; `learn_start`: that it begins here has a loss; `learn`: its frames have.

        Raises DataError where it has no frame.
        """
        count = codes.shape[1]
        if not count:
            raise DataError("a spoken segment needs at least one code frame")
        start = len(self._prompt)
        self._prompt.speech(codes)
        self._mark()
        self._text_loss[start] = learn_start
        self._audio_loss[start:-1] = [learn] * (count + 1)

    def end(self) -> None:
        """The end of a reply, learnt."""
        self._prompt.end_reply()
        self._mark(learn=True)

    def finish(self) -> TokenSequence:
        prompt = self._prompt.build()
        text_loss, audio_loss = torch.tensor(self._text_loss), torch.tensor(self._audio_loss)
        text_loss[:1] = False  # no position predicts the first id
        self._restart()
        return TokenSequence(prompt.ids, prompt.codes, text_loss, audio_loss)


def transcription(builder: SequenceBuilder, codes: Tensor, transcript: str) -> TokenSequence:
    """ASR: prompt, audio, transcript (learnt)."""
    return audio_response(builder, TRANSCRIBE_INSTRUCTION, codes, transcript)


def audio_response(builder: SequenceBuilder, prompt: str, codes: Tensor, response: str) -> TokenSequence:
    """Audio question answering and speech translation: prompt, audio, response (learnt)."""
    builder.text(prompt)
    builder.user_audio(codes)
    builder.text(response, learn=True)
    builder.end()
    return builder.finish()


def interleaved_heard(builder: SequenceBuilder, pieces: Sequence[str | Tensor]) -> TokenSequence:
    """INTLV: audio and text in turn; text is learnt, audio is not."""
    for piece in pieces:
        if isinstance(piece, str):
            builder.text(piece, learn=True)
        else:
            builder.user_audio(piece)
    builder.end()
    return builder.finish()


def interleaved_spoken(builder: SequenceBuilder, clauses: Sequence[tuple[str, Tensor]]) -> TokenSequence:
    """ITTS: each clause's text, then its audio; everything is learnt but the first text."""
    for index, (text, codes) in enumerate(clauses):
        builder.text(text, learn=index > 0)
        builder.spoken(codes, learn_start=index > 0)
    builder.end()
    return builder.finish()


def speech(builder: SequenceBuilder, system: str, clauses: Sequence[tuple[str, Tensor]]) -> TokenSequence:
    """TTS: the system text that names the voice, then each clause as given text followed by its audio (learnt)."""
    builder.system(system)
    builder.reply(spoken=True)
    for text, codes in clauses:
        builder.text(text)
        builder.spoken(codes, learn_start=False)
    return builder.finish()


def pure_audio(builder: SequenceBuilder, codes: Tensor) -> TokenSequence:
    """Audio alone, as a generated segment; all its frames are learnt."""
    builder.spoken(codes, learn_start=False)
    return builder.finish()


def dialogue(builder: SequenceBuilder, system: str, turns: Sequence[Turn], spoken: bool) -> TokenSequence:
    """A dialogue as `chat` holds it: the system text, then each turn with its reply learnt.

    A spoken reply is written clause by clause, each followed by its frames; a text-only one as a whole.

    Raises:
        DataError: a spoken reply has a clause without frames.
    """
    builder.system(system)
    for turn in turns:
        builder.user()
        if isinstance(turn.user, str):
            builder.text(turn.user)
        else:
            builder.user_audio(turn.user)
        builder.reply(spoken)
        if spoken:
            for text, codes in turn.reply:
                if codes is None:
                    raise DataError(f"the clause {text!r} has no audio, so its reply cannot be spoken")
                builder.text(text, learn=True)
                builder.spoken(codes)
        else:
            builder.text("".join(text for text, _ in turn.reply), learn=True)
        builder.end()
    return builder.finish()


def split_reply(text: str, clauses: Sequence[str]) -> list[str]:
    """The reply cut where its clauses meet, every character kept; blanks lead the next clause, as in inference.

    Raises:
        DataError: the clauses are not what the reply says, in order.
    """
    pieces: list[str] = []
    position = 0
    for clause in clauses:
        start = text.find(clause.strip(), position)
        if start < 0 or text[position:start].strip():
            raise DataError(f"the clause {clause!r} does not stand where the reply {text!r} goes on")
        end = start + len(clause.strip())
        pieces.append(text[position:end])
        position = end
    if text[position:].strip():
        raise DataError(f"the clauses end before the reply does: {text[position:]!r} is left")
    return pieces
