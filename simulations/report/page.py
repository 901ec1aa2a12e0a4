"""The whole page of a run: the verdict first, then what it rests on. A pure function, text from values."""

from __future__ import annotations

from typing import Final

from simulations.report.around import cards, failovers
from simulations.report.families import FAMILIES, family_of
from simulations.report.lanes import timeline
from simulations.report.markup import element, seconds, text
from simulations.report.measures import AFTERMATH_S, AROUND_S, Calls, effects
from simulations.report.record import Figure, Run
from simulations.report.style import CSS, PATTERNS, SCRIPT
from simulations.report.tables import around, checks, faults, recovery, story

REASON_CHARACTERS_MAX: Final = 4000
FIGURE_CHARACTERS: Final = 12
"""A longer value is told in smaller letters."""
ZOOMS: Final = (1, 2, 4, 8, 16)

_LEGEND: Final = (
    ("state-leader", "leader, a colour for each term"),
    ("state-follower", "follower"),
    ("state-candidate", "election"),
    ("state-down", "down"),
    ("still", "stands still"),
    ("own", "its commit index"),
    ("furthest", "the furthest of all"),
    ("calls-ok", "ok"),
    ("calls-failed", "failed"),
    ("calls-unknown", "outcome unknown"),
    ("p50", "p50"),
    ("p99", "p99"),
    ("healed", "everything healed"),
)


def page(run: Run) -> str:
    """The page, complete in itself: it asks for nothing that is not in it."""
    body = element(
        "main",
        _header(run),
        _reasons(run),
        _figures(run.figures),
        *_timeline(run),
        *_faults(run),
        *_failovers(run),
        *_checks(run),
        *_ends(run),
    )
    return document(f"{run.verdict}: {run.title}", body)


def document(title: str, body: str) -> str:
    """A page around ``body``."""
    top = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        + element("title", text(title))
        + f"<style>{CSS}</style>"
    )
    inside = f"{PATTERNS}{body}<script>{SCRIPT}</script>"
    return f'<!doctype html>\n<html lang="en"><head>{top}</head><body>{inside}</body></html>\n'


def _header(run: Run) -> str:
    again = element(
        "div", element("code", text(run.command)), element("button", "copy", type="button"), class_="command"
    )
    title = element("div", element("h1", text(run.title)), again)
    return element(
        "header",
        element(
            "div",
            text(run.verdict.upper()),
            class_=f"verdict {run.verdict}",
            style="flex:none;min-width:auto",
        ),
        title,
    )


def _reasons(run: Run) -> str:
    if not run.reasons:
        return ""
    told = [
        element("p", element("b", text(f"{verdict}: ")), text(reason[:REASON_CHARACTERS_MAX]))
        for verdict, reason in run.reasons
    ]
    return element("div", *told, class_=f"reasons {run.verdict}")


def _figures(found: tuple[Figure, ...]) -> str:
    made = [
        element(
            "div",
            element("dt", text(figure.name)),
            element("dd", text(figure.value), class_=_manner(figure)),
            element("dd", text(figure.note), class_="note") if figure.note else "",
        )
        for figure in found
    ]
    return element("dl", *made, class_="figures") if made else ""


def _manner(figure: Figure) -> str | None:
    if figure.bad:
        return "bad"
    return "long" if len(figure.value) > FIGURE_CHARACTERS else None


def _timeline(run: Run) -> list[str]:
    families = {family_of(fault.kind) for fault in run.faults}
    keys = [(f"family-{family}", f"fault of the {family}") for family in FAMILIES if family in families]
    legend = [
        element("span", element("i", class_=f"key {kind}"), text(what)) for kind, what in (*keys, *_LEGEND)
    ]
    zoom = element(
        "span",
        "zoom ",
        *(
            element("button", f"{by}×", type="button", value=by, aria_pressed=str(by == 1).lower())
            for by in ZOOMS
        ),
        class_="zoom",
    )
    lead = (
        "All lanes have one time axis: real seconds since the load began."
        if run.real
        else "All lanes have one time axis: virtual seconds."
    )
    return [
        element("h2", "What happened"),
        element("p", text(lead + " Point at anything for its details."), class_="lead"),
        element("div", *legend, zoom, class_="tools"),
        timeline(run),
    ]


def _faults(run: Run) -> list[str]:
    if not run.faults and not run.planned:
        return []
    found = effects(run)
    usual_s = Calls(run.calls).usual_gap_s
    made = [
        element("h2", "Recovery, by class of fault"),
        element(
            "p",
            text(
                "No write for: the longest time without an acknowledged write while the fault was on or up "
                f"to {AFTERMATH_S:g} s later. Next fresh write: from the fault's beginning to the first "
                "acknowledgement of a write that was begun after it. Caught up: from the fault's end until "
                "the nodes that it hit had committed all that anybody had by then. Faults that overlap share "
                "their "
                f"effects. In this run 99 of 100 writes were followed by another within {seconds(usual_s)}."
            ),
            class_="lead",
        ),
        recovery(run, found),
    ]
    if run.faults and run.calls:
        made += [
            element("h2", "Around the faults"),
            element(
                "p",
                text(
                    "Each class by itself, all its faults laid over each other at the moment at which they "
                    "begin: successful calls a second above, latency below (p50 and p99, logarithmic). The "
                    "tinted part is as long as half of them last. All pictures have the same scales."
                ),
                class_="lead",
            ),
            cards(run),
            element(
                "p",
                text(f"Medians over the faults of a class; {AROUND_S:g} s before and after:"),
                class_="lead",
                style="margin-top:1.2rem",
            ),
            around(found),
        ]
    if found:
        summary = element("summary", text(f"Every single fault ({len(found)})"))
        made.append(element("details", summary, faults(found)))
    return made


def _failovers(run: Run) -> list[str]:
    if not run.failovers:
        return []
    alone = sum(failover.alone for failover in run.failovers)
    never = sum(failover.seconds is None for failover in run.failovers)
    lead = (
        "From the SIGKILL of a leader to the first acknowledgement of a write that was begun after it; the "
        f"dashed line is the median. Leaders that were killed: {len(run.failovers)}; {alone} of them while "
        "nothing else was wrong (blue)."
    )
    if never:
        lead += f" {never} times no such write followed."
    return [element("h2", "Failover"), element("p", text(lead), class_="lead"), failovers(run.failovers)]


def _checks(run: Run) -> list[str]:
    broken = sum(check.status == "violation" for check in run.checks)
    undecided = sum(check.status == "inconclusive" for check in run.checks)
    lead = f"{len(run.checks)} rules: {broken} broken, {undecided} undecided."
    if run.failed_s is not None:
        lead += " The run broke off, so all others held until then and are not proved for the rest of it."
    return [element("h2", "Checks"), element("p", text(lead), class_="lead"), checks(run.checks)]


def _ends(run: Run) -> list[str]:
    made = []
    if run.story:
        summary = element("summary", text(f"The story, line by line ({len(run.story)} lines)"))
        made.append(element("details", summary, story(run.story)))
    made += [element("p", text(note), class_="quiet") for note in run.notes]
    return made
