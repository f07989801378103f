"""CTC (Graves et al. 2006) over a language model's text embeddings, so that codes lie where its words lie.

A linear map of the quantised vector is compared with the embedding of every text unit. The audio embeddings of the
language model then start there (`embed_codebooks_as_text`): a frame looks to it like the word that is being
said, and hearing starts from reading.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ...audio_tokenizer.quantizer import codebooks
from ...errors import DataError
from ...language_model.text_tokenizer import TextTokenizer
from ...model import BaichuanAudio
from ..common.checkpointing import fit, module_weights
from ..common.distributed.world import ALONE, World
from ..common.initialise import embed_codebooks
from .text_loss import edit_distance, read_phonetic

_FRAMES = 512  # whose log-probabilities exist at a time
_RIDGE = 3e-3  # of the vectors' mean variance
_OTHER_THAN_TEXT = 0.2
_BLANK = "\n"  # measured: as a zero vector, whose norm varies from frame to frame, it misleads a frozen model more
_CHINESE = "\u3400", "\u9fff"
_UNIT = re.compile("[{0}-{1}]|[^\\s{0}-{1}]+".format(*_CHINESE))


class EmbeddingCtc(nn.Module):
    """Quantised vectors [B, T, W] -> log-probabilities [B, T, 1 + K] of K text units; column 0 is the blank.

    A unit is one text id, or a Chinese character with the mean of its ids' embeddings: 12.5 frames a second leave no
    room for two or three ids a character. units [K, L]: ids, -1 after the last; they are stored with the weights.
    """

    units: Tensor

    def __init__(self, model: BaichuanAudio, units: Tensor, vector_width: int) -> None:
        super().__init__()
        self.register_buffer("units", units)
        embeddings = model.language_model.embed_tokens.weight.detach().float().cpu()
        table = torch.stack([embeddings[unit[unit >= 0]].mean(0) for unit in units])
        width = embeddings.shape[1]
        self._tokenizer = model.text_tokenizer
        blank = embeddings[self._tokenizer.encode(_BLANK)].mean(0, keepdim=True)
        # No part of this module's parameters or state.
        self._embeddings = torch.cat([blank, table])
        self._directions = F.normalize(table - table.mean(0), dim=1) * math.sqrt(width)
        self._numbers = {tuple(unit[unit >= 0].tolist()): number for number, unit in enumerate(units, 1)}
        self.projection = nn.Linear(vector_width, width)
        self.blank = nn.Linear(vector_width, 1)
        nn.init.constant_(self.blank.bias, math.log(len(units)))  # most frames are blank

    def forward(self, vectors: Tensor) -> Tensor:
        directions = self._directions.to(vectors.device)
        scores = self.projection(vectors) @ directions.T / math.sqrt(directions.shape[1])
        return torch.cat([self.blank(vectors), scores], -1).float().log_softmax(-1)

    def expected(self, vectors: Tensor) -> Tensor:
        """vectors [T, W] -> the mean embedding of each frame's units [T, H], the blank counting as a line break."""
        return self(vectors).exp() @ self._embeddings.to(vectors.device)

    def numbers(self, text: str) -> list[int]:
        """The columns of a text's units; ones that `units` lacks are left out."""
        return [self._numbers[unit] for unit in text_units(text, self._tokenizer) if unit in self._numbers]

    def loss(
        self, vectors: Tensor, lengths: Tensor, transcripts: Sequence[str | None], run: World = ALONE
    ) -> Tensor | None:
        """Loss per unit over the rows that have a transcript: this process's part of the mean.

        vectors [B, T, W] with valid lengths [B]. Without a transcript None, or among several processes a zero, since
        all of them must have a gradient.
        """
        targets = [self.numbers(text) if text else [] for text in transcripts]
        rows = [row for row, target in enumerate(targets) if target]
        count = run.total(sum(len(targets[row]) for row in rows))
        if not rows:
            return None if run.size == 1 else 0.0 * self(vectors[:1, :1]).sum()
        device = vectors.device
        nll = F.ctc_loss(
            self(vectors[rows]).transpose(0, 1),
            torch.tensor([number for row in rows for number in targets[row]], device=device),
            lengths[rows],
            torch.tensor([len(targets[row]) for row in rows], device=device),
            reduction="sum",
            zero_infinity=True,  # speech with more units than frames
        )
        return nll / count.to(nll)

    def errors(self, vectors: Tensor, text: str) -> tuple[int, int]:
        """(edit distance between the best path of [T, W] and the text's units, number of units)."""
        target = self.numbers(text)
        return edit_distance(read_phonetic(self(vectors)), target), len(target)


def units_of(transcripts: Iterable[str | None], tokenizer: TextTokenizer) -> Tensor:
    """All units of these texts [K, L], sorted. Raises DataError where there is none."""
    units = {unit for text in set(transcripts) if text for unit in text_units(text, tokenizer)}
    if not units:
        raise DataError("no clip of the dataset has a transcript; embedding_ctc needs some.")
    return pad_sequence([torch.tensor(unit) for unit in sorted(units)], batch_first=True, padding_value=-1)


def text_units(text: str, tokenizer: TextTokenizer) -> list[tuple[int, ...]]:
    """The units of a text as inside a sentence: (id,) of a piece of a word, (id, id ...) of a Chinese character."""
    units: list[tuple[int, ...]] = []
    for part in _UNIT.findall(text):
        if _CHINESE[0] <= part <= _CHINESE[1]:
            units.append(tuple(tokenizer.encode(part)))
        else:
            units += [(number,) for number in tokenizer.encode(" " + part)]
    return units


def trained_embedding_ctc(trained: str | os.PathLike[str], model: BaichuanAudio) -> EmbeddingCtc:
    """The head that an output of the stage `tokenizer` holds, for the language model whose embeddings it learnt.

    Raises TrainingError where there is none, or one of other sizes.
    """
    weights = module_weights(trained, "embedding_ctc")
    head = EmbeddingCtc(model, weights["units"].long(), weights["projection.weight"].shape[1])
    fit(head, weights, trained)
    return head.eval()


@torch.no_grad()
def embed_codebooks_as_text(model: BaichuanAudio, ctc: EmbeddingCtc, codes: Tensor) -> float:
    """Initialise `audio_embed_layers` so that a frame's embedding is that of the text being spoken.

    The quantised vectors of `codes` [K, T] are mapped to the mean text embedding that the CTC head expects of them, by
    ridge regression; as a vector is the sum of codebook entries, each entry gets its share. A fifth of the embeddings
    of `initialise.embed_codebooks` is added, for what the text does not say. Returns the share of variance explained
    (R^2). `ctc` is on the CPU.
    """
    embed_codebooks(model, model.tokenizer)
    books = [book.embed.float().cpu() for book in codebooks(model.tokenizer.bridge.vq_list)]
    vectors = torch.stack([book[row] for book, row in zip(books, codes.cpu(), strict=True)]).sum(0)
    y = torch.cat([ctc.expected(part) for part in vectors.split(_FRAMES)]).double()
    x = vectors.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    covariance = x.T @ x
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype)
    weight = torch.linalg.solve(covariance + ridge, x.T @ y)
    shift = (y_mean - x_mean @ weight) / len(books)
    for embedding, book in zip(model.language_model.audio_embed_layers, books, strict=True):
        entries: Tensor = embedding.weight[:-1]  # type: ignore[index,assignment]
        entries.mul_(_OTHER_THAN_TEXT).add_((book.double() @ weight + shift).to(entries))
    return 1 - float((y - x @ weight).square().sum() / y.square().sum())
