"""A node: the one place where consensus, execution and the protocol are introduced to each other."""

from __future__ import annotations

from mcp.node.config import NodeConfig, NodeLimits
from mcp.node.node import Node

__all__ = ["Node", "NodeConfig", "NodeLimits"]
