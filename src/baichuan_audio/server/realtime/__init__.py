"""OpenAI's Realtime API (GA form) over a WebSocket (docs/serving.md).

wire.py reads what a client sends, events.py writes what the server sends, session.py is the state machine between them.
"""

from .router import router

__all__ = ["router"]
