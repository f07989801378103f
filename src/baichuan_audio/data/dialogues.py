"""Dialogue files: who asks what, by text or clip, and the reply in clauses with their clips."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..text.lines import read_json_rows
from .sequences import split_reply
from .store.atomic import write_text


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
    """`voice` is the output voice of the reply's clips; `weight`: how many times as often as others it is drawn."""

    id: str
    split: str
    language: str
    skill: str
    voice: str | None
    exchanges: tuple[Exchange, ...]
    weight: float = 1.0

    @property
    def clips(self) -> set[str]:
        """The ids of every clip of its exchanges."""
        return {clip for exchange in self.exchanges for clip in exchange.clips}


def parse_dialogue(row: Mapping[str, Any]) -> Dialogue:
    """A dialogue from a line of a dialogue file (docs/training.md, "Dialogue files").

    Raises:
        DataError: an entry is missing, roles do not alternate, or the segments do not make up the reply.
    """
    try:
        messages = row["messages"]
        roles = [message["role"] for message in messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise DataError("the roles of its messages must be user and assistant in turn, assistant last")
        exchanges = tuple(_exchange(messages[i], messages[i + 1]) for i in range(0, len(messages), 2))
        weight = float(row.get("weight", 1.0))
        if not 0 <= weight < math.inf:
            raise DataError(f"its weight must be a number from 0 on, not {weight}")
        return Dialogue(
            str(row["id"]),
            str(row.get("split", "train")),
            str(row["language"]),
            str(row.get("skill", "")),
            row.get("voice"),
            exchanges,
            weight,
        )
    except KeyError as error:
        raise DataError(f"dialogue {row.get('id')!r} lacks the entry {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"dialogue {row.get('id')!r} has an entry of the wrong type ({error})") from error
    except DataError as error:
        raise DataError(f"dialogue {row.get('id')!r}: {error}") from error


def _exchange(question: Mapping[str, Any], reply: Mapping[str, Any]) -> Exchange:
    answer = _text(reply, "content")
    segments = reply.get("segments") or [{"text": answer, "audio": reply.get("audio")}]
    texts = split_reply(answer, [_text(segment, "text") for segment in segments])
    clips = [_clip(segment) for segment in segments]
    return Exchange(_text(question, "content"), _clip(question), tuple(zip(texts, clips, strict=True)))


def _text(message: Mapping[str, Any], name: str) -> str:
    if not isinstance(message[name], str):
        raise DataError(f"{name} must be a text, not {message[name]!r}")
    return str(message[name])


def _clip(message: Mapping[str, Any]) -> str | None:
    clip = message.get("audio")
    if clip is not None and not isinstance(clip, str):
        raise DataError(f"audio must be the id of a clip, not {clip!r}")
    return clip


def read_dialogues(path: str | Path, splits: Iterable[str] = ("train",)) -> list[Dialogue]:
    """The dialogues of a file that belong to `splits`. Raises DataError where there is no such file, or a bad line."""
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such dialogue file; write it first, or take it out of `dialogues`.")
    chosen = set(splits)
    dialogues = []
    for number, row in read_json_rows(path):
        try:
            if row.get("split", "train") in chosen:
                dialogues.append(parse_dialogue(row))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return dialogues


def write_dialogues(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write a dialogue file, one line a dialogue; it is written aside and renamed, so never half there."""
    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
