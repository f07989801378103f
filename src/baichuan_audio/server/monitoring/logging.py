"""The log: one JSON object a line, with the ids of session and response, without what people say unless asked."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from typing import Any, TextIO


class EventLog:
    """Writes events as JSON lines; safe to use from any thread.

    stream: None for standard error. log_content: whether `content` is written.
    """

    def __init__(self, log_content: bool = False, stream: TextIO | None = None) -> None:
        self._log_content, self._stream = log_content, stream
        self._lock = threading.Lock()

    def write(
        self,
        event: str,
        *,
        session_id: str | None = None,
        response_id: str | None = None,
        content: dict[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        """One line. `facts` hold no words of a user; those go into `content`."""
        line: dict[str, Any] = {"time": round(time.time(), 3), "event": event}
        if session_id is not None:
            line["session_id"] = session_id
        if response_id is not None:
            line["response_id"] = response_id
        line.update(facts)
        if content and self._log_content:
            line["content"] = content
        text = json.dumps(line, ensure_ascii=False, default=str)
        with self._lock:
            print(text, file=self._stream or sys.stderr, flush=True)

    def exception(self, error: BaseException, **ids: str | None) -> None:
        """An unforeseen error: its kind and where it happened; its words may hold what a user said."""
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        self.write("error", kind=type(error).__name__, where=where, content={"message": str(error)}, **ids)


class LogHandler(logging.Handler):
    """Lets the lines of Python's logging, such as uvicorn's, into the same log."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._log.exception(record.exc_info[1])
        else:
            self._log.write("log", level=record.levelname.lower(), logger=record.name, message=record.getMessage())


def collect_logs(log: EventLog) -> None:
    """Have our own loggers, uvicorn's and asyncio's write there, from warnings on, and nowhere else."""
    for name in ("baichuan_audio", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [LogHandler(log)], False
        logger.setLevel(logging.WARNING)
