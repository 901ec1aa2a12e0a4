"""Connections and paths: what arrives, in which order, and who learns of what."""

from __future__ import annotations

from collections import Counter

import pytest

from simulations.faults import FaultKind
from simulations.network import Network
from simulations.world import World


class End:
    def __init__(self) -> None:
        self.alive = True
        self.got: list[tuple[str, bytes]] = []
        self.links: list[str] = []

    def deliver(self, peer: str, message: bytes) -> None:
        self.got.append((peer, message))

    def link_up(self, peer: str) -> None:
        self.links.append(f"+{peer}")

    def link_down(self, peer: str) -> None:
        self.links.append(f"-{peer}")


class Wire:
    """Two or three ends, connected."""

    def __init__(self, names: str = "ab") -> None:
        self.world = World(7)
        self.ends = {name: End() for name in names}
        self.fired: Counter[FaultKind] = Counter()
        self.network = Network(
            self.world,
            self.ends,
            names=list(names),
            delay_s=0.01,
            redial_s=0.1,
            late_s=1.0,
            fired=lambda kind: self.fired.update([kind]),
        )
        for name in names:
            self.network.joined(name)
        self.world.run(1.0)
        for end in self.ends.values():
            end.links.clear()

    def send(self, count: int, source: str = "a", target: str = "b") -> list[bytes]:
        messages = [b"%d" % n for n in range(count)]
        for message in messages:
            self.network.send(source, target, message)
        return messages

    def got(self, name: str = "b") -> list[bytes]:
        return [message for _, message in self.ends[name].got]

    def after(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)


def test_a_connection_keeps_the_order() -> None:
    wire = Wire()
    messages = wire.send(50)
    wire.after(1.0)
    assert wire.got() == messages
    assert wire.fired == {}


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    world, end = World(1), {"a": End(), "b": End()}
    network = Network(
        world, end, names=["a", "b"], delay_s=0.01, redial_s=0.1, late_s=1.0, fired=lambda _kind: None
    )
    network.send("a", "b", b"x")
    world.run(1.0)
    assert end["b"].got == []


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        (FaultKind.LOSS, 0.5),
        (FaultKind.DUPLICATE, 0.5),
        (FaultKind.REORDER, 0.5),
        (FaultKind.PARTITION, 0.0),
        (FaultKind.ONE_WAY, 0.0),
        (FaultKind.PARTIAL, 0.0),
    ],
)
def test_a_path_suffers_while_a_fault_lasts_and_no_longer(kind: FaultKind, amount: float) -> None:
    wire = Wire()
    pairs = [("a", "b")]
    wire.network.add(pairs, kind, amount)
    during = wire.send(40)
    wire.after(2.0)
    suffered = wire.got()
    assert suffered != during
    assert wire.fired[kind] > 0
    assert {FaultKind.LOSS: len(suffered) < 40, FaultKind.DUPLICATE: len(suffered) > 40}.get(kind, True)
    assert kind is not FaultKind.REORDER or sorted(suffered) == sorted(during)
    wire.ends["b"].got.clear()
    wire.network.remove(pairs, kind, amount)
    wire.after(1.0)
    after = wire.send(40)
    wire.after(1.0)
    assert wire.got() == after


@pytest.mark.parametrize(("kind", "amount"), [(FaultKind.DELAY, 0.5), (FaultKind.THROTTLE, 100.0)])
def test_a_slow_path_delivers_late_and_in_order(kind: FaultKind, amount: float) -> None:
    wire = Wire()
    wire.network.add([("a", "b")], kind, amount)
    messages = wire.send(50)
    wire.after(0.3)
    assert len(wire.got()) < 50
    wire.after(5.0)
    assert wire.got() == messages
    assert wire.fired[kind] == 50


def test_one_way_leaves_the_other_direction() -> None:
    wire = Wire()
    wire.network.add([("a", "b")], FaultKind.ONE_WAY, 0.0)
    back = wire.send(3, "b", "a")
    wire.after(1.0)
    assert wire.got("a") == back
    assert wire.ends["b"].links == wire.ends["a"].links == []


def test_a_reset_loses_what_is_on_the_way_and_both_ends_learn_of_it() -> None:
    wire = Wire()
    wire.send(5)
    wire.network.reset("a", "b")
    wire.after(1.0)
    assert wire.got() == []
    assert wire.ends["a"].links == ["-b", "+b"]
    assert wire.ends["b"].links == ["-a", "+a"]
    messages = wire.send(2)
    wire.after(1.0)
    assert wire.got() == messages


def test_a_half_open_connection_is_believed_in_by_one_end_alone() -> None:
    wire = Wire()
    wire.network.hold_down("a", "b")
    assert (wire.ends["a"].links, wire.ends["b"].links) == (["-b"], [])
    wire.send(3, "b", "a")
    wire.after(2.0)
    assert wire.got("a") == []
    wire.network.release("a", "b")
    wire.after(1.0)
    assert wire.ends["b"].links == ["+a"]


def test_peers_notice_a_death_when_it_is_time_and_dial_once_it_is_back() -> None:
    wire = Wire("abc")
    wire.ends["c"].alive = False
    wire.network.gone("c", 0.5)
    wire.after(0.4)
    assert wire.ends["a"].links == []
    wire.after(0.2)
    assert wire.ends["a"].links == wire.ends["b"].links == ["-c"]
    wire.ends["c"].alive = True
    wire.network.joined("c")
    wire.after(1.0)
    assert wire.ends["a"].links == ["-c", "+c"]
    assert wire.network.connected("a", "c")


def test_no_connection_is_made_across_a_partition_until_it_is_healed() -> None:
    wire = Wire()
    wire.network.add([("a", "b"), ("b", "a")], FaultKind.PARTITION, 0.0)
    wire.network.reset_if_blocked("a", "b")
    wire.after(5.0)
    assert wire.ends["a"].links == ["-b"]
    wire.network.heal()
    wire.after(1.0)
    assert wire.ends["a"].links == ["-b", "+b"]
