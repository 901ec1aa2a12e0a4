"""What travels between peers: frames, messages, tensors and the handshake. Pure, without input or output."""

from mcp.wire.codec import decode_error, decode_map, decode_message, encode_error, encode_map, encode_message
from mcp.wire.frame import FRAME_BYTES_MAX, SEGMENTS_MAX, Buffer, Frame, FrameKind, FrameReader, encode_frame
from mcp.wire.handshake import (
    AcceptorHandshake,
    Established,
    Identity,
    InitiatorHandshake,
    PeerLimits,
    Role,
    Step,
)
from mcp.wire.json_codec import message_from_json, message_to_json
from mcp.wire.messages import DEFAULT_TTL, EMPTY_VECTOR, Message, Ttl
from mcp.wire.tensors import pack, pack_all, pack_inline, unpack, unpack_all, unpack_inline
from mcp.wire.version import PROTOCOL_VERSION, negotiate_version

__all__ = [
    "DEFAULT_TTL",
    "EMPTY_VECTOR",
    "FRAME_BYTES_MAX",
    "PROTOCOL_VERSION",
    "SEGMENTS_MAX",
    "AcceptorHandshake",
    "Buffer",
    "Established",
    "Frame",
    "FrameKind",
    "FrameReader",
    "Identity",
    "InitiatorHandshake",
    "Message",
    "PeerLimits",
    "Role",
    "Step",
    "Ttl",
    "decode_error",
    "decode_map",
    "decode_message",
    "encode_error",
    "encode_frame",
    "encode_map",
    "encode_message",
    "message_from_json",
    "message_to_json",
    "negotiate_version",
    "pack",
    "pack_all",
    "pack_inline",
    "unpack",
    "unpack_all",
    "unpack_inline",
]
