"""What is written for the eye, written for speech: Markdown, addresses, figures, signs; English and Mandarin."""

from .speech import for_speech

__all__ = ["for_speech"]
