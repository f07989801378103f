"""Codebooks: nearest entries, learning by moving averages, restart of dead entries, level dropout."""

import torch
from torch import nn

from baichuan_audio.audio_tokenizer.quantizer import (
    QuantizerRecipe,
    VectorQuantizer,
    codebooks,
    dequantize,
    initialise,
    learn,
    quantize,
)


def levels(*sizes: int, width: int = 6) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(VectorQuantizer(size, width) for size in sizes)


def clusters(count: int, points: int, width: int = 6) -> torch.Tensor:
    torch.manual_seed(1)
    centres = torch.randn(count, width) * 3
    return centres[torch.randint(count, (points,))] + 0.05 * torch.randn(points, width)


def test_each_level_takes_the_nearest_entry_of_what_is_left() -> None:
    books = levels(16, 8)
    x = torch.randn(3, 7, 6)
    codes = quantize(books, x)
    residual = x
    for k, book in enumerate(codebooks(books)):
        distances = torch.cdist(residual, book.embed.expand(3, -1, -1))
        assert torch.equal(distances.argmin(-1), codes[..., k])
        residual = residual - book.embed[codes[..., k]]
    torch.testing.assert_close(x - dequantize(books, codes), residual)


def test_learning_finds_clusters() -> None:
    books, x = levels(16, 8), clusters(16, 2000)
    initialise(books, x)
    recipe = QuantizerRecipe(decay=0.8, shrink=0.0, quantizer_dropout=0.0)
    before = (x - dequantize(books, quantize(books, x))).square().mean()
    for _ in range(30):
        learn(books, x, recipe)
    after = (x - dequantize(books, quantize(books, x))).square().mean()
    assert after <= before
    assert after < 0.01 * x.square().mean()


def test_dead_entries_come_back() -> None:
    books, x = levels(32), clusters(32, 3000)
    book = codebooks(books)[0]
    book.embed[:24] = 100.0  # far away from everything: never chosen
    for _ in range(200):
        learn(books, x, QuantizerRecipe(decay=0.9, shrink=0.0))
    assert len(quantize(books, x).unique()) >= 24


def test_shrink_pulls_entries_towards_zero() -> None:
    books, x = levels(4), clusters(4, 500)
    initialise(books, x)
    free = [b.embed.clone() for b in codebooks(books)]
    learn(books, x, QuantizerRecipe(decay=1.0, shrink=0.1))
    torch.testing.assert_close(codebooks(books)[0].embed, free[0] * 0.9, rtol=1e-3, atol=1e-3)


def test_dropped_levels_add_nothing() -> None:
    books = levels(16, 8, 8)
    x = torch.randn(50, 6)
    keep = torch.cat([torch.ones(25), torch.full((25,), 3)]).long()
    recipe = QuantizerRecipe(decay=1.0, shrink=0.0, restart_below=0.0)
    quantised, codes = learn(books, x, recipe, keep)
    books = codebooks(books)
    torch.testing.assert_close(quantised[:25], books[0].lookup(codes[:25, 0]))
    total = torch.stack([b.lookup(codes[25:, k]) for k, b in enumerate(books)]).sum(0)
    torch.testing.assert_close(quantised[25:], total)


def test_gumbel_noise_draws_other_entries_than_the_nearest() -> None:
    books, x = levels(16), torch.randn(200, 6)
    _, nearest = learn(books, x, QuantizerRecipe(decay=1.0, shrink=0.0, restart_below=0.0))
    _, drawn = learn(books, x, QuantizerRecipe(decay=1.0, shrink=0.0, restart_below=0.0, gumbel_temperature=0.5))
    share = (nearest != drawn).float().mean()
    assert 0.05 < share < 0.95
