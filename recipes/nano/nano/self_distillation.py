"""Questions to a language model, and its own short replies to them.

What the base knows must survive training with audio, so spoken questions are answered with the replies that the base
itself gives to the same questions typed. Most questions have a form that people use (`question_forms`); the others come
from the base too, half of these from its empty user turn (the questions it was tuned on), half asked for by topic.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from baichuan_audio.errors import CheckpointError
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.layers.precision import fast_bfloat16
from baichuan_audio.pretrained.llm import read_llm
from baichuan_audio.training.from_pretrained import fill_backbone

from .question_forms import formed_question

SYSTEM = "You are a helpful voice assistant. Answer in one or two short, plain sentences."
_START, _END = "<|im_start|>", "<|im_end|>"
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
_TOP = 200  # tokens that sampling chooses among


@dataclass(frozen=True)
class Pair:
    """A question and its reply, as written."""

    question: str
    reply: str

    def text_item(self, license: str) -> dict[str, Any]:
        """A line of the file that `baichuan-audio data run` reads as `texts`."""
        turns = [{"user": self.question, "reply": self.reply}]
        return {"kind": "sft", "language": "en", "license": license, "source": "self-distillation", "turns": turns}


class ChatModel:
    """A pretrained chat model in ChatML, which answers many prompts at once.

    Raises CheckpointError where the model has no ChatML tokens.
    """

    def __init__(self, path: str | Path) -> None:
        llm = read_llm(path)
        self.tokenizer = Tokenizer.from_str(llm.tokenizer)
        self._end = self.tokenizer.token_to_id(_END)
        if self._end is None or self.tokenizer.token_to_id(_START) is None:
            raise CheckpointError(f"{path}: the tokenizer lacks {_START} or {_END}; a ChatML model is needed.")
        audio = {"audio_pad_token_id": 0, "vq_config": {"codebook_sizes": [1]}}  # not used here
        self.model = LanguageModel.from_config({**llm.config, "audio_config": audio})
        fill_backbone(self.model, llm)
        self.model.to(torch.bfloat16 if fast_bfloat16("cpu") else torch.float32).eval()

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], tokens: int, temperature: float, draw: torch.Generator) -> list[str]:
        """Continue each prompt up to the end of its turn, which is marked by a line break, or by `tokens` tokens.

        All rows advance together, one token a step; a row whose prompt is longer is forced along it.
        """
        ids = [self.tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
        shortest, longest = min(map(len, ids)), max(map(len, ids))
        cache = self.model.init_cache(len(ids), longest + tokens)
        hidden = self._advance(torch.tensor([row[:shortest] for row in ids]), cache)
        written: list[list[int]] = [[] for _ in ids]
        open_rows = set(range(len(ids)))
        for position in range(shortest, longest + tokens):
            next_ids = self._choose(hidden, temperature, draw)
            for row, prompt in enumerate(ids):
                if position < len(prompt):
                    next_ids[row] = prompt[position]
                elif row in open_rows:
                    written[row].append(next_ids[row])
                    if next_ids[row] == self._end or len(written[row]) > tokens:
                        open_rows.discard(row)
            if not open_rows:
                break
            hidden = self._advance(torch.tensor(next_ids)[:, None], cache)
        return [
            self.tokenizer.decode(row[:-1]) + "\n"
            if row and row[-1] == self._end
            else self.tokenizer.decode(row[:tokens])
            for row in written
        ]

    def _advance(self, ids: Tensor, cache: Any) -> Tensor:
        """ids [B, N] -> hidden state of the last position [B, D]."""
        return self.model.hidden(self.model.embed_tokens(ids), cache)[:, -1]

    def _choose(self, hidden: Tensor, temperature: float, draw: torch.Generator) -> list[int]:
        logits = self.model.lm_head(hidden).float()
        if not temperature:
            return logits.argmax(-1).tolist()
        values, indices = (logits / temperature).topk(min(_TOP, logits.shape[-1]))
        picked = torch.multinomial(values.softmax(-1), 1, generator=draw)
        return indices.gather(1, picked)[:, 0].tolist()


def pairs(model: ChatModel, topics: Sequence[str], seed: int, batch: int, rows: int = 96) -> list[Pair]:
    """The pairs of one batch of questions, a pure function of (seed, batch) on one machine."""
    choose = random.Random(f"{seed} {batch}")
    draw = torch.Generator().manual_seed(choose.getrandbits(40))
    formed = round(rows * _FORMED_SHARE)
    asked = model.complete([_asking(choose, topics) for _ in range(rows - formed)], _QUESTION_TOKENS, 0.8, draw)
    questions = [question for question in map(spoken_question, asked) if question]
    questions = list(dict.fromkeys(questions + [formed_question(choose, topics) for _ in range(formed)]))
    prompts = [f"{_turn('system', SYSTEM)}{_turn('user', question)}{_START}assistant\n" for question in questions]
    replies = model.complete(prompts, _REPLY_TOKENS, 0.0, draw)
    answered = zip(questions, map(spoken_reply, replies), strict=True)
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


def spoken_reply(text: str) -> str | None:
    """As many whole sentences of a reply as can be read aloud in one breath or two, None where there are none."""
    finished = text.endswith("\n")
    sentences = _SENTENCE_END.split(" ".join(text.replace("’", "'").split()))
    if not finished:
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
        return f"{_START}user\n"
    asking = choose.choice(_ASKING).format(topic=choose.choice(topics))
    return f"{_turn('user', asking)}{_START}assistant\n"


def _turn(role: str, text: str) -> str:
    return f"{_START}{role}\n{text}{_END}\n"
