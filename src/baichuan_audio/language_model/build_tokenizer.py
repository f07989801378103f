"""Builds a small text tokenizer: characters with byte fallback, frequent words whole, control tokens at the end.

A model with a closed vocabulary needs no learnt merges: a word that the corpus repeats is one id, any other
word is encoded by its characters, and a character outside the table falls back to its UTF-8 bytes, so every
text comes back unchanged. Stored as an ordinary `tokenizer.json` (BPE without merges, `byte_fallback`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (  # docs/model.md, 7, and the related ones in config.json
    END_OF_TEXT,
    "<B_SYS>",
    "<C_Q>",
    "<C_A>",
    "<audio_start_baichuan>",
    "<audio_end_baichuan>",
    "<audio_pad_baichuan>",
    "<audio_delim_baichuan>",
    "<audiotext_start_baichuan>",
    "<audiotext_end_baichuan>",
    "<audiotext_pad_baichuan>",
    "<audiogen_start_baichuan>",
    "<audiogen_end_baichuan>",
)
_PUNCTUATION = "，。！？、；：“”‘’（）《》【】…—·％　"
_PIECES = r" ?[A-Za-z]+|[\s\S]"  # a word with the blank before it, or any other character


def build_text_tokenizer(texts: Iterable[str], words: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer whose table holds printable ASCII, Chinese punctuation, the characters of `texts`, and `words`.

    Ids: 256 bytes, then characters in code-point order, then words, then the control tokens.
    """
    characters = {chr(code) for code in range(0x20, 0x7F)} | set(_PUNCTUATION)
    characters |= {character for text in texts for character in text if character.isprintable()}
    entries = [f"<0x{byte:02X}>" for byte in range(256)] + sorted(characters)
    entries += [word for word in dict.fromkeys(words) if word not in characters]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, ignore_merges=True, fuse_unk=False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return tokenizer


def token_id_entries(tokenizer: Tokenizer) -> dict[str, int]:
    """The `audio_config` entries of config.json that hold control token ids."""
    entries: dict[str, int] = {}
    for token in CONTROL_TOKENS:
        matched = re.fullmatch(r"<(audio\w*)_(start|end|pad|delim)_baichuan>", token)
        token_id = tokenizer.token_to_id(token)
        if matched and token_id is not None:
            entries[f"{matched[1]}_{matched[2]}_token_id"] = token_id
    return entries
