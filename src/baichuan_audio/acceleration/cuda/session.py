"""Sessions whose decode steps run in a shared Decoder."""

from __future__ import annotations

import weakref

import torch

from ...errors import PromptError
from ...generation.sequence import DecodeRequest, DecodeResult
from ...generation.session import Session
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...language_model.prompt import SpecialTokens
from .decoder import Decoder, RowRequest


class DecoderSession(Session):
    """A Session that is one row of a Decoder."""

    def __init__(self, decoder: Decoder, row: int, head: AudioHead, special: SpecialTokens, seed: int | None) -> None:
        super().__init__(decoder.model, head, special, seed)
        self._decoder, self._row = decoder, row

    @torch.inference_mode()
    def decode(self, request: DecodeRequest) -> DecodeResult:
        """See Session."""
        if not len(self):
            raise PromptError("the sequence is empty; give a prompt first.")
        self._read_pending()
        return self._decoder.decode([RowRequest(self._row, self, request)])[0]

    def _read_pending(self) -> None:
        """Read all but the last position, which the next decode step reads."""
        self._decoder.read(self._row, self)


class DecoderSessions:
    """A session factory: up to `rows` sessions share one Decoder, made at the first call; more are plain Sessions."""

    def __init__(self, rows: int, capacity: int) -> None:
        self._rows, self._capacity = rows, capacity
        self._decoder: Decoder | None = None
        self._free = list(range(rows))

    def __call__(
        self, model: LanguageModel, head: AudioHead, special: SpecialTokens, seed: int | None = None
    ) -> Session:
        if self._decoder is None:
            self._decoder = Decoder(model, head, self._rows, self._capacity)
        if not self._free:
            return Session(model, head, special, seed)
        row = self._free.pop(0)
        session = DecoderSession(self._decoder, row, head, special, seed)
        weakref.finalize(session, self._free.append, row)
        return session
