"""Whisper as a judge of Mandarin: which of several texts is said.

It was trained on human speech. It hardly transcribes Mandarin of formant synthesizers, but it nearly always selects the
right one of several texts (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baichuan_audio.evaluation import whisper
from baichuan_audio.evaluation.text import tokens
from baichuan_audio.evaluation.whisper import padded

_MIN_PROBABILITY = 1e-12  # of a token


class Whisper(whisper.Whisper):
    """The package's recogniser, which also selects one of several texts."""

    def choose(self, waveform: np.ndarray, texts: Sequence[str]) -> int:
        """Index of the most likely text of samples [S], at most 30 s."""
        return int(np.argmax(self.scores(waveform, texts)))

    def scores(self, waveform: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Log probability of each text's words, including its end, given samples [S].

        Of the words without punctuation: a comma is inaudible, and lowers a text's score by 7 to 12 nats.
        """
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self.model.hf_tokenizer, True, task="transcribe", language=self.language)
        between = "" if self.language == "zh" else " "
        features = self.model.feature_extractor(padded(waveform))
        frames = self.model.feature_extractor.nb_max_frames
        features = np.pad(features[:, :frames], ((0, 0), (0, max(0, frames - features.shape[1]))))
        encoded = np.repeat(np.array(self.model.encode(features)), len(texts), axis=0)
        alignments = self.model.model.align(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            [*tokenizer.sot_sequence, tokenizer.no_timestamps],
            [[*tokenizer.encode(between.join(tokens(text, self.language))), tokenizer.eot] for text in texts],
            num_frames=frames,
        )
        return [
            float(np.log(np.maximum(alignment.text_token_probs, _MIN_PROBABILITY)).sum()) for alignment in alignments
        ]
