"""File systems of runs: gone with them, and those of a run that was killed with the next one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from simulations.soak import volume
from simulations.soak.volume import LOCK, MOUNTS, VOLUMES, Volume, claimed, sweep


@pytest.fixture
def unmounted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been taken away, by somebody who may."""
    gone: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(volume, "_run", lambda *command: gone.append(command[-1]))
    return gone


def mounted(folder: Path, *places: Path, source: str = "mcp-soak", kind: str = "tmpfs") -> Path:
    """A list as the system writes it."""
    file = folder / "mounts"
    lines = [f"{source} {str(place).replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for place in places]
    file.write_text("proc /proc proc rw 0 0\n" + "".join(lines))
    return file


def run_in(folder: Path, *, ended: bool) -> Path:
    """The file system of a run that has claimed its folder, and perhaps was killed."""
    (folder / VOLUMES / "n1").mkdir(parents=True)
    if ended:
        (folder / LOCK).touch()
    return folder / VOLUMES / "n1"


def test_the_file_systems_of_killed_runs_are_taken_away(tmp_path: Path, unmounted: list[str]) -> None:
    places = [run_in(tmp_path / "one", ended=True), run_in(tmp_path / "the other", ended=True)]
    assert sweep(mounted(tmp_path, *places)) == places
    assert unmounted == list(map(str, places))


def test_those_of_a_run_under_way_stay(tmp_path: Path, unmounted: list[str]) -> None:
    place = run_in(tmp_path / "one", ended=False)
    with claimed(tmp_path / "one"):
        assert sweep(mounted(tmp_path, place)) == []
    assert list((tmp_path / "one").iterdir()) == [place.parent]
    assert sweep(mounted(tmp_path, place)) == [], "whose run nobody knows of"
    assert unmounted == []


@pytest.mark.parametrize("other", [{"source": "tmpfs"}, {"kind": "ext4"}, {}])
def test_nothing_else_is_touched(tmp_path: Path, unmounted: list[str], other: dict[str, Any]) -> None:
    place = run_in(tmp_path / "one", ended=True)
    if not other:
        place = place.parent  # not where a node's file system is
    assert sweep(mounted(tmp_path, place, **other)) == []
    assert unmounted == []


def test_whoever_may_not_does_not_try(
    tmp_path: Path, unmounted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert sweep(mounted(tmp_path, run_in(tmp_path / "one", ended=True))) == []
    assert unmounted == []


def test_a_real_one_is_taken_away(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not Volume.possible(tmp_path):
        pytest.skip("nothing can be mounted here")
    assert list(tmp_path.iterdir()) == []
    place = run_in(tmp_path / "one", ended=True)
    Volume(place, 64 * 1024).mount()
    (place / "file").touch()
    # Others on this machine may sweep as well; whoever does, it is gone.
    sweep()
    assert str(place) not in MOUNTS.read_text()
    assert list(place.iterdir()) == []
