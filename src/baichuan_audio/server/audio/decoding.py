"""Decoding of uploaded audio in processes that can be killed, where short files do not wait for long ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from ...audio.decoder_process import receive, send
from ...audio.formats import is_plain_wav
from ...audio.reading import AudioLimits
from ...errors import BaichuanAudioError
from ..errors import ApiError, bad_request

_LONG_PROCESSES = 2
_SHORT_SAMPLES = 12_000_000  # of all channels: two minutes of stereo at 48 kHz
_SHORT_CPU_S = 0.3
_SHORT_BYTES = 4 * 1024**2
_CPU_S = 20.0
_WALL_S = 120.0  # a busy machine may give a decoder little of its time
_SHORT_WALL_S = 10.0
_LONG_NICENESS = 5
_MAIN = "import sys; sys.path[:] = {path!r}; from baichuan_audio.audio.decoder_process import main; main({niceness})"


class DecoderStopped(BaichuanAudioError):
    """The process ended without an answer: the file made it crash."""


class _Request:
    """One file to decode. `process` is set while it is decoded, `abandoned` when its caller has been cancelled."""

    def __init__(self, header: dict[str, Any], data: bytes) -> None:
        self.header, self.data = header, data
        self.process: subprocess.Popen[bytes] | None = None
        self.abandoned = False


class DecoderProcess:
    """One process and the thread that talks to it. Starts at the first request, and again after a kill."""

    def __init__(self, niceness: int = 0) -> None:
        self._niceness = niceness
        self._thread = ThreadPoolExecutor(1, "baichuan-audio decoder")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._request: _Request | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_busy(self) -> bool:
        """Whether it decodes a file."""
        return self._request is not None

    def prepare(self) -> None:
        """Start the process in the background and have it load every decoder."""
        self._thread.submit(self._prepare)

    async def decode_file(self, header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Have one file decoded. The process is killed after `wall_s` (status "long") or when this is cancelled.

        Raises DecoderStopped when the process ends by itself, ApiError 500 where it does not start.
        """
        if self._closed:
            raise _shutting_down()
        request = _Request(header, data)
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, request)
        try:
            return await asyncio.wait_for(asyncio.shield(running), header["wall_s"])
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            running.cancel()
            self._abandon(request)
            if isinstance(error, asyncio.CancelledError):
                raise
            return {"status": "long"}, b""

    def close(self) -> None:
        """Kill the process for good."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        with contextlib.suppress(RuntimeError):  # closed before
            self._thread.submit(self._discard)
        self._thread.shutdown(wait=False)

    def _abandon(self, request: _Request) -> None:
        with self._lock:
            request.abandoned = True
            if request.process is not None:
                request.process.kill()

    # -- on the thread --------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with contextlib.suppress(ApiError, EOFError, OSError):
            process = self._running()
            send(_pipe(process.stdin), {"prepare": True})
            receive(_pipe(process.stdout))

    def _exchange(self, request: _Request) -> tuple[dict[str, Any], bytes]:
        process = self._running()
        with self._lock:
            if request.abandoned:
                return {}, b""
            request.process, self._request = process, request
        try:
            send(_pipe(process.stdin), request.header, request.data)
            return receive(_pipe(process.stdout))
        except (EOFError, OSError, ValueError) as error:
            process.kill()
            process.wait()
            if self._closed:
                raise _shutting_down() from error
            raise DecoderStopped("it ended") from error
        finally:
            with self._lock:
                request.process = self._request = None
            request.data = b""
            if request.abandoned or process.poll() is not None:
                self._discard()
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    self._thread.submit(self._prepare)  # ready again for the next file

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none. Raises ApiError 500 where it does not start."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._discard()
        try:
            with self._lock:
                if self._closed:
                    raise _shutting_down()
                process = self._process = _started(self._niceness)
            receive(_pipe(process.stdout))
        except (EOFError, OSError) as error:
            self._discard()
            raise ApiError(500, "the process that decodes audio did not start.", code="decoder_failed") from error
        return process

    def _discard(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()


class DecoderPool:
    """One process for short files and two, with less priority, for long ones.

    Every file of up to 4 MiB, and every plain WAV, goes first to the process for short files, which gives up by the
    header or after 0.3 s of work; then it waits for one of the others. Short files wait for each other only.
    """

    def __init__(self) -> None:
        self._short, self._long = DecoderProcess(), [DecoderProcess(_LONG_NICENESS) for _ in range(_LONG_PROCESSES)]
        self._free: dict[bool, asyncio.Queue[DecoderProcess]] = {True: asyncio.Queue(), False: asyncio.Queue()}
        self._free[True].put_nowait(self._short)
        for process in self._long:
            self._free[False].put_nowait(process)

    @property
    def pids(self) -> list[int]:
        """Ids of the running processes."""
        return [process.pid for process in (self._short, *self._long) if process.pid is not None]

    @property
    def busy_pids(self) -> list[int]:
        """Ids of the processes for long files that decode one."""
        return [process.pid for process in self._long if process.is_busy and process.pid is not None]

    def prepare(self) -> None:
        """Start the process for short files now, in the background; the others start on demand."""
        self._short.prepare()

    def close(self) -> None:
        """Kill all processes."""
        for process in (self._short, *self._long):
            process.close()

    async def decode(self, data: bytes, sample_rate: int, limits: AudioLimits, param: str) -> Any:
        """An audio file -> mono waveform [S] float32 at that rate. Raises ApiError 400; cancelling ends the work."""
        header = {
            "limits": asdict(limits),
            "sample_rate": sample_rate,
            "name": param,
            "cpu_s": _CPU_S,
            "wall_s": _WALL_S,
        }
        short = {"short_samples": _SHORT_SAMPLES, "short_cpu_s": _SHORT_CPU_S, "wall_s": _SHORT_WALL_S}
        answer, samples = {"status": "long"}, b""
        if len(data) <= _SHORT_BYTES or is_plain_wav(data[:64]):
            answer, samples = await self._run(True, header | short, data, param)
        if answer["status"] == "long":
            answer, samples = await self._run(False, header, data, param)
        if answer["status"] == "long":
            raise bad_request(
                f"'{param}' takes too long to decode; send a shorter file, or WAV.", param, "audio_too_large"
            )
        if answer["status"] == "refused":
            raise bad_request(answer["message"], param, answer["code"])
        return np.frombuffer(bytearray(samples), np.float32)

    async def _run(
        self, is_short: bool, header: dict[str, Any], data: bytes, param: str
    ) -> tuple[dict[str, Any], bytes]:
        free = self._free[is_short]
        process = await free.get()
        try:
            return await process.decode_file(header, data)
        except DecoderStopped:
            message = f"'{param}': the decoder broke off; the file may be damaged. Send WAV."
            raise bad_request(message, param, "invalid_audio") from None
        finally:
            free.put_nowait(process)


def _started(niceness: int) -> subprocess.Popen[bytes]:
    """A new process. It is not forked: it needs none of this one's threads, memory and sockets."""
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | (subprocess.BELOW_NORMAL_PRIORITY_CLASS if niceness else 0)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN.format(path=sys.path, niceness=niceness)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=flags,
        env={**os.environ, **threads},
    )


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down.", code="shutting_down")


def _pipe(pipe: Any) -> Any:
    assert pipe is not None
    return cast(Any, pipe)
