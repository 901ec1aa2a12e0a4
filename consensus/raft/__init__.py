"""PySyncObj's Raft behind guards: :class:`~consensus.raft.engine.RaftEngine`."""

from consensus.raft.config import RaftConfig
from consensus.raft.engine import RaftEngine

__all__ = ["RaftConfig", "RaftEngine"]
