"""Train nano from pretrained parts, going on where an earlier run stopped; --help says what it takes."""

import sys

from nano.pipeline import main

if __name__ == "__main__":
    sys.exit(main())
