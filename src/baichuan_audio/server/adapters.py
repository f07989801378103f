"""Adapters in requests: as servers of many LoRAs do, the name of a model is that of an adapter."""

from __future__ import annotations

from ..engine import Engine
from .errors import ApiError
from .settings import ServerSettings


def choose_adapter(engine: Engine, settings: ServerSettings, model: str | None) -> str | None:
    """The `model` of a request -> the adapter of that name; None: the base.

    A server without adapters accepts any name. Raises ApiError 404 where there are some and none is called so.
    """
    if model is None or not engine.adapters or model == settings.model_name:
        return None
    if model not in engine.adapters:
        names = ", ".join((settings.model_name, *engine.adapters))
        raise ApiError(404, f"there is no model '{model}'; there are {names}.", param="model", code="model_not_found")
    return model
