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
    """The model of this server, or one of its adapters."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "baichuan-audio"
    voices: list[str]
    """The names that `voice` may have."""
    parent: str | None = None
    """Of an adapter: the model that it adapts."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class AudioModel(BaseModel):
    id: str
    name: str


class AudioModelList(BaseModel):
    models: list[AudioModel]


class Voice(BaseModel):
    """A value of `voice`."""

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
    """List the model of this server, and its adapters, which a request names as its `model`."""
    return ModelList(data=_models(request))


@router.get("/v1/models/{id:path}", operation_id="get_model", responses=error_responses())
async def get_model(request: Request, id: str) -> Model:
    """Get the model, or an adapter, by its name."""
    models = {model.id: model for model in _models(request)}
    if id not in models:
        raise ApiError(404, f"this server has only the model '{' and '.join(models)}'.", code="model_not_found")
    return models[id]


@router.get("/v1/audio/models", operation_id="list_audio_models", responses=error_responses())
async def list_audio_models(request: Request) -> AudioModelList:
    """List the models in the form that Open WebUI asks for."""
    return AudioModelList(models=[AudioModel(id=model.id, name=model.id) for model in _models(request)])


@router.get("/v1/audio/voices", operation_id="list_voices", responses=error_responses())
async def list_voices(request: Request) -> VoiceList:
    """List the model's voices in the form that Open WebUI asks for."""
    return VoiceList(voices=[Voice(id=name, name=name) for name in request.app.state.engine.voices])


@router.get("/v1/realtime", include_in_schema=False)
async def realtime_without_upgrade() -> None:
    """Answers a client that does not open a WebSocket here."""
    raise ApiError(426, "this is a WebSocket: connect with ws:// or wss://.", code="upgrade_required", headers=_UPGRADE)


@router.get("/health", operation_id="health", responses={**error_responses(400, 403, 413), 503: {"model": Health}})
async def health(request: Request, response: Response) -> Health:
    """200 while conversations may begin, 503 when the server is shutting down."""
    state = request.app.state
    if state.work.closing:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return Health(status="closing" if state.work.closing else "ok", slots_free=state.engine.stats().slots_free)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: other_content("The metrics.", "text/plain"), **error_responses(400, 401, 403, 413)},
)
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(request.app.state.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _models(request: Request) -> list[Model]:
    """The model, then its adapters."""
    state = request.app.state
    base, voices = state.settings.model_name, list(state.engine.voices)
    return [
        Model(id=base, created=_STARTED, voices=voices),
        *(Model(id=name, created=_STARTED, voices=voices, parent=base) for name in state.engine.adapters),
    ]
