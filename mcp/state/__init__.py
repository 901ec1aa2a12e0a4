"""The replicated state: sessions, keys, members, models and inferences, in one agreed order."""

from mcp.state.applied import Applied
from mcp.state.commands import Command, decode_command, encode_command
from mcp.state.limits import StateLimits
from mcp.state.models import ModelVersion
from mcp.state.records import InferenceRecord
from mcp.state.state import ReplicatedState

__all__ = [
    "Applied",
    "Command",
    "InferenceRecord",
    "ModelVersion",
    "ReplicatedState",
    "StateLimits",
    "decode_command",
    "encode_command",
]
