"""The reference path, which every fast path must agree with and is benchmarked against.

Eager modules with a growing key-value cache; the audio head is computed without a cache, over all positions so far, for
each code of a frame; audio is synthesized clause by clause. Nothing here is optimized.
"""

from __future__ import annotations

import torch

from .generation.sequence import DecodeRequest, DecodeResult, FrameRequest
from .generation.session import Session
from .language_model.sampling import draw, forbid_end
from .model import BaichuanAudio


class ReferenceSession(Session):
    """A session whose audio head caches nothing between the codes of a frame."""

    @torch.inference_mode()
    def decode(self, request: DecodeRequest) -> DecodeResult:
        """See Session."""
        if not isinstance(request, FrameRequest):
            return super().decode(request)
        head, hidden = self.audio_head, self._last_hidden()
        codes: list[int] = []
        for level, size in enumerate(head.codebook_sizes):
            logits = head.logits_at(hidden, torch.tensor([codes], dtype=torch.long, device=hidden.device))[0]
            if level:
                logits = logits[:size]
            elif not request.may_end:
                logits = forbid_end(logits[None], [False])[0]
            code = draw(logits, request.sampling, self.random, self.seen_codes(level))
            if level == 0 and code == size:
                return None
            self.seen_codes(level)[code] = True
            codes.append(code)
        return tuple(codes)


def reference_copy(model: BaichuanAudio) -> BaichuanAudio:
    """A second model over the weights of `model` (as `load` gives it) that uses the reference path throughout."""
    return model.with_parts(session_factory=ReferenceSession)
