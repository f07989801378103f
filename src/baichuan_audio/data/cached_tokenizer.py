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
            ids = self._cache[text] = self._uncached(text)
        return ids

    def _uncached(self, text: str) -> list[int]:
        return super().encode(text)


class CharacterTokenizer(CachedTokenizer):
    """Encodes every text character by character, as words outside the vocabulary are."""

    def _uncached(self, text: str) -> list[int]:
        return [id for character in text for id in super(CharacterTokenizer, self)._uncached(character)]
