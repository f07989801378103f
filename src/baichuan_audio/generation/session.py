"""One sequence that the model reads and writes: one prefill, then text and code frames, with a key-value cache.

New ids may wait: they join the sequence at once, but the backbone reads them together with what follows. So a control
token costs no forward pass of its own, and the last id can still be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from ..errors import PromptError
from ..language_model.audio_head import AudioHead
from ..language_model.model import LanguageModel
from ..language_model.prompt import SpecialTokens
from ..language_model.sampling import Sampling
from .runner import run_to_end
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
    """A sequence with its own key-value cache; the model reads nothing twice.

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
        self._hidden: Tensor | None = None  # [1, D] of the last position that the backbone has read

    @torch.inference_mode()
    def prefill(self, ids: Tensor | Sequence[int], codes: Tensor | None = None) -> None:
        """Read more of a prompt: ids [N], codes [K, P] with P the number of audio_pad ids among them.

        Raises PromptError for ids or codes out of range, or when their numbers do not match.
        """
        self.extend(self.language_model.tokens(ids, codes))
        self._read_pending()

    @torch.inference_mode()
    def set_tokens(self, tokens: Sequence[Token]) -> None:
        """Make the sequence `tokens`; the prefix that it has already is not read again."""
        kept = common_length(self.tokens, tokens)
        if kept < len(self):
            self.truncate(kept)
        self.extend(tokens[kept:])
        self._read_pending()

    def write_text(self, max_new_tokens: int, sampling: Sampling) -> Tensor:
        """Write up to `max_new_tokens` text ids, to a `sampling.stop` id at most -> ids it added [n] int64."""
        written: list[int] = []
        while len(written) < max_new_tokens and not (written and written[-1] in sampling.stop):
            id = self.decode(TextRequest(sampling))
            assert isinstance(id, int)
            self.append(id)
            written.append(id)
        return torch.tensor(written, dtype=torch.long)

    def write_codes(self, max_frames: int, sampling: Sampling) -> Tensor:
        """Write an audio segment of up to `max_frames` code frames -> codes [K, T] (see `audio_segment`)."""
        codes = run_to_end(self, audio_segment(self, max_frames, sampling))
        return codes.to(self.token_counts.device)

    @torch.inference_mode()
    def decode(self, request: DecodeRequest) -> DecodeResult:
        """Compute what a program asks for; the program adds it to the sequence itself."""
        hidden = self._last_hidden()
        if isinstance(request, TextRequest):
            return draw_ids(self.language_model, hidden, [self], [request])[0]
        return draw_frames(self.audio_head, hidden, self._depth_cache, [self], [request])[0]

    def _read_pending(self) -> None:
        """Let the backbone read what has been added."""
        self._last_hidden()

    def _last_hidden(self) -> Tensor:
        """Hidden state [1, D] of the last position, once the backbone has read the whole sequence."""
        if self.unread:
            self._cache.truncate(self.read)
            embedded = self.language_model.embed_sequence(self.unread)
            self._hidden = self.language_model.hidden(embedded[None], self._cache)[:, -1]
            self.read = len(self)
        if self._hidden is None:
            raise PromptError("the sequence is empty; give a prompt first.")
        return self._hidden


SessionFactory = Callable[[LanguageModel, AudioHead, SpecialTokens, int | None], Session]
"""Makes a session for a model, its audio head, its control tokens and a seed."""
