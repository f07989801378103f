"""The application: the routers, the page, and what they share in `app.state`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from ..audio.voice_activity import load_voice_activity_model
from ..engine import Engine
from ..errors import MissingDependencyError
from ..version import __version__
from . import realtime
from .access.admission import AdmissionMiddleware, GracefulShutdown
from .access.client_secrets import ClientSecrets
from .audio.input import AudioReader
from .errors import add_error_handlers
from .http import chat as http_chat
from .http import client_secrets as http_client_secrets
from .http import info as http_info
from .http import openapi
from .http import speech as http_speech
from .http import transcriptions as http_transcriptions
from .http.reply_store import ReplyStore
from .monitoring.logging import EventLog
from .monitoring.metrics import Metrics
from .settings import ServerSettings
from .web.static_files import add_page


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """The server around an engine: OpenAI's HTTP endpoints, its Realtime WebSocket, and the page at `/`.

    The application starts the engine and, when it ends, stops it. `app.state` holds `engine`, `settings`, `metrics`,
    `log`, and `work`: the requests and sessions in progress; `work.closing` when no new ones are accepted.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        await warm_up(engine)
        yield
        app.state.work.close()
        app.state.reader.close()
        await engine.stop()

    app = FastAPI(
        title="Baichuan-Audio",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # they load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    state: Any = app.state
    state.engine, state.settings = engine, settings or ServerSettings()
    state.metrics, state.log, state.work = Metrics(engine), EventLog(state.settings.log_content), GracefulShutdown()
    state.replies, state.reader = ReplyStore(), AudioReader()
    state.client_secrets = ClientSecrets(state.settings.signing_key)
    add_error_handlers(app)
    for part in (http_chat, http_speech, http_transcriptions, http_info, http_client_secrets, realtime):
        app.include_router(part.router)
    add_page(app)
    app.add_middleware(AdmissionMiddleware, app=app)
    openapi.describe(app)
    return app


async def warm_up(engine: Engine) -> None:
    """One short reply, so that the first user does not wait for kernels and memory."""
    with suppress(MissingDependencyError):  # reported to clients that send audio
        await asyncio.to_thread(load_voice_activity_model)
    dialogue = engine.open(seed=0)
    try:
        await dialogue.add_user(["Hello."])
        async for _ in dialogue.reply(max_tokens=4):
            pass
    finally:
        await dialogue.close()
