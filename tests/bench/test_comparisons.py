"""Other packages side by side, and what quantised weights change: what is counted, and what is said of missing ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_audio.acceleration.cpu.kernels import library
from baichuan_audio.bench.comparisons import fidelity, peers
from baichuan_audio.bench.comparisons.packages import Peer, Seconds, Shape
from baichuan_audio.errors import BaichuanAudioError
from baichuan_audio.language_model.backbone import BackboneConfig
from baichuan_audio.model import BaichuanAudio

RECIPE = Path(__file__).parents[2] / "recipes/bench/smollm2.json"


def test_the_shape_is_that_of_smollm2() -> None:
    shape = Shape(BackboneConfig.from_config(json.loads(RECIPE.read_text())), 200, 1)
    assert shape.elements == 134_479_872  # its 134.5 million without the norms, whose embeddings are tied


class _Fixed:
    name, weight_bytes = "another", 1e6

    def decode(self, count: int) -> Seconds:
        return Seconds(0.002, 0.001)


def test_packages_that_are_missing_or_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip("there is no C compiler")
    config: dict[str, Any] = json.loads(RECIPE.read_text())
    config |= {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"head_dim": 32, "intermediate_size": 64}
    config["audio_config"] |= {"audio_head_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    def missing() -> Peer:
        raise ModuleNotFoundError("no", name="transformers")

    def broken() -> Peer:
        raise RuntimeError("it is of another version")

    def others(*_: object) -> Iterator[tuple[str, Callable[[], Peer]]]:
        yield from (("first", missing), ("second", broken), ("third", _Fixed))

    monkeypatch.setattr(peers, "_others", others)
    monkeypatch.setattr(peers, "_FLOOR_BYTES", 1 << 20)
    result = peers.measure_peers(file, None, 1, lambda line: None)
    names = set(result["rows"])
    assert {"another", "baichuan-audio, bfloat16", "baichuan-audio, int8", "baichuan-audio, int4, code frame"} <= names
    assert result["rows"]["another"]["best"] == 0.002 and result["rows"]["another"]["best_cpu"] == 0.001
    assert result["rows"]["baichuan-audio, int4"]["megabytes"] < result["rows"]["baichuan-audio, int8"]["megabytes"]
    text = peers.markdown(result)
    assert "first: transformers is not installed" in text and "second: RuntimeError: it is of another version" in text


def test_fidelity_of_weights(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frame = tuple(1 for _ in model.audio_head.codebook_sizes)
    reply = fidelity._Reply([5, 6, 7, 8, frame, frame, 9], 3, "yes", torch.zeros(0), 24000)
    monkeypatch.setattr(fidelity, "_ask", lambda model, file: reply)
    with pytest.raises(BaichuanAudioError, match="there is no"):
        fidelity.measure_fidelity(model, "golden", ["int8"], tmp_path, None, lambda line: None)
    (tmp_path / "a.wav").touch()
    result = fidelity.measure_fidelity(model, "golden", ["int8"], tmp_path, None, lambda line: None)
    none, int8 = result["kinds"]["none"], result["kinds"]["int8"]
    assert none["text_error"] == 0 and none["code_agreement"] == 1 and none["same_text"] == 1
    assert 0 < int8["text_error"] < 0.1 and 0 < int8["code_error"] < 0.1
    assert "| int8 |" in fidelity.markdown(result)
