"""Hold recordings, voices and texts out of nano's training, and make the sets that it is measured on; see --help."""

import sys

from nano.commands import make_sets

if __name__ == "__main__":
    sys.exit(make_sets())
