"""MCP, the Message Coordination Protocol: consensus-backed coordination of distributed ONNX inference.

::

    from mcp import Client, Node, NodeConfig, SyncClient

This is not the Model Context Protocol, whose SDK owns the same import name; ``mcpctl doctor`` tells.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mcp.version import VERSION

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp.client.sync import SyncClient
    from mcp.errors import McpError
    from mcp.node.config import NodeConfig
    from mcp.node.node import Node

__all__ = ["Client", "McpError", "Node", "NodeConfig", "SyncClient", "__version__"]

__version__ = VERSION

_HOMES = {
    "Client": "mcp.client.client",
    "McpError": "mcp.errors",
    "Node": "mcp.node.node",
    "NodeConfig": "mcp.node.config",
    "SyncClient": "mcp.client.sync",
}


def __getattr__(name: str) -> Any:
    # Imported at first use, so that a program which only needs a client does not load a model runtime.
    if name not in _HOMES:
        raise AttributeError(f"module 'mcp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
