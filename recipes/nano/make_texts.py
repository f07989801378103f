"""Write what is spoken in nano's corpus, for the data pipeline; --help says what it takes."""

import sys

from nano.commands import make_texts

if __name__ == "__main__":
    sys.exit(make_texts())
