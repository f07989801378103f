"""Auxiliary head that predicts the phonemes of code frames from the middle of the backbone; used in training only.

A transcript does not tell which frame a word is in: from few clips of a word the model learns to recognise the clip, or
to guess from the words before. Phoneme targets at every frame make the lower layers decode the codes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from ...data.alignment.phone_alignment import PHONES_PER_FRAME
from ...language_model.backbone import Backbone
from ...layers.norm import RMSNorm
from ...text.phonemes import SYMBOLS


class PhonemeProbe(nn.Module):
    """States [X, D] at two thirds of the backbone's depth -> logits [X, PHONES_PER_FRAME, V]; all 0 at first."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        config = backbone.config
        self.layer = (2 * config.num_hidden_layers - 1) // 3
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.out = nn.Linear(config.hidden_size, PHONES_PER_FRAME * len(SYMBOLS))
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @contextmanager
    def recording(self, backbone: Backbone) -> Iterator[list[Tensor]]:
        """Gives a list to which each pass of the backbone in the block adds its states [B, N, D]."""
        states: list[Tensor] = []
        hook = backbone.layers[self.layer].register_forward_hook(lambda _layer, _inputs, state: states.append(state))
        try:
            yield states
        finally:
            hook.remove()

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(states))
        return logits.unflatten(-1, (PHONES_PER_FRAME, -1))

    def losses(self, states: Tensor, phonemes: Tensor) -> tuple[Tensor, Tensor]:
        """states [X, D] against phonemes [X, PHONES_PER_FRAME], indices into SYMBOLS -> of each frame the mean
        cross-entropy in nats [X], and whether all of its phonemes are the likeliest [X]."""
        logits = self(states).float()
        nll = F.cross_entropy(logits.flatten(0, 1), phonemes.flatten(), reduction="none")
        return nll.view(phonemes.shape).mean(1), (logits.argmax(-1) == phonemes).all(1)
