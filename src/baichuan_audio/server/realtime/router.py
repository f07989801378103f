"""The WebSocket endpoint `/v1/realtime`: accepts a client, runs its session, and cleans up."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from ...engine import Dialogue
from ..access.auth import check_websocket
from ..adapters import choose_adapter
from ..errors import ApiError, as_api_error
from .protocol import server_events
from .rate_limits import TokenBucket
from .send_queue import SendQueue
from .session import RealtimeSession

router = APIRouter()

_FRAMES = (1000, 200)  # at once, then each second; appends of 20 ms are 50 a second
_BYTES = (32 * 1024**2, 2 * 1024**2)  # about 40 times real time
_CLOSE_S = 1.0


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket) -> None:
    """OpenAI's Realtime API, GA form; `?model=` may name an adapter."""
    state = websocket.app.state
    try:
        _check_connection(websocket)
        client_settings = check_websocket(websocket)
        named = websocket.query_params.get("model") or (client_settings or {}).get("model")
        adapter = choose_adapter(state.engine, state.settings, named)
    except ApiError as error:
        await _deny(websocket, error)
        return
    subprotocols = websocket.scope.get("subprotocols", ())
    await websocket.accept(subprotocol="realtime" if "realtime" in subprotocols else None)
    try:
        async with state.work.at_work():
            dialogue = state.engine.open(adapter=adapter)
            await _run_session(websocket, dialogue, client_settings)
    except Exception as error:
        await _refuse(websocket, error)


@router.websocket("/{path:path}")
async def not_found(websocket: WebSocket) -> None:
    """Refuses WebSockets at other paths."""
    await _deny(websocket, ApiError(404, "the WebSocket endpoint of this server is /v1/realtime."))


def _check_connection(websocket: WebSocket) -> None:
    """Raises ApiError 503 where the connection is one of the few above the limit (server/access/connections.py)."""
    if websocket.scope.get("state", {}).get("spare"):
        raise ApiError(503, "too many connections at once; try again shortly.", code="too_many_connections")


async def _deny(websocket: WebSocket, error: ApiError) -> None:
    """Refuse the handshake, with an error where the server supports that."""
    websocket.app.state.metrics.error(str(error.code))
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(error.response())
    else:
        await websocket.close(1008)


async def _refuse(websocket: WebSocket, error: Exception) -> None:
    """No free slot, or a shutdown: an `error` event, then a close code that means to try again later."""
    api_error = as_api_error(error)
    reason = api_error.code or "refused"
    state = websocket.app.state
    state.metrics.error(reason)
    if reason == "internal_error":
        state.log.exception(error)
    code = {429: 1013, 503: 1012}.get(api_error.status, 1011)
    event = server_events.error(api_error.message, reason, api_error.type)
    with suppress(WebSocketDisconnect, RuntimeError):  # disconnected already
        await websocket.send_text(json.dumps({"event_id": server_events.new_id("event"), **event}))
    await _close(websocket, code, reason)


async def _run_session(websocket: WebSocket, dialogue: Dialogue, client_settings: dict[str, Any] | None) -> None:
    """Run one session; its slot is free before the connection is closed.

    client_settings: of the client's key, if any.
    """
    state = websocket.app.state
    send_queue = SendQueue(websocket.send_text)
    try:
        session = RealtimeSession(state.engine, dialogue, state.settings, state.metrics, state.log, send_queue)
    except BaseException:
        await dialogue.close()
        raise
    state.metrics.session_opened()
    state.log.write("session_opened", session_id=session.id)
    code, outcome = 1011, "failed"
    tasks = [
        asyncio.create_task(work)
        for work in (
            _receive(websocket, session),
            send_queue.run(),
            session.run(),
            _end_with_server(state.work, session),
        )
    ]
    waiting: list[asyncio.Future[Any]] = [*tasks, session.ended]
    try:
        session.start(client_settings)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        code, outcome = (
            session.ended.result() if session.ended.done() else (1000, _outcome(tasks, state.log, session.id))
        )
        if session.ended.done() and not any(task.done() for task in tasks):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(send_queue.flushed(), _CLOSE_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await dialogue.close()
        state.metrics.session_closed(outcome)
        state.log.write("session_closed", session_id=session.id, outcome=outcome, code=code)
    await _close(websocket, code, outcome)


def _abort(websocket: WebSocket) -> None:
    """Abort a connection whose client does not close, where the server that runs the application allows it."""
    abort = websocket.scope.get("state", {}).get("abort")
    if abort is not None:
        abort()


async def _receive(websocket: WebSocket, session: RealtimeSession) -> None:
    """Receive frames until the client disconnects; a client above the rate limit is not read for a while."""
    frames, volume = TokenBucket(*_FRAMES), TokenBucket(*_BYTES)
    while True:
        message: dict[str, Any] = dict(await websocket.receive())
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        for bucket, amount in ((frames, 1), (volume, len(text or message.get("bytes") or ""))):
            while (wait := bucket.take(amount)) > 0:
                await asyncio.sleep(wait)
        if text is None:
            session.refuse_binary()
        else:
            await session.handle(text)


async def _end_with_server(work: Any, session: RealtimeSession) -> None:
    """When the server shuts down, let the response in progress finish, then end the session.

    One that takes too long is ended with the engine.
    """
    await work.wait_closing()
    await session.wait_quiet()
    session.end(1012, "shutdown", "The server is shutting down.")
    await asyncio.Event().wait()


def _outcome(tasks: list[asyncio.Task[None]], log: Any, session_id: str) -> str:
    """The outcome of a session whose client has disconnected, or one of whose tasks has failed."""
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError | OSError):
            log.exception(error, session_id=session_id)
            return "failed"
    return "completed"


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close; abort where the client does not answer."""
    try:
        await asyncio.wait_for(websocket.close(code, reason), _CLOSE_S)
    except asyncio.TimeoutError:
        _abort(websocket)
    except (WebSocketDisconnect, RuntimeError):  # disconnected already
        pass
