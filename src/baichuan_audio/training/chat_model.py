"""A published chat model by itself, typed to: a teacher of replies, and the ceiling that evaluations compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..errors import CheckpointError
from ..language_model.model import LanguageModel
from ..layers.precision import fast_bfloat16
from ..pretrained.llm import read_llm
from .from_pretrained import fill_backbone

START, END = "<|im_start|>", "<|im_end|>"
VOICE_SYSTEM = "You are a helpful voice assistant. Answer in one or two short, plain sentences."
"""System text under which a chat model answers as if it spoke."""
_TOP = 200  # tokens that sampling chooses among


class ChatModel:
    """A pretrained chat model in ChatML, which answers many prompts at once.

    Raises CheckpointError where the model has no ChatML tokens.
    """

    def __init__(self, path: str | Path) -> None:
        llm = read_llm(path)
        self.tokenizer = Tokenizer.from_str(llm.tokenizer)
        self._end = self.tokenizer.token_to_id(END)
        if self._end is None or self.tokenizer.token_to_id(START) is None:
            raise CheckpointError(f"{path}: the tokenizer lacks {START} or {END}; a ChatML model is needed.")
        audio = {"audio_pad_token_id": 0, "vq_config": {"codebook_sizes": [1]}}  # not used here
        self.model = LanguageModel.from_config({**llm.config, "audio_config": audio})
        fill_backbone(self.model, llm)
        self.model.to(torch.bfloat16 if fast_bfloat16("cpu") else torch.float32).eval()

    @torch.inference_mode()
    def continue_all(
        self, prompts: Sequence[str], tokens: int, temperature: float, draw: torch.Generator
    ) -> list[tuple[str, bool]]:
        """Continue each prompt by at most `tokens` -> the text, and whether its turn came to an end.

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
        return [(self.tokenizer.decode(row[:tokens]), row[-1:] == [self._end]) for row in written]

    @torch.inference_mode()
    def mean_loss(self, before: str, text: str) -> float:
        """Mean loss in nats of the tokens of `text` after `before`."""
        first = self.tokenizer.encode(before, add_special_tokens=False).ids
        targets = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.long)
        ids = torch.cat([torch.tensor(first, dtype=torch.long), targets])
        hidden = self.model.hidden(self.model.embed_tokens(ids[None]))[0, len(first) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(self.model.lm_head(hidden).float(), targets))

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


def chatml(role: str, text: str) -> str:
    """One turn in ChatML."""
    return f"{START}{role}\n{text}{END}\n"
