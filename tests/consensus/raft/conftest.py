"""Makes `raft_world` (the cluster in virtual time) and `bare` (PySyncObj as it ships) importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
