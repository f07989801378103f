"""Texts as tokens, error rates, mel distance and codebook use."""

import pytest
import torch

from baichuan_audio.evaluation.metrics import codebook_use, error_rate, mel_mae
from baichuan_audio.evaluation.text import english_number, mandarin_number, tokens


@pytest.mark.parametrize(
    ("number", "english", "mandarin"),
    [
        (0, "zero", "零"),
        (10, "ten", "十"),
        (18, "eighteen", "十八"),
        (40, "forty", "四十"),
        (121, "one hundred twenty one", "一百二十一"),
        (115, "one hundred fifteen", "一百一十五"),
        (1005, "one thousand five", "一千零五"),
        (10500, "ten thousand five hundred", "一万零五百"),
        (-7, "minus seven", "负七"),
    ],
)
def test_numbers_in_words(number: int, english: str, mandarin: str) -> None:
    assert english_number(number) == english
    assert mandarin_number(number) == mandarin


def test_tokens_are_words_and_characters() -> None:
    assert tokens("猫 is cat。", "zh") == ["猫", "is", "cat"]
    assert tokens("3.5 %", "en") == ["three", "point", "five", "percent"]
    assert tokens("It's 1,200!", "en") == tokens("it’s one thousand two hundred", "en")
    assert tokens("三加4等于7。", "zh") == tokens("三加四等于七", "zh")


def test_error_rates_count_over_all_texts() -> None:
    rate = error_rate(["one two three", "four", ""], ["one three three", "four five", "x"], "en")
    assert (rate.errors, rate.count, rate.num_texts) == (2, 4, 2)
    assert rate.rate == 0.5
    assert error_rate(["你好吗"], ["你好"], "zh").rate == pytest.approx(1 / 3)
    assert error_rate([], [], "en").rate == 0.0


def test_mel_distance() -> None:
    waveform = torch.randn(12_000, generator=torch.Generator().manual_seed(0))
    assert mel_mae(waveform, waveform[:11_000]) == 0.0
    assert mel_mae(waveform, 0.5 * waveform) == pytest.approx(0.693, abs=0.01)


def test_codebook_use() -> None:
    codes = torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]])
    even, single = codebook_use([codes[:, :2], codes[:, 2:]], [4, 8])
    assert (even.dead, single.dead) == (0, 7)
    assert even.perplexity == pytest.approx(4.0) and single.perplexity == pytest.approx(1.0)
