"""One utterance through a pocketsphinx decoder."""

from __future__ import annotations

from typing import Any


def decode_utterance(decoder: Any, pcm: bytes) -> None:
    """Decode 16-bit mono samples at 16 kHz as a whole, independent of what the decoder has decoded before.

    Its noise filter carries over from one utterance to the next; without a reset results depend on their order.
    """
    decoder.reinit_feat()
    decoder.start_utt()
    try:
        decoder.process_raw(pcm, full_utt=True)
    finally:
        decoder.end_utt()
