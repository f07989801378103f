"""Shards -> a clip store, which the stages that learn from waveforms read (tokenizer, flow decoder, vocoder)."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .manifest import ClipWriter, normalise_transcript
from .records import Sample
from .shards import ShardReader

_KINDS = ("asr", "tts", "audio")
"""A piece of speech may be a sample of each of these kinds; it becomes one clip, with its text where one is known."""


def add_clips(shards: str | Path, output: str | Path) -> int:
    """Adds one clip for every piece of speech in the shards to the store `output`; returns how many are new.

    Pieces that the store has are passed over, so a stopped call goes on, and shards can be added to a store that has
    others. Raises DataError where the shards hold no single pieces, or no audio.
    """
    reader = ShardReader(shards)
    chosen = {}
    for kind in reversed(_KINDS):
        for entry in reader.entries:
            if entry.kind == kind:
                chosen[entry.id.partition(":")[2]] = entry
    if not chosen:
        raise DataError(f"{shards} holds no samples of the kinds {', '.join(_KINDS)}; name them in `assemble.kinds`.")
    added = 0
    with ClipWriter(output) as writer:
        for piece, entry in chosen.items():
            if piece in writer.ids:
                continue
            sample = reader.sample(entry)
            text = _text(sample)
            writer.add(
                reader.waveform(entry),
                id=piece,
                language=sample.language,
                speaker=sample.speaker,
                transcript=normalise_transcript(text, sample.language),
                source=sample.origin,
                license=sample.license,
                split=sample.split,
                kind=sample.origin,
                text=text,
            )
            added += 1
    return added


def _text(sample: Sample) -> str | None:
    """What is said, as written."""
    return (
        " ".join(segment.text.strip() for segment in sample.segments if segment.kind == "audio" and segment.text)
        or None
    )
