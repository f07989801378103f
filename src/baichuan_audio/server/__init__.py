"""The server: OpenAI's HTTP and Realtime APIs, and a web page (docs/serving.md).

    app = create_app(engine, ServerSettings())     # an ASGI application for uvicorn or Ray Serve

Needs the libraries of `pip install 'baichuan-audio[server]'`, imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import ServerSettings

if TYPE_CHECKING:
    from .app import create_app

__all__ = ["ServerSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..errors import MissingDependencyError

    try:
        from .app import create_app
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"serving needs {error.name}, which is not installed: pip install 'baichuan-audio[server]'."
        ) from error
    return create_app
