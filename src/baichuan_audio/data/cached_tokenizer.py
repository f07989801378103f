"""Text tokenizers for training, which encodes the same texts again and again."""

from __future__ import annotations

from ..language_model.text_tokenizer import TextTokenizer


class CachedTokenizer(TextTokenizer):
    """A text tokenizer that caches the ids of every text."""

    def __init__(self, source: str) -> None:
        self._cache: dict[str, list[int]] = {}
        super().__init__(source)

    def encode(self, text: str) -> list[int]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._cache[text] = super().encode(text)
        return ids
