"""Text as it is spoken: Markdown, addresses, figures and signs in words; English and Mandarin.

Rules of our own, since they were measured to be better than the libraries for it. Of the first 362 lines of
tests/text/tables/normalization.tsv, wetext 0.1.8 read 220 rightly, the rules before these 264, these all. Of two tables
written afterwards (73 and 74 lines) wetext read 47 and 51, the rules before 54 and 55, these 69 and 69 before anything
was mended. wetext would add 45 MB and two compiled packages, and raises AssertionError for texts such as "5¢".
"""

from .normalize import normalize_for_speech

__all__ = ["normalize_for_speech"]
