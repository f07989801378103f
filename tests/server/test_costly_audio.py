"""Audio that costs much to decode, through the real server: short clips go on, and work ends with its client."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'baichuan-audio[formats]'")
pytest.importorskip("openai")

import costly_audio  # noqa: E402
import httpx  # noqa: E402
import numpy as np  # noqa: E402
from fake_engine import HEARD  # noqa: E402
from http_tools import Serving, assert_error, serving, tone  # noqa: E402
from made_files import encoded  # noqa: E402

from baichuan_audio.audio.reading import AudioLimits  # noqa: E402
from baichuan_audio.server.audio import decoding  # noqa: E402
from baichuan_audio.server.audio.decoding import DecoderPool  # noqa: E402
from baichuan_audio.server.errors import ApiError  # noqa: E402

LONGEST_S = 480
PATH = "/v1/audio/transcriptions"
LIMITS = AudioLimits(max_seconds=LONGEST_S, max_samples=192_000 * LONGEST_S)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(max_audio_seconds=LONGEST_S) as server:
        yield server


@pytest.fixture(scope="module")
def costly() -> bytes:
    """Within every limit, and a second or two of work: minutes of stereo noise in AAC, one second over and over."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 47 * 1024)).astype(np.float32)
    second = encoded(noise, 48_000, "adts", "aac")
    return second * int(0.95 * LONGEST_S)


def post(server: Serving, data: bytes) -> tuple[httpx.Response, float]:
    """The answer, and the seconds until it was there."""
    begun = time.perf_counter()
    response = httpx.post(server.url.rstrip("/") + PATH, data={"model": "x"}, files={"file": ("a", data)}, timeout=120)
    return response, time.perf_counter() - begun


def pool_of(server: Serving) -> DecoderPool:
    pool: DecoderPool = server._server.config.app.state.reader.pool
    return pool


def until(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and not been waited for."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_short_clip_is_answered_while_two_costly_files_are_decoded(server: Serving, costly: bytes, format: str):
    clip = tone(2.0, format=format)
    assert post(server, clip)[0].json()["text"] == HEARD  # starts what there is to start
    ended: list[float] = []

    def attack() -> None:
        response, _ = post(server, costly)
        assert response.json()["text"] == HEARD
        ended.append(time.perf_counter())

    begun = time.perf_counter()
    attackers = [threading.Thread(target=attack) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    until(lambda: server.busy == 2)
    waits = []
    while not ended:
        response, wait = post(server, clip)
        assert response.json()["text"] == HEARD
        waits.append(wait)
        time.sleep(0.05)  # a client's pause; the rest of the machine is for the costly files
    for attacker in attackers:
        attacker.join()
    # several clips, one after another, while the first of two equal costly files was decoded
    assert len(waits) >= 4
    assert statistics.median(waits) < (ended[0] - begun) / 4


def test_the_attack_is_refused_before_it_costs_anything(server: Serving):
    attack = costly_audio.flac(590, 384_000, 8)
    assert len(attack) < 200_000
    baseline = statistics.median(post(server, tone(2.0, format="FLAC"))[1] for _ in range(5))
    waits = []
    for _ in range(5):
        response, wait = post(server, attack)
        assert "million samples" in assert_error(response, 400, "audio_too_large")["message"]
        waits.append(wait)
    assert min(waits) < 4 * baseline  # decoded, it would take 10 s of work


@pytest.mark.parametrize(
    "bomb",
    [
        costly_audio.opus(10 * 3600),
        costly_audio.vorbis(3 * 3600),
        costly_audio.flac(3600, 96_000, 2, says_length=False),
        costly_audio.flac(3600, 384_000, 8, says_length=False),
    ],
    ids=["Opus", "Vorbis", "FLAC", "wide FLAC"],
)
def test_small_files_that_unfold_to_hours(server: Serving, bomb: bytes):
    assert len(bomb) < 2_000_000
    error = assert_error(post(server, bomb)[0], 400)
    assert error["code"] in ("audio_too_long", "audio_too_large") and error["param"] == "file"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_a_client_that_hangs_up_ends_the_work(server: Serving, costly: bytes):
    pool = pool_of(server)
    boundary = b"--x\r\nContent-Disposition: form-data; name="
    body = boundary + b'"model"\r\n\r\nx\r\n' + boundary + b'"file"; filename="a"\r\n\r\n' + costly + b"\r\n--x--\r\n"
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    post(server, tone(1.0, format="FLAC"))
    connection = server.raw(head.encode() + body)
    assert until(lambda: bool(pool.busy_pids))
    (pid,) = pool.busy_pids
    connection.close()
    begun = time.perf_counter()
    assert until(lambda: not alive(pid))
    stopped = time.perf_counter() - begun
    assert server.idle()
    response, whole = post(server, costly)  # there is another process
    assert response.json()["text"] == HEARD
    assert stopped < whole / 2


async def test_a_request_that_waits_its_turn_can_be_given_up(costly: bytes):
    pool = DecoderPool()
    try:
        running = [asyncio.ensure_future(pool.decode(costly, 16_000, LIMITS, "file")) for _ in range(4)]
        while len(pool.busy_pids) < 2:
            await asyncio.sleep(0.01)
        for waiting in running[2:]:
            waiting.cancel()
        await asyncio.wait(running[2:])
        assert all(not task.done() for task in running[:2])
        for task in running[:2]:
            task.cancel()
        await asyncio.wait(running)
        assert (await pool.decode(tone(1.0, format="FLAC"), 16_000, LIMITS, "file")).shape == (16_000,)
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform == "win32", reason="ends a process by a signal")
async def test_a_decoder_that_crashes_costs_one_request(costly: bytes):
    pool = DecoderPool()
    try:
        decoding_it = asyncio.ensure_future(pool.decode(costly, 16_000, LIMITS, "file"))
        while not pool.busy_pids:
            await asyncio.sleep(0.01)
        os.kill(pool.busy_pids[0], signal.SIGSEGV)
        with pytest.raises(ApiError, match="broke off") as refusal:
            await decoding_it
        assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, "invalid_audio", "file")
        for _ in range(3):
            assert (await pool.decode(tone(1.0, format="OGG"), 16_000, LIMITS, "file")).shape == (16_000,)
    finally:
        pool.close()
    assert await asyncio.to_thread(until, lambda: not pool.pids)


async def test_a_file_that_takes_too_long_is_ended(costly: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "_CPU_S", 0.2)
    pool = DecoderPool()
    try:
        with pytest.raises(ApiError, match="takes too long") as refusal:
            await pool.decode(costly, 16_000, LIMITS, "file")
        assert refusal.value.code == "audio_too_large"
        monkeypatch.setattr(decoding, "_CPU_S", 1000.0)
        monkeypatch.setattr(decoding, "_WALL_S", 0.5)  # as where a decoder never comes back
        with pytest.raises(ApiError, match="takes too long"):
            await pool.decode(costly, 16_000, LIMITS, "file")
        assert (await pool.decode(tone(1.0, format="FLAC"), 16_000, LIMITS, "file")).shape == (16_000,)
    finally:
        pool.close()


async def test_what_is_read_elsewhere_is_the_same():
    """The process returns what reading here returns, sample for sample, and the same refusals."""
    from baichuan_audio.server.audio.input import read_file

    pool = DecoderPool()
    try:
        for data in (tone(1.0, 44_100, "FLAC", 2), tone(0.5, 8000, "OGG")):
            there = await pool.decode(data, 16_000, LIMITS, "file")
            np.testing.assert_array_equal(there, read_file(data, LONGEST_S, "file").numpy())
        for data in (b"", b"no audio", tone(0.0)):
            with pytest.raises(ApiError) as here:
                read_file(data, LONGEST_S, "file")
            with pytest.raises(ApiError) as there_refused:
                await pool.decode(data, 16_000, LIMITS, "file")
            assert there_refused.value.body() == here.value.body()
    finally:
        pool.close()


def test_no_process_outlives_its_server():
    with serving() as server:
        assert post(server, tone(1.0, format="FLAC"))[0].status_code == 200
        pids = pool_of(server).pids
        assert pids
    assert until(lambda: not any(alive(pid) for pid in pids))


async def test_a_closed_pool_refuses():
    pool = DecoderPool()
    pool.close()
    pool.close()
    with pytest.raises(ApiError) as refusal:
        await pool.decode(tone(1.0, format="FLAC"), 16_000, LIMITS, "file")
    assert (refusal.value.status, refusal.value.code) == (503, "shutting_down")


async def test_a_decoder_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "_MAIN", "raise SystemExit(1)  # {path} {niceness}")
    pool = DecoderPool()
    with pytest.raises(ApiError) as refusal:
        await pool.decode(tone(1.0, format="FLAC"), 16_000, LIMITS, "file")
    assert (refusal.value.status, refusal.value.code) == (500, "decoder_failed")
    pool.close()


def test_many_clips_at_once(server: Serving):
    """Many clips at once, of formats that go different ways: each gets its own answer."""
    clips = [tone(0.5 + 0.1 * number, format=("WAV", "FLAC", "OGG")[number % 3]) for number in range(8)]
    answers: dict[int, float] = {}

    def ask(number: int) -> None:
        answers[number] = post(server, clips[number])[0].json()["usage"]["seconds"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: pytest.approx(0.5 + 0.1 * number, abs=0.01) for number in range(8)}
