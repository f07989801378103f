"""Makes `python -m baichuan_audio.cli` the same as `baichuan-audio`."""

from .app import entry_point

if __name__ == "__main__":
    entry_point()
