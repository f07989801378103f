"""Questions to a language model, and its own short replies to them.

What the base knows must survive training with audio, so spoken questions are answered with the replies that the base
itself gives to the same questions typed. Most questions have a form that people use (`forms`); the others come
from the base too, half of these from its empty user turn (the questions it was tuned on), half asked for by topic.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan_audio.training.chat_model import START, VOICE_SYSTEM, ChatModel, chatml

from .forms import formed_question

_ASKING = (
    "Ask me one short question about {topic}.",
    "Write one short everyday question about {topic}.",
    "Write a short question for a quiz about {topic}.",
    "Tell me one thing a person might ask a voice assistant about {topic}.",
)
_EMPTY_TURN_SHARE = 0.5
_FORMED_SHARE = 0.8
_REPLY_WORDS = 24
_QUESTION_TOKENS, _REPLY_TOKENS = 32, 56
_SPEAKABLE = re.compile(r"[A-Za-z ,'.?!-]+")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +")
_ABOUT_ASKING = re.compile(r"\bquestion|\bask\b|\bhere(?:'s| is)\b|\bcan you provide\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A question and its reply, as written."""

    question: str
    reply: str

    def text_item(self, license: str) -> dict[str, Any]:
        """A line of the file that `baichuan-audio data run` reads as `texts`."""
        turns = [{"user": self.question, "reply": self.reply}]
        return {"kind": "sft", "language": "en", "license": license, "source": "self-distillation", "turns": turns}


def pairs(model: ChatModel, topics: Sequence[str], seed: int, batch: int, rows: int = 96) -> list[Pair]:
    """The pairs of one batch of questions, a pure function of (seed, batch) on one machine."""
    choose = random.Random(f"{seed} {batch}")
    draw = torch.Generator().manual_seed(choose.getrandbits(40))
    formed = round(rows * _FORMED_SHARE)
    asked = model.continue_all([_asking(choose, topics) for _ in range(rows - formed)], _QUESTION_TOKENS, 0.8, draw)
    questions = [question for text, _ in asked if (question := spoken_question(text))]
    questions = list(dict.fromkeys(questions + [formed_question(choose, topics) for _ in range(formed)]))
    prompts = [
        f"{chatml('system', VOICE_SYSTEM)}{chatml('user', question)}{START}assistant\n" for question in questions
    ]
    replies = model.continue_all(prompts, _REPLY_TOKENS, 0.0, draw)
    answered = zip(questions, itertools.starmap(spoken_reply, replies), strict=True)
    return [Pair(question, reply) for question, reply in answered if reply]


def write_pairs(
    model: ChatModel, topics: Sequence[str], output: Path, count: int, seed: int, license: str
) -> Iterator[int]:
    """Append batches to `output` until it has `count` pairs; yields how many there are. A stopped call goes on."""
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()] if output.is_file() else []
    seen = {row["turns"][0]["user"] for row in rows}
    batch = 1 + max((row["batch"] for row in rows), default=-1)
    while len(seen) < count:
        fresh = [pair for pair in pairs(model, topics, seed, batch) if pair.question not in seen]
        lines = [json.dumps(pair.text_item(license) | {"batch": batch}, ensure_ascii=False) for pair in fresh]
        with output.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
        seen |= {pair.question for pair in fresh}
        batch += 1
        yield len(seen)


def spoken_question(text: str) -> str | None:
    """The question where it is one that a person may say aloud, else None."""
    line = text.strip().partition("\n")[0].strip().strip('"').replace("’", "'")
    fits = _SPEAKABLE.fullmatch(line) and line.endswith("?") and 3 <= len(line.split()) <= 20
    return line if fits and not _ABOUT_ASKING.search(line) else None


def spoken_reply(text: str, ended: bool) -> str | None:
    """As many whole sentences of a reply as can be read aloud in one breath or two, None where there are none.

    ended: whether the reply came to its end; else its last sentence may be cut.
    """
    sentences = _SENTENCE_END.split(" ".join(text.replace("’", "'").split()))
    if not ended:
        sentences = sentences[:-1]
    reply = ""
    for sentence in sentences:
        longer = f"{reply} {sentence}".strip()
        if not _SPEAKABLE.fullmatch(sentence) or sentence[-1:] not in ".!?" or len(longer.split()) > _REPLY_WORDS:
            break
        if sentence in reply:  # it repeats itself
            return None
        reply = longer
    return reply[:1].upper() + reply[1:] or None


def _asking(choose: random.Random, topics: Sequence[str]) -> str:
    if choose.random() < _EMPTY_TURN_SHARE:
        return f"{START}user\n"
    asking = choose.choice(_ASKING).format(topic=choose.choice(topics))
    return f"{chatml('user', asking)}{START}assistant\n"
