"""The server's log: one JSON object a line, with the ids of session and response, without user content unless asked."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any, TextIO

_LIBRARIES = ("baichuan_audio", "uvicorn.error", "asyncio")


class JsonFormatter(logging.Formatter):
    """A record -> one line of JSON. log_content: whether user content is written.

    Records of `EventLog` have their fields as arguments. Of other records with an error only its class and traceback
    are written: its message may hold user content.
    """

    def __init__(self, log_content: bool = False) -> None:
        super().__init__()
        self._log_content = log_content

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any]
        if isinstance(record.args, dict) and "event" in record.args:
            fields = dict(record.args)
        elif record.exc_info and record.exc_info[1] is not None:
            fields = error_fields(record.exc_info[1])
        else:
            level, message = record.levelname.lower(), record.getMessage()
            fields = {"event": "log", "level": level, "logger": record.name, "message": message}
        content = fields.pop("content", None)
        if content and self._log_content:
            fields["content"] = content
        return json.dumps({"time": round(record.created, 3), **fields}, ensure_ascii=False, default=str)


class EventLog:
    """Events of one server, written by a handler of the standard library's logging; safe to use from any thread.

    stream: None for standard error. log_content: whether user content is written.
    """

    def __init__(self, log_content: bool = False, stream: TextIO | None = None) -> None:
        self.handler = logging.StreamHandler(stream)
        self.handler.setFormatter(JsonFormatter(log_content))
        self._logger = logging.Logger("baichuan_audio.server.events")  # not registered: each server has its own
        self._logger.addHandler(self.handler)

    def write(
        self,
        event: str,
        *,
        session_id: str | None = None,
        response_id: str | None = None,
        content: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """One line. content: what users say and get as an answer; `fields` must hold none of it."""
        ids = {"session_id": session_id, "response_id": response_id}
        named = {name: value for name, value in ids.items() if value is not None}
        self._logger.info("event", {"event": event, **named, **fields, "content": content})

    def exception(self, error: BaseException, **ids: Any) -> None:
        """An unforeseen error: its class and traceback."""
        self.write(**error_fields(error), **ids)


def error_fields(error: BaseException) -> dict[str, Any]:
    """The fields of an error; its message counts as content."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"event": "error", "kind": type(error).__name__, "where": where, "content": {"message": str(error)}}


def collect_logs(log: EventLog) -> None:
    """Send the warnings and errors of our own loggers, uvicorn's and asyncio's to this log, and nowhere else."""
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [log.handler], False
        logger.setLevel(logging.WARNING)
