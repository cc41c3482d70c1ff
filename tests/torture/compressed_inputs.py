"""Compressed streams that are nearly right, for hypothesis: pages of Ogg and elements of WebM, in any order.

Pages have no checksums; the target (`compressed_parsers.stream`) puts them in.
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from asr_service.core.values import Coding

_HEAD = b"OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0"
_PACKETS = [bytes.fromhex(packet) for packet in ("fcfffe", "7880", "0b0a", "")]
_packet = st.sampled_from(_PACKETS) | st.binary(max_size=20)
_head = st.one_of(
    st.just(_HEAD),
    st.builds(
        lambda at, byte: _HEAD[:at] + byte + _HEAD[at + 1 :], st.integers(8, 18), st.binary(max_size=1)
    ),
)


def _page(flags: int, position: int, serial: int, packets: list[bytes], continues: bool) -> bytes:
    """A page of packets that are shorter than a segment, and the first segment of a longer one."""
    sizes = bytes(map(len, packets)) + b"\xff" * continues
    head = b"OggS\0" + bytes((flags,)) + struct.pack("<QIII", position, serial, 0, 0) + bytes((len(sizes),))
    return head + sizes + b"".join(packets) + bytes(255 * continues)


_page_of = st.builds(
    _page,
    st.integers(0, 7),
    st.sampled_from([0, 1, 960, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    st.sampled_from([7, 7, 7, 8]),
    st.lists(_head | st.just(b"OpusTags") | _packet, max_size=3),
    st.booleans(),
)
_ogg = st.lists(_page_of, max_size=6).map(lambda pages: _page(2, 0, 7, [_HEAD], False) + b"".join(pages))


def _element(name: int, body: bytes, lie: int = 0) -> bytes:
    """An element that says of its size what is right, or not."""
    size = max(0, len(body) + lie)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 28 | size).to_bytes(4, "big") + body


def _elements(*names: int, body: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(_element, st.sampled_from(names), body, st.sampled_from([0] * 9 + [-1, 1, 300]))


def _joined(part: st.SearchStrategy[bytes], most: int) -> st.SearchStrategy[bytes]:
    return st.lists(part, max_size=most).map(b"".join)


_void = _elements(0xEC, 0xBF, 0xE7, 0xAB, body=st.binary(max_size=4))
_block = st.builds(
    lambda track, flags, packet: track + b"\0\0" + flags + packet,
    st.sampled_from([b"\x81", b"\x81", b"\x82", b"\x40\x01", b"\0", b""]),
    st.sampled_from([b"\x80", b"\0", b"\6", b""]),
    _packet,
)
_group = _elements(
    0xA0,
    body=_joined(_elements(0xA1, body=_block) | _elements(0x75A2, body=st.binary(max_size=12)) | _void, 4),
)
_track = _elements(
    0xAE,
    body=_joined(
        _elements(0xD7, body=st.sampled_from([b"\1", b"", b"\0\1", b"\xff" * 9]))
        | _elements(0x86, body=st.sampled_from([b"A_OPUS", b"A_OPUS\0", b"V_VP8"]))
        | _elements(0x63A2, body=_head)
        | _elements(0x6D80, body=st.just(b"")),
        5,
    ),
)
_RIGHT_TRACK = _element(0xAE, _element(0x86, b"A_OPUS") + _element(0x63A2, _HEAD))
_tracks = _elements(0x1654AE6B, body=_joined(st.just(_RIGHT_TRACK) | _track | _void, 2))
_begun = st.sampled_from([b"\x18\x53\x80\x67\x01" + b"\xff" * 7, b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7])
_webm = st.builds(
    lambda tracks, rest: _element(0x1A45DFA3, b"") + tracks + rest,
    st.just(_element(0x1654AE6B, _RIGHT_TRACK)) | _tracks,
    _joined(st.one_of(_elements(0xA3, body=_block), _group, _void, _begun, _tracks), 6),
)


def _input(coding: Coding, step: int, channels: int, stream: bytes) -> bytes:
    return bytes((list(Coding).index(coding), step, channels | 2)) + stream


STRATEGIES: dict[str, st.SearchStrategy[bytes]] = {
    "compressed": st.one_of(
        [
            st.builds(
                _input,
                st.sampled_from([coding, Coding.AUTO]),
                st.integers(0, 255),
                st.integers(0, 1),
                stream,
            )
            for coding, stream in ((Coding.OGG_OPUS, _ogg), (Coding.WEBM_OPUS, _webm))
        ]
    )
}
