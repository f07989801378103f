"""Serves the files of `web/`, each under its own name, the page itself at `/`. Other files are not served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

_FOLDER = Path(__file__).parent
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
_HEADERS = {
    "cache-control": "no-cache",  # a newer server brings a newer page
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Add one route per file when the application is created: a path from a request never names a file."""
    for file in sorted(_FOLDER.rglob("*")):
        if file.is_file() and file.suffix in _TYPES:
            name = "/" if file == _FOLDER / "index.html" else f"/{file.relative_to(_FOLDER).as_posix()}"
            app.add_route(name, _sender(file), methods=["GET"], include_in_schema=False)


def _sender(file: Path) -> Callable[[Request], Awaitable[FileResponse]]:
    async def send(request: Request) -> FileResponse:
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=_HEADERS)

    return send
