"""One segment from codes to samples, every stage with its own state."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..audio_tokenizer.model import AudioTokenizer
from ..flow_decoder.model import FlowDecoder
from .noise import segment_noise


class Vocoder(Protocol):
    """What a stream asks of a vocoder; `Hift` and `Vocos` are such."""

    @property
    def sample_rate(self) -> int: ...

    def init_state(self, batch: int) -> Any: ...

    def stream(self, mel: Tensor, state: Any, last: bool = False) -> Tensor: ...


class SynthesisModel(Protocol):
    """The parts that make sound of codes; `pipeline.BaichuanAudio` has them."""

    tokenizer: AudioTokenizer
    flow: FlowDecoder
    vocoder: Any  # a Vocoder, kept as a module


class SegmentStream:
    """Codes of one segment in, samples out. All state is the stream's own; the model is only read.

    Audio decoder and prenet are causal and run on from their caches. The velocity network sees whole attention
    chunks: a full chunk is sampled once and for good. Before it is full, `early` samples what there is of it and
    gives that out; nothing of such a sampling is kept, so that later frames are what they are without it.
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
        self._given = 0  # frames of the unfinished chunk that were given out early

    @torch.no_grad()
    def advance(self, codes: Tensor | None, early: bool = False, last: bool = False) -> Tensor:
        """The next codes [K, n] -> samples [s] that are now certain.

        early: also what can be said of an unfinished attention chunk. last: no code follows; all that is left.
        """
        if codes is not None:
            embeddings = self._model.tokenizer.dequantize(codes)[None]
            hidden = self._model.tokenizer.decoder.stream(embeddings, self._decoder_state)
            mu = self._model.flow.prenet(hidden, self._prenet_cache)[0]
            self._mu = mu if self._mu is None else torch.cat([self._mu, mu])
        mels = []
        while self._mu is not None and len(self._mu) >= self._chunk:
            mels.append(self._sample(self._mu[: self._chunk], keep=True)[:, self._given :])
            self._mu = self._mu[self._chunk :]
            self._sampled, self._given = self._sampled + self._chunk, 0
        rest = 0 if self._mu is None else len(self._mu)
        if self._mu is not None and rest > self._given and (early or last):
            mels.append(self._sample(self._mu, keep=False)[:, self._given :])
            self._given = rest
        mel = torch.cat(mels, dim=1) if mels else self._mel_of_nothing()
        return self._vocoder.stream(mel[None].float(), self._vocoder_state, last)[0].float()

    def _sample(self, mu: Tensor, keep: bool) -> Tensor:
        """Mel [M, l] of the attention chunk's frames mu [l, M], all of it or all there is."""
        noise = segment_noise(self._sampled + len(mu), mu.shape[1])[self._sampled :].T.to(mu.device)
        state = self._flow_state if keep else self._flow_state.copy()
        return self._model.flow.sample_chunk(mu, noise, state)

    def _mel_of_nothing(self) -> Tensor:
        weight = self._model.flow.prenet.out_proj.weight  # for its device
        return weight.new_zeros(self._model.flow.config.in_channels, 0)
