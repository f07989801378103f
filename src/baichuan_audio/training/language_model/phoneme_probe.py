"""Which sounds a code frame holds, read from the middle of the backbone: a help in training that is thrown away after.

Text tells a language model what was said, but not which frame said it: with few clips of a word it learns to recognise
the clip, or to guess from the words before. Asked for the sounds at every frame it has to take the codes apart. The
upper layers, which write the text or the codes, then find them in its lower ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from ...data.alignment.phone_alignment import PLACES
from ...language_model.backbone import Backbone
from ...layers.norm import RMSNorm
from ...text.phonemes import SYMBOLS


class PhonemeProbe(nn.Module):
    """States [X, D] at two thirds of the backbone's depth -> logits [X, PLACES, V] of the sounds; all 0 at first."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        config = backbone.config
        self.layer = (2 * config.num_hidden_layers - 1) // 3
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.out = nn.Linear(config.hidden_size, PLACES * len(SYMBOLS))
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @contextmanager
    def listening(self, backbone: Backbone) -> Iterator[list[Tensor]]:
        """Gives a list to which each pass of the backbone in the block adds its states [B, N, D]."""
        passed: list[Tensor] = []
        hook = backbone.layers[self.layer].register_forward_hook(lambda _layer, _inputs, state: passed.append(state))
        try:
            yield passed
        finally:
            hook.remove()

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(states))
        return logits.unflatten(-1, (PLACES, -1))

    def loss(self, states: Tensor, sounds: Tensor) -> Tensor:
        """Mean cross-entropy in nats of states [X, D] against sounds [X, PLACES], indices into SYMBOLS."""
        return F.cross_entropy(self(states).float().flatten(0, 1), sounds.flatten())
