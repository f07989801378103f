"""Dialogues of a corpus: who asks what, by text or clip, and the reply in clauses with their clips."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan_audio.data.sequences import split_reply
from baichuan_audio.errors import DataError
from baichuan_audio.text.lines import read_json_rows


@dataclass(frozen=True)
class Exchange:
    """One question (its text; the clip that speaks it) and the reply as (clause text, clip or None), in order."""

    user: str
    user_clip: str | None
    reply: tuple[tuple[str, str | None], ...]

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.reply)

    @property
    def clips(self) -> set[str]:
        """The ids of every clip this exchange needs to be heard and spoken."""
        return {clip for clip in (self.user_clip, *(clip for _, clip in self.reply)) if clip is not None}


@dataclass(frozen=True)
class Dialogue:
    """`voice` is the output voice that the clauses' clips are spoken in."""

    id: str
    split: str
    language: str
    skill: str
    voice: str | None
    exchanges: tuple[Exchange, ...]

    @property
    def asked_in_words(self) -> bool:
        """Whether every question can be said as it is written: none has digits."""
        return not any(re.search("[0-9]", exchange.user) for exchange in self.exchanges)


def parse_dialogue(row: Mapping[str, Any]) -> Dialogue:
    """A dialogue from a line of `dialogues.jsonl`: {"user", "user_clip"?} and {"assistant", "segments"?} in turn.

    Raises:
        DataError: an entry is missing, or the clauses do not make up the reply.
    """
    try:
        turns = row["turns"]
        if not turns or len(turns) % 2:
            raise DataError("turns must be question and reply in pairs")
        exchanges = tuple(_exchange(turns[i], turns[i + 1]) for i in range(0, len(turns), 2))
        return Dialogue(
            str(row["id"]), str(row["split"]), str(row["language"]), str(row["skill"]), row.get("voice"), exchanges
        )
    except KeyError as error:
        raise DataError(f"dialogue {row.get('id')!r} lacks the entry {error}") from error
    except (TypeError, AttributeError) as error:
        raise DataError(f"dialogue {row.get('id')!r} has an entry of the wrong kind ({error})") from error
    except DataError as error:
        raise DataError(f"dialogue {row.get('id')!r}: {error}") from error


def _exchange(question: Mapping[str, Any], reply: Mapping[str, Any]) -> Exchange:
    segments = reply.get("segments") or [{"text": reply["assistant"], "clip": None}]
    texts = split_reply(reply["assistant"], [segment["text"] for segment in segments])
    clips = [segment.get("clip") for segment in segments]
    return Exchange(question["user"], question.get("user_clip"), tuple(zip(texts, clips, strict=True)))


def read_dialogues(path: str | Path, splits: Iterable[str] = ("train",)) -> list[Dialogue]:
    """The dialogues of a `dialogues.jsonl` that belong to `splits`; DataError names the line that is none."""
    wanted = set(splits)
    dialogues = []
    for number, row in read_json_rows(path):
        try:
            dialogue = parse_dialogue(row)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if dialogue.split in wanted:
            dialogues.append(dialogue)
    return dialogues
