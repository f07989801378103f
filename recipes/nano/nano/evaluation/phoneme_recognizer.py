"""Speech read back by the phonetic head that an audio tokenizer was trained with, above all Mandarin.

It reads the waveform anew, tones included, where pocketsphinx' English model can only guess. It is not an independent
recogniser: its encoder had the same training as the one the codes came from, so it forgives what that forgives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.audio.mel import whisper_log_mels
from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.data.alignment.phone_alignment import PHONES_PER_FRAME
from baichuan_audio.text.phonemes import phonetic_symbols
from baichuan_audio.training.common.checkpointing import load_module
from baichuan_audio.training.tokenizer.text_loss import ctc_nll, phoneme_errors, trained_head


class PhonemeRecognizer:
    """`trained` is the output folder of the stage `tokenizer`, `config` the `config.json` it was trained with.

    Raises TrainingError where the folder has no state, or another model's.
    """

    def __init__(self, trained: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self._tokenizer = AudioTokenizer.from_config(dict(config)).eval()
        load_module(trained, "tokenizer", self._tokenizer)
        self._head = trained_head(trained, self._tokenizer.config)

    @torch.no_grad()
    def listen(self, waveform: np.ndarray) -> Tensor:
        """Samples [S] at the tokenizer's rate -> log-probabilities [N, V] of the sounds, silence first."""
        tokenizer, samples = self._tokenizer, torch.from_numpy(waveform).float()[None]
        length = torch.tensor([samples.shape[1]])
        log_mel, frames = whisper_log_mels(samples, length, tokenizer.config.mel, tokenizer.config.max_audio_seconds)
        lengths = tokenizer.encoder.output_lengths(frames)
        vectors = tokenizer.bridge.pooled(tokenizer.encoder(log_mel, frames), lengths)
        count = int(tokenizer.bridge.output_lengths(lengths)[0]) * PHONES_PER_FRAME
        log_probabilities: Tensor = self._head(vectors)[0, :count]
        return log_probabilities

    def errors(self, waveform: np.ndarray, text: str) -> tuple[int, int]:
        """Sounds read wrongly (by edit distance), and the sounds of the text."""
        symbols = phonetic_symbols(text)
        return phoneme_errors(self.listen(waveform), symbols), len(symbols)

    def choose(self, waveform: np.ndarray, texts: Sequence[str]) -> int:
        """Index of the text with the likeliest sounds (connectionist temporal classification)."""
        log_probabilities = self.listen(waveform)
        return int(np.argmin([ctc_nll(log_probabilities, phonetic_symbols(text)) for text in texts]))
