"""Independent speech recognition of English with pocketsphinx, with a general or a closed vocabulary.

The closed form is a trigram model of given texts: it can output their words in any order and nothing else, so it
favours no single sentence. Source of the smoothing: Witten and Bell 1991.
"""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_audio.data.alignment.utterance import decode_utterance
from baichuan_audio.errors import MissingDependencyError
from baichuan_audio.evaluation.text import tokens

SAMPLE_RATE = 16_000
_START, _END = "<s>", "</s>"
_SILENCE_SECONDS = 0.3
"""Padding before and after the speech: the recognizer loses words at the very ends."""


def pocketsphinx_decoder(**options: Any) -> Any:
    """A pocketsphinx decoder with its English acoustic model and cepstral mean normalization per utterance."""
    return _pocketsphinx().Decoder(loglevel="FATAL", cmn="batch", **options)


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise MissingDependencyError(
            "this measurement needs pocketsphinx: pip install 'baichuan-audio[train]'."
        ) from error
    return pocketsphinx


@functools.cache
def pronunciations() -> dict[str, list[str]]:
    """Every English word in pocketsphinx's dictionary -> its pronunciations in phones (ARPAbet)."""
    entries: dict[str, list[str]] = defaultdict(list)
    path = Path(_pocketsphinx().get_model_path("en-us/cmudict-en-us.dict"))
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, phones = line.partition(" ")
        entries[word.partition("(")[0]].append(phones)
    return dict(entries)


def write_dictionary(words: Mapping[str, Sequence[str]], path: Path) -> None:
    """Write a pronouncing dictionary in pocketsphinx's format; a small one loads and searches much faster."""
    lines = []
    for word, variants in words.items():
        for number, phones in enumerate(variants, 1):
            lines.append(f"{word} {phones}" if number == 1 else f"{word}({number}) {phones}")
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def padded_int16(waveform: np.ndarray, silence_seconds: float = _SILENCE_SECONDS) -> bytes:
    """Samples [S] at 16 kHz, float in [-1, 1] -> 16-bit PCM for pocketsphinx, padded with silence.

    The silence is faint noise: with digital zeros the features would have no variance.
    """
    silence = np.random.default_rng(0).normal(0.0, 3.0, round(silence_seconds * SAMPLE_RATE))
    samples = np.clip(waveform, -1.0, 1.0).astype(np.float32) * 32767.0
    return np.concatenate([silence, samples, silence]).round().astype(np.int16).tobytes()


class EnglishRecognizer:
    """Transcribes English. `texts`: sentences of the closed vocabulary; None: general English.

    Words without a known pronunciation are not part of the vocabulary and never recognized.
    """

    def __init__(self, texts: Sequence[str] | None = None) -> None:
        if texts is None:
            self._decoder = pocketsphinx_decoder()
            return
        known = pronunciations()
        sentences = [[word for word in tokens(text, "en") if word in known] for text in texts]
        with tempfile.TemporaryDirectory() as folder:
            dictionary, model = Path(folder) / "closed.dict", Path(folder) / "closed.lm"
            write_dictionary({word: known[word] for sentence in sentences for word in sentence}, dictionary)
            model.write_text("".join(arpa(sentences)), encoding="utf-8")
            self._decoder = pocketsphinx_decoder(dict=str(dictionary), lm=str(model))

    def transcribe(self, waveform: np.ndarray) -> str:
        """Samples [S] at 16 kHz -> transcript, "" for none."""
        return self.transcribe_bytes(padded_int16(waveform))

    def transcribe_bytes(self, samples: bytes) -> str:
        """`transcribe` for the bytes of `padded_int16`."""
        decode_utterance(self._decoder, samples)
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else str(hypothesis.hypstr)


def arpa(sentences: Iterable[Sequence[str]], order: int = 3) -> Iterator[str]:
    """The lines of an ARPA file: a Witten-Bell smoothed n-gram model of the sentences."""
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = (_START, *sentence, _END)
        for n in range(1, order + 1):
            counts[n - 1].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(count for gram, count in counts[0].items() if gram != (_START,))
    size = len(counts[0])
    probability = {gram: (count + 1) / (total + size) for gram, count in counts[0].items()}
    backoff: dict[tuple[str, ...], float] = {}
    for n in range(2, order + 1):
        followers: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for gram, count in counts[n - 1].items():
            followers[gram[:-1]].append(count)
        for gram, count in counts[n - 1].items():
            seen, kinds = sum(followers[gram[:-1]]), len(followers[gram[:-1]])
            probability[gram] = (count + kinds * probability[gram[1:]]) / (seen + kinds)
            backoff[gram[:-1]] = kinds / (seen + kinds)
    probability[(_START,)] = 10.0**-99  # only a context, never predicted

    yield "\\data\\\n"
    yield from (f"ngram {n}={len(counts[n - 1])}\n" for n in range(1, order + 1))
    for n in range(1, order + 1):
        yield f"\n\\{n}-grams:\n"
        for gram in sorted(counts[n - 1]):
            weight = f"\t{math.log10(backoff[gram]):.4f}" if gram in backoff else ""
            yield f"{math.log10(probability[gram]):.4f}\t{' '.join(gram)}{weight}\n"
    yield "\n\\end\\\n"


_worker: Any = None  # set once when a worker process starts


def _start_worker(build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _worker
    _worker = build(*arguments)


def _call_worker(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_worker, method)(*arguments)


def in_processes(
    build: Callable[..., Any],
    build_arguments: tuple[Any, ...],
    method: str,
    calls: Sequence[tuple[Any, ...]],
    processes: int,
) -> Iterator[Any]:
    """Results of `build(*build_arguments).method(*call)`, in order, from `processes` processes (1: this one)."""
    if not calls:
        return
    if processes <= 1 or len(calls) == 1:
        worker = build(*build_arguments)
        yield from (getattr(worker, method)(*call) for call in calls)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch may hang
    with ProcessPoolExecutor(processes, context, _start_worker, (build, build_arguments)) as pool:
        yield from pool.map(_call_worker, itertools.repeat(method), calls, chunksize=4)


def transcribe_all(
    waveforms: Sequence[np.ndarray], texts: Sequence[str] | None = None, processes: int = 1
) -> Iterator[str]:
    """Transcripts of waveforms [S] at 16 kHz; `texts` as for EnglishRecognizer."""
    calls = [(waveform,) for waveform in waveforms]
    return in_processes(EnglishRecognizer, (texts,), "transcribe", calls, processes)
