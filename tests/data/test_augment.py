import numpy as np
import pytest

from baichuan_audio.data.synth.augment import AugmentConfig, augment, level


def test_level():
    tone = (0.01 * np.sin(np.arange(24_000) * 0.1)).astype(np.float32)
    padded = np.pad(tone, (2_000, 2_000))
    assert np.sqrt((level(padded)[4400:22_000] ** 2).mean()) == pytest.approx(0.1, rel=0.05)


def test_augmentation_is_seeded_and_bounded():
    speech = np.sin(np.arange(12_000) * 0.05).astype(np.float32) * 0.1
    config = AugmentConfig(room=1.0, noise=1.0, narrow=1.0)
    first = augment(speech, 5, config)
    assert np.array_equal(first, augment(speech, 5, config))
    assert not np.array_equal(first, augment(speech, 6, config)[: len(first)])
    assert np.abs(first).max() <= 1 and len(first) >= len(speech)
