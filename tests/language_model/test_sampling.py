"""Drawing from logits: greedy, the limits, the penalty."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch

from baichuan_audio.errors import ConfigError
from baichuan_audio.language_model.sampling import Sampling, draw, draw_rows, draw_rows_on_device

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2]))


def _shares(sampling: Sampling, logits: torch.Tensor = LOGITS, draws: int = 2000) -> dict[int, float]:
    random = Random(0)
    counts = Counter(draw(logits, sampling, random) for _ in range(draws))
    return {index: count / draws for index, count in sorted(counts.items())}


def test_greedy() -> None:
    assert draw(LOGITS, Sampling(), Random()) == 1


def test_shares_follow_the_probabilities() -> None:
    for logits in (LOGITS, torch.cat([LOGITS, torch.full((200,), -float("inf"))])):  # few logits, and many
        shares = _shares(Sampling(1.0), logits)
        assert shares == pytest.approx({0: 0.1, 1: 0.4, 2: 0.3, 3: 0.2}, abs=0.04)


def test_top_k_and_top_p() -> None:
    assert _shares(Sampling(1.0, top_k=2)) == pytest.approx({1: 4 / 7, 2: 3 / 7}, abs=0.04)
    for logits in (LOGITS, torch.cat([LOGITS, torch.full((200,), -float("inf"))])):
        assert set(_shares(Sampling(1.0, top_p=0.65), logits, 300)) == {1, 2}  # the second is what reaches it
        assert set(_shares(Sampling(1.0, top_p=0.01), logits, 300)) == {1}


def test_penalty_divides_positive_and_multiplies_negative() -> None:
    said = torch.tensor([True, False, True])
    assert draw(torch.tensor([3.0, 2.0, -1.0]), Sampling(repetition_penalty=2.0), Random(), said) == 1
    assert draw(torch.tensor([-1.0, -1.5, -3.0]), Sampling(repetition_penalty=2.0), Random(), said) == 1


@pytest.mark.parametrize("penalised", [False, True])
def test_rows_are_drawn_alike_one_by_one_and_together(penalised: bool) -> None:
    samplings = [
        *(Sampling(), Sampling(0.7, 5, 0.9, 1.3), Sampling(1.3, 0, 0.95, 1.1), Sampling(0.0, repetition_penalty=2.0)),
        *(Sampling(1.0, 64, 0.5), Sampling(1.0, 100), Sampling(0.2, 1)),
    ]
    for trial in range(20):
        torch.manual_seed(trial)
        logits = 3 * torch.randn(len(samplings), 150)
        said = list(torch.rand(len(samplings), 150) < 0.3) if penalised else None
        ways = [[Random(100 * trial + row) for row in range(len(samplings))] for _ in range(3)]
        one_by_one = [
            draw(row, sampling, random, said[place] if said else None)
            for place, (row, sampling, random) in enumerate(zip(logits, samplings, ways[0], strict=True))
        ]
        assert draw_rows(logits, samplings, ways[1], said) == one_by_one
        assert draw_rows_on_device(logits, samplings, ways[2], said) == one_by_one


def test_values_that_make_no_sense() -> None:
    for values in ((-1.0,), (float("nan"),), (1.0, -1), (1.0, 0, 0.0), (1.0, 0, 1.5), (1.0, 0, 1.0, 0.0)):
        with pytest.raises(ConfigError):
            Sampling(*values)  # type: ignore[arg-type]
