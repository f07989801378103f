"""Lets `python -m baichuan_audio.cli` stand for `baichuan-audio`."""

from .app import entry_point

if __name__ == "__main__":
    entry_point()
