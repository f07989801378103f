"""Write a dialogue file of nano's skills, as text alone; --help says what it takes."""

import sys

from nano.commands import make_dialogues

if __name__ == "__main__":
    sys.exit(make_dialogues())
