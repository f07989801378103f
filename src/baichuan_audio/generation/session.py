"""One sequence that the model reads and writes: prefill once, then text and code frames in turn, the cache kept.

What has been written last may wait: ids join the sequence at once, but the backbone sees them together with what
follows. So a mark costs no pass of its own, and the last id can still be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from ..errors import PromptError
from ..language_model.audio_head import AudioHead
from ..language_model.model import LanguageModel
from ..language_model.prompt import SpecialTokens
from ..language_model.sampling import Sampling
from .sequence import (
    DecodeRequest,
    DecodeResult,
    TextRequest,
    Token,
    TokenSequence,
    audio_segment,
    common_length,
    draw_frames,
    draw_ids,
)


class Session(TokenSequence):
    """A sequence with a cache of its own; the model never reads anything twice.

    `ids` is the whole sequence so far (audio_pad for each frame). `seed` makes sampling repeatable.
    """

    def __init__(
        self, language_model: LanguageModel, audio_head: AudioHead, special: SpecialTokens, seed: int | None = None
    ) -> None:
        device = language_model.norm.weight.device
        super().__init__(special, language_model.config.vocab_size, audio_head.codebook_sizes, Random(seed), device)
        self.language_model, self.audio_head = language_model, audio_head
        self._cache = language_model.init_cache()
        self._depth_cache = audio_head.init_cache()
        self._hidden: Tensor | None = None  # [1, D] of the last position the backbone has seen

    @torch.inference_mode()
    def extend(self, ids: Tensor | Sequence[int], codes: Tensor | None = None) -> None:
        """Read more of a prompt: ids [N], codes [K, P] with P the number of audio_pad ids among them.

        Raises PromptError for ids or codes out of range, or when their numbers do not match.
        """
        self.lay(self.language_model.tokens(ids, codes))
        self._catch_up()

    @torch.inference_mode()
    def become(self, tokens: Sequence[Token]) -> None:
        """Make the sequence `tokens`; what it begins with already is not read again."""
        kept = common_length(self.tokens, tokens)
        if kept < len(self):
            self.cut(kept)
        self.lay(tokens[kept:])
        self._catch_up()

    def write_text(self, max_new_tokens: int, sampling: Sampling) -> Tensor:
        """Write up to `max_new_tokens` text ids, to a `sampling.stop` id at most -> ids it added [n] int64."""
        written: list[int] = []
        while len(written) < max_new_tokens and not (written and written[-1] in sampling.stop):
            id = self.answer(TextRequest(sampling))
            assert isinstance(id, int)
            self.append(id)
            written.append(id)
        return torch.tensor(written, dtype=torch.long)

    def write_codes(self, max_frames: int, sampling: Sampling) -> Tensor:
        """Write an audio segment of up to `max_frames` code frames -> codes [K, T] (see `audio_segment`)."""
        program = audio_segment(self, max_frames, sampling)
        answer: DecodeResult = None
        while True:
            try:
                step = program.send(answer)
            except StopIteration as end:
                codes: Tensor = end.value
                return codes.to(self.counts.device)
            answer = self.answer(step)

    @torch.inference_mode()
    def answer(self, step: DecodeRequest) -> DecodeResult:
        """Compute what the rules of a reply ask for; they put it into the sequence themselves."""
        hidden = self._last_hidden()
        if isinstance(step, TextRequest):
            return draw_ids(self.language_model.lm_head(hidden), [self], [step])[0]
        return draw_frames(self.audio_head, hidden, self._depth_cache, [self], [step])[0]

    def _catch_up(self) -> None:
        """Let the backbone read what has been laid."""
        self._last_hidden()

    def _last_hidden(self) -> Tensor:
        """Hidden state [1, D] of the last position, once the backbone has seen all of the sequence."""
        if self.unread:
            self._cache.truncate(self.read)
            embedded = self.language_model.embed_sequence(self.unread)
            self._hidden = self.language_model.hidden(embedded[None], self._cache)[:, -1]
            self.read = len(self)
        if self._hidden is None:
            raise PromptError("there is nothing to go on from; give a prompt first.")
        return self._hidden
