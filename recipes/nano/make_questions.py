"""Write questions of a pretrained language model with its replies, for the data pipeline; --help says what it takes."""

import sys

from nano.commands import make_questions

if __name__ == "__main__":
    sys.exit(make_questions())
