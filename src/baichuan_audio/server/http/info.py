"""GET /v1/models, /v1/audio/models, /v1/audio/voices, /health, /metrics."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ..errors import RETRY_AFTER_S, ApiError
from .openapi import error_responses, other_content

router = APIRouter()
_STARTED = int(time.time())
_UPGRADE = {"Upgrade": "websocket"}


class Model(BaseModel):
    """A model that this server answers with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "baichuan-audio"
    voices: list[str]
    """The names that `voice` may have; the page lets people choose one."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class AudioModel(BaseModel):
    id: str
    name: str


class AudioModelList(BaseModel):
    models: list[AudioModel]


class Voice(BaseModel):
    """A name that `voice` may have."""

    id: str
    name: str


class VoiceList(BaseModel):
    voices: list[Voice]


class Health(BaseModel):
    status: Literal["ok", "closing"]
    slots_free: int
    """Conversations that may still begin."""


@router.get("/v1/models", operation_id="list_models", responses=error_responses())
async def list_models(request: Request) -> ModelList:
    """The one model of this server."""
    return ModelList(data=[_model(request)])


@router.get("/v1/models/{id:path}", operation_id="get_model", responses=error_responses())
async def get_model(request: Request, id: str) -> Model:
    """That model by its name."""
    model = _model(request)
    if id != model.id:
        raise ApiError(404, f"this server has no such model; it has '{model.id}'.", code="model_not_found")
    return model


@router.get("/v1/audio/models", operation_id="list_audio_models", responses=error_responses())
async def list_audio_models(request: Request) -> AudioModelList:
    """The one model again, as pages with a choice of speech models ask for it (Open WebUI)."""
    name = request.app.state.settings.model_name
    return AudioModelList(models=[AudioModel(id=name, name=name)])


@router.get("/v1/audio/voices", operation_id="list_voices", responses=error_responses())
async def list_voices(request: Request) -> VoiceList:
    """The model's voices, as pages with a choice of voices ask for them (Open WebUI)."""
    return VoiceList(voices=[Voice(id=name, name=name) for name in request.app.state.engine.voices])


@router.get("/v1/realtime", include_in_schema=False)
async def realtime_without_upgrade() -> None:
    """Tells a client that this address is a WebSocket's."""
    raise ApiError(426, "this is a WebSocket: connect with ws:// or wss://.", code="upgrade_required", headers=_UPGRADE)


@router.get("/health", operation_id="health", responses={**error_responses(400, 403, 413), 503: {"model": Health}})
async def health(request: Request, response: Response) -> Health:
    """200 while conversations may begin, 503 when the server is about to end."""
    state = request.app.state
    if state.work.closing:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return Health(status="closing" if state.work.closing else "ok", slots_free=state.engine.stats().slots_free)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: other_content("The figures.", "text/plain"), **error_responses(400, 401, 403, 413)},
)
async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    return Response(request.app.state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(request: Request) -> Model:
    state = request.app.state
    return Model(id=state.settings.model_name, created=_STARTED, voices=list(state.engine.voices))
