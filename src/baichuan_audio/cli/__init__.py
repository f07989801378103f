"""The command line: `baichuan-audio COMMAND ...`. Only the chosen command's libraries are loaded."""

from .main import entry_point, main

__all__ = ["entry_point", "main"]
