"""Nodes that gossip in virtual time: entry, failure, farewell, conflict, and what the figures are held to."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from mcp.cluster.gossip.events import EventKind
from mcp.cluster.gossip.limits import DEFAULT_LIMITS
from mcp.cluster.gossip.updates import State
from simulations.faults import FaultKind
from simulations.gossip import measures
from simulations.gossip.__main__ import main
from simulations.gossip.cluster import GossipCluster
from simulations.gossip.measures import at_rest, crash_known_s, healed_s, settled, until


def small(seed: int = 1, nodes: int = 5) -> GossipCluster:
    """A cluster in which all nodes see each other."""
    return settled(seed, nodes)[0]


def kinds(cluster: GossipCluster, host: str, of: str) -> list[str]:
    return [str(event.kind) for event in cluster.hosts[host].events if event.name == of]


def forget_events(cluster: GossipCluster) -> None:
    for host in cluster.hosts.values():
        host.events.clear()


def run(cluster: GossipCluster, seconds: float) -> None:
    cluster.world.run(cluster.world.now + seconds)


# -- the bars, in less time than the command takes -------------------------------------------------------


def test_fifty_nodes_from_one_seed_agree_know_of_a_crash_and_cost_little() -> None:
    cluster, entry_s = settled(11, 50)
    assert entry_s <= 5.0
    rates = at_rest(cluster, 4.0)
    assert max(rates.values()) <= 1500.0
    assert crash_known_s(cluster, "n17") <= 3.0
    assert cluster.false_deaths == 0


def test_nobody_is_held_for_dead_while_a_tenth_of_the_datagrams_is_lost() -> None:
    cluster, _ = settled(12, 10, loss=0.1)
    run(cluster, 60.0)
    assert cluster.fired[FaultKind.LOSS] > 300
    assert cluster.false_deaths == 0
    assert cluster.counts[EventKind.DIED] == 0
    assert until(cluster, cluster.views_are_equal) < 5.0
    assert crash_known_s(cluster, "n03") <= 3.0


@pytest.mark.parametrize("parted_s", [1.5, 20.0])
def test_two_halves_find_back(parted_s: float) -> None:
    cluster = small(13, 16)
    assert healed_s(cluster, parted_s) < 15.0


def test_crashes_are_known_in_time_whoever_crashes() -> None:
    cluster = small(14, 8)
    for name in ("n00", "n03", "n07"):
        assert crash_known_s(cluster, name) <= 3.0
    assert cluster.false_deaths == 0


def test_several_neighbours_on_the_ring_crash_at_once() -> None:
    cluster = small(15, 12)
    core = cluster.hosts["n00"].core
    assert core is not None
    victims, at = [], "n00"
    for _ in range(4):
        at = core._membership.view.successor(at) or at
        victims.append(at)
    for name in victims:
        cluster.crash(name)
    took_s = until(cluster, lambda: all(cluster.all_see(name, State.DEAD) for name in victims))
    assert took_s <= 6.0
    assert cluster.views_are_equal()


# -- entry ----------------------------------------------------------------------------------------------


def test_seeds_that_do_not_answer_only_cost_time() -> None:
    cluster = GossipCluster(21, 12)
    cluster.start("n00", [])
    for name in ("n01", "n02"):
        cluster.start(name, ["n11", "n10", "n09", "n08", "n07", "n00", name])
    assert until(cluster, cluster.views_are_equal) < 3.0


def test_nodes_whose_seeds_are_all_of_them_find_each_other() -> None:
    """As a headless service gives them: every address, the own one too."""
    cluster = GossipCluster(22, 6)
    cluster.start_all(list(cluster.hosts))
    run(cluster, 0.3)
    assert until(cluster, cluster.views_are_equal) < 3.0


def test_a_seed_that_comes_late_is_found() -> None:
    cluster = GossipCluster(23, 3)
    cluster.start("n01", ["n00"])
    run(cluster, 30.0)
    cluster.start("n00", [])
    assert until(cluster, cluster.views_are_equal) < 2.0


def test_two_clusters_become_one_through_a_seed_that_was_absent() -> None:
    cluster = GossipCluster(24, 6)
    cut = cluster.part(["n00", "n01", "n02"])
    cluster.start_all(["n00", "n05"])
    run(cluster, 10.0)
    assert not cluster.views_are_equal()
    assert len(cut) == 18
    cluster.network.heal()
    assert until(cluster, cluster.views_are_equal) < 20.0
    assert cluster.counts[EventKind.DIED] == 0


def test_a_beacon_takes_the_place_of_a_seed() -> None:
    cluster = GossipCluster(25, 3)
    for name in cluster.hosts:
        cluster.start(name, [])
    run(cluster, 1.0)
    core = cluster.hosts["n01"].core
    assert core is not None
    for other in ("n00", "n02"):
        cluster.hosts[other].deliver("n01", core.beacon())
    assert until(cluster, cluster.views_are_equal) < 3.0


def test_a_node_enters_over_streams_alone_and_is_not_suspected() -> None:
    cluster = GossipCluster(26, 2)
    cluster.no_datagrams |= {("n00", "n01"), ("n01", "n00")}
    cluster.start("n00", [])
    cluster.start("n01", ["n00"])
    assert until(cluster, cluster.views_are_equal) < 3.0
    run(cluster, 20.0)
    assert cluster.counts[EventKind.SUSPECTED] == 0


# -- failure --------------------------------------------------------------------------------------------


def test_a_path_that_is_cut_is_gone_around() -> None:
    cluster = small(31, 5)
    pairs = [("n01", "n02"), ("n02", "n01")]
    cluster.network.add(pairs, FaultKind.PARTIAL, 0.0)
    run(cluster, 60.0)
    assert cluster.counts[EventKind.SUSPECTED] == 0
    assert cluster.views_are_equal()


def test_a_process_that_stands_still_for_a_moment_is_not_held_for_dead() -> None:
    cluster = small(32, 8)
    for number in range(8):
        cluster.pause(f"n{number:02}", 0.9)
        run(cluster, 5.0)
    assert cluster.false_deaths == 0
    assert cluster.views_are_equal()


def test_a_process_that_stands_still_for_long_comes_back_and_accuses_nobody() -> None:
    cluster = small(33, 8)
    cluster.pause("n03", 30.0)
    run(cluster, 10.0)
    assert cluster.all_see("n03", State.DEAD)
    forget_events(cluster)
    took = until(cluster, cluster.views_are_equal)
    assert took < 25.0
    assert {event.name for host in cluster.hosts.values() for event in host.events} == {"n03"}


def test_a_node_that_is_started_again_is_there_with_its_new_card() -> None:
    cluster = small(34, 5)
    cluster.crash("n02")
    assert until(cluster, lambda: cluster.all_see("n02", State.DEAD)) <= 3.0
    cluster.start("n02", ["n04"], card={"new": True})
    assert until(cluster, cluster.views_are_equal) < 3.0
    core = cluster.hosts["n01"].core
    assert core is not None
    (member,) = [member for member in core.members(cluster.world.now) if member.name == "n02"]
    assert (dict(member.card), member.incarnation) == ({"new": True}, 2)


def test_a_node_that_is_started_again_at_once_was_never_away() -> None:
    cluster = small(35, 5)
    forget_events(cluster)
    cluster.crash("n02")
    cluster.start("n02", ["n00"], card={"new": 1})
    assert until(cluster, lambda: kinds(cluster, "n01", "n02") == ["updated"]) < 3.0
    run(cluster, 10.0)
    assert kinds(cluster, "n01", "n02") == ["updated"]
    assert cluster.views_are_equal()


# -- farewell and conflict ------------------------------------------------------------------------------


def test_who_leaves_has_left_at_once_and_does_not_die() -> None:
    cluster = small(41, 6)
    host = cluster.hosts["n03"]
    assert host.core is not None
    leaving = host.core
    leaving.leave(cluster.world.now)
    host.pump()
    assert until(cluster, lambda: leaving.has_left) < 2.0
    assert cluster.all_see("n03", State.LEFT)
    assert leaving.next_deadline() == float("inf")
    cluster.crash("n03")
    run(cluster, 10.0)
    assert cluster.all_see("n03", State.LEFT)
    assert kinds(cluster, "n00", "n03")[-1] == "left"
    assert cluster.counts[EventKind.DIED] == 0
    cluster.start("n03", ["n00"])
    assert until(cluster, cluster.views_are_equal) < 3.0


def test_a_name_at_two_addresses_stays_with_the_first_and_both_sides_report_it() -> None:
    cluster = small(42, 6)
    cluster.crash("n00")
    until(cluster, lambda: cluster.all_see("n00", State.DEAD))
    forget_events(cluster)
    suspected = cluster.counts[EventKind.SUSPECTED]
    # The address would win a draw, were there one.
    cluster.start("n00", ["n04"], name="n02")
    run(cluster, 20.0)
    late = cluster.hosts["n00"].core
    assert late is not None
    assert late.contested
    conflicts = [e for host in cluster.hosts.values() for e in host.events if e.kind is EventKind.CONFLICT]
    assert {(e.name, frozenset((e.address, e.other_address))) for e in conflicts} == {
        ("n02", frozenset(("n02:7400", "n00:7400")))
    }
    assert kinds(cluster, "n00", "n02") == ["conflict"]
    assert kinds(cluster, "n04", "n02") == ["conflict"]
    assert cluster.views_are_equal()
    assert cluster.counts[EventKind.SUSPECTED] == suspected
    # The first one is gone: the name passes to the other without anybody's help.
    cluster.crash("n02")
    assert until(cluster, lambda: not late.contested) < 5.0
    assert until(cluster, cluster.views_are_equal) < 3.0


def test_a_node_that_moved_takes_its_name_along_once_its_old_address_is_dead() -> None:
    cluster = small(43, 6)
    cluster.crash("n05")
    until(cluster, lambda: cluster.all_see("n05", State.DEAD))
    cluster.crash("n02")
    cluster.start("n05", ["n00"], name="n02")
    late, core = cluster.hosts["n05"].core, cluster.hosts["n01"].core
    assert late is not None
    assert core is not None
    assert until(cluster, lambda: late.contested) < 1.0
    assert until(cluster, lambda: not late.contested) < 5.0
    assert until(cluster, cluster.views_are_equal) < 3.0
    assert {m.name: m.address for m in core.members(cluster.world.now)}["n02"] == "n05:7400"


# -- cards and loads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 400, 4000])
def test_a_card_reaches_everybody(size: int) -> None:
    cluster = small(51, 10)
    host = cluster.hosts["n02"]
    assert host.core is not None
    host.core.set_card({"text": "x" * size}, cluster.world.now)
    host.pump()

    def has_arrived() -> bool:
        cards = [
            m.card for core in cluster.cores() for m in core.members(cluster.world.now) if m.name == "n02"
        ]
        return all(len(card.get("text", "")) == size for card in cards)

    assert until(cluster, has_arrived) < 4.0
    assert cluster.views_are_equal()


def test_loads_travel_on_probes_and_are_no_news() -> None:
    cluster = small(52, 10)
    digest = cluster.cores()[0].digest
    for place, host in enumerate(cluster.hosts.values()):
        assert host.core is not None
        host.core.set_load({"queue": place})
    run(cluster, 8.0)
    forget_events(cluster)
    for core in cluster.cores():
        seen = [member.load["queue"] for member in core.members(cluster.world.now)]
        assert seen == list(range(10))
        assert core.digest == digest
    assert all(not host.events for host in cluster.hosts.values())


# -- the harness and the command ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    hashes = []
    for seed in (61, 61, 62):
        cluster = settled(seed, 6, loss=0.2)[0]
        hashes.append(cluster.world.trace_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_false_death_would_be_counted() -> None:
    hasty = dataclasses.replace(DEFAULT_LIMITS, suspicion_periods=0.01, indirect_probes=1)
    cluster, _ = settled(63, 5, loss=0.3, limits=hasty)
    run(cluster, 20.0)
    assert cluster.false_deaths > 0


def test_the_command_prints_a_figure_a_line_and_says_whether_bars_are_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simulations.gossip.__main__.SEEDS", 1)
    monkeypatch.setattr("simulations.gossip.__main__.PARTED_S", 3.0)
    monkeypatch.setattr("simulations.gossip.__main__.REST_S", 2.0)
    arguments = ["--nodes", "4", "--seconds", "2", "--crashes", "1", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    figures = [json.loads(line) for line in done.output.splitlines()]
    assert len(figures) == 11
    assert all(figure["met"] for figure in figures)
    for name in ("entry", "crash", "rest", "healing", "loss"):
        figure = measures.Figure(name, float("inf"), "s", 5.0)
        monkeypatch.setattr(measures, f"{name}_figures", lambda *_, figure=figure: [figure])
    done = CliRunner().invoke(main, arguments[:-1])
    assert done.exit_code == 1
    assert done.output.count("NO") == 6
