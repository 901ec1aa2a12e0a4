"""Who has seen what: version vectors, and a buffer that delivers in causal order."""

from mcp.causality.buffer import CausalBuffer
from mcp.causality.vector import Order, VersionVector

__all__ = ["CausalBuffer", "Order", "VersionVector"]
