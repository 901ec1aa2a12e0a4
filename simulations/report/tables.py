"""The tables of the page: recovery by class of fault, checks, single faults, the story."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from simulations.report.families import MEANINGS, family_of, ordered
from simulations.report.markup import element, moment, number, seconds, text
from simulations.report.measures import Effect, Typical, by_kind, typical
from simulations.report.record import Check, Line, Run

NOTHING: Final = "–"
FAULTS_MAX: Final = 400
STORY_MAX: Final = 3000
VIOLATIONS_MAX: Final = 5


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table; cells are markup. A head that begins with ``#`` is of numbers. Wide ones scroll.

    Rows without a single figure, of what never happened, are pale.
    """
    numeric = [head.startswith("#") for head in heads]
    top = element(
        "tr",
        *(
            element("th", text(head.lstrip("#")), class_="number" if is_number else None, scope="col")
            for head, is_number in zip(heads, numeric, strict=True)
        ),
    )
    body = [
        element(
            "tr",
            *(
                element("td", cell, class_="number" if is_number else None)
                for cell, is_number in zip(cells, numeric, strict=True)
            ),
            class_="none" if set(cells[-2:]) == {NOTHING} else None,
        )
        for cells in rows
    ]
    made = element("table", element("thead", top), element("tbody", *body), class_=kind or None)
    return element("div", made, class_="scroll", tabindex=0)


def recovery(run: Run, effects: Sequence[Effect]) -> str:
    """By class of fault: how many, how long nothing was acknowledged, how long until all was well."""
    found = by_kind(effects)
    heads = (
        "fault",
        "#planned",
        "#happened",
        f"#{run.effects_are}",
        "#no write for: median",
        "#longest",
        "#next fresh write: median",
        "#longest",
        "#caught up: median",
        "#longest",
    )
    rows = []
    for kind in ordered({*run.planned, *found}):
        mine = found.get(kind, [])
        gap = typical(effect.gap_s for effect in mine)
        fresh = typical(effect.fresh_s for effect in mine)
        behind = typical(effect.caught_up_s for effect in mine)
        rows.append(
            (
                _kind(kind),
                number(run.planned.get(kind, 0)),
                number(len(mine)),
                number(run.effects.get(kind, 0)),
                *_times(gap),
                *_times(fresh),
                *_times(behind),
            )
        )
    return table(heads, rows, kind="recovery")


def around(effects: Sequence[Effect]) -> str:
    """By class of fault: throughput and latency before, during and after, as medians over its faults."""
    heads = (
        "fault",
        "#calls/s before",
        "#during",
        "#after",
        "#p50 before",
        "#during",
        "#after",
        "#p99 before",
        "#during",
        "#after",
    )
    rows = []
    found = by_kind(effects)
    for kind in ordered(set(found)):
        mine = found[kind]
        befores, afters = [e.before for e in mine], [e.after for e in mine]
        durings = [e.during for e in mine if e.fault.ended_s > e.fault.begun_s]
        sides = (befores, durings, afters)
        rows.append(
            (
                _kind(kind),
                *(_middle([w.per_s for w in side], number) for side in sides),
                *(_middle([w.p50_s for w in side], seconds) for side in sides),
                *(_middle([w.p99_s for w in side], seconds) for side in sides),
            )
        )
    return table(heads, rows, kind="around")


def _kind(kind: str) -> str:
    return element(
        "span", element("i", class_=f"swatch family-{family_of(kind)}"), text(kind), title=MEANINGS.get(kind)
    )


def _times(found: Typical) -> tuple[str, str]:
    never = element("em", text(f"{found.never} never"), class_="bad") if found.never else ""
    if found.median is None:
        return never or NOTHING, NOTHING
    return text(seconds(found.median)), " ".join(filter(None, (text(seconds(found.largest)), never)))


def _middle(values: Iterable[float | None], shown: Callable[[float], str]) -> str:
    found = typical(values)
    return NOTHING if found.median is None else text(shown(found.median))


def faults(effects: Sequence[Effect]) -> str:
    """Every single fault."""
    heads = (
        "#at",
        "fault",
        "what",
        "#calls/s before",
        "#during",
        "#after",
        "#no write for",
        "#caught up after",
    )
    rows = [
        (
            text(moment(effect.fault.begun_s, 0.01)),
            _kind(effect.fault.kind),
            text(effect.fault.detail),
            number(effect.before.per_s),
            number(effect.during.per_s) if effect.fault.ended_s > effect.fault.begun_s else NOTHING,
            number(effect.after.per_s),
            text(seconds(effect.gap_s)),
            text(seconds(effect.caught_up_s)),
        )
        for effect in effects[:FAULTS_MAX]
    ]
    left = len(effects) - FAULTS_MAX
    more = element("p", text(f"and {left} more"), class_="quiet") if left > 0 else ""
    return table(heads, rows, kind="faults") + more


_MARKS: Final = {"ok": "✓", "violation": "✗", "inconclusive": "?", "not reached": "–"}


def checks(found: Sequence[Check]) -> str:
    """Every rule, what came of it, and why it is one. Broken ones come first."""
    order = ("violation", "inconclusive", "ok", "not reached")
    rows = []
    for check in sorted(found, key=lambda check: order.index(check.status)):
        mark = element(
            "span",
            _MARKS[check.status],
            text(f" {_words(check)}"),
            class_=f"status {check.status.split()[0]}",
        )
        told = [element("span", text(check.theory), class_="theory")]
        if check.note:
            told.append(element("p", text(check.note), class_="quiet"))
        told += [element("pre", text(violation)) for violation in check.violations[:VIOLATIONS_MAX]]
        rows.append((mark, element("b", text(check.rule)), number(check.checked), "".join(told)))
    return table(("verdict", "rule", "#checked", "why it is a rule"), rows, kind="checks")


def _words(check: Check) -> str:
    if check.status == "ok" and not check.checked:
        return "nothing to check"
    return {"ok": "holds", "violation": "broken", "inconclusive": "undecided"}.get(check.status, check.status)


def story(lines: Sequence[Line]) -> str:
    """What happened, line by line."""
    shown = lines[:STORY_MAX]
    width = max((len(line.who) for line in shown), default=0)
    told = "\n".join(f"{line.at_s:10.4f} s  {line.who:<{width}}  {line.what}" for line in shown)
    left = len(lines) - len(shown)
    return element("pre", text(told + (f"\n(and {left} more lines)" if left else "")), class_="story")
