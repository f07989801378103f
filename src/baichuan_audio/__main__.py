"""Lets `python -m baichuan_audio` stand for `baichuan-audio`."""

from .cli.app import entry_point

if __name__ == "__main__":
    entry_point()
