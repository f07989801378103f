"""Make the corpus of nano: speech and dialogues; --help says what it takes."""

import sys

from nano.commands import make_corpus

if __name__ == "__main__":
    sys.exit(make_corpus())
