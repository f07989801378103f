"""Audio heads whose attention heads are not 128 wide: every path computes what the plain layers compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import baichuan_audio
from baichuan_audio.acceleration.cpu.kernels import library
from baichuan_audio.acceleration.cpu.layers import Fp32Linear, FusedAudioHead, transposed_linear
from baichuan_audio.acceleration.cpu.model import NativeAudioHead
from baichuan_audio.acceleration.cuda.session import DecoderSessions
from baichuan_audio.acceleration.optimize import _split_head, joined_copy, optimize_for_inference
from baichuan_audio.errors import ConfigError
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.reference import ReferenceSession

SIZES = (40, 30, 20)


def config(width: int, **audio: Any) -> dict[str, Any]:
    audio_config = {"audio_head_transformer_layers": 2, "vq_config": {"codebook_sizes": list(SIZES)}} | audio
    return {"hidden_size": width, "audio_config": audio_config}


@torch.no_grad()
def random_head(width: int, head_dim: int) -> AudioHead:
    torch.manual_seed(0)
    head = AudioHead.from_config(config(width, audio_head_dim=head_dim))
    for layer in head.transformer_layers:
        layer.self_attention.in_proj_weight.mul_(4)  # attention that is not nearly uniform
    embeddings = torch.nn.ModuleList([torch.nn.Embedding(size + 1, width) for size in SIZES])
    head.attach_embeddings(embeddings.requires_grad_(False))
    return head.requires_grad_(False).eval()


def forms(head: AudioHead) -> list[AudioHead]:
    made = [_split_head(head), *(FusedAudioHead.from_head(head, make) for make in (Fp32Linear, transposed_linear))]
    compiled = library()
    return made if compiled is None else [*made, NativeAudioHead.from_head_with_kernels(head, compiled)]


@pytest.mark.parametrize(("width", "head_dim"), [(576, 64), (96, 24), (144, 48), (128, 128)])
@torch.inference_mode()
def test_every_form_of_the_head_agrees(width: int, head_dim: int) -> None:
    head = random_head(width, head_dim)
    hidden = torch.randn(3, width)
    codes = torch.stack([torch.randint(0, size, (3,)) for size in SIZES], dim=1)
    expected = head.logits(hidden, codes)
    for level, logits in enumerate(expected):
        torch.testing.assert_close(head.logits_at(hidden, codes[:, :level]), logits, rtol=1e-4, atol=1e-5)
    for form in [head, *forms(head)]:
        form.attach_embeddings(head._embeddings[0])
        cache, x = form.init_cache(3), hidden
        for level, logits in enumerate(expected):
            torch.testing.assert_close(form.step(x, level, cache), logits, rtol=1e-4, atol=1e-5)
            embedded = head.embedding(level)(codes[:, level])
            x = x + embedded if level else embedded
        one, several = (
            form.frames(hidden[:count], form.init_cache(count), lambda level, rows, logits: logits.argmax(-1).tolist())
            for count in (1, 3)
        )
        assert one[0][0] == several[0][0]


def test_the_head_size_changes_what_is_computed() -> None:
    """The same weights, other heads: otherwise the tests above would prove nothing."""
    hidden, codes = torch.randn(2, 96), torch.ones(2, len(SIZES), dtype=torch.long)
    first, second = (random_head(96, size).logits(hidden, codes)[-1] for size in (24, 48))
    assert (first - second).abs().max() > 1e-3


@pytest.fixture(scope="module")
def narrow(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> BaichuanAudio:
    """The golden checkpoint with attention heads half as wide as its weights were made for."""
    directory = tmp_path_factory.mktemp("narrow")
    entries = json.loads((checkpoint_dir / "config.json").read_text())
    entries["audio_config"]["audio_head_dim"] = 64
    for file in checkpoint_dir.iterdir():
        (directory / file.name).symlink_to(file)
    (directory / "config.json").unlink()
    (directory / "config.json").write_text(json.dumps(entries))
    return baichuan_audio.load(directory, dtype=torch.float32)


def test_sessions_write_the_same_codes(narrow: BaichuanAudio, model: BaichuanAudio) -> None:
    def frames(session: Session) -> torch.Tensor:
        session.extend([5, 6, 7, 8])
        return session.write_codes(4, Sampling())

    parts = narrow.language_model, narrow.audio_head, narrow.special
    expected = frames(ReferenceSession(*parts, seed=1))
    assert torch.equal(frames(Session(*parts, seed=1)), expected)
    for optimized in (joined_copy(narrow), optimize_for_inference(narrow)):
        inference_parts = optimized.language_model, optimized.audio_head, optimized.special
        assert torch.equal(frames(Session(*inference_parts, seed=1)), expected)
    in_static_memory = DecoderSessions(1, 64)  # the Decoder takes the joined form
    joined = joined_copy(narrow)
    assert torch.equal(frames(in_static_memory(joined.language_model, joined.audio_head, joined.special, 1)), expected)
    wide = frames(Session(model.language_model, model.audio_head, model.special, seed=1))
    assert not torch.equal(wide, expected)


@pytest.mark.parametrize(("size", "message"), [
    (50, r"hidden_size must be a multiple of audio_config\.audio_head_dim \(50\), not 576"),
    (0, "audio_head_dim must lie between 1"),
    ("wide", "audio_head_transformer_layers is missing, or no number"),
])  # fmt: skip
def test_an_impossible_head_size_is_refused(size: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AudioHead.from_config(config(576, audio_head_dim=size))
    with pytest.raises(ConfigError, match=r"audio_head_dim \(128\), not 576"):
        AudioHead.from_config(config(576))
