"""The timeline: faults by class, every node, and what the clients saw, one below the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from simulations.chronicle import Happening
from simulations.report.families import MEANINGS, family_of, ordered
from simulations.report.markup import element, moment, number, power, seconds, step_of, text, ticks, titled
from simulations.report.measures import Bin, Progress, bins
from simulations.report.picture import Axis, bar, grid, line, mark, plot, scale, stairs, stretched, thinned
from simulations.report.record import Run, Span

BINS: Final = 240
COLOURS: Final = 5
"""How many colours the terms take turns in."""
POINTS: Final = 1500
"""How many points of a line are told apart."""
ROLE_PX: Final = 20
FAULT_PX: Final = 15
_STRIP: Final = (22, 5)
_COMMIT: Final = (30, 22)
NODE_PX: Final = 54
THROUGHPUT_PX: Final = 92
LATENCY_PX: Final = 104
LETTERS_SHARE: Final = 0.03
"""A span that is at least so wide has room for its term."""


def timeline(run: Run) -> str:
    """All lanes of a run."""
    # Room for the end of a run that broke off.
    axis = Axis(0.0, run.ended_s * (1.0 if run.failed_s is None else 1.015))
    rows = [row("", scale(axis), kind="axis"), _phases(run, axis)]
    rows += [head("Faults, by class"), *_fault_rows(run, axis)] if run.faults else []
    rows += [head("Nodes"), *_node_rows(run, axis)]
    if run.calls:
        found = bins(run.calls, run.ended_s, BINS)
        rows += [head("What the clients saw"), _throughput(run, axis, found), _latency(run, axis, found)]
    rows += [row("", scale(axis), kind="axis")]
    cursor = element("div", element("span"), class_="cursor", hidden="")
    return element(
        "div",
        element("div", *rows, cursor, class_="lanes", data_begin=axis.begin_s, data_end=axis.end_s),
        class_="scroll",
        tabindex=0,
    )


def row(label: str, picture: str, *, kind: str = "", values: Sequence[tuple[float, str]] = ()) -> str:
    """One lane: what it is, the values on its own axis (pixels from the top, and the text), the picture."""
    axis = [element("span", text(told), class_="value", style=f"top:{top:.0f}px") for top, told in values]
    return element(
        "div", element("div", label, *axis, class_="label"), picture, class_=f"lane {kind}".rstrip()
    )


def head(what: str) -> str:
    """What the lanes below are about."""
    return element("div", element("span", text(what)), class_="lane-head")


def turning_points(run: Run, axis: Axis, height: float) -> str:
    """When everything was healed, when the run broke off, and when the observer itself stood still."""
    made = [
        bar(
            axis,
            a,
            b,
            y=0,
            height=height,
            kind="stall",
            title=f"this machine stood still for {seconds(b - a)}",
        )
        for a, b in run.stalls
    ]
    if run.healed_s is not None:
        title = f"{moment(run.healed_s, 0.001)}: everything is healed"
        made.append(mark(axis, run.healed_s, height, kind="healed", title=title))
    if run.failed_s is not None:
        title = f"{moment(run.failed_s, 0.001)}: {run.verdict}"
        made.append(mark(axis, run.failed_s, height, kind="failed", title=title))
    return "".join(made)


def _phases(run: Run, axis: Axis) -> str:
    """What the whole run was about, from when to when."""
    healed_s = run.ended_s if run.healed_s is None else run.healed_s
    phases = [("under fire", 0.0, healed_s, "fire"), ("healed", healed_s, run.ended_s, "peace")]
    made = []
    for name, begun_s, ended_s, kind in phases:
        if ended_s > begun_s:
            title = f"{name}: {moment(begun_s, 0.01)} to {moment(ended_s, 0.01)}"
            made.append(bar(axis, begun_s, ended_s, y=1, height=12, kind=kind, title=title))
            if axis.share(ended_s) - axis.share(begun_s) > LETTERS_SHARE * 2:
                made.append(element("text", text(name), x=axis.percent(begun_s), dx=4, y=11, class_="phase"))
    if run.failed_s is not None:
        words = f"{run.verdict} at {moment(run.failed_s, 0.01)}"
        at = axis.percent(run.failed_s)
        made.append(element("text", text(words), x=at, dx=-5, y=11, text_anchor="end", class_="phase bad"))
    label = element("span", element("b", "the run"), class_="name")
    return row(label, plot(14, *made, turning_points(run, axis, 14), label="the run"), kind="fault")


# -- faults -------------------------------------------------------------------------------------------


def told(fault: Happening) -> str:
    """What a reader is told who points at a fault."""
    meaning = MEANINGS.get(fault.kind, "")
    length = "at once" if fault.ended_s <= fault.begun_s else f"for {seconds(fault.ended_s - fault.begun_s)}"
    return f"{fault.kind}: {meaning}\n{moment(fault.begun_s, 0.001)}, {length}\n{fault.detail}"


def _fault_rows(run: Run, axis: Axis) -> list[str]:
    made = []
    for kind in ordered({fault.kind for fault in run.faults}):
        mine = [fault for fault in run.faults if fault.kind == kind]
        family = family_of(kind)
        bars = [
            bar(axis, f.begun_s, f.ended_s, y=2, height=FAULT_PX - 4, kind=f"family-{family}", title=told(f))
            for f in mine
        ]
        label = titled_label(f"{kind}", MEANINGS.get(kind, ""), f"×{len(mine)}", f"swatch family-{family}")
        picture = plot(FAULT_PX, grid(axis, FAULT_PX), *bars, turning_points(run, axis, FAULT_PX), label=kind)
        made.append(row(label, picture, kind="fault"))
    return made


def titled_label(name: str, title: str, count: str, swatch: str) -> str:
    """The label of a lane with a colour and a count."""
    return element(
        "span",
        element("i", class_=swatch),
        element("b", text(name)),
        element("small", text(count)),
        title=title,
        class_="name",
    )


# -- nodes --------------------------------------------------------------------------------------------


def _node_rows(run: Run, axis: Axis) -> list[str]:
    progress = Progress(run.commits)
    peaks = _heights(thinned(progress.peaks, axis.length_s / POINTS), progress.furthest, run.ended_s)
    return [_node(run, axis, node, progress, peaks) for node in run.nodes]


def _heights(
    points: Sequence[tuple[float, float]], furthest: int, until_s: float
) -> list[tuple[float, float]]:
    top, height = _COMMIT
    return [
        (at, top + height - (height - 2) * value / max(1, furthest)) for at, value in stairs(points, until_s)
    ]


def _node(run: Run, axis: Axis, node: str, progress: Progress, peaks: Sequence[tuple[float, float]]) -> str:
    mine = [span for span in run.spans if span.node == node]
    # Weather that all nodes have all the time says nothing about one of them.
    over_s = run.ended_s if run.healed_s is None else run.healed_s
    hits = [
        fault
        for fault in run.faults
        if node in (*fault.nodes, *fault.peers) and fault.ended_s - fault.begun_s < 0.99 * over_s
    ]
    top, height = _COMMIT
    own = _heights(thinned(progress.of(node), axis.length_s / POINTS), progress.furthest, run.ended_s)
    parts = [
        grid(axis, NODE_PX),
        *(_span(axis, span) for span in mine),
        *(
            bar(
                axis,
                s.begun_s,
                s.ended_s,
                y=0,
                height=ROLE_PX,
                kind="still",
                title=f"{node} stands still for {seconds(s.ended_s - s.begun_s)}",
            )
            for s in run.stills
            if s.node == node
        ),
        *(
            bar(
                axis,
                f.begun_s,
                f.ended_s,
                y=_STRIP[0],
                height=_STRIP[1],
                kind=f"family-{family_of(f.kind)}",
                title=told(f),
            )
            for f in hits
        ),
        element("rect", x=0, width="100%", y=top, height=height, class_="commit-ground"),
        stretched(NODE_PX, line(axis, peaks, kind="furthest"), line(axis, own, kind="own")),
        turning_points(run, axis, NODE_PX),
    ]
    reached = max((index for _, index in progress.of(node)), default=0)
    label = element("span", element("b", text(node)), class_="name")
    note = element("span", f"commit {number(reached)}", class_="note", style=f"top:{top + 3}px")
    return row(label + note, plot(NODE_PX, *parts, label=f"node {node}"), kind="node")


def _span(axis: Axis, span: Span) -> str:
    kind = f"state-{span.state}"
    if span.state == "leader":
        kind += f" term-{span.term % COLOURS}"
    length = seconds(span.ended_s - span.begun_s)
    term = f" in term {span.term}" if span.term else ""
    title = f"{span.node}: {span.state}{term}\n{moment(span.begun_s, 0.001)}, for {length}\n{span.detail}"
    made = bar(axis, span.begun_s, span.ended_s, y=0, height=ROLE_PX, kind=kind, title=title)
    wide = axis.share(span.ended_s) - axis.share(span.begun_s) >= LETTERS_SHARE
    words = {"leader": f"T{span.term}", "down": "down", "lost": "lost for good"}
    if span.state in words and wide:
        made += element(
            "text",
            text(words[span.state]),
            x=axis.percent(span.begun_s),
            dx=4,
            y=14,
            class_=f"in-bar in-{span.state}",
        )
    if span.state == "candidate":
        made += titled("circle", title, cx=axis.percent(span.begun_s), cy=ROLE_PX / 2, r=3, class_="election")
    return made


# -- clients ------------------------------------------------------------------------------------------


def _throughput(run: Run, axis: Axis, found: Sequence[Bin]) -> str:
    height, room = THROUGHPUT_PX, THROUGHPUT_PX - 8
    most = max((sum(bin_.ended.values()) / (bin_.ended_s - bin_.begun_s) for bin_ in found), default=1) or 1
    step = step_of(most, 3)
    values = [(height - room * value / most, number(value)) for value in ticks(0, most, step)]
    parts = [grid(axis, height), *_across(top for top, _ in values)]
    for bin_ in found:
        bottom = float(height)
        title = _told_of(bin_)
        for how in ("ok", "failed", "unknown"):
            tall = room * bin_.per_s(how) / most
            if tall > 0:
                bottom -= tall
                parts.append(
                    bar(
                        axis,
                        bin_.begun_s,
                        bin_.ended_s,
                        y=bottom,
                        height=tall,
                        kind=f"calls-{how}",
                        title=title,
                    )
                )
    parts.append(turning_points(run, axis, height))
    label = element("b", "calls") + element("small", "a second, by how they ended")
    return row(label, plot(height, *parts, label="calls a second"), kind="chart", values=values)


def _told_of(bin_: Bin) -> str:
    counts = ", ".join(f"{count} {how}" for how, count in sorted(bin_.ended.items())) or "nothing ended"
    when = f"{moment(bin_.begun_s, 0.01)} to {moment(bin_.ended_s, 0.01)}"
    latency = "" if bin_.p50_s is None else f"\np50 {seconds(bin_.p50_s)}, p99 {seconds(bin_.p99_s)}"
    return f"{when}: {counts}{latency}"


def _latency(run: Run, axis: Axis, found: Sequence[Bin]) -> str:
    height = LATENCY_PX
    least = min((b.p50_s for b in found if b.p50_s), default=1e-3)
    most = max((b.p99_s for b in found if b.p99_s), default=1.0)
    low, high = (
        math.floor(math.log10(least)),
        max(math.ceil(math.log10(most)), math.floor(math.log10(least)) + 1),
    )

    def y(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return height - 4 - (height - 12) * share

    values = [(y(10.0**exponent), power(exponent)) for exponent in range(low, high + 1)]
    curves = [
        line(axis, points, kind=kind)
        for kind, latencies in (("p99", [b.p99_s for b in found]), ("p50", [b.p50_s for b in found]))
        for points in _pieces(list(zip(found, latencies, strict=True)), y)
    ]
    targets = [
        bar(axis, b.begun_s, b.ended_s, y=0, height=height, kind="sense", title=_told_of(b))
        for b in found
        if b.ended
    ]
    parts = [
        grid(axis, height),
        *_across(top for top, _ in values),
        stretched(height, *curves),
        *targets,
        turning_points(run, axis, height),
    ]
    label = element("b", "latency") + element("small", "of successful calls, logarithmic")
    return row(label, plot(height, *parts, label="latency"), kind="chart", values=values)


def _pieces(
    found: Sequence[tuple[Bin, float | None]], y: Callable[[float], float]
) -> list[list[tuple[float, float]]]:
    """A line that is broken where nothing ended."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for bin_, value in found:
        if value is None:
            pieces.append([])
        else:
            # Flat within its time, so that a lone one can be seen.
            pieces[-1] += [(bin_.begun_s, y(value)), (bin_.ended_s, y(value))]
    return [piece for piece in pieces if piece]


def _across(tops: Iterable[float]) -> list[str]:
    return [element("line", x1=0, x2="100%", y1=f"{top:.1f}", y2=f"{top:.1f}", class_="grid") for top in tops]
