"""Detects the format of a file by its first bytes: names and suffixes may be wrong or missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

HEAD_BYTES = 4096
_MAX_CHUNKS = 1000


class FileFormat(NamedTuple):
    """A file format. name: for messages. demuxer: of FFmpeg, None if there is none. native: whether libsndfile reads
    it, which is then tried first. is_audio: False for formats that are not audio."""

    name: str
    demuxer: str | None = None
    native: bool = False
    is_audio: bool = True


UNKNOWN = FileFormat("a format that is not known", native=True)

_BY_START: tuple[tuple[bytes, FileFormat], ...] = (
    (b"fLaC", FileFormat("FLAC", "flac", native=True)),
    (b"OggS", FileFormat("Ogg", "ogg", native=True)),
    (b"caff", FileFormat("CAF", "caf", native=True)),
    (b".snd", FileFormat("AU", "au", native=True)),
    (b"riff\x2e\x91\xcf\x11", FileFormat("Wave64", "w64", native=True)),
    (b"NIST_1A", FileFormat("NIST SPHERE", native=True)),
    (b"Creative Voice", FileFormat("VOC", native=True)),
    (b"\x1aE\xdf\xa3", FileFormat("WebM or Matroska", "matroska")),
    (b"#!AMR", FileFormat("AMR", "amr")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", FileFormat("WMA or ASF", "asf")),
    (b"FLV\x01", FileFormat("FLV", "flv")),
    (b"wvpk", FileFormat("WavPack", "wv")),
    (b"MAC ", FileFormat("Monkey's Audio", "ape")),
    (b"TTA1", FileFormat("TTA", "tta")),
    (b"\x0bw", FileFormat("AC-3", "ac3")),
    (b"\x00\x00\x01\xba", FileFormat("MPEG video", "mpeg")),
    (b"ADIF", FileFormat("AAC (ADIF)")),
    (b"DSD ", FileFormat("DSD")),
    (b"MPCK", FileFormat("Musepack")),
    (b".RMF", FileFormat("RealMedia")),
    (b"MThd", FileFormat("MIDI, notes without sound", is_audio=False)),
    (b"%PDF", FileFormat("a PDF document", is_audio=False)),
    (b"PK\x03\x04", FileFormat("a ZIP archive or office document", is_audio=False)),
    (b"PK\x05\x06", FileFormat("an empty ZIP archive", is_audio=False)),
    (b"\x1f\x8b", FileFormat("a gzip archive", is_audio=False)),
    (b"BZh", FileFormat("a bzip2 archive", is_audio=False)),
    (b"\xfd7zXZ", FileFormat("an xz archive", is_audio=False)),
    (b"7z\xbc\xaf", FileFormat("a 7-Zip archive", is_audio=False)),
    (b"Rar!", FileFormat("a RAR archive", is_audio=False)),
    (b"\x28\xb5\x2f\xfd", FileFormat("a Zstandard archive", is_audio=False)),
    (b"\x89PNG", FileFormat("a PNG picture", is_audio=False)),
    (b"\xff\xd8\xff", FileFormat("a JPEG picture", is_audio=False)),
    (b"GIF8", FileFormat("a GIF picture", is_audio=False)),
    (b"BM", FileFormat("a BMP picture", is_audio=False)),
    (b"II*\x00", FileFormat("a TIFF picture", is_audio=False)),
    (b"MM\x00*", FileFormat("a TIFF picture", is_audio=False)),
    (b"\x7fELF", FileFormat("a program", is_audio=False)),
    (b"MZ", FileFormat("a program", is_audio=False)),
    (b"\xd0\xcf\x11\xe0", FileFormat("an office document", is_audio=False)),
    (b"SQLite format 3", FileFormat("an SQLite database", is_audio=False)),
    (b"\x93NUMPY", FileFormat("a NumPy array", is_audio=False)),
    (b"version https://git-lfs", FileFormat("a Git LFS pointer, not the file itself", is_audio=False)),
    (b"#EXTM3U", FileFormat("a playlist", is_audio=False)),
    (b"{\\rtf", FileFormat("an RTF document", is_audio=False)),
)
_OGG_PAGE_START = 5  # bytes of a page header that may be at the end of a block
_SEARCH_BYTES = 1 << 20
_BMP_FILE_HEADER = 14
_RIFF_KINDS = {
    b"WAVE": FileFormat("WAV", "wav", native=True),
    b"AVI ": FileFormat("AVI video", "avi"),
    b"WEBP": FileFormat("a WebP picture", is_audio=False),
    b"RMID": FileFormat("MIDI, notes without sound", is_audio=False),
}
_MP3 = FileFormat("MP3", "mp3", native=True)
_ADTS = FileFormat("AAC (ADTS)", "aac")
_MPEG_TS = FileFormat("MPEG-TS", "mpegts")
_SUFFIXES: dict[str, tuple[str, ...]] = {
    ".wav": ("wav", "w64"),
    ".mp3": ("mp3",),
    ".flac": ("flac", "ogg"),
    ".ogg": ("ogg",),
    ".opus": ("ogg",),
    ".m4a": ("mov",),
    ".mp4": ("mov",),
    ".webm": ("matroska",),
    ".aac": ("aac", "mov"),
    ".raw": (),
    ".pcm": (),
}
_UNCOMPRESSED_TAGS = (1, 3, 6, 7)  # format tags of a WAV: PCM, float, A-law, mu-law
_EXTENSIBLE = 0xFFFE
_MOV_ATOMS = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_PICTURE_BRANDS = {b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"}


def detect_format(head: bytes) -> FileFormat:
    """The format of a file by its first bytes (`HEAD_BYTES` are enough); UNKNOWN where none matches."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return _RIFF_KINDS.get(head[8:12], UNKNOWN)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return FileFormat("AIFF", "aiff", native=True)
    if head[4:8] in _MOV_ATOMS:
        return _iso_media(head)
    for start, format in _BY_START:
        if head.startswith(start) and not (start == b"BM" and not _is_bitmap(head)):
            return format
    if head[:3] == b"ID3":
        return _after_id3(head)
    if stream := _mpeg_audio(head):
        return stream
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return _MPEG_TS
    return _text(head) or UNKNOWN


def _iso_media(head: bytes) -> FileFormat:
    brand = head[8:12] if head[4:8] == b"ftyp" else b"qt  "
    if brand in _PICTURE_BRANDS:
        return FileFormat("a HEIC or AVIF picture", is_audio=False)
    if brand == b"qt  ":
        return FileFormat("QuickTime", "mov")
    if brand[:2] in (b"3g", b"3G"):
        return FileFormat("3GP", "mov")
    return FileFormat("M4A" if brand[:3] in (b"M4A", b"M4B") else "MP4 or M4A", "mov")


def _is_bitmap(head: bytes) -> bool:
    return len(head) > _BMP_FILE_HEADER and head[6:10] == bytes(4)


def _after_id3(head: bytes) -> FileFormat:
    """The format after an ID3 tag: MP3, unless AAC follows within `head`."""
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    rest = head[10 + size :]
    return _mpeg_audio(rest) or _MP3


def _mpeg_audio(head: bytes) -> FileFormat | None:
    """MP3 or AAC by the first frame header: eleven bits set, then version and layer; layer 0 is AAC's."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return _ADTS
    has_layer, known_version = bool(head[1] & 0x06), head[1] & 0x18 != 0x08
    known_rates = head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C
    return _MP3 if has_layer and known_version and known_rates else None


def _text(head: bytes) -> FileFormat | None:
    """The kind of a text file; None for other bytes."""
    if not head or any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return None
    try:
        # a character may be incomplete at the end
        text = head.decode("utf-8-sig", "strict" if len(head) < HEAD_BYTES else "ignore").lstrip()
    except UnicodeDecodeError:
        return None
    start = text[:200].lower()
    kind = "text"
    if start.startswith(("<!doctype html", "<html")) or "<html" in start:
        kind = "an HTML page"
    elif start.startswith("<"):
        kind = "XML"
    elif start.startswith(("{", "[")):
        kind = "JSON"
    return FileFormat(kind, is_audio=False)


def misnamed(path: Path) -> str | None:
    """The name of the format of a file whose suffix promises another one; None where it fits or is unknown."""
    promised = _SUFFIXES.get(path.suffix.lower())
    if promised is None:
        return None
    with path.open("rb") as file:
        actual = detect_format(file.read(HEAD_BYTES))
    return actual.name if actual.demuxer is not None and actual.demuxer not in promised else None


def is_plain_wav(head: bytes) -> bool:
    """Whether these are the first 64 bytes or more of a WAV with uncompressed samples (PCM, float, G.711)."""
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or len(head) < 46:
        return False
    tag = struct.unpack_from("<H", head, 20)[0]
    return tag in _UNCOMPRESSED_TAGS or (
        tag == _EXTENSIBLE and struct.unpack_from("<H", head, 44)[0] in _UNCOMPRESSED_TAGS
    )


def is_chained_ogg(file: Any) -> bool:
    """Whether an Ogg file has several consecutive streams, of which libsndfile reads the first only."""
    file.seek(0)
    data = file.read(HEAD_BYTES)
    if not data.startswith(b"OggS"):
        return False
    started, window = False, b""
    while data:
        window = window[-_OGG_PAGE_START:] + data
        if not started:
            pages = [at for kind in (b"\0", b"\1", b"\4", b"\5") if (at := window.find(b"OggS\0" + kind)) >= 0]
            started, window = bool(pages), window[min(pages, default=0) :]
        if started and b"OggS\0\2" in window:
            return True
        data = file.read(_SEARCH_BYTES)
    return False


def unfinished_wav(file: BinaryIO, size: int) -> dict[int, bytes]:
    """Repairs of the header of a WAV whose length was never written: {offset: bytes}.

    Such a header has 0 as the length of its samples. Empty for every other file, also for a WAV without samples. size:
    of the file, in bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return {}
    offset = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(offset)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack("<4sI", header)
        start = offset + 8
        if name == b"data":
            if length or start >= size or _ends_in_chunks(file, start, size):
                break
            return {4: _u32(size - 8), offset + 4: _u32(size - start)}
        offset = start + length + length % 2
    return {}


def _ends_in_chunks(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether the rest of the file consists of complete chunks."""
    for _ in range(_MAX_CHUNKS):
        if offset >= size:
            return True
        file.seek(offset)
        header = file.read(8)
        if len(header) < 8 or not all(32 <= byte < 127 for byte in header[:4]):
            return False
        length = struct.unpack("<I", header[4:])[0]
        offset += 8 + length + length % 2
        if offset > size + 1:
            return False
    return False


def _u32(number: int) -> bytes:
    return struct.pack("<I", min(number, 0xFFFFFFFF))
