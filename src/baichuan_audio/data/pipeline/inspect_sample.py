"""A sample as a person wants to see it: segments with their masks, words, waveform, codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...language_model.prompt import SpecialTokens
from ...language_model.text_tokenizer import TextTokenizer
from ..sequences import SequenceBuilder
from ..store.records import FRAME_SAMPLES, SAMPLE_RATE, Sample, Segment
from ..store.token_sequences import mask_runs, token_sequence

_BARS = " ▁▂▃▄▅▆▇█"
_LINE = 100


def describe(
    sample: Sample,
    waveform: NDArray[np.float32] | None = None,
    codes: NDArray[np.int64] | None = None,
    tokens: tuple[TextTokenizer, SpecialTokens] | None = None,
) -> str:
    """The page of one sample.

    waveform [S] at 24 kHz and codes [K, T], where they are to be shown; tokens: with codes, for the mask of positions.
    """
    who = f"{sample.language or '-'}  {sample.speaker or '-'}"
    lines = [
        f"{sample.id}",
        f"{sample.kind}  {who}  {sample.seconds:.2f} s  split {sample.split}",
        f"licence: {sample.license}",
        f"origin: {sample.origin}  source: {sample.source}",
        f"transforms: {'; '.join(sample.transforms) or '-'}",
    ]
    if sample.scores:
        lines.append("scores: " + "  ".join(f"{name} {value:g}" for name, value in sorted(sample.scores.items())))
    lines += ["", " #  kind   role    loss  seconds        frames     text"]
    lines += [_segment_line(number, segment) for number, segment in enumerate(sample.segments)]
    if sample.words:
        words = [f"{w.start / SAMPLE_RATE:.2f}-{w.end / SAMPLE_RATE:.2f} {w.text}" for w in sample.words]
        lines += ["", "words (seconds):", *_wrapped(words, " | ")]
    if waveform is not None:
        lines += ["", "waveform (80 ms a character):", *_wrapped_text(_bars(waveform))]
    if codes is not None:
        lines += ["", f"codes: {codes.shape[0]} x {codes.shape[1]}, the first codebook:"]
        lines += _wrapped([str(code) for code in codes[0].tolist()], " ")
        if tokens is not None:
            tokenizer, special = tokens
            sequence = token_sequence(sample, codes, SequenceBuilder(tokenizer, special, codes.shape[0]))
            names = {
                value: field.name
                for field in dataclasses.fields(special)
                if isinstance(value := getattr(special, field.name), int)
            }
            runs = [f"{name} x{count} {loss}" for name, count, loss in mask_runs(sequence, names)]
            lines += ["", f"{len(sequence)} positions (. no loss, t text, a audio, b both):", *_wrapped(runs, " | ")]
    return "\n".join(lines) + "\n"


def _segment_line(number: int, segment: Segment) -> str:
    loss = "yes" if segment.loss else "-"
    seconds = frames = "-"
    if segment.kind == "audio":
        seconds = f"{segment.start / SAMPLE_RATE:.2f}-{segment.end / SAMPLE_RATE:.2f}"
        frames = "{}-{}".format(*segment.frames)
    columns = f"{number:2}  {segment.kind:5}  {segment.role:6}  {loss:4}  {seconds:13}  {frames:9}"
    return f"{columns}  {segment.text.strip()}".rstrip()


def _bars(waveform: NDArray[np.float32]) -> str:
    size = -(-len(waveform) // FRAME_SAMPLES) * FRAME_SAMPLES
    frames = np.pad(waveform, (0, size - len(waveform))).reshape(-1, FRAME_SAMPLES)
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-10)
    places = np.clip((level + 60) / 50 * (len(_BARS) - 1), 0, len(_BARS) - 1).round().astype(int)
    return "".join(_BARS[step] for step in places)


def _wrapped(items: Sequence[str], between: str) -> list[str]:
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(between) + len(item) > _LINE:
            lines.append("")
        lines[-1] += (between if lines[-1] else "") + item
    return lines


def _wrapped_text(text: str) -> list[str]:
    return [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
