"""Small files that unfold to hours of audio, made by hand: FLAC of constant blocks, Ogg streams of silent packets."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile

_FLAC_BLOCK = 65_535
_PACKETS_A_PAGE = 250


def _crc_table(width: int, polynomial: int) -> list[int]:
    top, mask = 1 << (width - 1), (1 << width) - 1
    table = []
    for byte in range(256):
        value = byte << (width - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


def _crc(data: bytes, width: int, table: Sequence[int]) -> int:
    value, mask = 0, (1 << width) - 1
    for byte in data:
        value = ((value << 8) & mask) ^ table[(value >> (width - 8)) ^ byte]
    return value


_CRC8, _CRC16, _CRC32 = _crc_table(8, 0x07), _crc_table(16, 0x8005), _crc_table(32, 0x04C11DB7)


def flac(seconds: float, rate: int, channels: int, says_length: bool = True) -> bytes:
    """Silent FLAC: ten bytes and three a channel for each 65535 samples, at whatever rate and number of channels."""
    blocks = max(1, int(seconds * rate) // _FLAC_BLOCK)
    total = blocks * _FLAC_BLOCK if says_length else 0
    sizes = struct.pack(">HH", _FLAC_BLOCK, _FLAC_BLOCK) + bytes(6)
    packed = (rate << 44) | ((channels - 1) << 41) | (15 << 36) | total
    head = b"fLaC" + b"\x80\x00\x00\x22" + sizes + packed.to_bytes(8, "big") + bytes(16)
    return head + b"".join(_flac_frame(number, channels) for number in range(blocks))


def _flac_frame(number: int, channels: int) -> bytes:
    """Block size in 16 bits at the end of the header, rate from the beginning of the file, 16-bit constant samples."""
    header = b"\xff\xf8\x70" + bytes(((channels - 1) << 4 | 0x08,)) + chr(number).encode("utf-8")
    header += struct.pack(">H", _FLAC_BLOCK - 1)
    header += bytes((_crc(header, 8, _CRC8),))
    frame = header + b"\x00\x00\x01" * channels
    return frame + struct.pack(">H", _crc(frame, 16, _CRC16))


def opus(seconds: float, channels: int = 2) -> bytes:
    """Ogg Opus of packets that stand for 120 ms in two bytes."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, channels, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 4) + b"none" + struct.pack("<I", 0)
    stereo = 4 if channels == 2 else 0
    packet = bytes((31 << 3 | stereo | 3, 6))  # CELT of 20 ms, full band; six frames of equal size, which is none
    packets = int(seconds / 0.12)
    return ogg([head], 0) + ogg([tags], 0, 1) + ogg([packet] * packets, 5760, 2, last=True)


def vorbis(seconds: float, rate: int = 48_000, channels: int = 1) -> bytes:
    """Ogg Vorbis whose silent packets, of a byte or two for 1024 samples, go on for so long."""
    short = io.BytesIO()
    soundfile.write(short, np.zeros((rate, channels)), rate, format="OGG", subtype="VORBIS")
    packets = list(_ogg_packets(short.getvalue()))
    silent = min(packets[5:-1], key=len)
    return (
        ogg(packets[:1], 0) + ogg(packets[1:3], 0, 1) + ogg([silent] * int(seconds * rate / 1024), 1024, 2, last=True)
    )


def ogg(packets: Sequence[bytes], samples_a_packet: int, first_page: int = 0, last: bool = False) -> bytes:
    """The packets in Ogg pages of one stream."""
    pages = []
    for start in range(0, len(packets), _PACKETS_A_PAGE):
        these = packets[start : start + _PACKETS_A_PAGE]
        number = first_page + start // _PACKETS_A_PAGE
        is_last = last and start + len(these) == len(packets)
        lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,)) for packet in these)
        granule = (start + len(these)) * samples_a_packet
        kind = (2 if number == 0 else 0) | (4 if is_last else 0)
        page = bytearray(b"OggS" + struct.pack("<BBqIIIB", 0, kind, granule, 77, number, 0, len(lacing)) + lacing)
        page += b"".join(these)
        page[22:26] = struct.pack("<I", _crc(page, 32, _CRC32))
        pages.append(bytes(page))
    return b"".join(pages)


def _ogg_packets(data: bytes) -> Iterator[bytes]:
    position, packet = 0, b""
    while position < len(data):
        count = data[position + 26]
        lacing = data[position + 27 : position + 27 + count]
        position += 27 + count
        for size in lacing:
            packet += data[position : position + size]
            position += size
            if size < 255:
                yield packet
                packet = b""
