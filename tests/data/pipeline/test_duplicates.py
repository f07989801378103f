"""Duplicates: sounds that are the same, and short sounds that chance makes alike."""

from __future__ import annotations

import numpy as np
import pytest

from baichuan_audio.data.pipeline.stages.duplicates import Duplicates
from baichuan_audio.data.pipeline.stages.fingerprint import Fingerprint, chance
from baichuan_audio.data.store.records import SAMPLE_RATE, Piece


def piece(number: int, fingerprint: str) -> Piece:
    name = f"clip-{number:05d}"
    return Piece(name, name, "0" * 32, 0, SAMPLE_RATE, 1.0, "CC0-1.0", "example", (), fingerprint=fingerprint)


def dropped(fingerprints: list[str]) -> list[tuple[str, str]]:
    pieces = [piece(number, fingerprint) for number, fingerprint in enumerate(fingerprints)]
    results = Duplicates().run_all({piece.source: [piece] for piece in pieces})
    return [(drop.id, drop.detail) for result in results.values() for drop in result.dropped]


def flipped(fingerprint: str, share: float, rng: np.random.Generator) -> str:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint), np.uint8))
    return np.packbits(bits ^ (rng.random(len(bits)) < share)).tobytes().hex()


@pytest.mark.parametrize("steps", [0, 3, 5, 8])
def test_many_short_sounds_are_not_each_others_copies(steps: int) -> None:
    rng = np.random.default_rng(steps)
    assert dropped([rng.bytes(2 * (steps + n % 2)).hex() for n in range(1500)]) == []


@pytest.mark.parametrize(("steps", "share"), [(5, 0.0), (12, 0.1), (40, 0.2), (300, 0.2)])
def test_a_copy_is_found_among_others(steps: int, share: float) -> None:
    rng = np.random.default_rng(steps)
    others = [rng.bytes(2 * (steps + n % 3)).hex() for n in range(1500)]
    assert dropped([*others, flipped(others[7], share, rng)]) == [("clip-01500", "clip-00007")]


def test_a_copy_that_begins_later_and_is_louder() -> None:
    rng = np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * rng.uniform(200, 2500) * np.arange(4800) / SAMPLE_RATE) for _ in range(25)]
    sound = (0.1 * np.concatenate(tones) + 0.001 * rng.standard_normal(25 * 4800)).astype(np.float32)
    made = []
    for samples in (sound, 2 * sound[700:], sound[::-1]):
        fingerprint = Fingerprint()
        fingerprint.note(samples)
        made.append(fingerprint.finish())
    assert dropped(made) == [("clip-00001", "clip-00000")]


def test_what_chance_does_not_reach_grows_with_the_length() -> None:
    limits = [chance(steps) for steps in (1, 5, 20, 100)]
    assert limits == sorted(limits) and limits[0] < 0 < limits[1] < 0.1 and limits[3] < 0.5
