"""The commands of a run once more, in another process under another hash seed.

Within one process all replicas see the order of a set, and what ``hash()`` and ``id()`` say, in much the same
way; machines do not. So the same test is started again by itself, in a process that runs no cluster: it
executes the commands that the run has agreed on, with executors of its own, and tells what they gave.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from executor.interface import Command, Executor
from simulations.invariants import Violation
from simulations.trial.replicas import ADVICE, DETERMINISTIC, Replicas, answer_of, described, digest_of, shown

VARIABLE: Final = "MCP_CLUSTER_REPEAT"
"""Where the commands are, in the environment of the other process."""
COMMANDS_MAX: Final = 2000
"""So many commands of a run are executed again, the first."""
TIMEOUT_S: Final = 60.0


class NotRepeated(Exception):
    """The other process could not do it: nothing is known."""


def repeat(replicas: Mapping[str, Replicas], pytest_arguments: Sequence[str], folder: Path) -> None:
    """Have the commands executed by another process, started in ``folder``.

    Raises :class:`~simulations.invariants.Violation` where it gives something else.
    """
    steps = sorted(
        ((name, *step) for name, one in replicas.items() for step in one.steps()),
        key=lambda step: (step[1].index, step[1].position),
    )[:COMMANDS_MAX]
    with tempfile.TemporaryDirectory(prefix="mcp-trial-") as scratch:
        path = Path(scratch) / "commands"
        path.write_bytes(msgpack.packb([[name, *command] for name, command, *_ in steps]))
        _start(path, [*pytest_arguments, "-o", f"cache_dir={scratch}/cache"], folder)
        told = msgpack.unpackb(_told(path).read_bytes())
    for (name, command, answer, digest, one), (other_answer, other_digest, other) in zip(
        steps, told, strict=True
    ):
        if (answer, digest) != (other_answer, other_digest):
            raise Violation(
                DETERMINISTIC,
                f"{described(name, command)} gave {one}; in another process, with another hash seed, "
                f"{other}; {ADVICE}, and use neither hash() nor id()",
            )


def answer(executors: Mapping[str, Executor], path: Path) -> None:
    """In the other process: execute what is in ``path``, and tell what that gave."""
    told = []
    for name, *fields in msgpack.unpackb(path.read_bytes()):
        try:
            result = executors[name].execute(Command(*fields))
            snapshot = executors[name].snapshot()
            text = f"{shown(result.error or result.value)}, state {shown(snapshot)}"
            told.append([answer_of(result), digest_of(snapshot), text])
        except Exception as error:
            told.append([b"", b"", f"{type(error).__name__}: {error}"])
    _told(path).write_bytes(msgpack.packb(told))


def _told(path: Path) -> Path:
    return path.with_name("told")


def _start(path: Path, arguments: Sequence[str], folder: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment: dict[str, Any] = {
        **kept,
        VARIABLE: str(path),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRepeated(str(error)) from error
    if not _told(path).is_file():
        raise NotRepeated(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
