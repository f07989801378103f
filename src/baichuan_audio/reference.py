"""The slow, obvious path: what every faster one is measured against, and must agree with.

Eager modules with a growing key-value cache, as a library gives them; the audio head computed anew, over all
positions so far, for each code of a frame; sound clause by clause. Nothing here is tuned, and nothing shall be.
"""

from __future__ import annotations

import torch

from .generation.sequence import DecodeRequest, DecodeResult, FrameRequest, forbid_end
from .generation.session import Session
from .language_model.sampling import draw
from .model import BaichuanAudio


class ReferenceSession(Session):
    """A session whose audio head keeps nothing between the codes of a frame."""

    @torch.inference_mode()
    def answer(self, step: DecodeRequest) -> DecodeResult:
        if not isinstance(step, FrameRequest):
            return super().answer(step)
        head, hidden = self.audio_head, self._last_hidden()
        codes: list[int] = []
        for level, size in enumerate(head.codebook_sizes):
            logits = head.logits_at(hidden, torch.tensor([codes], dtype=torch.long, device=hidden.device))[0]
            if level:
                logits = logits[:size]
            elif not step.may_end:
                logits = forbid_end(logits[None], [False])[0]
            code = draw(logits, step.sampling, self.random, self.said(level))
            if level == 0 and code == size:
                return None
            self.said(level)[code] = True
            codes.append(code)
        return tuple(codes)


def obvious(model: BaichuanAudio) -> BaichuanAudio:
    """Make `model` (as `load` gives it) take the obvious path in all it does; returns the same model."""
    model.session_type = ReferenceSession
    return model
