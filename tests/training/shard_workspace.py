"""Shards with codes of every kind of sample, made without audio."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from baichuan_audio.data.store.records import FRAME_SAMPLES, Sample, Segment
from baichuan_audio.data.store.shards import ShardWriter, write_index
from baichuan_audio.language_model.prompt import TRANSCRIBE_INSTRUCTION

_REPLY = "reply"
LAYOUTS: dict[str, list[tuple[str, int, bool, str]]] = {
    # text, frames of its audio (0: it is text), loss, role
    "itts": [("Hi,", 0, False, _REPLY), ("", 5, True, _REPLY), (" you.", 0, True, _REPLY), ("", 4, True, _REPLY)],
    "intlv": [("", 6, False, _REPLY), (" two", 0, True, _REPLY), ("", 3, False, _REPLY), (" four", 0, True, _REPLY)],
    "asr": [(TRANSCRIBE_INSTRUCTION, 0, False, "prompt"), ("Hot", 4, False, "user"), ("Hot", 0, True, _REPLY)],
    "aqa": [("Which?", 3, False, "user"), ("Blue.", 0, True, _REPLY)],
    "s2tt": [("Hello", 4, False, "user"), ("你好", 0, True, _REPLY)],
    "tts": [("Yes", 0, False, _REPLY), ("", 4, True, _REPLY), (" no", 0, False, _REPLY), ("", 3, True, _REPLY)],
    "audio": [("", 5, True, _REPLY)],
    "sft": [
        *[("Be Ada.", 0, False, "system"), ("Hi?", 3, False, "user")],
        *[("Hey,", 0, True, _REPLY), ("", 4, True, _REPLY)],
    ],
}


def sample(kind: str, number: int = 0, repeats: int = 1, split: str = "train") -> Sample:
    """A sample of one kind; `repeats` times its segments, where the kind allows it."""
    segments, at = [], 0
    for text, frames, loss, role in LAYOUTS[kind] * repeats:
        end = at + frames * FRAME_SAMPLES
        segments.append(
            Segment("audio" if frames else "text", text, at if frames else 0, end if frames else 0, loss, role)
        )
        at = end
    return Sample(
        f"{kind}:{split}{number}", kind, "en", "Ada", "CC0-1.0", "tests", "made", (), at, tuple(segments), split=split
    )


def codes_of(sample: Sample, num_codebooks: int = 8, size: int = 16) -> np.ndarray:
    """Codes [K, T] that depend on the sample's id."""
    rng = np.random.default_rng(list(sample.id.encode()))
    return rng.integers(size, size=(num_codebooks, sample.samples // FRAME_SAMPLES))


def write_shards(root: Path, samples: list[Sample]) -> Path:
    """One shard of samples with their codes."""
    root.mkdir(parents=True)
    writer = ShardWriter(root / "00000.tar", "00000.tar")
    for one in samples:
        buffer = io.BytesIO()
        np.save(buffer, codes_of(one).astype(np.uint16))
        writer.add(one, {"codes.npy": buffer.getvalue()})
    writer.close()
    write_index(root, writer.entries, {})
    return root


def shards_of_every_kind(root: Path, count: int = 3) -> Path:
    """`count` training samples and two held-out ones of each kind, of different lengths."""
    samples = [
        sample(kind, number, 1 + number % 3 if kind in ("itts", "intlv", "tts") else 1, split)
        for split, several in (("train", count), ("validation", 2))
        for kind in LAYOUTS
        for number in range(several)
    ]
    return write_shards(root, samples)
