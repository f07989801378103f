"""The tokenizer's text loss through the frozen text decoder of a Whisper model (arXiv 2212.04356).

An encoder that starts from Whisper gives features that this decoder reads already, so its cross-entropy of the
transcript says from the first step on which words the codes have lost. The report takes a language model in this place
(docs/model.md, 8); `frozen_text_model` is that form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ...errors import CheckpointError
from ...layers.attention import TransformerLayer
from ...layers.lengths import valid_mask
from ...pretrained.whisper import MODEL_BIN, read_whisper
from ...pretrained.whisper_decoder import WhisperTextDecoder
from ...safetensors_io import read_json
from ..common.distributed.world import ALONE, World

_LAYERS = 2
_FEATURE_STD = 1.4  # of Whisper base's encoder output on speech; the bridge normalises its vectors to 1
_PROMPT = ("<|startoftranscript|>", "<|{language}|>", "<|transcribe|>", "<|notimestamps|>")
_END = "<|endoftext|>"


class FrozenWhisper(nn.Module):
    """Projection and two layers, which learn, from code frames back to 50 Hz features; the decoder behind them is no
    part of this module's parameters or state."""

    def __init__(self, directory: str | Path, vector_width: int) -> None:
        super().__init__()
        whisper = read_whisper(directory)
        decoder = WhisperTextDecoder.from_pretrained(whisper).requires_grad_(False).eval()
        width = whisper.encoder["d_model"]
        self.pool = vector_width // width
        self.projection = nn.Linear(vector_width, self.pool * width)
        if vector_width == self.pool * width:  # the vectors are the encoder's features, normalised
            nn.init.eye_(self.projection.weight)
            with torch.no_grad():
                self.projection.weight.mul_(_FEATURE_STD)
        nn.init.zeros_(self.projection.bias)
        heads = whisper.encoder["encoder_attention_heads"]
        self.layers = nn.ModuleList(TransformerLayer(width, heads, 4 * width) for _ in range(_LAYERS))
        for layer in self.layers:  # nothing is added at first
            for last in (layer.self_attn.out_proj, layer.fc2):  # type: ignore[union-attr]
                nn.init.zeros_(last.weight)  # type: ignore[union-attr,arg-type]
                nn.init.zeros_(last.bias)  # type: ignore[union-attr,arg-type]
        self._frozen = (decoder, _tokenizer(Path(directory)))

    def loss(
        self,
        vectors: Tensor,
        lengths: Tensor,
        texts: Sequence[str | None],
        languages: Sequence[str],
        run: World = ALONE,
    ) -> Tensor | None:
        """Cross-entropy per text id over the rows that have a text: this process's part of the mean.

        vectors [B, T, W] with valid lengths [B]. Without a text None, or among several processes a zero, since all of
        them must have a gradient.
        """
        decoder, tokenizer = self._frozen
        decoder.to(vectors.device)
        rows = [i for i, text in enumerate(texts) if text]
        inputs, targets = [], []
        for i in rows:
            prompt = [tokenizer.token_to_id(token.format(language=languages[i])) for token in _PROMPT]
            written = tokenizer.encode(" " * (languages[i] != "zh") + (texts[i] or ""), add_special_tokens=False).ids
            ids = [*prompt, *written, tokenizer.token_to_id(_END)]
            inputs.append(torch.tensor(ids[:-1]))
            targets.append(torch.tensor([-100] * (len(prompt) - 1) + ids[len(prompt) :]))
        count = run.total(sum(int((target >= 0).sum()) for target in targets))
        if not rows:
            return None if run.size == 1 else 0.0 * self.features(vectors[:1], lengths[:1])[0].sum()
        target = pad_sequence(targets, batch_first=True, padding_value=-100).to(vectors.device)
        padded = pad_sequence(inputs, batch_first=True).to(vectors.device)
        features, feature_lengths = self.features(vectors[rows], lengths[rows])
        has_target = target >= 0
        nll = F.cross_entropy(
            decoder(padded, features, feature_lengths)[has_target].float(), target[has_target], reduction="sum"
        )
        return nll / count.to(nll)

    def features(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """vectors [B, T, W], valid [B] -> the decoder's features [B, pool T, D], valid [B]."""
        x = self.projection(vectors).unflatten(-1, (self.pool, -1)).flatten(1, 2)
        feature_lengths = lengths * self.pool
        mask = valid_mask(feature_lengths, x.shape[1])[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x, feature_lengths


def is_whisper(directory: str | Path) -> bool:
    """Whether a folder holds a Whisper model rather than a checkpoint of this project."""
    directory = Path(directory)
    if (directory / MODEL_BIN).is_file():
        return True
    config = directory / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "whisper"


def _tokenizer(directory: Path) -> Tokenizer:
    file = directory / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; the text loss needs the Whisper model's tokenizer.")
    return Tokenizer.from_file(str(file))
