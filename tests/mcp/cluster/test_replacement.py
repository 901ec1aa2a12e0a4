"""Whether a dead voter is replaced: by cases, and in whatever comes to pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import configuration
from mcp.cluster import replacement
from mcp.cluster.gossip.updates import State
from mcp.cluster.replacement import (
    LOOK_GAP_S_MAX,
    NOTHING,
    SPARE_LAG_ENTRIES_MAX,
    VOTERS_MAX,
    Action,
    Seen,
    Verdict,
    Watch,
)

AFTER_S = 10.0
HEARD_S = 0.5
STEP_S = 0.5
NEVER = float("-inf")


def there(name: str, now: float, *, votes: bool = True, lag: int | None = 0) -> Seen:
    return Seen(name, ord(name[-1]), votes, State.ALIVE, 0.0, now, lag)


def gone(name: str, since_s: float, *, state: State = State.DEAD) -> Seen:
    return Seen(name, ord(name[-1]), True, state, since_s, since_s)


def group(now: float, alive: int, dead: int, spares: int = 0) -> list[Seen]:
    """The first one leads; the dead ones have been so since 0."""
    voters = [there(f"n{n}", now) for n in range(1, alive + 1)]
    voters += [gone(f"n{n}", 0.0) for n in range(alive + 1, alive + dead + 1)]
    return voters + [there(f"s{n}", now, votes=False) for n in range(1, spares + 1)]


def watched(watch: Watch, alive: int, dead: int, spares: int = 0, *, seconds: float = AFTER_S) -> Verdict:
    """The verdict after so long, with looks all the time."""
    verdict, now = NOTHING, 0.0
    while now <= seconds:
        verdict = watch.look(now, 1, group(now, alive, dead, spares))
        now += STEP_S
    return verdict


def a_watch() -> Watch:
    return Watch("n1", AFTER_S, heard_s=HEARD_S)


# -- cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alive", "dead", "spares", "action", "node"),
    [
        (2, 1, 1, Action.PROMOTE, "s1"),
        (2, 1, 0, Action.NOTHING, ""),
        (3, 1, 0, Action.REMOVE, "n4"),
        (3, 1, 1, Action.REMOVE, "n4"),
        (3, 2, 2, Action.PROMOTE, "s1"),
        (4, 2, 0, Action.REMOVE, "n5"),
        (1, 1, 1, Action.NOTHING, ""),
        (2, 2, 1, Action.NOTHING, ""),
        (2, 3, 3, Action.NOTHING, ""),
        (6, 1, 1, Action.REMOVE, "n7"),
        (6, 1, 0, Action.NOTHING, ""),
        (3, 0, 1, Action.NOTHING, ""),
    ],
)
def test_what_is_done_first(alive: int, dead: int, spares: int, action: Action, node: str) -> None:
    verdict = watched(a_watch(), alive, dead, spares)
    assert (verdict.action, verdict.node) == (action, node)
    assert bool(verdict.reason) == (dead > 0)


def test_nothing_is_done_before_the_time() -> None:
    assert watched(a_watch(), 2, 1, 1, seconds=AFTER_S - STEP_S) == NOTHING


def test_a_spare_is_promoted_then_the_dead_one_goes_and_then_there_is_peace() -> None:
    watch = a_watch()
    assert watched(watch, 2, 1, 1).action is Action.PROMOTE
    now = AFTER_S + STEP_S
    voting = [replace(member, votes=True) for member in group(now, 2, 1, 1)]
    verdict = watch.look(now, 1, voting)
    assert (verdict.action, verdict.node) == (Action.REMOVE, "n3")
    assert watch.look(now, 1, [member for member in voting if member.name != "n3"]) == NOTHING
    assert watch.dead(now) == {}


def test_without_room_the_dead_one_goes_first_and_its_place_is_filled_next() -> None:
    watch = a_watch()
    assert (*watched(watch, 6, 1, 2)[:1], watch._vacated) == (Action.REMOVE, ("n7", ord("7")))
    now = AFTER_S + STEP_S
    rest = [member for member in group(now, 6, 1, 2) if member.name != "n7"]
    assert watch.look(now, 1, [m for m in rest if m.votes]).action is Action.NOTHING, "nobody is there"
    lonely = [replace(m, contact_s=NEVER) if m.name in ("n2", "n3", "n4") else m for m in rest]
    assert watch.look(now, 1, lonely) == NOTHING, "three of six are no majority"
    verdict = watch.look(now, 1, rest)
    assert (verdict.action, verdict.node) == (Action.PROMOTE, "s1")
    full = [replace(member, votes=True) if member.name == "s1" else member for member in rest]
    assert watch.look(now, 1, full) == NOTHING
    assert watch.look(now, 1, rest) == NOTHING, "who goes later was taken out by somebody else"


def test_another_leader_looks_for_as_long_again() -> None:
    watch = a_watch()
    watched(watch, 2, 1, 1)
    now = AFTER_S + STEP_S
    assert watch.look(now, 2, group(now, 2, 1, 1)) == NOTHING
    assert watch.dead(now) == {"n3": 0.0}


def test_a_leader_that_slept_looks_for_as_long_again() -> None:
    watch = a_watch()
    watched(watch, 2, 1, 1, seconds=AFTER_S - STEP_S)
    now = AFTER_S + LOOK_GAP_S_MAX
    assert watch.look(now, 1, group(now, 2, 1, 1)) == NOTHING
    assert watch.dead(now) == {"n3": 0.0}


@pytest.mark.parametrize(
    "seen",
    [
        gone("n3", 0.0, state=State.LEFT),
        gone("n3", 0.0, state=State.SUSPECT),
        replace(gone("n3", 0.0), state=None),
        replace(gone("n3", 0.0), contact_s=STEP_S),
        replace(gone("n3", 0.0), state_since_s=STEP_S),
    ],
)
def test_who_is_not_dead_by_all_accounts_stays(seen: Seen) -> None:
    watch, now, verdict = a_watch(), 0.0, NOTHING
    while now <= AFTER_S:
        verdict = watch.look(now, 1, [*group(now, 2, 0, 1), seen])
        now += STEP_S
    assert verdict == NOTHING


@pytest.mark.parametrize(
    "spare",
    [
        there("s1", AFTER_S, votes=False, lag=None),
        there("s1", AFTER_S, votes=False, lag=SPARE_LAG_ENTRIES_MAX + 1),
        there("s1", AFTER_S - 2 * HEARD_S, votes=False),
        replace(there("s1", AFTER_S, votes=False), state=State.SUSPECT),
        replace(there("s1", AFTER_S, votes=False), willing=False),
    ],
)
def test_who_could_not_vote_at_once_takes_nobodys_place(spare: Seen) -> None:
    watch = a_watch()
    watched(watch, 2, 1, seconds=AFTER_S - STEP_S)
    verdict = watch.look(AFTER_S, 1, [*group(AFTER_S, 2, 1), spare])
    assert verdict.action is Action.NOTHING
    assert "n3 dead for 10 s or longer: no spare is there" in verdict.reason
    better = there("s2", AFTER_S, votes=False, lag=SPARE_LAG_ENTRIES_MAX)
    assert watch.look(AFTER_S, 1, [*group(AFTER_S, 2, 1), spare, better]).node == "s2"


def test_of_two_spares_the_one_that_has_more_of_the_log_votes() -> None:
    watch = a_watch()
    watched(watch, 2, 1, seconds=AFTER_S - STEP_S)
    spares = [there("s1", AFTER_S, votes=False, lag=7), there("s2", AFTER_S, votes=False, lag=3)]
    assert watch.look(AFTER_S, 1, [*group(AFTER_S, 2, 1), *spares]).node == "s2"


def test_the_limit_is_that_of_the_log() -> None:
    assert VOTERS_MAX == replacement.VOTERS_MAX == configuration.VOTERS_MAX


# -- whatever comes to pass ---------------------------------------------------------------------------------


class World:
    """Members that fall silent and come back, and a log that does what is decided, late."""

    def __init__(self, voters: int, spares: int) -> None:
        self.now, self.term, self.looked_s = 0.0, 1, 0.0
        self.leads_since_s = 0.0
        self.watch = a_watch()
        names = [f"n{n}" for n in range(1, voters + 1)] + [f"s{n}" for n in range(1, spares + 1)]
        self.members = {name: there(name, 0.0, votes=name[0] == "n") for name in names}
        self.talking = dict.fromkeys(names, True)
        self.pending: Verdict | None = None

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for name, member in self.members.items():
            if self.talking[name]:
                self.members[name] = replace(member, contact_s=self.now)

    def gossip(self, name: str, state: State | None) -> None:
        self.members[name] = replace(self.members[name], state=state, state_since_s=self.now)

    def succeed(self) -> None:
        self.term += 1
        self.leads_since_s = self.now

    def look(self) -> None:
        if self.now - self.looked_s > LOOK_GAP_S_MAX:
            self.leads_since_s = self.now
        self.looked_s = self.now
        verdict = self.watch.look(self.now, self.term, list(self.members.values()))
        if self.pending is None and verdict.action is not Action.NOTHING:
            self.check(verdict)
            self.pending = verdict

    def voters(self) -> list[Seen]:
        return [member for member in self.members.values() if member.votes]

    def is_heard(self, member: Seen) -> bool:
        return member.name == "n1" or self.now - member.contact_s <= HEARD_S

    def check(self, verdict: Verdict) -> None:
        member, voters = self.members[verdict.node], self.voters()
        heard = [voter for voter in voters if self.is_heard(voter)]
        assert 2 * len(heard) > len(voters), "a majority is there before"
        if verdict.action is Action.PROMOTE:
            assert not member.votes
            assert self.is_heard(member)
            assert member.state is State.ALIVE
            after = [*voters, member]
            assert 2 * (len(heard) + 1) > len(after), "and behind it"
            assert len(after) <= VOTERS_MAX
            return
        assert member.name != "n1", "the leader stays"
        assert member.votes
        assert member.state is State.DEAD
        silent_since = max(member.contact_s, member.state_since_s, self.leads_since_s)
        assert self.now - silent_since >= AFTER_S, "not before the time, by whoever leads"
        assert 2 * len(heard) > len(voters) - 1
        assert len(voters) % 2 == 0 or (len(voters) == VOTERS_MAX and len(self.members) > len(voters))

    def carry_out(self) -> None:
        verdict, self.pending = self.pending, None
        if verdict is None:
            return
        if verdict.action is Action.PROMOTE:
            self.members[verdict.node] = replace(self.members[verdict.node], votes=True)
        else:
            del self.members[verdict.node]


def moves(names: Sequence[str]) -> st.SearchStrategy[tuple[str, object, object]]:
    someone = st.sampled_from(names)
    state = st.sampled_from([None, *State, State.DEAD, State.DEAD])
    return st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 30), st.none()),
        st.tuples(st.just("die"), someone, st.none()),
        st.tuples(st.just("gossip"), someone, state),
        st.tuples(st.just("hush"), someone, st.none()),
        st.tuples(st.sampled_from(["succeed", "sleep", "carry_out"]), st.none(), st.none()),
    )


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 7), st.integers(0, 3))
def test_it_is_wise_whatever_comes_to_pass(data: st.DataObject, voters: int, spares: int) -> None:
    world = World(voters, spares)
    for what, one, other in data.draw(st.lists(moves(sorted(world.members)), max_size=40)):
        if what == "wait":
            for _ in range(int(str(one))):
                world.pass_by(STEP_S)
                world.look()
        elif what == "sleep":
            world.pass_by(LOOK_GAP_S_MAX + 1.0)
        elif what in ("succeed", "carry_out"):
            getattr(world, what)()
        elif str(one) in world.members and one != "n1":
            if what == "gossip":
                world.gossip(str(one), other)  # type: ignore[arg-type]
            else:
                world.talking[str(one)] = what == "hush" and not world.talking[str(one)]
                if what == "die":
                    world.gossip(str(one), State.DEAD)
        world.look()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
def test_where_all_is_quiet_it_ends_with_as_many_who_are_there_as_can_be(
    voters: int, dead: int, spares: int
) -> None:
    dead = min(dead, (voters - 1) // 2)
    world = World(voters, spares)
    lost = sorted(world.members)[voters - dead : voters]
    for name in lost:
        world.talking[name] = False
        world.gossip(name, State.DEAD)
    for _ in range(200):
        world.pass_by(STEP_S)
        world.look()
        world.carry_out()
    left = [voter for voter in world.voters() if voter.name in lost]
    if voters % 2:
        assert len(left) == max(0, dead - spares), "one spare for each"
        assert len(world.voters()) == voters
    else:
        assert len(left) == max(0, dead - 1 - spares), "one of an even number needs none"
        assert len(world.voters()) == (voters if not dead else voters - 1)
