"""Text normalization for speech: Markdown, addresses, numbers and signs in words; English and Mandarin.

We use our own rules because they were measured to be better than the available libraries. Of the first 362 lines of
tests/text/tables/normalization.tsv, wetext 0.1.8 read 220 correctly, earlier rules 264, these all. Of two later tables
(73 and 74 lines) wetext read 47 and 51, earlier rules 54 and 55, these 69 and 69 before any fix. wetext would add 45 MB
and two compiled packages, and raises AssertionError for texts such as "5¢".
"""

from .normalize import normalize_for_speech

__all__ = ["normalize_for_speech"]
