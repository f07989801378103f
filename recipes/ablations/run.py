"""Train and compare tiny models, one command a study; --help says what it takes."""

import sys

from runner import main

if __name__ == "__main__":
    sys.exit(main())
