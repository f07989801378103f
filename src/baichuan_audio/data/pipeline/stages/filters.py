"""What the filter stages share: dropping a piece with its reason."""

from __future__ import annotations

from ...store.records import Dropped, Piece


def drop(piece: Piece, reason: str, detail: str = "") -> Dropped:
    """The record of a piece that is left out."""
    return Dropped(piece.id, piece.source, piece.origin, reason, piece.seconds, detail)
