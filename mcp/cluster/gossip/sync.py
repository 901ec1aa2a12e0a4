"""Comparing two views and evening them out, in pieces, with only what differs. Pure.

Anti-entropy: gossip reaches everybody with a high probability and this makes it certain (Demers et al.
1987, section 1.3; SWIM has nothing of the kind, memberlist calls it push-pull). One side sends summaries:
names with a mark for each record. The other answers with a delta: its records where the marks differ or
the first side has none, and the names that it wants in return; those come in a last delta. Each piece is
complete in itself and merging is idempotent, so none has to wait for another, and a lost one is made up
for by the next comparison.

What is said of the dead is handled with care. A view that was cut off holds everybody beyond the cut for
dead, so a death that comes by comparison is a suspicion only, where the member is present; it can refute
that. A dead or left member that the other side has never heard of is told of in the first half of the
time for which it is remembered, with its age, so that no two nodes remind each other for ever of somebody
whom all should forget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mcp.cluster.gossip.codec import Summary, SummaryEntry, delta_body, encode_record
from mcp.cluster.gossip.limits import SUMMARY_ENTRIES_MAX, GossipLimits
from mcp.cluster.gossip.updates import FullRecord
from mcp.cluster.gossip.view import Record, View


@dataclass(frozen=True, slots=True)
class Answer:
    """What a summary calls for: records to send, and names to ask for."""

    records: tuple[FullRecord, ...]
    wants: tuple[str, ...]


def summaries(
    view: View, sender: str, address: str, now: float, limits: GossipLimits, without: str | None = None
) -> Iterator[Summary]:
    """The whole view in as many pieces as it takes, one at least. ``without``: a name that is left out."""
    listed = sorted(
        (record for record in view if record.name != without and _is_told(record, now, limits)),
        key=lambda record: record.name,
    )
    after = ""
    for at in range(0, max(len(listed), 1), SUMMARY_ENTRIES_MAX):
        piece = listed[at : at + SUMMARY_ENTRIES_MAX]
        upto = piece[-1].name if at + SUMMARY_ENTRIES_MAX < len(listed) else ""
        entries = tuple(SummaryEntry(record.name, record.state, record.mark) for record in piece)
        yield Summary(sender, address, after, upto, entries)
        after = upto


def answer(
    view: View, summary: Summary, now: float, limits: GossipLimits, without: str | None = None
) -> Answer:
    """What the sender of the summary lacks or has otherwise, and what it has that is news here."""
    theirs = {entry.name: entry for entry in summary.entries}
    records, wants = [], []
    for entry in summary.entries:
        record = view.get(entry.name)
        if record is None:
            wants.append(entry.name)
        elif (entry.state, entry.mark) != (record.state, record.mark) and entry.name != without:
            records.append(record.full(now))
            wants.append(entry.name)
        elif entry.name == without:
            wants.append(entry.name)
    lacking = (
        record
        for record in view
        if record.name not in theirs and summary.covers(record.name) and _is_told(record, now, limits)
    )
    records += [record.full(now) for record in lacking if record.name != without]
    # What the sender has to know before it says anything of itself comes first.
    records.sort(key=lambda record: (record.name != summary.sender, record.name))
    return Answer(tuple(records), tuple(wants))


def delta_pieces(
    sender: str, address: str, records: Iterable[FullRecord], wants: Sequence[str], room: int
) -> Iterator[bytes]:
    """Bodies of deltas that hold all of it, each within ``room`` bytes; one at least, if only to answer."""
    encoded: list[bytes] = []
    size, asked = len(delta_body(sender, address, (), wants)), wants
    for record in map(encode_record, records):
        # Three bytes at most for the head of a list that grows.
        if encoded and (size + len(record) + 3 > room or len(encoded) >= SUMMARY_ENTRIES_MAX):
            yield delta_body(sender, address, encoded, asked)
            encoded, asked = [], ()
            size = len(delta_body(sender, address, (), asked))
        encoded.append(record)
        size += len(record)
    yield delta_body(sender, address, encoded, asked)


def _is_told(record: Record, now: float, limits: GossipLimits) -> bool:
    """Whether others are told of a member unasked."""
    return record.state.present or now - record.since < limits.dead_remembered_s / 2
