"""The Raft engine: PySyncObj behind a sans-IO interface, with guards for what it gets wrong."""
