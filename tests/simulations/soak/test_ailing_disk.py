"""A disk that is made ill from another process: slow, failing or full, and well again."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from consensus.errors import DiskFull, StorageFailed
from consensus.interface import HardState
from consensus.journal import Journal
from simulations.soak.ailing_disk import AilingDisk, Ward, used_bytes
from simulations.soak.controls import EVERY, Ailments, Controls, Hits, Operation


class Patient:
    """A disk with its controls, and the naps that it took."""

    def __init__(self, folder: Path) -> None:
        self.naps: list[float] = []
        self.controls = Controls.create(folder / "controls")
        # The node finds them by their file, as another process would.
        seen = Controls.open(folder / "controls")
        root = folder / "data"
        self.disk = AilingDisk(root, Ward(root, seen, random.Random(1), self.naps.append))
        self.root = root


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


def test_a_well_disk_is_the_real_one(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    file.append(b"hello")
    file.sync()
    assert (patient.root / "a").read_bytes() == b"hello"
    assert file.read(1, 3) == b"ell"
    file.truncate(2)
    patient.disk.rename("a", "b")
    patient.disk.sync_directory("")
    assert patient.disk.list_names("") == ["b"]
    assert patient.disk.open_file("b").size == 2
    patient.disk.remove("b")
    assert patient.disk.list_names("") == []
    assert patient.controls.hits() == Hits()
    assert patient.naps == []


def test_slow_operations_are_those_that_are_meant(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    patient.controls.set(Ailments(delay_s=0.5, delayed=Operation.FSYNC | Operation.READ))
    file.append(b"x")
    assert patient.naps == []
    file.sync()
    file.read(0, 1)
    assert patient.naps == [0.5, 0.5]
    assert patient.controls.hits().delays == 2
    patient.controls.set(Ailments())
    file.sync()
    assert len(patient.naps) == 2


def test_a_failure_is_not_forgiven_by_the_same_file(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    patient.controls.set(Ailments(errno=errno.EIO, failing=Operation.FSYNC))
    with pytest.raises(StorageFailed, match=r"FSYNC a: .*as the soak ordered"):
        file.sync()
    patient.controls.set(Ailments())
    with pytest.raises(StorageFailed, match="not tried again"):
        file.append(b"x")
    assert patient.controls.hits().errors == 1


def test_no_room_for_a_write_is_no_failure_and_for_a_sync_it_is(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    patient.controls.set(Ailments(errno=errno.ENOSPC, failing=EVERY))
    with pytest.raises(DiskFull):
        file.append(b"x")
    with pytest.raises(StorageFailed):
        file.sync()


def test_a_quota_keeps_what_fits_and_gives_the_room_back(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    file.append(bytes(100))
    patient.controls.set(Ailments(room_bytes=used_bytes(patient.root) + 10))
    assert patient.disk.free_bytes() == 10
    with pytest.raises(DiskFull):
        file.append(bytes(11))
    assert file.size == 110
    assert patient.disk.free_bytes() == 0
    file.truncate(100)
    file.append(bytes(10))
    patient.controls.set(Ailments())
    file.append(bytes(1000))
    assert patient.controls.hits().refusals == 1


def test_chance_is_for_each_operation(patient: Patient) -> None:
    file = patient.disk.create_file("a")
    patient.controls.set(Ailments(delay_s=1.0, delay_chance=0.3))
    for _ in range(200):
        file.append(b"x")
    assert 30 <= len(patient.naps) <= 90


def test_a_journal_stalls_on_a_full_disk_and_goes_on_afterwards(patient: Patient) -> None:
    """What the soak relies on: the quota looks to the journal as a full disk does."""
    journal = Journal.open(patient.disk, "journal")
    patient.controls.set(Ailments(room_bytes=used_bytes(patient.root)))
    with pytest.raises(DiskFull):
        journal.append([HardState(1, None)])
    patient.controls.set(Ailments())
    journal.append([HardState(2, None)])
    journal.sync()
    assert journal.hard_state == HardState(2, None)
    journal.close()


def test_controls_carry_every_ailment(tmp_path: Path) -> None:
    controls = Controls.create(tmp_path / "c")
    ailments = Ailments(0.25, 0.5, Operation.READ, errno.EIO, 0.75, Operation.WRITE, 1e9, -3600.5)
    controls.set(ailments)
    assert Controls.open(tmp_path / "c").get() == ailments
    controls.count(delays=1, errors=2, refusals=3, clock_reads=4)
    controls.count(delays=1)
    assert Controls.open(tmp_path / "c").hits() == Hits(2, 2, 3, 4)
    assert controls.get() == ailments
