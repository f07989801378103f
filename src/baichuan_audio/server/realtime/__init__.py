"""OpenAI's Realtime API (GA form) over a WebSocket (docs/realtime.md).

A frame is received (router.py), validated (protocol/client_events.py), acted on (session.py), and answered with events
(protocol/server_events.py), which wait in send_queue.py.
"""

from .router import router

__all__ = ["router"]
