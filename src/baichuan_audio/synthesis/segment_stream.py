"""Streamed synthesis of one segment: every stage with its own state."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..audio_tokenizer.model import AudioTokenizer
from ..flow_decoder.model import FlowDecoder
from .noise import segment_noise


class Vocoder(Protocol):
    """The interface that a stream needs; `Hift` and `Vocos` have it."""

    @property
    def sample_rate(self) -> int: ...

    def init_state(self, batch: int) -> Any: ...

    def stream(self, mel: Tensor, state: Any, last: bool = False) -> Tensor: ...


class SynthesisModel(Protocol):
    """The parts that turn codes into a waveform; `BaichuanAudio` has them."""

    tokenizer: AudioTokenizer
    flow: FlowDecoder
    vocoder: Any  # a Vocoder, kept as a module


class SegmentStream:
    """Codes of one segment in, samples out. The state belongs to the stream; the model is not changed.

    Audio decoder and prenet are causal and continue from their caches. The velocity network needs whole attention
    chunks: a full chunk is sampled once. Before it is full, `early` samples and returns its first frames; the state is
    not kept then, so that later frames do not depend on it.
    """

    def __init__(self, model: SynthesisModel) -> None:
        self._model = model
        decoder, flow = model.tokenizer.decoder, model.flow
        self._decoder_state = decoder.init_state()
        self._prenet_cache = flow.prenet.init_cache()
        self._flow_state = flow.init_state()
        vocoder: Vocoder = model.vocoder
        self._vocoder, self._vocoder_state = vocoder, vocoder.init_state(1)
        self._chunk = flow.config.attention_chunk_frames
        self._mu: Tensor | None = None  # [l, M] of the unfinished attention chunk
        self._sampled = 0  # frames of full chunks
        self._returned = 0  # frames of the unfinished chunk returned early

    @torch.no_grad()
    def advance(self, codes: Tensor | None, early: bool = False, last: bool = False) -> Tensor:
        """The next codes [K, n] -> samples [s] that are final.

        early: also those of an unfinished attention chunk. last: no code follows; returns all the rest.
        """
        if codes is not None:
            embeddings = self._model.tokenizer.dequantize(codes)[None]
            hidden = self._model.tokenizer.decoder.stream(embeddings, self._decoder_state)
            mu = self._model.flow.prenet(hidden, self._prenet_cache)[0]
            self._mu = mu if self._mu is None else torch.cat([self._mu, mu])
        mels = []
        while self._mu is not None and len(self._mu) >= self._chunk:
            mels.append(self._sample(self._mu[: self._chunk], keep=True)[:, self._returned :])
            self._mu = self._mu[self._chunk :]
            self._sampled, self._returned = self._sampled + self._chunk, 0
        rest = 0 if self._mu is None else len(self._mu)
        if self._mu is not None and rest > self._returned and (early or last):
            mels.append(self._sample(self._mu, keep=False)[:, self._returned :])
            self._returned = rest
        mel = torch.cat(mels, dim=1) if mels else self._empty_mel()
        return self._vocoder.stream(mel[None].float(), self._vocoder_state, last)[0].float()

    def _sample(self, mu: Tensor, keep: bool) -> Tensor:
        """Mel [M, l] of the frames mu [l, M] of an attention chunk, full or not. keep: update the state."""
        noise = segment_noise(self._sampled + len(mu), mu.shape[1])[self._sampled :].T.to(mu.device)
        state = self._flow_state if keep else self._flow_state.copy()
        return self._model.flow.sample_chunk(mu, noise, state)

    def _empty_mel(self) -> Tensor:
        weight = self._model.flow.prenet.out_proj.weight  # for its device
        return weight.new_zeros(self._model.flow.config.in_channels, 0)
