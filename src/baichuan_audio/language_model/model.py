"""The language model: text ids and code frames in, hidden states and text logits out (docs/model.md, 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..audio_tokenizer.config import codebook_sizes
from ..errors import ConfigError, PromptError
from .backbone import Backbone, BackboneConfig
from .sampling import TextSampler


class LanguageModel(Backbone):
    """Backbone with the embeddings of text and code frames, and the text logits."""

    def __init__(self, config: BackboneConfig, sizes: tuple[int, ...], audio_pad_id: int) -> None:
        super().__init__(config)
        self.codebook_sizes, self.audio_pad_id = sizes, audio_pad_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        # the last row of each table is "end of audio"
        self.audio_embed_layers = nn.ModuleList([nn.Embedding(size + 1, config.hidden_size) for size in sizes])
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LanguageModel:
        """Build from a whole `config.json`; raises ConfigError where an entry is missing or impossible."""
        try:
            audio_pad_id = int(config["audio_config"]["audio_pad_token_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("config.json: audio_config.audio_pad_token_id is missing.") from error
        return cls(BackboneConfig.from_config(config), codebook_sizes(config), audio_pad_id)

    def forward(self, ids: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ids [B, N], codes [K, P] -> hidden [B, N, D] after the final norm, logits [B, N, V].

        P is the number of audio_pad ids, row after row; None where there are none. Rows of different length are padded
        at the right with any other id: attention is causal, so padding does not change earlier positions.
        Raises PromptError when codes and audio_pad ids do not match.
        """
        hidden = self.hidden(self.embed(ids, codes))
        return hidden, self.lm_head(hidden)

    def sample_ids(self, hidden: Tensor, sampler: TextSampler) -> list[int]:
        """hidden [B, D] -> the id that `sampler` chooses for each row."""
        return sampler(self.lm_head(hidden))

    def embed(self, ids: Tensor, codes: Tensor | None = None) -> Tensor:
        """ids [B, N], codes [K, P] -> embeddings [B, N, D], those of frames where the id is audio_pad."""
        embedded: Tensor = self.embed_tokens(ids)
        frames = 0 if codes is None else codes.shape[1]
        is_frame = ids == self.audio_pad_id
        if int(is_frame.sum()) != frames:
            raise PromptError(f"{int(is_frame.sum())} audio_pad ids need as many code frames, not {frames}.")
        if codes is None or not frames:
            return embedded
        if codes.shape[0] != len(self.codebook_sizes):
            raise PromptError(f"codes must be [{len(self.codebook_sizes)}, P], not {tuple(codes.shape)}.")
        return embedded.masked_scatter(is_frame[..., None], self.embed_frames(codes).to(embedded.dtype))

    def embed_frames(self, codes: Tensor) -> Tensor:
        """codes [K, P] -> embeddings [P, D], summed over the codebooks."""
        total: Tensor = self.audio_embed_layers[0](codes[0])
        for embedding, level in zip(list(self.audio_embed_layers)[1:], codes[1:], strict=True):
            total = total + embedding(level)
        return total

    def embed_sequence(self, tokens: Sequence[int | tuple[int, ...]]) -> Tensor:
        """Ids and frames in order (not checked) -> embeddings [N, D]."""
        device = self.norm.weight.device
        ids = [self.audio_pad_id if isinstance(token, tuple) else token for token in tokens]
        embedded: Tensor = self.embed_tokens(torch.tensor(ids, device=device))
        frame_positions = [position for position, token in enumerate(tokens) if isinstance(token, tuple)]
        if frame_positions:
            frames = torch.tensor([tokens[position] for position in frame_positions], device=device)
            embedded[frame_positions] = self.embed_frames(frames.T).to(embedded.dtype)
        return embedded

    def tokens(self, ids: Tensor | Sequence[int], codes: Tensor | None = None) -> list[int | tuple[int, ...]]:
        """ids [N], codes [K, P] with P the number of audio_pad ids -> the tokens, a frame as its codes.

        Raises PromptError for ids or codes out of range, or when their numbers do not match.
        """
        ids = torch.as_tensor(ids, dtype=torch.long)
        if ids.ndim != 1 or ids.numel() == 0:
            raise PromptError(f"ids must be [N] with at least one id, not {list(ids.shape)}.")
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            raise PromptError(f"some ids lie outside the vocabulary of {self.config.vocab_size}.")
        if codes is not None:
            self.check_codes(codes)
        count, frames = int((ids == self.audio_pad_id).sum()), 0 if codes is None else codes.shape[1]
        if count != frames:
            raise PromptError(f"{count} audio_pad ids need as many code frames, not {frames}.")
        frames_left = iter([] if codes is None else codes.long().T.tolist())
        return [tuple(next(frames_left)) if id == self.audio_pad_id else id for id in ids.tolist()]

    def check_codes(self, codes: Tensor) -> None:
        """Raise PromptError unless codes [K, P] have this model's K and are entries or end marks."""
        if codes.ndim != 2 or codes.shape[0] != len(self.codebook_sizes):
            raise PromptError(f"codes must be [{len(self.codebook_sizes)}, P], not {tuple(codes.shape)}.")
        sizes = torch.tensor(self.codebook_sizes, device=codes.device)[:, None]
        if codes.numel() and bool(((codes < 0) | (codes > sizes)).any()):
            raise PromptError(
                f"some codes lie outside the codebooks (sizes {', '.join(map(str, self.codebook_sizes))})."
            )
