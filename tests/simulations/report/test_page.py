"""The page is whole, asks for nothing from elsewhere, and says what is in the record."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from simulations.chronicle import Call, Commit, Happening
from simulations.faults import FaultKind
from simulations.report.families import FAMILIES, MEANINGS, family_of, ordered
from simulations.report.page import page
from simulations.report.record import Check, Failover, Figure, Line, Run, Span, Still
from simulations.report.tables import FAULTS_MAX, STORY_MAX
from simulations.report.theories import THEORIES
from simulations.soak.kinds import LiveKind

HOSTILE = "<script>alert('\"&')</script>"
VOID_ELEMENTS = {"meta", "br"}


class Reader(HTMLParser):
    """Reads a page, and insists that every element that begins ends in its place."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.said: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.classes.update(dict(attrs).get("class", "").split())  # type: ignore[union-attr]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append((self.open[-1] if self.open else "", data))

    def text(self, tag: str) -> list[str]:
        """What stands directly in elements of this name."""
        return [data for inside, data in self.said if inside == tag]


def run(**changes: object) -> Run:
    fields: dict[str, object] = {
        "title": "3 nodes",
        "real": True,
        "seed": 7,
        "verdict": "clean",
        "command": "python -m simulations soak --seed 7",
        "nodes": ("n1", "n2"),
        "ended_s": 20.0,
        "healed_s": 18.0,
        "spans": (
            Span("n1", "leader", 0.0, 8.0, 3),
            Span("n1", "down", 8.0, 10.0, 0, "SIGKILL"),
            Span("n1", "follower", 10.0, 20.0, 4),
            Span("n2", "follower", 0.0, 8.1, 3),
            Span("n2", "candidate", 8.1, 8.2, 4),
            Span("n2", "leader", 8.2, 20.0, 4),
        ),
        "stills": (Still("n2", 2.0, 3.0),),
        "faults": (
            Happening("kill", 8.0, 10.0, ("n1",), (), "kill n1"),
            Happening("partition", 12.0, 14.0, ("n1",), ("n2",), "partition n1 | n2"),
            Happening("wall_jump", 15.0, 15.0, ("n2",)),
        ),
        "commits": tuple(Commit(float(at), node, 10 * at) for at in range(20) for node in ("n1", "n2")),
        "calls": tuple(Call(at / 10, at / 10 + 0.01, "put", "ok", True) for at in range(190)),
        "checks": (
            Check("linearizability", THEORIES["linearizability"], "ok", 12),
            Check("fencing", THEORIES["fencing"], "violation", 3, violations=("token 3 after 4",)),
        ),
        "failovers": (Failover(8.0, "n1", 0.2, True), Failover(9.0, "n2", None, False)),
        "planned": {"kill": 2, "partition": 1, "wall_jump": 1, "delay": 3},
        "effects": {"kill": 1},
        "figures": (Figure("lost", "0"),),
        "story": (Line(1.0, "n1", "leads"),),
    }
    return Run(**(fields | changes))  # type: ignore[arg-type]


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    text = page(run())
    read = Reader(text)
    assert not {"link", "img", "iframe", "object", "embed", "base", "use"} & set(read.tags)
    assert not {"src", "href", "action", "srcset", "xlink:href"} & {name for name, _ in read.attributes}
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", text.partition("<body>")[0])
    assert re.findall(r"url\(([^)]*)\)", text) == ["#hatch", "#stripes"]
    assert text.startswith("<!doctype html>")
    assert {"prefers-color-scheme:dark", "@media print", "max-width:640px"} <= set(
        re.findall(r"prefers-color-scheme:dark|@media print|max-width:640px", text)
    )


def test_the_verdict_and_what_shows_it_again_come_first() -> None:
    body = page(run(verdict="safety", reasons=(("safety", "lost: key/7"),))).partition("<main>")[2]
    words = [
        "SAFETY",
        "3 nodes",
        "python -m simulations soak --seed 7",
        "lost: key/7",
        "What happened",
        "Checks",
    ]
    places = [body.index(word) for word in words]
    assert places == sorted(places)


def test_every_node_every_fault_and_every_state_is_drawn() -> None:
    read = Reader(page(run()))
    for kind in (
        "state-leader",
        "state-follower",
        "state-candidate",
        "state-down",
        "still",
        "healed",
        "election",
    ):
        assert read.classes[kind], kind
    assert {"T3", "T4", "down"} <= set(read.text("text"))
    titles = " ".join(read.text("title"))
    assert "n1: leader in term 3" in titles
    assert "partition n1 | n2" in titles
    assert "n2 stands still for 1.00 s" in titles
    # In the lane of its class and of its node; of a partition, of both sides.
    drawn = [title for title in read.text("title") if title.startswith("partition: two sides")]
    assert len(drawn) == 3
    assert read.classes["cards"] == 1
    assert read.classes["card"] == 3
    assert read.classes["dot"] == 1


def test_what_never_happened_is_in_the_table_with_what_was_planned() -> None:
    text = page(run())
    row = re.search(r'<tr class="none"><td>.*?delay.*?</tr>', text)
    assert row is not None
    assert re.findall(r">([^<>]+)</td>", row[0]) == ["3", "0", "0", *"––––––"]


def test_checks_tell_their_theory_and_broken_ones_come_first() -> None:
    text = page(run())
    assert text.index("token 3 after 4") < text.index("Every key behaves as if")
    read = Reader(text)
    assert read.classes["violation"] == 1
    assert "2 rules: 1 broken, 0 undecided." in read.text("p")


def test_nothing_that_comes_from_outside_becomes_markup() -> None:
    hostile = run(
        title=HOSTILE,
        command=HOSTILE,
        verdict=HOSTILE,
        nodes=(HOSTILE, "n2"),
        reasons=((HOSTILE, HOSTILE),),
        spans=(Span(HOSTILE, "down", 0.0, 20.0, 0, HOSTILE),),
        faults=(Happening(HOSTILE, 1.0, 2.0, (HOSTILE,), (), HOSTILE),),
        commits=(Commit(0.0, HOSTILE, 1),),
        checks=(Check(HOSTILE, HOSTILE, "violation", 1, HOSTILE, (HOSTILE,)),),
        failovers=(Failover(1.0, HOSTILE, 0.1, True),),
        planned={HOSTILE: 1},
        figures=(Figure(HOSTILE, HOSTILE, HOSTILE),),
        notes=(HOSTILE,),
        story=(Line(0.0, HOSTILE, HOSTILE),),
    )
    text = page(hostile)
    read = Reader(text)
    assert read.tags["script"] == 1
    assert "alert" not in "".join(read.text("script"))
    assert HOSTILE in read.text("b")


def test_a_run_of_which_nothing_is_known_has_a_page() -> None:
    text = page(Run("nothing", False, 0, "void", "again", (), 0.0, reasons=(("void", "nothing"),)))
    assert "VOID" in text
    Reader(text)


def test_a_run_that_broke_off_says_when() -> None:
    read = Reader(page(run(real=False, verdict="liveness", failed_s=19.0, healed_s=None)))
    assert "liveness at 19.00 s" in read.text("text")
    assert read.classes["failed"]
    assert any("are not proved for the rest" in told for told in read.text("p"))


def test_hundreds_of_faults_and_a_hundred_thousand_calls_make_a_page_that_a_browser_can_take() -> None:
    kinds = [str(kind) for kind in FaultKind]
    faults = tuple(
        Happening(kinds[at % len(kinds)], at * 1.2, at * 1.2 + 1, ("n1",), (), f"number {at}")
        for at in range(500)
    )
    calls = tuple(Call(at / 160, at / 160 + 0.005, "put", "ok", True) for at in range(100_000))
    commits = tuple(Commit(at / 100, "n1", at) for at in range(60_000))
    story = tuple(Line(float(at), "n1", "something") for at in range(STORY_MAX + 10))
    text = page(run(ended_s=600.0, healed_s=None, faults=faults, calls=calls, commits=commits, story=story))
    assert len(text) < 2_000_000
    assert f"and {500 - FAULTS_MAX} more" in text
    assert "(and 10 more lines)" in text
    read = Reader(text)
    assert read.classes["fault"] == len(kinds) + 1


@pytest.mark.parametrize("kind", [*FaultKind, *LiveKind])
def test_every_kind_of_fault_has_a_family_and_a_meaning(kind: str) -> None:
    assert str(kind) in FAMILIES[family_of(kind)]
    assert MEANINGS[str(kind)]
    assert ordered({str(kind), "something new"}) == [str(kind), "something new"]
