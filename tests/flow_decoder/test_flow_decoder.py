"""The flow decoder: golden parity, causality in chunks, streaming equal to offline, batches, losses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from baichuan_audio.errors import ConfigError
from baichuan_audio.flow_decoder import FlowConfig, FlowDecoder
from baichuan_audio.flow_decoder.flow import CfmParams, flow_matching_loss, path_point, solver_times
from baichuan_audio.flow_decoder.velocity import CHUNK_FRAMES, chunk_causal_mask

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny-a"
PREFIX = "audio_tokenizer.audio_flow_matching_decoder."
TOLERANCE = 1e-5


def small_config(**changes: object) -> FlowConfig:
    values: dict[str, object] = {
        "prenet_in_dim": 12, "prenet_d_model": 16, "prenet_attention_heads": 2, "prenet_ffn_dim": 24,
        "prenet_nlayers": 1, "prenet_out_dim": 6, "in_channels": 6, "channels": (16,), "n_blocks": 1,
        "num_mid_blocks": 1, "num_heads": 3, "attention_head_dim": 4, "diffusion_steps": 3,
        "prenet_max_source_positions": 4,
    }  # fmt: skip
    return FlowConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def small() -> FlowDecoder:
    torch.manual_seed(0)
    return FlowDecoder(small_config()).eval()


@pytest.fixture(scope="module")
def released() -> FlowDecoder:
    config = json.loads((FIXTURE / "checkpoint" / "config.json").read_text())
    weights = load_file(FIXTURE / "checkpoint" / "model.safetensors")
    decoder = FlowDecoder.from_config(config)
    decoder.load_state_dict({name[len(PREFIX) :]: w.float() for name, w in weights.items() if name.startswith(PREFIX)})
    return decoder.eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FIXTURE / "cases.safetensors")


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("case", ["0", "1"])
@torch.no_grad()
def test_golden_parity(released: FlowDecoder, golden: dict[str, Tensor], case: str) -> None:
    mu, noise = golden[f"prenet_mel.{case}"], golden[f"flow_noise.{case}"]
    assert error(released.prenet(golden[f"decoder_hidden.{case}"]), mu) < TOLERANCE
    assert error(released.velocity(noise, mu.T, 0.37), golden[f"velocity_at_t0.37.{case}"]) < TOLERANCE
    assert error(released.sample(mu, noise=noise), golden[f"flow_mel.{case}"]) < TOLERANCE


@torch.no_grad()
def test_without_steps_the_mel_is_mu() -> None:
    decoder = FlowDecoder(small_config(diffusion_steps=0)).eval()
    mu = torch.randn(CHUNK_FRAMES + 7, 6)
    assert torch.equal(decoder.sample(mu), mu.T)
    assert torch.equal(torch.cat(list(decoder.sample_chunks(mu)), dim=1), mu.T)
    assert not torch.equal(decoder.sample(mu, num_steps=2), mu.T)


@torch.no_grad()
def test_chunks_equal_the_whole(small: FlowDecoder) -> None:
    mu, noise = torch.randn(2 * CHUNK_FRAMES + 37, 6), torch.randn(6, 2 * CHUNK_FRAMES + 37)
    whole = small.sample(mu, noise)
    chunks = list(small.sample_chunks(mu, noise))
    assert [chunk.shape[1] for chunk in chunks] == [CHUNK_FRAMES, CHUNK_FRAMES, 37]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_shorter_chunks_where_the_configuration_says_so() -> None:
    torch.manual_seed(0)
    decoder = FlowDecoder(small_config(attention_chunk_frames=24)).eval()
    mu, noise = torch.randn(60, 6), torch.randn(6, 60)
    chunks = list(decoder.sample_chunks(mu, noise))
    assert [chunk.shape[1] for chunk in chunks] == [24, 24, 12]
    torch.testing.assert_close(torch.cat(chunks, dim=1), decoder.sample(mu, noise), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_finished_chunk_never_changes(small: FlowDecoder) -> None:
    mu, noise = torch.randn(130, 6), torch.randn(6, 130)
    other_mu = torch.cat([mu[:CHUNK_FRAMES], torch.randn(60, 6)])
    other_noise = torch.cat([noise[:, :CHUNK_FRAMES], torch.randn(6, 60)], dim=1)
    first, second = small.sample(mu, noise), small.sample(other_mu, other_noise)
    torch.testing.assert_close(first[:, :CHUNK_FRAMES], second[:, :CHUNK_FRAMES], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first[:, CHUNK_FRAMES:], second[:, CHUNK_FRAMES:130])


@torch.no_grad()
def test_an_unfinished_chunk_can_be_heard_early(small: FlowDecoder) -> None:
    mu, noise = torch.randn(150, 6), torch.randn(6, 150)
    state = small.init_state()
    small.sample_chunk(mu[:100], noise[:, :100], state)
    early = small.sample_chunk(mu[100:120], noise[:, 100:120], state.copy())
    torch.testing.assert_close(early, small.sample(mu[:120], noise[:, :120])[:, 100:], rtol=1e-5, atol=1e-5)
    late = small.sample_chunk(mu[100:], noise[:, 100:], state)
    torch.testing.assert_close(late, small.sample(mu, noise)[:, 100:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="ended"):
        small.sample_chunk(mu[:1], noise[:, :1], state)


def test_causality_by_gradient(small: FlowDecoder) -> None:
    x = torch.randn(6, 250, requires_grad=True)
    small.velocity(x, torch.randn(6, 250), 0.5)[:, 120].sum().backward()
    assert x.grad is not None
    reach = x.grad.abs().sum(dim=0) > 0
    assert reach[:200].all() and not reach[200:].any()


@torch.no_grad()
def test_padded_rows_equal_single_ones(small: FlowDecoder) -> None:
    lengths = torch.tensor([140, 70])
    mu, noise = torch.randn(2, 140, 6), torch.randn(2, 6, 140)
    batch = small.sample_batch(mu, noise, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        single = small.sample(mu[row, :length], noise[row, :, :length])
        torch.testing.assert_close(batch[row, :, :length], single, rtol=1e-5, atol=1e-5)


def test_loss_ignores_padding(small: FlowDecoder) -> None:
    hidden, mel, lengths = torch.randn(2, 120, 12), torch.randn(2, 6, 120), torch.tensor([120, 50])
    first = small.loss(hidden, mel, lengths, torch.Generator().manual_seed(1))
    hidden[1, 50:], mel[1, :, 50:] = 9.0, 9.0
    second = small.loss(hidden, mel, lengths, torch.Generator().manual_seed(1))
    assert first.keys() == {"flow", "prior"}
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-5)


def test_mask_of_a_single_chunk_is_none() -> None:
    assert chunk_causal_mask(CHUNK_FRAMES, None, torch.device("cpu")) is None
    mask = chunk_causal_mask(CHUNK_FRAMES + 1, None, torch.device("cpu"))
    assert mask is not None and mask[0, 0, 0].sum() == CHUNK_FRAMES and mask[0, 0, -1].all()


def test_path_and_schedule() -> None:
    noise, mel = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    x, velocity = path_point(noise, mel, torch.ones(1), sigma_min=0.0)
    torch.testing.assert_close(x, mel)
    torch.testing.assert_close(noise + velocity, mel)
    times = solver_times(10)
    assert times[0] == 0.0 and times[-1] == pytest.approx(1.0) and times[1] == pytest.approx(0.0123117, abs=1e-6)


def test_sizes_come_from_the_configuration() -> None:
    decoder = FlowDecoder(small_config(num_heads=5, attention_head_dim=8, channels=(24,)))
    block = decoder.conditional_decoder.mid_blocks[0][1][0]  # type: ignore[index]
    assert block.attn1.to_q.weight.shape == (40, 24)
    with torch.device("meta"):
        assert FlowDecoder(small_config()).prenet.out_proj.weight.is_meta


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"channels": (16, 16)}, "channels"),
        ({"spk_emb_dim": 192}, "spk_emb_dim"),
        ({"in_channels": 40}, "mel bins"),
        ({"diffusion_steps": -1}, "diffusion_steps"),
    ],
)
def test_unusable_configuration_is_named(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**section)


def test_unknown_solver_is_named() -> None:
    with pytest.raises(ConfigError, match="solver"):
        CfmParams(solver="heun")


def test_the_condition_is_dropped_by_whole_rows() -> None:
    seen = []

    def velocity(x: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        seen.append((mu != 0).flatten(1).float().mean(1))
        return x

    mel, mu, generator = torch.randn(400, 3, 2), torch.ones(400, 3, 2), torch.Generator().manual_seed(0)
    for rate in (0.0, 0.2):
        flow_matching_loss(velocity, mel, mu, CfmParams(training_cfg_rate=rate), generator=generator)
    assert (seen[0] == 1).all() and set(seen[1].tolist()) == {0.0, 1.0}
    assert 0.14 < 1 - float(seen[1].mean()) < 0.26
