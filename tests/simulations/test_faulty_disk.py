"""What a disk on a bad day does, and what a power loss leaves of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import DiskFull, StorageFailed
from simulations.disk import SECTOR_BYTES
from simulations.faults import FaultKind
from simulations.faulty_disk import FaultyDisk, PowerLoss


def disk(seed: int = 1) -> tuple[FaultyDisk, list[FaultKind]]:
    fired: list[FaultKind] = []
    made = FaultyDisk(random.Random(seed), fired.append)
    made.make_directory("d")
    return made, fired


def durable(made: FaultyDisk, content: bytes) -> None:
    file = made.create_file("d/f")
    file.append(content)
    file.sync()
    made.sync_directory("d")


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(st.binary(min_size=1, max_size=1500), max_size=4))
def test_a_power_loss_keeps_what_was_synced_and_no_bytes_that_were_never_written(
    seed: int, writes: list[bytes]
) -> None:
    made, _ = disk(seed)
    durable(made, b"safe")
    file = made.open_file("d/f")
    for data in writes:
        file.append(data)
    written = b"safe" + b"".join(writes)
    unsynced, _ = made.lose_power()
    found = made.open_file("d/f").read(0, 1 << 20)
    assert unsynced == len(written) - 4
    assert found.startswith(b"safe")
    assert len(found) <= len(written)
    assert all(got in (byte, 0) for got, byte in zip(found, written, strict=False))


def test_a_power_loss_loses_tears_and_scatters() -> None:
    whole, lengths, holes = bytes(range(1, 251)) * 12, set(), 0
    for seed in range(60):
        made, _ = disk(seed)
        durable(made, b"")
        made.open_file("d/f").append(whole)
        made.lose_power()
        found = made.open_file("d/f").read(0, 1 << 20)
        lengths.add(len(found))
        holes += found != whole[: len(found)]
    assert 0 in lengths
    assert any(length % SECTOR_BYTES for length in lengths - {len(whole)})
    assert holes > 3


def test_power_goes_at_the_operation_that_was_said() -> None:
    made, _ = disk()
    file = made.create_file("d/f")
    made.lose_power_in(1)
    file.append(b"x")
    with pytest.raises(PowerLoss):
        file.sync()
    made.lose_power()
    made.create_file("d/g").sync()


def test_an_operation_fails_once_and_its_file_until_it_is_opened_anew() -> None:
    made, fired = disk()
    durable(made, b"safe")
    file = made.open_file("d/f")
    made.fail_in(0)
    with pytest.raises(StorageFailed):
        file.append(b"x")
    with pytest.raises(StorageFailed):
        file.sync()
    assert (fired, made.failures) == ([FaultKind.IO_ERROR], 1)
    made.reopened()
    made.open_file("d/f").sync()


def test_a_full_disk_counts_and_heals() -> None:
    made, fired = disk()
    durable(made, b"safe")
    made.capacity_bytes = made.used_bytes + 2
    file = made.open_file("d/f")
    with pytest.raises(DiskFull):
        file.append(b"three")
    file.truncate(4)
    assert fired == [FaultKind.DISK_FULL]
    made.heal()
    file.append(b"three")


def test_a_flipped_bit_is_one_bit_and_durable() -> None:
    made, _ = disk()
    durable(made, bytes(100))
    made.flip_bit("d/f", 40)
    made.lose_power()
    found = made.open_file("d/f").read(0, 100)
    assert bin(int.from_bytes(found, "big")).count("1") == 1
    assert found[40]
