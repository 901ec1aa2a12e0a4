"""The servers that a node is compared with, each a program: ``python -m ... MODEL PORT``.

They have the session, the options and the threads of a node, one process each, and uvloop and httptools where
they are HTTP servers. A run that is short is made on the event loop, a long one in a thread, which is the
faster of both for every one of them.
"""

from typing import Final

GRPC_SERVICE: Final = "bench.Inference"
GRPC_METHOD: Final = "Infer"
GRPC_PATH: Final = f"/{GRPC_SERVICE}/{GRPC_METHOD}"
