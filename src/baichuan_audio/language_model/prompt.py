"""Control tokens and messages -> the sequence that the backbone reads (docs/model.md, 7).

A sequence is ids and the codes of its audio: each audio_pad id is one code frame, in order.

    dialogue        <B_SYS> system text, then per turn <C_Q> user content, [audiotext_start] <C_A> reply
    user's audio    audio_start, one audio_pad a code frame, audio_end
    spoken reply    text, audiogen_start, one audio_pad a code frame, audiogen_end, text, ..., endoftext
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, PromptError
from ..text.user_input import normalize_user_text
from .text_tokenizer import TextTokenizer

DEFAULT_VOICE = "邻家女声"
TRANSCRIBE_INSTRUCTION = "将语音转录为文本:"
CLAUSE_MARKS = frozenset(",!?，。！？")  # and a full stop before a space
SENTENCE_MARKS = frozenset("!?。！？")  # likewise

_TEXTS = {
    "system": "<B_SYS>",
    "user": "<C_Q>",
    "assistant": "<C_A>",
    "end_of_text": "<|endoftext|>",
    "audio_start": "<audio_start_baichuan>",
    "audio_end": "<audio_end_baichuan>",
    "audio_pad": "<audio_pad_baichuan>",
    "audiotext_start": "<audiotext_start_baichuan>",
    "audiogen_start": "<audiogen_start_baichuan>",
    "audiogen_end": "<audiogen_end_baichuan>",
}
NO_WORDS = "there are no words in the message that this model could read; write some."
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the control tokens of one checkpoint."""

    system: int
    user: int
    assistant: int
    end_of_text: int
    audio_start: int
    audio_end: int
    audio_pad: int
    audiotext_start: int
    audiogen_start: int
    audiogen_end: int
    others: tuple[int, ...] = ()  # more ids of config.json's `multimodal_special_token_list`

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: TextTokenizer) -> SpecialTokens:
        """Ids from `audio_config` where it has them, otherwise by their text.

        Raises ConfigError naming a token that is in neither.
        """
        audio = config.get("audio_config", {})
        ids: dict[str, int] = {}
        for name, text in _TEXTS.items():
            id = audio.get(f"{name}_token_id")
            id = tokenizer.token_id(text) if id is None else id
            if id is None:
                raise ConfigError(f"the control token {text} is neither in tokenizer.json nor in config.json.")
            ids[name] = int(id)
        return cls(**ids, others=tuple(config.get("multimodal_special_token_list") or ()))

    @property
    def control_ids(self) -> tuple[int, ...]:
        """Ids that are never sampled in a text segment: all control tokens but audiogen_start and endoftext."""
        ids = {getattr(self, field.name) for field in fields(self) if field.name != "others"}
        return tuple(sorted(ids.union(self.others) - {self.audiogen_start, self.end_of_text}))


@dataclass(frozen=True)
class Prompt:
    """ids [N] int64 and codes [K, P] int64, P the number of audio_pad ids."""

    ids: Tensor
    codes: Tensor


class PromptBuilder:
    """Builds a sequence part by part; every method returns the builder itself.

    >>> PromptBuilder(tokenizer, special, 8).system("Be brief.").user().text("Hello").reply(spoken=True).build()
    """

    def __init__(
        self, tokenizer: TextTokenizer, special: SpecialTokens, num_codebooks: int, input_steps: Collection[str] = ()
    ) -> None:
        """input_steps: steps of `normalize_user_text` beyond those that are safe for every model."""
        self._tokenizer, self._special, self._num_codebooks = tokenizer, special, num_codebooks
        self._input_steps = input_steps
        self._ids: list[int] = []
        self._codes: list[Tensor] = []

    def __len__(self) -> int:
        """Number of ids so far."""
        return len(self._ids)

    def copy(self) -> PromptBuilder:
        """A second builder with the same content."""
        other = PromptBuilder(self._tokenizer, self._special, self._num_codebooks, self._input_steps)
        other._ids, other._codes = list(self._ids), list(self._codes)
        return other

    def text(self, text: str) -> PromptBuilder:
        """Ordinary text (spellings of control tokens included)."""
        self._ids += self._tokenizer.encode(text)
        return self

    def user_text(self, text: str) -> PromptBuilder:
        """Text that a user typed, normalized for this model; nothing is added if no text is left."""
        text = normalize_user_text(text, self._input_steps)
        return self.text(text) if text.strip() else self

    def system(self, text: str) -> PromptBuilder:
        """The system turn."""
        self._ids.append(self._special.system)
        return self.text(text)

    def user(self) -> PromptBuilder:
        """Begin a user's turn; its content follows by `text` and `audio`."""
        self._ids.append(self._special.user)
        return self

    def reply(self, spoken: bool) -> PromptBuilder:
        """Begin a reply of the model, spoken or text only."""
        if spoken:
            self._ids.append(self._special.audiotext_start)
        self._ids.append(self._special.assistant)
        return self

    def audio(self, codes: Tensor) -> PromptBuilder:
        """Input audio: codes [K, T]."""
        return self._frames(self._special.audio_start, codes, self._special.audio_end)

    def speech(self, codes: Tensor) -> PromptBuilder:
        """Output audio, after its text: codes [K, T]."""
        return self._frames(self._special.audiogen_start, codes, self._special.audiogen_end)

    def end_reply(self) -> PromptBuilder:
        """End a reply (endoftext)."""
        self._ids.append(self._special.end_of_text)
        return self

    def build(self) -> Prompt:
        """The sequence so far."""
        empty = torch.zeros(self._num_codebooks, 0, dtype=torch.long)
        return Prompt(torch.tensor(self._ids, dtype=torch.long), torch.cat([empty, *self._codes], dim=1))

    def _frames(self, before: int, codes: Tensor, after: int) -> PromptBuilder:
        if codes.ndim != 2 or codes.shape[0] != self._num_codebooks:
            raise PromptError(f"codes must be [{self._num_codebooks}, T], not {tuple(codes.shape)}.")
        self._ids += [before, *[self._special.audio_pad] * codes.shape[1], after]
        self._codes.append(codes.detach().to("cpu", torch.long))
        return self


@dataclass(frozen=True)
class AudioPart:
    """Audio in a message: a path, or (waveform [S], sample_rate in Hz)."""

    audio: Any


@dataclass(frozen=True)
class Message:
    """One turn: its role, and its texts and audio in order."""

    role: str
    parts: tuple[str | AudioPart, ...]


def parse_content(content: Any) -> tuple[str | AudioPart, ...]:
    """`str`, `{"text": str}`, `{"audio": file or (waveform, sample_rate)}` or a list of such -> parts.

    Raises PromptError for anything else, and for empty content.
    """
    items = content if isinstance(content, list) else [content]
    parts: list[str | AudioPart] = []
    for item in items:
        if isinstance(item, Mapping) and set(item) == {"text"}:
            item = item["text"]
        if isinstance(item, str):
            parts.append(item)
        elif isinstance(item, Mapping) and set(item) == {"audio"}:
            parts.append(AudioPart(item["audio"]))
        else:
            raise PromptError(
                'content must be a string, {"audio": file or (waveform, sample_rate)}, or a list of such; '
                f"got {_describe(item)}."
            )
    if not any(isinstance(part, AudioPart) or part.strip() for part in parts):
        raise PromptError("a message has no content; give a text or an audio file.")
    return tuple(parts)


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """`[{"role": "system" | "user" | "assistant", "content": ...}, ...]` -> messages, checked.

    The first may be the system's; then user and assistant alternate, and the last is the user's.
    Raises PromptError naming the invalid message.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise PromptError('messages must be a list such as [{"role": "user", "content": "Hello"}].')
    parsed = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise PromptError(f"message {number} must hold 'role' and 'content'.")
        if message["role"] not in _ROLES:
            raise PromptError(f"message {number}: role must be one of {', '.join(_ROLES)}, not {message['role']!r}.")
        try:
            parsed.append(Message(message["role"], parse_content(message["content"])))
        except PromptError as error:
            raise PromptError(f"message {number}: {error}") from None
    turns = parsed[1:] if parsed[0].role == "system" else parsed
    for number, turn in enumerate(turns, 1):
        if turn.role != ("user" if number % 2 else "assistant"):
            raise PromptError("after the system's message, user and assistant must alternate, the user first.")
    if len(turns) % 2 == 0:
        raise PromptError("the last message must be the user's, for the model to answer it.")
    if parsed[0].role == "system" and any(isinstance(part, AudioPart) for part in parsed[0].parts):
        raise PromptError("the system's message must be text.")
    return parsed


def voice_instruction(voice: str) -> str:
    """The system text that chooses a voice by its name."""
    return f"请用【{voice}】这个声音回答问题。"


def split_clauses(
    text: str,
    min_characters: int = 1,
    max_characters: int | None = None,
    size: Callable[[str], int] = len,
    marks: Iterable[str] = CLAUSE_MARKS,
) -> list[str]:
    """Split after each of `marks`, or a full stop before a space -> clauses; joined they are the text.

    The space after a mark begins the next clause. A clause has at least `min_characters`, counted by `size`; a shorter
    rest joins the last clause. A clause above `max_characters` is split before its last space that fits, or anywhere.
    """
    clauses = [""]
    ends = re.compile(rf".*?(?:[{''.join(sorted(marks))}]+|\.(?=\s)|$)", flags=re.DOTALL)
    for piece in ends.findall(text):
        if size(clauses[-1].strip()) >= min_characters:
            clauses.append("")
        clauses[-1] += piece
    if len(clauses) > 1 and size(clauses[-1].strip()) < min_characters:
        rest = clauses.pop()
        clauses[-1] += rest
    return [part for clause in clauses if clause for part in _split_long(clause, max_characters or len(clause))]


def _split_long(clause: str, limit: int) -> list[str]:
    parts = []
    while len(clause) > limit:
        space = clause.rfind(" ", 1, limit + 1)
        parts.append(clause[: space if space > 0 else limit])
        clause = clause[len(parts[-1]) :]
    return [*parts, clause]


def _describe(item: Any) -> str:
    return f"a mapping with {sorted(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
