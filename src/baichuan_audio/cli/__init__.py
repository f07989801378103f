"""The command line: `baichuan-audio COMMAND ...`. Only the chosen command's libraries are loaded."""

from .app import entry_point, main

__all__ = ["entry_point", "main"]
