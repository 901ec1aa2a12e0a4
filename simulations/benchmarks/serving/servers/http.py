"""How every HTTP application is served: uvicorn at its fastest, in one process."""

from __future__ import annotations

from typing import Any

import uvicorn


def run(application: Any, port: int) -> None:
    """Serve on ``port`` of loopback until the process is told to stop."""
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=4096,
        # Connections stay open while others are measured.
        timeout_keep_alive=3600,
    )
