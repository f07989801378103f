"""Text tokens and code frames in, text tokens and code frames out."""
