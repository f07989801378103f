"""One sequence in the making: prefill once, then text and code frames in turn, the cache kept over all turns.

What has been written last may wait: ids join the sequence at once, but the backbone sees them together with what
follows. So a mark costs no pass of its own, and the last id can still be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from random import Random

import torch
from torch import Tensor

from ..errors import PromptError
from .audio_head import AudioHead
from .model import LanguageModel
from .prompt import SpecialTokens
from .sampling import Sampling, draw


class Session:
    """A sequence that the model reads and writes; it never reads anything twice.

    `ids` is the whole sequence so far (audio_pad for each frame). `seed` makes sampling repeatable.
    """

    def __init__(
        self, language_model: LanguageModel, audio_head: AudioHead, special: SpecialTokens, seed: int | None = None
    ) -> None:
        self.language_model, self.audio_head, self.special = language_model, audio_head, special
        self.ids: list[int] = []
        device = language_model.norm.weight.device
        self._cache = language_model.init_cache()
        self._depth_cache = audio_head.init_cache()
        self._hidden: Tensor | None = None  # [1, D] of the last position the backbone has seen
        self._waiting = 0  # how many of the last ids the backbone has not seen (never audio_pad)
        vocabulary = language_model.config.vocab_size
        self._counts = torch.zeros(vocabulary, dtype=torch.int32, device=device)  # of each id in the sequence
        self._barred = self._mask(special.not_text)
        self._random = Random(seed)

    @torch.inference_mode()
    def extend(self, ids: Tensor | Sequence[int], codes: Tensor | None = None) -> None:
        """Read more of a prompt: ids [N], codes [K, P] with P the number of audio_pad ids among them.

        Raises PromptError for ids or codes out of range, or when their numbers do not match.
        """
        model = self.language_model
        device = self._counts.device
        new = torch.as_tensor(ids, dtype=torch.long, device=device)
        if new.ndim != 1 or new.numel() == 0:
            raise PromptError(f"ids must be [N] with at least one id, not {list(new.shape)}.")
        if int(new.min()) < 0 or int(new.max()) >= model.config.vocab_size:
            raise PromptError(f"some ids lie outside the vocabulary of {model.config.vocab_size}.")
        if codes is not None:
            codes = codes.to(device, torch.long)
            model.check_codes(codes)
        self._read(model.embed(new[None], codes))
        self.ids += new.tolist()
        self._counts += torch.bincount(new, minlength=self._counts.shape[0]).int()

    def append(self, id: int) -> None:
        """Add one id (no audio_pad) that the backbone will see with what follows."""
        if id == self.special.audio_pad:
            raise PromptError("an audio_pad id needs its codes; use extend.")
        self.ids.append(id)
        self._counts[id] += 1
        self._waiting += 1

    def take_back(self) -> int | None:
        """Remove the last id, if the backbone has not seen it yet; None otherwise."""
        if not self._waiting:
            return None
        id = self.ids.pop()
        self._counts[id] -= 1
        self._waiting -= 1
        return id

    def write_text(self, max_new_tokens: int, sampling: Sampling) -> Tensor:
        """Write up to `max_new_tokens` text ids, to a `sampling.stop` id at most -> ids it added [n] int64."""
        return torch.tensor(list(self.iter_text(max_new_tokens, sampling)), dtype=torch.long)

    def iter_text(
        self, max_new_tokens: int, sampling: Sampling, barred: Sequence[int] = ()
    ) -> Generator[int, None, None]:
        """`write_text` id by id, each in the sequence when it is given. `barred`: more ids not to choose."""
        mask = self._barred | self._mask(barred) if barred else self._barred
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                logits = self.language_model.lm_head(self._last_hidden())[0].masked_fill(mask, float("-inf"))
                id = draw(logits, sampling, self._random, self._counts > 0)
            self.append(id)
            yield id
            if id in sampling.stop:
                return

    def write_codes(self, max_frames: int, sampling: Sampling) -> Tensor:
        """Write an audio segment of up to `max_frames` code frames -> codes [K, T].

        audiogen_start is fed before (unless it stands there already) and audiogen_end after it; a last frame that
        met the limit is not fed back: audiogen_end stands in its place.
        """
        frames = list(self.iter_codes(max_frames, sampling))
        if not frames:
            return torch.zeros(self.audio_head.num_codebooks, 0, dtype=torch.long, device=self._counts.device)
        return torch.stack(frames, dim=1)

    def iter_codes(self, max_frames: int, sampling: Sampling) -> Generator[Tensor, None, None]:
        """`write_codes` frame by frame: codes [K]. Abandoned early, the segment still ends with its mark."""
        if not self.ids or self.ids[-1] != self.special.audiogen_start:
            self.append(self.special.audiogen_start)
        choose = self._code_chooser(sampling)
        embedded: Tensor | None = None
        try:
            for _ in range(max_frames):
                with torch.inference_mode():
                    if embedded is not None:
                        self._read(embedded)
                        self.ids.append(self.special.audio_pad)
                        self._counts[self.special.audio_pad] += 1
                    frame = self.audio_head.frame(self._last_hidden(), self._depth_cache, choose)
                if frame is None:
                    return
                codes, embedded = frame
                embedded = embedded[None]
                yield torch.tensor(codes, device=self._counts.device)
        finally:
            self.append(self.special.audiogen_end)

    def _code_chooser(self, sampling: Sampling) -> Callable[[int, Tensor], int]:
        """Draws codes; the penalty counts, for each codebook, what this segment has said."""
        penalised = sampling.repetition_penalty != 1.0
        said = [
            torch.zeros(size + (level == 0), dtype=torch.bool, device=self._counts.device)
            for level, size in enumerate(self.audio_head.codebook_sizes)
        ]

        def choose(level: int, logits: Tensor) -> int:
            code = draw(logits, sampling, self._random, said[level] if penalised else None)
            if penalised:
                said[level][code] = True
            return code

        return choose

    def _last_hidden(self) -> Tensor:
        """Hidden state [1, D] of the last id, once the backbone has seen all of the sequence."""
        if self._waiting:
            waiting = torch.tensor([self.ids[-self._waiting :]], device=self._counts.device)
            self._waiting = 0
            self._hidden = self.language_model.hidden(self.language_model.embed_tokens(waiting), self._cache)[:, -1]
        if self._hidden is None:
            raise PromptError("there is nothing to go on from; give a prompt first.")
        return self._hidden

    def _read(self, embedded: Tensor) -> None:
        """Feed embeddings [1, N, D], with the ids that wait before them."""
        if self._waiting:
            waiting = torch.tensor([self.ids[-self._waiting :]], device=self._counts.device)
            self._waiting = 0
            embedded = torch.cat([self.language_model.embed_tokens(waiting), embedded], dim=1)
        self._hidden = self.language_model.hidden(embedded, self._cache)[:, -1]

    def _mask(self, ids: Sequence[int]) -> Tensor:
        mask = torch.zeros(self._counts.shape[0], dtype=torch.bool, device=self._counts.device)
        mask[[id for id in ids if 0 <= id < mask.shape[0]]] = True
        return mask
