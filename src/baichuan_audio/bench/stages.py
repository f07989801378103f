"""The timed stages; each has one case per path."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ..acceleration import Decoder, RowRequest, weight_bytes
from ..acceleration.cpu.int8_cache import SCALE_BYTES
from ..acceleration.cpu.model import CompiledLinear, NativeLanguageModel, NativeLinear
from ..generation.reply import ReplySampling
from ..generation.sequence import FrameRequest, TextRequest
from ..generation.session import Session
from ..model import BaichuanAudio
from ..synthesis import SpeechStream
from .models import decode_elements
from .timing import Case

QUESTION_SECONDS = 5.0
FIRST_CLAUSE = (8, 24)
"""Text tokens and code frames of the first clause of a measured reply; the second has as many."""
_RUN = (3, 6)  # the same of one run of words, with its mark, for models with continuous speech


@dataclass(frozen=True)
class Stage:
    """A stage that is timed on every path.

    unit: name of what one timing counts. reads, operations: bytes read and operations of one unit, for the floor (0:
    no floor). audio_seconds: audio of one unit, for stages with a real-time factor.
    """

    name: str
    title: str
    unit: str
    cases: Mapping[str, Case]
    reads: Mapping[str, float]
    operations: float = 0.0
    audio_seconds: float = 0.0


class RepeatedSession:
    """A session that is cut back to the same history before each repeat."""

    def __init__(self, model: BaichuanAudio, history: int) -> None:
        sampling = ReplySampling.from_config(model.config)
        self.text, self.frame = TextRequest(sampling.first), FrameRequest(sampling.codes)
        generator = torch.Generator().manual_seed(history)
        self.ids = torch.randint(3, 200, (history,), generator=generator).tolist()
        self.model, self.history = model, history
        self.session: Session | None = None

    def restore(self) -> None:
        """Cut the session back to its history, which is in the cache."""
        if self.session is None:
            self.session = self.model.start(self.ids, seed=1)
        self.session.truncate(self.history)

    def restore_to_segment(self) -> None:
        """The same, with an audio segment begun."""
        self.restore()
        assert self.session is not None
        self.session.begin_segment()

    def write(self, count: int, request: TextRequest | FrameRequest) -> None:
        """Generate `count` text tokens or code frames."""
        session = self.session
        assert session is not None
        for _ in range(count):
            session.append(session.decode(request))  # type: ignore[arg-type]


def prefill(paths: Mapping[str, BaichuanAudio], positions: int) -> Stage:
    """Prefill of a text prompt."""
    cases = {}
    for name, model in paths.items():
        ids = RepeatedSession(model, positions).ids
        cases[name] = Case(lambda model=model, ids=ids: model.start(ids), positions)  # type: ignore[misc]
    reads = {name: _decode_bytes(model, text=None) / positions for name, model in paths.items()}
    operations = 2.0 * decode_elements(paths["reference"], text=True)
    return Stage(f"prefill_{positions}", f"prefill of {positions}", "token", cases, reads, operations)


def text(paths: Mapping[str, BaichuanAudio], history: int, count: int) -> Stage:
    """Text tokens after a history."""
    return Stage(f"text_{history}", f"text after {history}", "token", *_generation(paths, history, count, text=True))


def frames(paths: Mapping[str, BaichuanAudio], history: int, count: int) -> Stage:
    """Code frames after a history."""
    title, seconds = f"code frames after {history}", 1 / paths["reference"].tokenizer.frame_rate
    return Stage(f"frames_{history}", title, "frame", *_generation(paths, history, count, text=False), seconds)


def _generation(
    paths: Mapping[str, BaichuanAudio], history: int, count: int, text: bool
) -> tuple[dict[str, Case], dict[str, float], float]:
    """Cases, bytes read and operations of `count` text tokens or code frames after a history."""
    cases = {}
    for name, model in paths.items():
        session = RepeatedSession(model, history)
        request = session.text if text else session.frame
        prepare = session.restore if text else session.restore_to_segment
        cases[name] = Case(partial(session.write, count, request), count, prepare)
    reads = {name: _decode_bytes(model, text, history + count // 2) for name, model in paths.items()}
    return cases, reads, 2.0 * decode_elements(paths["reference"], text)


def batch(model: BaichuanAudio, rows: int, history: int, count: int) -> Stage:
    """Code frames of many rows in one step; `model` is optimized. A unit is a step of all rows."""
    sources = [RepeatedSession(model, history) for _ in range(rows)]
    decoder = Decoder(model.language_model, model.audio_head, rows, history + count + 2)
    sequences = [Session(model.language_model, model.audio_head, model.special, seed) for seed in range(rows)]

    def prepare() -> None:
        for row, (sequence, source) in enumerate(zip(sequences, sources, strict=True)):
            if not len(sequence):
                sequence.extend(source.ids)
            sequence.truncate(history)
            sequence.begin_segment()
            decoder.read(row, sequence)

    def work() -> None:
        requests = [RowRequest(row, sequence, sources[row].frame) for row, sequence in enumerate(sequences)]
        for _ in range(count):
            for sequence, frame in zip(sequences, decoder.decode(requests), strict=True):
                sequence.append(frame)  # type: ignore[arg-type]

    other_rows = history * (rows - 1)
    return Stage(
        f"batch_{rows}",
        f"code frames of {rows} rows after {history}",
        "step",
        {"optimized": Case(work, count, prepare)},
        {"optimized": _decode_bytes(model, False, history + other_rows)},
        2.0 * rows * decode_elements(model, text=False),
        1 / model.tokenizer.frame_rate,
    )


def encode(model: BaichuanAudio, seconds: float) -> Stage:
    """Waveform to codes; all paths share this stage."""
    waveform, rate = question(model, seconds), model.tokenizer.config.sampling_rate
    case = Case(lambda: model.tokenizer.encode(waveform, rate))
    return Stage(
        f"encode_{seconds:g}s", f"encode {seconds:g} s of audio", "clip", {"optimized": case}, {}, audio_seconds=seconds
    )


def decode(model: BaichuanAudio, count: int) -> Stage:
    """Codes to waveform; all paths share this stage."""
    codes = random_codes(model, count)
    case = Case(lambda: model.tokenizer.decode(codes))
    seconds = count / model.tokenizer.frame_rate
    return Stage(
        f"decode_{seconds:g}s", f"decode {seconds:g} s of audio", "clip", {"optimized": case}, {}, audio_seconds=seconds
    )


def first_audio(paths: Mapping[str, BaichuanAudio]) -> Stage:
    """From the end of a spoken question to the first audio; the reference path completes its first clause before."""
    cases = {name: Case(_talk(model, name, first_only=True)) for name, model in paths.items()}
    return Stage("first_audio", f"first audio after {QUESTION_SECONDS:g} s of question", "reply", cases, {})


def chat(paths: Mapping[str, BaichuanAudio]) -> Stage:
    """A spoken question and the whole of a reply of two clauses."""
    cases = {name: Case(_talk(model, name, first_only=False)) for name, model in paths.items()}
    seconds = 2 * FIRST_CLAUSE[1] / paths["reference"].tokenizer.frame_rate
    return Stage("chat", f"whole reply of {seconds:g} s", "reply", cases, {}, audio_seconds=seconds)


def question(model: BaichuanAudio, seconds: float) -> Tensor:
    """Noise [S] at the audio tokenizer's rate; the content does not change the time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(int(seconds * model.tokenizer.config.sampling_rate), generator=generator) * 0.1


def random_codes(model: BaichuanAudio, count: int) -> Tensor:
    """Random codes [K, count] within the codebook sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = model.tokenizer.codebook_sizes
    codes = torch.stack([torch.randint(0, size, (count,), generator=generator) for size in sizes])
    return codes.to(model.language_model.norm.weight.device)


def _talk(model: BaichuanAudio, path: str, first_only: bool) -> Callable[[], None]:
    """One turn with fixed numbers of tokens and frames; the reference path decodes a clause when it is complete."""
    waveform = question(model, QUESTION_SECONDS)
    sampling = ReplySampling.from_config(model.config)
    tokens, count = _RUN if model.continuous_speech else FIRST_CLAUSE

    def decode_clause(codes: list[Tensor]) -> int:
        return model.tokenizer.decode(torch.stack(codes, dim=1)).cpu().shape[0]

    def run() -> None:
        codes = model.tokenizer.encode(waveform, model.tokenizer.config.sampling_rate)
        builder = model.prompt_builder().system(model.system_text()).user().audio(codes).reply(spoken=True)
        prompt = builder.build()
        session = model.start(prompt.ids, prompt.codes, seed=1)
        stream = SpeechStream(model)
        for _ in range(2):
            clause: list[Tensor] = []
            while len(clause) < FIRST_CLAUSE[1]:
                for _ in range(tokens):
                    session.append(session.decode(TextRequest(sampling.first)))  # type: ignore[arg-type]
                session.begin_segment()
                for _ in range(count):
                    frame = session.decode(FrameRequest(sampling.codes))
                    session.append(frame)  # type: ignore[arg-type]
                    clause.append(torch.tensor(frame))
                    if path != "reference" and stream.push(clause[-1][:, None]).numel() and first_only:
                        return
                session.append(model.special.audiogen_end)
            if path == "reference":
                decode_clause(clause)
                if first_only:
                    return
            elif not model.continuous_speech:
                stream.end_segment()
        stream.finish()

    return run


def _decode_bytes(model: BaichuanAudio, text: bool | None, history: int = 0) -> float:
    """Bytes that one decode step must read: weights of its path, and keys and values of `history` positions.

    text: a text step, a code frame, or (None) the backbone alone.
    """
    language_model, head = model.language_model, model.audio_head
    layers, last = language_model.layers, cast(nn.Module, language_model.lm_head)
    if isinstance(language_model, NativeLanguageModel) and text is not None:  # in bfloat16 it has others for prompts
        layers, last = language_model.steps, cast(NativeLinear | CompiledLinear, last).packed
    total = weight_bytes(layers)
    if text:
        total += weight_bytes(last)
    elif text is not None:
        total += weight_bytes(head.transformer_layers) + weight_bytes(head.heads)
    config = language_model.config
    position = language_model.norm.weight.element_size() * config.head_width
    if language_model.int8_cache:
        position = config.head_width + SCALE_BYTES
    return total + history * position * 2 * config.num_hidden_layers * config.key_value_heads


def flow_steps(model: BaichuanAudio, count: int) -> list[dict[str, float]]:
    """Seconds and relative mel error against 32 steps, by number of solver steps, for `count` frames."""
    with torch.inference_mode():
        tokenizer = model.tokenizer
        hidden = tokenizer.decoder_hidden(tokenizer.dequantize(random_codes(model, count)))
        mu = model.flow.prenet(hidden)
        noise = torch.randn(mu.T.shape, generator=torch.Generator().manual_seed(0)).to(mu.device)
        exact = model.flow.sample(mu, noise, 32).float()
        rows = []
        for steps in sorted({2, 4, 6, 10, model.flow.config.diffusion_steps}):
            start = time.perf_counter()
            mel = model.flow.sample(mu, noise, steps).float()
            error = float((mel - exact).norm() / exact.norm())
            rows.append({"steps": steps, "seconds": time.perf_counter() - start, "error": error})
    return rows
