"""Measure a trained nano on held-out items of its corpus; --help says what it takes."""

import sys

from nano.commands import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
