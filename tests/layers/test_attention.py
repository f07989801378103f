"""Attention as it is computed while learning in bfloat16 on a CPU equals torch's own."""

import pytest
import torch
from torch import Tensor

from baichuan_audio.layers.attention import attend


def gradients(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> list[Tensor]:
    """The result, and what it hands back to each of the three."""
    given = [each.clone().requires_grad_(True) for each in (query, keys, values)]
    result = attend(*given, mask, causal)
    result.square().sum().backward()
    return [result.detach(), *(each.grad for each in given)]


@pytest.mark.parametrize(("groups", "positions"), [(1, 7), (2, 7), (4, 7), (2, 600)])  # 600: more than one block
def test_causal_with_shared_keys(groups: int, positions: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, positions, 8)
    keys, values = (torch.randn(2, groups, positions, 8) for _ in range(2))
    wanted = gradients(query, keys, values, None, True)
    found = gradients(query.bfloat16(), keys.bfloat16(), values.bfloat16(), None, True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.bfloat16 and ours.shape == theirs.shape
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_what_autocast_has_left_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated queries and keys are float32, values are not; torch's own kernel is not called."""
    torch.manual_seed(2)
    query, keys, values = torch.randn(2, 4, 7, 8), *(torch.randn(2, 2, 7, 8) for _ in range(2))
    wanted = gradients(query, keys, values, None, True)
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(query, keys, values.bfloat16(), None, True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_what_the_mask_hides_is_not_seen() -> None:
    torch.manual_seed(1)
    query, keys, values = (torch.randn(3, 2, 6, 8) for _ in range(3))
    mask = (torch.arange(6) < torch.tensor([2, 6, 4])[:, None])[:, None, None, :]
    wanted = gradients(query, keys, values, mask, False)
    found = gradients(query.bfloat16(), keys.bfloat16(), values.bfloat16(), mask, False)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()
    assert bool((found[2][0, :, 2:] == 0).all())
