"""``direct``: an inference of one digit over the native protocol, against the same call in process.

One node process, one client in this process, TCP on loopback, one request at a time. The yardstick is
onnxruntime itself on the same scan, in a session with the options that the node gives its own. Every
answer is compared with the yardstick's.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mcp.cli.demo.digits import Digits, load_digits
from mcp.client.client import Client
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.figures import Bar, Figure, Report
from simulations.benchmarks.in_process import InProcess, equal
from simulations.benchmarks.progress import Steps

MODEL: Final = "digits"
ALLOWED_FACTOR: Final = 2.0
ALLOWED_S: Final = 500e-6


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, and how often each thing is done in a round."""

    rounds: int
    samples: int
    warm_up: int


FULL: Final = Size(rounds=9, samples=400, warm_up=400)
QUICK: Final = Size(rounds=5, samples=80, warm_up=80)


@dataclass(slots=True)
class Rounds:
    """Durations in seconds, by round, and the scans that were answered otherwise than in process."""

    native: list[list[float]] = field(default_factory=list)
    in_process: list[list[float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def overheads(self) -> list[float]:
        """Of each round: the native call's median less the call's in process, in seconds."""
        pairs = zip(self.native, self.in_process, strict=True)
        return [statistics.median(native) - statistics.median(own) for native, own in pairs]

    def shares(self) -> list[float]:
        """Of each round: the native call against what it may take."""
        pairs = zip(self.native, self.in_process, strict=True)
        return [
            statistics.median(native) / (ALLOWED_FACTOR * statistics.median(own) + ALLOWED_S)
            for native, own in pairs
        ]


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    steps.begin("direct", size.rounds)
    digits, rounds = load_digits(), Rounds()
    own = InProcess(digits.model)
    async with bench(1) as made:
        await made.client.deploy(MODEL, digits.model)
        # The node learns from the first runs how short they are, and then spares them a thread.
        await one_round(made.client, own, digits, Rounds(), size.warm_up)
        for _ in range(size.rounds):
            await one_round(made.client, own, digits, rounds, size.samples)
            steps.done()
    share = Figure.of_ratios("native / (2 x in process + 500 us)", rounds.shares())
    figures = [
        Figure.of_rounds("native protocol", rounds.native),
        Figure.of_rounds("in process", rounds.in_process),
        Figure.of_trials("native - in process", rounds.overheads(), "us"),
        share,
    ]
    bar = Bar(share, 1.0, "direct inference of one digit, one client, native protocol")
    return Report("direct", figures, [bar], rounds.wrong, {"nodes": 1, "model": digits.model.name})


async def one_round(client: Client, own: InProcess, digits: Digits, rounds: Rounds, samples: int) -> None:
    """Put ``samples`` scans to both, the one after the other, and compare the answers."""
    scans = [digits.images[i % len(digits.images)][np.newaxis] for i in range(samples)]
    native_s, own_s, native, expected = [], [], [], []
    for scan in scans:
        begun = time.perf_counter()
        answer = await client.infer(MODEL, scan)
        native_s.append(time.perf_counter() - begun)
        native.append(answer.outputs)
    for scan in scans:
        begun = time.perf_counter()
        outputs = own.infer(scan)
        own_s.append(time.perf_counter() - begun)
        expected.append(outputs)
    rounds.native.append(native_s)
    rounds.in_process.append(own_s)
    pairs = enumerate(zip(native, expected, strict=True))
    rounds.wrong += [f"scan {i}: the outputs differ" for i, (a, b) in pairs if not equal(a, b)]
