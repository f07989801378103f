"""The tokenizer's text loss through a frozen language model (docs/model.md, 8).

Quantised vectors, projected to the model's width, take the place of audio embeddings; the loss is the cross-entropy of
the transcript after them. The gradient passes through the frozen model to the projection and the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ...checkpoint import load
from ..common.distributed.world import ALONE, World

PROMPT = "将语音转录为文本:"


class FrozenTextModel(nn.Module):
    """`projection` learns; the language model behind it is no part of this module's parameters or state."""

    def __init__(self, directory: str, vector_width: int) -> None:
        super().__init__()
        model = load(directory, dtype=torch.float32)
        language_model = model.language_model.requires_grad_(False)
        self.projection = nn.Linear(vector_width, language_model.config.hidden_size)
        self._frozen = (language_model, model.text_tokenizer, model.special)

    def loss(
        self,
        vectors: Tensor,
        lengths: Tensor,
        texts: Sequence[str | None],
        languages: Sequence[str],
        run: World = ALONE,
    ) -> Tensor | None:
        """Loss per text id over the rows that have one, this process's part of the mean.

        Without a text None, or among several processes a zero, since all of them must have a gradient.

        vectors [B, T, W] with valid lengths [B]. A row reads: prompt, audio_start, vectors, audio_end, text, endoftext;
        `languages` do not matter here.
        """
        language_model, tokenizer, special = self._frozen
        written = {row: [*tokenizer.encode(text), special.end_of_text] for row, text in enumerate(texts) if text}
        count = run.total(sum(map(len, written.values())))
        if not written:
            return None if run.size == 1 else 0.0 * self.projection(vectors[:1, :1]).sum()
        projected = self.projection(vectors)
        inputs, targets = [], []
        for row, target_ids in written.items():
            before = self._embed([*tokenizer.encode(PROMPT), special.audio_start])
            after = self._embed([special.audio_end, *target_ids[:-1]])
            frames = projected[row, : int(lengths[row])]
            inputs.append(torch.cat([before, frames, after]))
            ignored = torch.full((len(before) + len(frames),), -100)
            targets.append(torch.cat([ignored, torch.tensor(target_ids)]))
        hidden = language_model.hidden(pad_sequence(inputs, batch_first=True))
        target = pad_sequence(targets, batch_first=True, padding_value=-100).to(hidden.device)
        has_target = target >= 0
        nll = F.cross_entropy(language_model.lm_head(hidden[has_target]).float(), target[has_target], reduction="sum")
        return nll / count.to(nll)

    def _embed(self, ids: list[int]) -> Tensor:
        embedded: Tensor = self._frozen[0].embed_tokens(torch.tensor(ids, device=self.projection.weight.device))
        return embedded
