"""From single moments to spans: who was what, from when to when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from simulations.chronicle import Happening, Life, Role
from simulations.report.record import Span, State, Still

_DEAD = ("down", "lost")


def spans(
    nodes: Sequence[str], roles: Iterable[Role], lives: Iterable[Life], until_s: float
) -> tuple[Span, ...]:
    """What every node was, without gaps from 0 to ``until_s``, in the order of ``nodes``.

    Nodes are down until they are said to be up. What a node says while it is down was on its way when it
    died, and is not believed.
    """
    events: list[Role | Life] = [life for life in lives if life.state in ("up", *_DEAD)]
    events += roles
    # Where several fall on one moment, being born comes before saying who one is.
    events.sort(key=lambda event: (event.at_s, isinstance(event, Role)))
    found = []
    for node in nodes:
        found += _spans_of(node, [event for event in events if event.node == node], until_s)
    return tuple(found)


def _spans_of(node: str, events: Sequence[Role | Life], until_s: float) -> list[Span]:
    found: list[Span] = []
    state, term, detail, since = "down", 0, "not started yet", 0.0

    def close(at_s: float) -> None:
        begun_s, ended_s = max(0.0, since), min(at_s, until_s)
        if ended_s > begun_s:
            found.append(Span(node, cast(State, state), begun_s, ended_s, term, detail))

    for event in events:
        if isinstance(event, Role):
            said = (event.role, event.term, _detail(event))
            if state in _DEAD or said == (state, term, detail):
                continue
        else:
            said = (event.state, 0 if event.state != "up" else term, event.why)
        close(event.at_s)
        (state, term, detail), since = said, event.at_s
    close(until_s)
    return found


def _detail(said: Role) -> str:
    """Whom a node follows, which may change within a term: one that starts has yet to hear of its leader.

    Of the others it says nothing, so that a candidate's span stays one election and a leader's one reign.
    """
    if said.role != "follower":
        return ""
    return f"follows {said.leader}" if said.leader else "knows no leader"


def stills(nodes: Sequence[str], lives: Iterable[Life], until_s: float) -> tuple[Still, ...]:
    """When processes stood still. Death ends that too."""
    found = []
    since: dict[str, float] = {}
    for life in sorted(lives, key=lambda life: life.at_s):
        if life.state == "still":
            since.setdefault(life.node, life.at_s)
        elif life.node in since:
            found.append(Still(life.node, since.pop(life.node), min(life.at_s, until_s)))
    found += [Still(node, begun_s, until_s) for node, begun_s in since.items() if begun_s < until_s]
    order = {node: number for number, node in enumerate(nodes)}
    return tuple(sorted(found, key=lambda still: (order[still.node], still.begun_s)))


def elections(found: Iterable[Span]) -> dict[int, str]:
    """Who was seen to lead which term."""
    return {span.term: span.node for span in found if span.state == "leader"}


def within(faults: Iterable[Happening], healed_s: float | None, until_s: float) -> tuple[Happening, ...]:
    """The faults, each ended at the latest when everything was healed, or the run was over."""
    end = until_s if healed_s is None else min(healed_s, until_s)
    return tuple(
        Happening(
            fault.kind,
            fault.begun_s,
            max(fault.begun_s, min(fault.ended_s, end)),
            fault.nodes,
            fault.peers,
            fault.detail,
        )
        for fault in sorted(faults, key=lambda fault: (fault.begun_s, fault.kind))
    )
