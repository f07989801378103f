"""Positions a second of CPU time, forward and backward of a 135M-like backbone on one thread: packed against padded.

python scripts/packing_speed.py [positions] [packs]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from baichuan_audio.data.mixture.packing import balanced, pack_efficiency
from baichuan_audio.language_model.backbone import Backbone, BackboneConfig
from baichuan_audio.language_model.packed import packed_hidden
from baichuan_audio.layers.precision import autocast

SIZES = BackboneConfig(
    vocab_size=10,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1536,
)


def main(positions: int = 8192, packs: int = 8) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = Backbone(SIZES)
    rng, lengths = np.random.default_rng(1), list[int]()
    while sum(lengths) < positions:  # of pairs of speech and text: half are shorter than 150 positions
        lengths.append(int(np.clip(rng.lognormal(np.log(150), 0.8), 16, 2000)))
    total = sum(lengths)

    def seconds(compute: Callable[[], Tensor]) -> float:
        start = time.process_time()
        with autocast("cpu"):
            hidden = compute()
        hidden.float().square().mean().backward()
        backbone.zero_grad(set_to_none=True)
        return time.process_time() - start

    def packed(rows: list[int]) -> float:
        return seconds(lambda: packed_hidden(backbone, torch.randn(1, sum(rows), 576), rows))

    def padded(rows: list[int]) -> float:
        return seconds(lambda: backbone.hidden(torch.randn(len(rows), max(rows), 576)))

    groups = [[lengths[index] for index in group] for group in balanced(lengths, packs)]
    batches: list[list[int]] = [[] for _ in range(packs)]  # of similar lengths, as without packing
    for length, end in zip(sorted(lengths), np.cumsum(sorted(lengths)), strict=True):
        batches[min(packs - 1, int((end - 1) * packs // total))].append(length)
    batches = [rows for rows in batches if rows]
    packed(groups[0])
    fast, slow = total / sum(map(packed, groups)), total / sum(map(padded, batches))
    padding = 1 - total / sum(len(rows) * max(rows) for rows in batches)
    print(
        f"{len(lengths)} sequences, {total} positions: packed {fast:.0f}/s, padded {slow:.0f}/s ({padding:.0%} padding)"
    )
    print(f"pack efficiency {pack_efficiency([sum(rows) for rows in groups]):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
