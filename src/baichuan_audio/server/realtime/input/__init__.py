"""The user's audio: turns, transcripts, codecs."""
