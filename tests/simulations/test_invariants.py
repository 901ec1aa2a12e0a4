"""Every rule is shown a world that breaks it, and one like it that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.configuration import Configuration, Member
from consensus.errors import Busy, NotLeader, OutcomeUnknown
from consensus.interface import (
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Recovered,
    SnapshotMeta,
    Truncate,
)
from simulations.contact import LeadersAreHeard
from simulations.invariants import (
    AcknowledgementsAreTrue,
    Agreement,
    CommitsAreCounted,
    ElectionSafety,
    ElectionsAreWanted,
    LeaderCompleteness,
    LogMatching,
    NothingGoesBack,
    OneMemberAtATime,
    PromisesAreDurable,
    ProposalsResolveOnce,
    QuorumDurability,
    ReadsAreFresh,
    Violation,
)
from simulations.shadow import Disks, Electorate, Shadow


def entry(index: int, term: int = 1, data: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, term, 0, "")


def shadow(*records: object, covered: int = 0) -> Shadow:
    made = Shadow(covered=covered)
    made.take(records)  # type: ignore[arg-type]
    return made


def test_a_shadow_follows_every_kind_of_record() -> None:
    log = shadow(entry(1), entry(2), Truncate(2), entry(2, 2), HardState(2, "a"))
    assert (log.last, log.term_at(2), log.hard_state) == (2, 2, HardState(2, "a"))
    log.take([InstalledSnapshot(meta(9)), entry(10, 3)])
    assert (log.first, log.last, log.term_at(2), log.term_at(10)) == (10, 10, None, 3)
    log.take([Truncate(5)])
    assert (log.first, log.last) == (5, 4)


def test_what_is_written_is_durable_once_it_is_synced() -> None:
    disks = Disks("ab")
    disks.appended("a", [entry(1)])
    assert disks.live["a"].last == 1
    assert disks.durable["a"].last == 0
    disks.synced("a")
    assert disks.durable["a"].last == 1
    assert disks.durable["b"].last == 0


def voters(names: str, number: int | None = 0) -> Electorate:
    return Electorate(dict.fromkeys(names, number))


def test_one_leader_in_a_term() -> None:
    rule = ElectionSafety(3)
    rule.voted("b", "a", 1)
    rule.led("a", 1)
    rule.led("a", 1)
    rule.voted("c", "b", 2)
    rule.led("b", 2)
    with pytest.raises(Violation, match="election safety: term 1 is led by a and by b"):
        rule.led("b", 1)


def test_a_leader_has_the_votes_of_a_majority() -> None:
    ElectionSafety(1).led("a", 1)
    rule = ElectionSafety(4)
    for voter, candidate, term in (("b", "a", 1), ("b", "a", 1), ("c", "a", 2), ("d", "b", 1)):
        rule.voted(voter, candidate, term)
    with pytest.raises(Violation, match=r"votes of \['a', 'b'\] alone"):
        rule.led("a", 1)
    rule = ElectionSafety(2)
    with pytest.raises(Violation, match="alone"):
        rule.led("a", 1)


def test_a_vote_is_one_of_a_server_that_the_configuration_names() -> None:
    def rule() -> ElectionSafety:
        made = ElectionSafety(3)
        made.voted("b", "a", 1, 7)
        return made

    for wrong in (Electorate({"a": 1, "b": 2, "c": 3}), Electorate({"x": 1, "b": 7, "c": 3})):
        with pytest.raises(Violation, match="leads term 1 with votes"):
            rule().led("a", 1, wrong, 1)
        with pytest.raises(Violation, match="follows a in term 1"):
            rule().followed("b", "a", 1, wrong)
    fine = Electorate({"a": 1, "b": 7, "c": 3})
    rule().led("a", 1, fine, 1)
    rule().followed("b", "a", 1, fine)


def test_the_first_leader_has_the_votes_of_all() -> None:
    rule = ElectionSafety(3)
    rule.voted("b", "a", 1, 2)
    with pytest.raises(Violation, match="alone"):
        rule.led("a", 1, Electorate.first("abc"), 1)
    rule.voted("c", "a", 1, 3)
    rule.led("a", 1, Electorate.first("abc"), 1)


def test_an_election_is_wanted_by_a_majority_of_the_voters() -> None:
    rule = ElectionsAreWanted(3)
    rule.asked("a", 3, 1)
    rule.consented("o", "a", 2, 1)
    three = Electorate({"a": 1, "b": 2, "c": 3})
    with pytest.raises(Violation, match="consent of"):
        rule.called("a", 3, handed_over=False, electorate=three)
    rule.consented("b", "a", 2, 1)
    with pytest.raises(Violation, match="consent of"):
        rule.called("a", 3, handed_over=False, electorate=Electorate.first("abc"))
    rule.called("a", 3, handed_over=False, electorate=three)


def test_a_leader_hears_a_majority_of_the_voters() -> None:
    rule = LeadersAreHeard("abcd", 1.0)
    rule.led("a", 100.0, leads=True)
    rule.came("a", "d")
    rule.heard("a", 101.5)
    rule.looked("a", 101.6, "ad")
    rule.looked("a", 101.6, "a")
    with pytest.raises(Violation, match="leaders are heard"):
        rule.looked("a", 101.6, "abc")


def test_a_commit_is_counted_among_the_voters_by_the_server() -> None:
    def step(rule: CommitsAreCounted, *electorates: Electorate) -> None:
        log = shadow(entry(1, 2), entry(2, 2))
        rule.stepped("a", 2, 1, log, leads=True, moved=True, electorates=electorates, incarnation=1)
        rule.stepped("a", 2, 2, log, leads=True, moved=True, electorates=electorates, incarnation=1)

    def told(*servers: tuple[str, int]) -> CommitsAreCounted:
        rule = CommitsAreCounted(3)
        for name, number in servers:
            rule.acknowledged("a", name, 2, 2, number)
        return rule

    three = Electorate({"a": 1, "b": 2, "c": 3})
    for rule in (told(("b", 9)), told(("o", 4)), told()):
        with pytest.raises(Violation, match="commits are counted"):
            step(rule, three)
    step(told(("b", 2)), three)
    step(told(("b", 2)), Electorate({"a": 1, "b": 9, "c": 3}), three)
    step(told(), Electorate({"a": 1}))


def configuration(**members: tuple[int, bool]) -> Configuration:
    return Configuration.of(Member(name, number, "", votes) for name, (number, votes) in members.items())


def test_configurations_follow_one_another_in_steps_of_one_member() -> None:
    before = configuration(a=(1, True), b=(2, True), c=(3, False))
    for fine in (
        configuration(a=(1, True), b=(2, True), c=(3, True)),
        configuration(a=(1, True), c=(3, False)),
        configuration(a=(1, True), b=(2, True), c=(4, False)),
        configuration(a=(1, True), b=(2, True), c=(3, False), d=(5, False)),
        before.with_member(Member("a", 1, "elsewhere:1")),
    ):
        OneMemberAtATime.follows("a", before, fine)
    for wrong in (
        configuration(a=(1, True), b=(2, True), c=(3, True), d=(5, False)),
        configuration(a=(1, True), b=(9, True), c=(3, False)),
        configuration(a=(1, True)),
    ):
        with pytest.raises(Violation, match="one member at a time"):
            OneMemberAtATime.follows("a", before, wrong)


def test_a_snapshot_has_the_members_that_were_committed() -> None:
    members = configuration(a=(1, True))
    fine = replace(meta(5), configuration=members.encode())
    OneMemberAtATime.stored("a", fine, members)
    OneMemberAtATime.stored("a", meta(5), None)
    for wrong, committed in ((fine, None), (meta(5), members), (fine, configuration(a=(2, True)))):
        with pytest.raises(Violation, match="other members than were committed"):
            OneMemberAtATime.stored("a", wrong, committed)


def test_a_shadow_knows_the_configurations_of_its_log() -> None:
    first, second = configuration(a=(1, True)), configuration(a=(1, True), b=(2, False))
    made = shadow(entry(1), config(2, first), entry(3), config(4, second))
    assert made.configurations == [(2, first), (4, second)]
    made.take([Truncate(4)])
    assert made.configurations == [(2, first)]
    made.take([InstalledSnapshot(replace(meta(9), configuration=second.encode()))])
    assert made.configurations == [(9, second)]


def config(index: int, members: Configuration) -> Entry:
    return Entry(index, 1, EntryKind.CONFIG, members.encode())


def test_an_emptied_disk_counts_as_what_it_held_and_what_is_on_it_now_as_anothers() -> None:
    disks = Disks("ab")
    for name, number in (("a", 1), ("b", 2)):
        disks.restarted(name, Recovered(HardState(0, None), None, [], number))
        disks.appended(name, [entry(1)])
        disks.synced(name)
    both = Electorate({"a": 1, "b": 2})
    disks.was_emptied("b")
    assert disks.durable["b"].last == 0
    QuorumDurability.committed(1, 1, disks, [both])
    disks.restarted("b", Recovered(HardState(0, None), None, [], 3))
    disks.appended("b", [entry(1), entry(2)])
    disks.appended("a", [entry(2)])
    disks.synced("b")
    disks.synced("a")
    with pytest.raises(Violation, match="synced only on"):
        QuorumDurability.committed(2, 1, disks, [both])
    QuorumDurability.committed(2, 1, disks, [both, Electorate({"a": 1, "b": 3})])


@pytest.mark.parametrize(
    ("other", "previous"), [(entry(2, data=b"y"), 1), (entry(2), 0)], ids=["content", "past"]
)
def test_one_entry_per_index_and_term_with_one_past(other: Entry, previous: int) -> None:
    rule = LogMatching()
    rule.wrote("a", entry(2), 1)
    rule.wrote("b", entry(2), 1)
    rule.wrote("b", entry(2, 2), 0)
    rule.wrote("c", entry(2), None)
    with pytest.raises(Violation, match="log matching"):
        rule.wrote("b", other, previous)


def test_a_past_that_was_not_known_at_first_counts_once_it_is() -> None:
    rule = LogMatching()
    rule.wrote("a", entry(2), None)
    rule.wrote("b", entry(2), 1)
    with pytest.raises(Violation):
        rule.wrote("c", entry(2), 0)


def test_one_history() -> None:
    rule = Agreement()
    assert rule.committed("a", entry(1), 0)
    assert rule.committed("a", entry(2), 1)
    assert not rule.committed("b", entry(1), 0)
    with pytest.raises(Violation, match="committed never changes"):
        rule.committed("b", entry(2, 2), 1)
    with pytest.raises(Violation, match="committed never changes"):
        rule.committed("b", entry(2, 1, b"y"), 1)
    with pytest.raises(Violation, match="state machine safety"):
        rule.committed("b", entry(3), 1)
    with pytest.raises(Violation, match="state machine safety"):
        rule.committed("b", entry(4), 3)


def test_a_snapshot_stands_for_history() -> None:
    rule = Agreement()
    rule.committed("a", entry(1), 0)
    rule.restored("b", meta(1))
    for wrong in (meta(2), meta(1, 2)):
        with pytest.raises(Violation, match="committed never changes"):
            rule.restored("b", wrong)


def test_a_leader_has_everything_that_was_committed_before_its_term() -> None:
    history = [entry(1), entry(2), entry(3, 5)]
    rule = LeaderCompleteness()
    rule.committed(1, 2)
    rule.committed(5, 3)
    rule.committed(5, 2)
    rule.led("a", 2, shadow(entry(1), entry(2)), history)
    rule.led("a", 2, shadow(covered=2), history)
    rule.led("a", 5, shadow(entry(1), entry(2)), history)
    for log, term in ((shadow(entry(1)), 2), (shadow(entry(1), entry(2, 2)), 3), (shadow(entry(1)), 6)):
        with pytest.raises(Violation, match="leader completeness"):
            rule.led("a", term, log, history)


def test_what_a_later_leader_has_committed_an_earlier_one_need_not_have() -> None:
    history = [entry(1), entry(2), entry(3, 4)]
    rule = LeaderCompleteness()
    rule.committed(1, 1)
    rule.committed(4, 3)
    rule.led("a", 3, shadow(entry(1)), history)
    with pytest.raises(Violation, match="the committed entry 3"):
        rule.led("a", 5, shadow(entry(1), entry(2)), history)


@pytest.mark.parametrize("names", ["abc", "abcd"])
def test_committed_is_on_the_synced_disks_of_a_majority(names: str) -> None:
    disks = Disks(names)
    for name in "abc":
        disks.appended(name, [entry(1)])
    disks.synced("a")
    with pytest.raises(Violation, match="synced only on"):
        QuorumDurability.committed(1, 1, disks, [voters(names)])
    disks.covered("b", 1)
    if len(names) == 4:
        with pytest.raises(Violation, match="synced only on"):
            QuorumDurability.committed(1, 1, disks, [voters(names)])
        disks.synced("c")
    QuorumDurability.committed(1, 1, disks, [voters(names)])


def test_another_term_at_the_index_is_not_the_entry() -> None:
    disks = Disks("a")
    disks.appended("a", [entry(1, 2)])
    disks.synced("a")
    with pytest.raises(Violation):
        QuorumDurability.committed(1, 1, disks, [voters("a")])


@pytest.mark.parametrize(
    ("state", "entries", "snapshot"),
    [
        (HardState(1, "b"), 2, 2),
        (HardState(2, None), 2, 2),
        (HardState(2, "c"), 2, 2),
        (HardState(2, "b"), 1, 2),
        (HardState(2, "b"), 2, 0),
    ],
    ids=["term", "vote forgotten", "vote changed", "entry", "snapshot"],
)
def test_nothing_synced_is_lost_by_a_restart(state: HardState, entries: int, snapshot: int) -> None:
    before = shadow(HardState(2, "b"), *(entry(i) for i in range(3, 5)))
    before.first, before.covered = 3, 2
    fine = Recovered(HardState(2, "b"), meta(2), [entry(3), entry(4)])
    NothingGoesBack.restarted("a", before, fine, cut_pending=False)
    NothingGoesBack.restarted(
        "a", before, Recovered(HardState(3, None), meta(4), [entry(5)]), cut_pending=False
    )
    worse = Recovered(
        state, meta(snapshot) if snapshot else None, [entry(i) for i in range(snapshot + 1, entries + 3)]
    )
    with pytest.raises(Violation, match="nothing goes back"):
        NothingGoesBack.restarted("a", before, worse, cut_pending=False)


def test_a_truncation_that_was_not_synced_may_have_survived() -> None:
    disks = Disks("a")
    disks.appended("a", [entry(1), entry(2)])
    disks.synced("a")
    disks.appended("a", [Truncate(2)])
    assert disks.cut_pending("a")
    recovered = Recovered(HardState(0, None), None, [entry(1)])
    NothingGoesBack.restarted("a", disks.durable["a"], recovered, cut_pending=True)
    with pytest.raises(Violation):
        NothingGoesBack.restarted("a", disks.durable["a"], recovered, cut_pending=False)


def test_a_running_nodes_numbers_do_not_fall() -> None:
    NothingGoesBack.advanced("a", "the term", 2, 2)
    with pytest.raises(Violation, match="the term of a goes from 2 to 1"):
        NothingGoesBack.advanced("a", "the term", 2, 1)


def test_promises_are_on_the_disk_before_they_leave() -> None:
    disk = shadow(HardState(2, "b"), entry(1))
    PromisesAreDurable.spoke("a", "a vote", 2, disk)
    PromisesAreDurable.voted("a", "b", 2, disk)
    PromisesAreDurable.acknowledged("a", 1, 2, disk)
    PromisesAreDurable.acknowledged("a", 2, 1, disk)
    PromisesAreDurable.acknowledged("a", 9, 0, shadow(covered=9))
    with pytest.raises(Violation, match="with term 2 on its disk"):
        PromisesAreDurable.spoke("a", "a vote", 3, disk)
    with pytest.raises(Violation, match="with a vote for b on its disk"):
        PromisesAreDurable.voted("a", "c", 2, disk)
    with pytest.raises(Violation, match="acknowledges entry 2"):
        PromisesAreDurable.acknowledged("a", 2, 2, disk)


UNKNOWN, REFUSED = OutcomeUnknown("?"), NotLeader(None)


def test_outcomes_that_are_true() -> None:
    rule = ProposalsResolveOnce()
    rule.committed(b"a", 1)
    rule.committed(b"a", 2)
    rule.resolved(b"a", 2, None)
    rule.committed(b"b", 3)
    rule.resolved(b"b", None, UNKNOWN)
    rule.resolved(b"c", None, UNKNOWN)
    rule.committed(b"c", 4)
    rule.resolved(b"d", None, REFUSED)


@pytest.mark.parametrize(
    "events",
    [
        ["commit", "applied", "applied"],
        ["unknown", "unknown"],
        ["commit", "unknown", "applied"],
        ["applied"],
        ["commit", "refused"],
        ["refused", "commit"],
        ["busy", "commit"],
    ],
    ids=" ".join,
)
def test_outcomes_that_are_not(events: list[str]) -> None:
    rule = ProposalsResolveOnce()
    steps = {
        "commit": lambda: rule.committed(b"a", 1),
        "applied": lambda: rule.resolved(b"a", 1, None),
        "unknown": lambda: rule.resolved(b"a", None, UNKNOWN),
        "refused": lambda: rule.resolved(b"a", None, REFUSED),
        "busy": lambda: rule.resolved(b"a", None, Busy("full")),
    }
    for event in events[:-1]:
        steps[event]()
    with pytest.raises(Violation, match="proposals resolve once"):
        steps[events[-1]]()


def test_a_proposal_without_an_outcome_is_a_violation() -> None:
    with pytest.raises(Violation, match=r"no outcome on n1 0\.500 s after its deadline"):
        ProposalsResolveOnce.overdue(b"a", "n1", 0.5)


def test_an_election_needs_the_consent_of_a_majority_to_this_very_asking() -> None:
    rule = ElectionsAreWanted(5)
    rule.asked("a", 3, 70)
    rule.consented("b", "a", 2, 70)
    rule.consented("b", "a", 2, 70)
    with pytest.raises(
        Violation, match=r"a calls an election in term 3 with the consent of \['a', 'b'\] alone"
    ):
        rule.called("a", 3, handed_over=False)
    rule.consented("c", "a", 2, 70)
    rule.called("a", 3, handed_over=False)
    rule.asked("a", 3, 71)
    rule.consented("d", "a", 2, 70)
    with pytest.raises(Violation, match="elections are wanted"):
        rule.called("a", 3, handed_over=False)
    rule.consented("d", "a", 2, 71)
    rule.consented("e", "a", 2, 71)
    with pytest.raises(Violation, match="in term 4"):
        rule.called("a", 4, handed_over=False)
    ElectionsAreWanted(1).called("a", 1, handed_over=False)


def test_who_takes_over_was_told_to() -> None:
    rule = ElectionsAreWanted(3)
    rule.told_to_take_over("b", 4)
    rule.called("b", 5, handed_over=True)
    with pytest.raises(Violation, match="as if it had been told to"):
        rule.called("b", 6, handed_over=True)
    with pytest.raises(Violation, match="as if it had been told to"):
        rule.called("c", 5, handed_over=True)


def test_a_leader_wants_no_election_in_its_term() -> None:
    rule = ElectionsAreWanted(3)
    rule.asked("a", 3, 70)
    rule.reigns("b", 2)
    with pytest.raises(Violation, match="b leads term 2 and consents"):
        rule.consented("b", "a", 2, 70)
    rule.consented("b", "a", 3, 70)
    rule.reigns("b", None)
    rule.consented("b", "a", 2, 70)


def test_a_leader_that_hears_no_majority_leads_no_more() -> None:
    rule = LeadersAreHeard(("a", "b", "c", "d", "e"), 1.0)
    rule.looked("a", 100.0)
    rule.led("a", 100.0, leads=True)
    rule.came("a", "b")
    rule.heard("a", 101.0)
    rule.looked("a", 101.0)
    rule.came("a", "c")  # and waits for its turn
    with pytest.raises(Violation, match=r"a leads on, 1\.500 s after a majority was heard"):
        rule.looked("a", 101.5)
    rule.heard("a", 101.6)
    rule.looked("a", 102.0)
    with pytest.raises(Violation, match="leaders are heard"):
        rule.looked("a", 102.1)
    rule.led("a", 103.0, leads=False)
    rule.looked("a", 200.0)
    LeadersAreHeard(("a",), 1.0).looked("a", 9.0)


def test_a_read_sees_what_was_committed_when_it_came_and_ends() -> None:
    ReadsAreFresh.confirmed("a", 7, 7)
    with pytest.raises(Violation, match="a confirms 6 for a read that came when 7 was committed"):
        ReadsAreFresh.confirmed("a", 6, 7)
    with pytest.raises(Violation, match=r"has not ended 0\.200 s after its deadline"):
        ReadsAreFresh.overdue("a", 0.2)


def test_a_follower_follows_who_was_elected() -> None:
    rule = ElectionSafety(3)
    rule.voted("b", "a", 1)
    rule.led("a", 1)
    rule.followed("b", "a", 1)
    with pytest.raises(Violation, match="b follows c in term 1, which a leads"):
        rule.followed("b", "c", 1)
    with pytest.raises(Violation, match="b follows c in term 2, for which it has votes of"):
        rule.followed("b", "c", 2)
    rule.voted("b", "c", 2)
    rule.followed("b", "c", 2)  # its first words came before it was seen to lead


def step(rule: CommitsAreCounted, index: int, log: Shadow, *, term: int = 2) -> None:
    rule.stepped("a", term, index, log, leads=True, moved=True)


def test_a_leader_commits_what_a_majority_acknowledged_in_its_term() -> None:
    log = shadow(entry(1), entry(2), entry(3, 2), entry(4, 2))
    rule = CommitsAreCounted(5)
    step(rule, 1, log)  # what it knew when it was elected
    rule.acknowledged("a", "b", 2, 3)
    rule.acknowledged("a", "c", 2, 4)
    step(rule, 3, log)
    rule.acknowledged("a", "d", 1, 4)
    with pytest.raises(Violation, match=r"a commits entry 4 in term 2, which \['c'\] alone have"):
        step(rule, 4, log)
    rule.acknowledged("a", "d", 2, 4)
    step(rule, 4, log)
    step(CommitsAreCounted(1), 4, log)


def test_a_leader_commits_no_entry_of_an_earlier_term_by_counting() -> None:
    log = shadow(entry(1), entry(2), entry(3, 2))
    rule = CommitsAreCounted(3)
    step(rule, 1, log)
    rule.acknowledged("a", "b", 2, 3)
    with pytest.raises(Violation, match="a commits entry 2 of term 1 in term 2"):
        step(rule, 2, log)
    step(rule, 3, log)


def test_an_acknowledgement_says_no_more_than_was_sent() -> None:
    rule = AcknowledgementsAreTrue()
    rule.sent("a", "b", 2, 70, 5)
    rule.sent("a", "c", 2, 71, 9)
    rule.acknowledged("b", "a", 2, 70, 5)
    rule.acknowledged("b", "a", 1, 70, 9)
    with pytest.raises(Violation, match="b acknowledges entry 6 to a, which spoke of entries up to 5"):
        rule.acknowledged("b", "a", 2, 70, 6)


def test_a_sync_leaves_nothing_in_the_cache() -> None:
    PromisesAreDurable.synced("a", 0)
    with pytest.raises(Violation, match="a has synced its journal, without 7 of its bytes"):
        PromisesAreDurable.synced("a", 7)


def test_a_leader_believes_no_more_than_it_was_told_in_its_term() -> None:
    rule = CommitsAreCounted(3)
    rule.acknowledged("a", "b", 2, 7)
    rule.believed("a", 2, {"b": 7, "c": 0})
    with pytest.raises(Violation, match="a believes in term 3 that b has entry 7, which it was told of 0"):
        rule.believed("a", 3, {"b": 7, "c": 0})


def test_votes_that_come_after_a_leader_has_begun_are_too_late() -> None:
    rule = ElectionSafety(5)
    rule.voted("b", "a", 1)
    rule.wrote("a", 1)
    rule.voted("c", "a", 1)
    with pytest.raises(Violation, match=r"a leads term 1 with votes of \['a', 'b'\] alone"):
        rule.led("a", 1)
