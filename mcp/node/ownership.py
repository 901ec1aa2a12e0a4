"""Whose a data directory is: written at its first start, checked at every later one.

A log belongs to one node of one cluster. Started as somebody else, or alone instead of with its voters,
it would take over entries that others never agreed on, or acknowledge what no quorum holds. So the
directory says whose it is, and a node that is somebody else refuses to start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

from mcp.errors import ConfigInvalid, DiskFull, McpError, StorageCorrupt
from mcp.node.config import NodeConfig

FILE_NAME = "owner.json"
NEWCOMER = "newcomer"
"""There from a directory's first start until its node is a member: a restart in between is no return."""
JOURNAL = "journal"
ADDRESS = "address"
"""Where the cluster reaches the node, as far as it was told: a node that has moved tells it."""
FORMAT = 1
FILE_BYTES_MAX = 64 * 1024


def claim(config: NodeConfig) -> bool:
    """Write whose the directory is, or check that it is ours; whether it was written. Blocks on the disk.

    Raises :class:`ConfigInvalid` when it is another node's, another cluster's, another engine's or of
    other voters, or no directory that this user can write to; :class:`StorageCorrupt` when it cannot be
    told whose it is; and :class:`DiskFull`.
    """
    try:
        return _claim(config)
    except OSError as error:
        raise _refusal(config.data_dir, error) from error


def disclaim(config: NodeConfig) -> None:
    """Take back a claim with which nothing was done. Blocks on the disk."""
    with contextlib.suppress(OSError):
        (config.data_dir / FILE_NAME).unlink(missing_ok=True)
        (config.data_dir / NEWCOMER).unlink(missing_ok=True)
        _sync_directory(config.data_dir)


def claim_journal(config: NodeConfig, journal: int) -> None:
    """Write which journal the directory has, or check that it is still that one. Blocks on the disk.

    ``journal`` is the number that a journal gets when it is made. Raises :class:`StorageCorrupt` where it is
    another: the one that the directory had is gone, and with it all that was acknowledged from it.
    """
    path = config.data_dir / FILE_NAME
    try:
        owner = _read(path)
        if JOURNAL not in owner:
            _write(path, {**owner, JOURNAL: journal})
            return
    except OSError as error:
        raise _refusal(config.data_dir, error) from error
    if owner[JOURNAL] != journal:
        raise StorageCorrupt(
            f"the journal of {config.data_dir} is gone: there is another in its place, which knows nothing. "
            "Look for a disk that is not mounted, or put the folder back. If it is lost for good, empty the "
            "whole data directory: a member of a cluster is then taken in again, and one alone begins anew"
        )


def has_moved(data_dir: Path, address: str) -> bool:
    """Whether the cluster was told another address; the first one is noted. Blocks on the disk."""
    try:
        told = _read(data_dir / FILE_NAME).get(ADDRESS)
        if told is None:
            note_address(data_dir, address)
    except OSError as error:
        raise _refusal(data_dir, error) from error
    return told not in (None, address)


def note_address(data_dir: Path, address: str) -> None:
    """The cluster was told ``address``. Blocks on the disk."""
    path = data_dir / FILE_NAME
    _write(path, {**_read(path), ADDRESS: address})


def _claim(config: NodeConfig) -> bool:
    owner = {
        "format": FORMAT,
        "cluster_id": config.cluster_id,
        "node_id": config.node_id,
        "engine": config.engine,
        "voters": sorted(config.voters),
    }
    path = config.data_dir / FILE_NAME
    config.data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        (config.data_dir / NEWCOMER).touch()
        _write(path, owner)
        return True
    found = _read(path)
    for field, ours in owner.items():
        if found.get(field) != ours:
            raise ConfigInvalid(
                f"{config.data_dir} belongs to {field} {_shown(found.get(field))}, and this node is started "
                f"with {_shown(ours)}: give it the settings that it had, or a data directory of its own"
            )
    return False


def is_newcomer(data_dir: Path) -> bool:
    """Whether the node has never been a member of a cluster with what is in its data directory."""
    return (data_dir / NEWCOMER).exists()


def no_newcomer(data_dir: Path) -> None:
    """It is a member now: if somebody removes it, it stays out. Blocks on the disk."""
    with contextlib.suppress(OSError):
        (data_dir / NEWCOMER).unlink(missing_ok=True)
        _sync_directory(data_dir)


def _refusal(data_dir: Path, error: OSError) -> McpError:
    reason = f"the data directory {data_dir} cannot be used: {error.strerror or error}"
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{reason}{where}; make room there, then start the node again")
    return ConfigInvalid(f"{reason}{where}; choose a folder on a disk that this user may write to")


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(FILE_BYTES_MAX))
    except ValueError as error:
        raise StorageCorrupt(
            f"{path} does not say whose this data directory is ({error}); if you are sure that it is this "
            "node's, remove that file"
        ) from error
    return found if isinstance(found, dict) else {}


def _write(path: Path, owner: dict[str, object]) -> None:
    aside = path.with_suffix(".tmp")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(owner, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    # Some file systems cannot sync a directory; then a lost file is written again at the next start.
    with contextlib.suppress(OSError):
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else repr(value)
