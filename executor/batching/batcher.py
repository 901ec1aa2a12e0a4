"""Which requests run together, and when: the core, without a clock, a thread or an event loop.

A caller adds requests and, whenever a worker is free, takes the next batch. So a batch is closed as late as
possible: it holds what has gathered while the workers were busy, and under load the batches grow by
themselves. Requests wait for others while a worker is free only when that pays. Say a run of ``n`` rows takes
``a + b n``, and ``k`` requests with ``n`` rows wait. The next request is expected after ``g``. If the ``k``
run now, it waits until they are done and then runs alone; if they wait for it, all run together. Over
all ``k + 1``, waiting shortens the sum of the latencies exactly if

    a > (k + 1) g + b n

that is, if the fixed cost of a run that is saved is larger than what the ``k`` lose by waiting for the next
and its row. While another worker is free, it would not have to wait, and nobody is held for that reason.

A second run of the same lane beside one that is under way is another matter: where the cores are occupied it
does not end sooner, it only makes two runs out of one. So, while no core is left for it and many requests
come during a run, a run that would spend more than a fifth of its time on its fixed cost is held until the
first ends. Nobody is held longer than the latency bound, for either reason.

What cannot be answered by its deadline, as far as the estimates tell, is refused before it costs a run:
when it comes, or when it would be taken. One in ``REFUSALS_MAX`` is let through all the same, so that an
estimate that has become wrong is measured again.

Bulkheads: each model has bounds of its own for what waits and for the workers that it may occupy, models
take turns, and within a model so do its lanes, and within a lane its clients.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from executor.batching.figures import Figures
from executor.batching.lanes import Batch, Lane, LaneKey, Request
from executor.batching.options import BatchLimits
from executor.errors import DeadlineExceeded, QueueFull

LANES_MAX: Final = 4096
"""So many lanes are remembered, with what is known about their runs."""
REFUSALS_MAX: Final = 16
"""After so many refusals in a row for a deadline one request is let through."""
FIXED_SHARE_MIN: Final = 0.2
"""A run that would spend more of its time on its fixed cost is not begun beside another of its lane."""
ARRIVALS_MIN: Final = 4.0
"""...if so many requests come while one such run is under way, so that there is something to wait for."""
HELD_GAPS: Final = 2.0
"""Held requests wait for the next one so many times as long as it is expected to take."""


class _Model:
    """What waits for one model, by lane, and how many runs of it are under way."""

    __slots__ = ("batches", "bytes", "figures", "forgotten", "lanes", "name", "requests", "rows_cap")

    def __init__(self, name: str) -> None:
        self.name = name
        self.forgotten = False
        self.requests = 0
        self.bytes = 0
        self.lanes: OrderedDict[LaneKey, Lane] = OrderedDict()
        self.batches: dict[Batch, None] = {}
        self.figures = Figures()
        self.rows_cap = 0


class Batcher:
    """The queues of all models in front of ``limits.workers`` workers.

    Every request that was added is, exactly once: in a batch that was taken, in :attr:`late` (whoever calls
    :meth:`take` answers and clears it), returned by :meth:`expire` or :meth:`clear`, or cancelled.
    Not for several threads at once.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.requests = 0
        """How many requests wait."""
        self.bytes = 0
        self.running = 0
        """How many workers are occupied."""
        self.late: list[Request] = []
        """Requests that were not taken because their deadline could not be met any more."""
        self._models: dict[str, _Model] = {}
        self._turn: OrderedDict[str, _Model] = OrderedDict()  # those for which something waits
        self._lanes: OrderedDict[LaneKey, Lane] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self.requests or self.running)

    # -- requests -----------------------------------------------------------------------------------

    def add(self, request: Request, now: float) -> None:
        """Queue a request.

        Raises :class:`QueueFull`, naming the limit that it would pass, and :class:`DeadlineExceeded` for
        one that would not be answered in time. Then nothing was queued.
        """
        lane = self._lanes.get(request.lane) or self._lane(request.lane)
        model = self._models.get(request.lane.model) or self._model(request.lane.model)
        model.forgotten = False
        limits, size_bytes = self.limits, request.size_bytes
        if (
            self.requests >= limits.queue_runs_max
            or model.requests >= limits.runs_per_model_max
            or self.bytes + size_bytes > limits.queue_bytes_max
            or model.bytes + size_bytes > limits.bytes_per_model_max
        ):
            self._refuse_if_full(model, request)
        # Even if what runs, and each that waits, took a run of its own. Most deadlines are later than that.
        slowest_s = (lane.requests + 2) * lane.cap_s if request.rows <= max(1, lane.rows_cap) else math.inf
        if request.deadline_s <= now + slowest_s:
            self._refuse_if_too_late(model, lane, request, now)
        request.arrived_s = now
        self._put(model, lane, request, now)

    def cancel(self, request: Request) -> bool:
        """Nobody wants the answer any more; whether it still waited.

        One that runs stays in its batch, of which ``live`` says for how many it still runs.
        """
        if request.waiting or request.batch is not None:
            self._model(request.lane.model).figures.cancelled += 1
        return self._give_up(request)

    def expire(self, now: float) -> list[Request]:
        """Give up every request whose deadline has passed, also those that run, and return them."""
        gone: list[Request] = []
        for model in self._models.values():
            waiting = [request for lane in model.lanes.values() for request in lane.waiting()]
            running = [request for batch in model.batches for request in batch.requests if request.batch]
            overdue = [request for request in (*waiting, *running) if request.deadline_s <= now]
            for request in overdue:
                self._give_up(request)
            model.figures.expired += len(overdue)
            gone += overdue
        return gone

    def next_deadline(self) -> float:
        """The earliest deadline of all that wait and run; infinity if there is none. Looks at each."""
        return min(
            (
                request.deadline_s
                for model in self._models.values()
                for group in (
                    *(lane.waiting() for lane in model.lanes.values()),
                    *(batch.requests for batch in model.batches),
                )
                for request in group
                if request.waiting or request.batch
            ),
            default=math.inf,
        )

    def clear(self) -> list[Request]:
        """Give up everything that waits, and return it."""
        gone = [r for model in self._turn.values() for lane in model.lanes.values() for r in lane.waiting()]
        for request in gone:
            self._give_up(request)
        return gone

    # -- batches ------------------------------------------------------------------------------------

    def take(self, now: float) -> Batch | None:
        """Close the next batch that is due, for a worker that is free; ``None`` if none is.

        Tell :meth:`finished` when it has run. Look at :attr:`late` afterwards.
        """
        if self.running >= self.limits.workers:
            return None
        for model in list(self._turn.values()):
            if len(model.batches) >= self.limits.workers_per_model_max:
                continue
            for lane in list(model.lanes.values()):
                if self._held_until(model, lane, now) > now:
                    continue
                batch = self._close(model, lane, now)
                if batch is not None:
                    model.batches[batch] = None
                    self.running += 1
                    return batch
        return None

    def take_here(self, key: LaneKey, now: float) -> Batch | None:
        """Close a batch of one lane now, for the caller itself: it occupies no worker."""
        model, lane = self._models.get(key.model), self._lanes.get(key)
        if model is None or lane is None or not lane.requests:
            return None
        batch = self._close(model, lane, now)
        if batch is not None:
            batch.inline = True
            model.batches[batch] = None
        return batch

    def finished(self, batch: Batch, elapsed_s: float | None) -> None:
        """A batch has run, in so many seconds; ``None``: it did not run to its end."""
        model = self._leave(batch)
        model.figures.ran(batch.rows, sum(request.calls for request in batch.requests))
        for request in batch.requests:
            request.batch = None
        if elapsed_s is not None:
            lane = self._lane(batch.lane)
            lane.ran(batch.rows, elapsed_s)
            model.rows_cap = lane.rows_cap
        self._drop_if_forgotten(model)

    def answered(self, request: Request) -> None:
        """One of a batch has its answer already, and the batch goes on."""
        if request.batch is not None:
            request.batch.live -= 1
            request.batch = None

    def put_back(self, batch: Batch, now: float) -> None:
        """A batch did not run: those whose answer is still wanted wait again, whatever the bounds say."""
        model = self._leave(batch)
        for request in batch.requests:
            if request.batch is not None:
                request.batch = None
                self._put(model, self._lane(request.lane), request, now)
        self._drop_if_forgotten(model)

    def next_due(self, now: float) -> float:
        """When :meth:`take` may give a batch that is held now; infinity if none is."""
        due_s = math.inf
        if self.running < self.limits.workers:
            for model in self._turn.values():
                if len(model.batches) < self.limits.workers_per_model_max:
                    held = (self._held_until(model, lane, now) for lane in model.lanes.values())
                    due_s = min(due_s, *held)
        return due_s

    def due_at(self, key: LaneKey, now: float) -> float:
        """When a lane's requests are due: ``now``, or until when they are held.

        Infinity while no worker may take them: whoever is ready first will.
        """
        lane, model = self._lanes.get(key), self._models.get(key.model)
        if lane is None or model is None or not lane.requests or self.running >= self.limits.workers:
            return math.inf
        if len(model.batches) >= self.limits.workers_per_model_max:
            return math.inf
        return self._held_until(model, lane, now)

    # -- what is known ------------------------------------------------------------------------------

    def waiting_in(self, key: LaneKey) -> tuple[int, int]:
        """Rows of the next batch of a lane if it were closed now, at most, and requests that wait."""
        lane = self._lanes.get(key)
        return (0, 0) if lane is None else (min(lane.rows, lane.rows_cap), lane.requests)

    def figures(self, model: str) -> Figures:
        """The counts of a model."""
        return self._model(model).figures

    def depth(self, model: str) -> tuple[int, int]:
        """How many requests wait for a model, and how many runs of it are under way."""
        known = self._models.get(model)
        return (0, 0) if known is None else (known.requests, len(known.batches))

    def rows_cap(self, model: str) -> int:
        """How many rows the model's runs have at most, by the one that ended last; 0: not known."""
        known = self._models.get(model)
        return 0 if known is None else known.rows_cap

    def forget(self, name: str) -> None:
        """Drop what is known about a model's runs, for one that is gone or replaced; what waits stays."""
        for key in [key for key, lane in self._lanes.items() if key.model == name and not lane.requests]:
            del self._lanes[key]
        model = self._models.get(name)
        if model is not None:
            model.forgotten = True
            self._drop_if_forgotten(model)

    # -- inside -------------------------------------------------------------------------------------

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = _Model(name)
        return model

    def _drop_if_forgotten(self, model: _Model) -> None:
        if model.forgotten and not model.requests and not model.batches:
            self._models.pop(model.name, None)

    def _lane(self, key: LaneKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            if len(self._lanes) > LANES_MAX:
                self._forget_a_lane()
        return lane

    def _forget_a_lane(self) -> None:
        for key, lane in self._lanes.items():
            if not lane.requests:
                del self._lanes[key]
                return

    def _refuse_if_full(self, model: _Model, request: Request) -> None:
        limits, name = self.limits, model.name
        if self.requests >= limits.queue_runs_max:
            full = f"queue_runs_max = {limits.queue_runs_max} runs wait"
        elif model.requests >= limits.runs_per_model_max:
            full = f"runs_per_model_max = {limits.runs_per_model_max} runs wait for model {name!r}"
        elif self.bytes + request.size_bytes > limits.queue_bytes_max and self.requests:
            full = f"inputs of {self.bytes} bytes wait, and queue_bytes_max is {limits.queue_bytes_max}:"
        elif model.bytes + request.size_bytes > limits.bytes_per_model_max and model.requests:
            full = (
                f"inputs of {model.bytes} bytes wait for model {name!r}, and bytes_per_model_max is "
                f"{limits.bytes_per_model_max}:"
            )
        else:
            return
        model.figures.full_refused += 1
        raise QueueFull(f"{full} already: try again later or on another node")

    def _refuse_if_too_late(self, model: _Model, lane: Lane, request: Request, now: float) -> None:
        if request.deadline_s == math.inf:
            return
        left_s = request.deadline_s - now
        if not left_s > 0:
            raise DeadlineExceeded("the run was not started: its deadline had passed when it came")
        expected_s = self._wait_s(model, lane, request, now) + lane.times.expected_s(request.rows)
        if expected_s <= left_s:
            lane.refused_in_row = 0
            return
        lane.refused_in_row += 1
        if lane.refused_in_row >= REFUSALS_MAX:
            lane.refused_in_row = 0
            return
        model.figures.deadline_refused += 1
        raise DeadlineExceeded(
            f"the run was not started: an answer is expected in {expected_s:.3f} s ({lane.requests} wait "
            f"before it), and {left_s:.3f} s are left: allow it more time, or ask another node"
        )

    def _wait_s(self, model: _Model, lane: Lane, request: Request, now: float) -> float:
        """How long a request waits at least for its run to begin, as far as this model's runs tell."""
        share = min(self.limits.workers, self.limits.workers_per_model_max)
        ahead, cap = lane.rows_before(request.client, request.rows), max(1, lane.rows_cap)
        runs_before_s = (ahead // cap) * lane.cap_s / share
        if len(model.batches) < share:
            return runs_before_s
        ends_s = min(batch.began_s + batch.expected_s for batch in model.batches)
        return max(0.0, ends_s - now) + runs_before_s

    def _held_until(self, model: _Model, lane: Lane, now: float) -> float:
        """Until when a lane's requests wait for others although a worker is free; ``now``: no longer."""
        gap_s, line = lane.arrivals.gap_s, lane.times.line
        if gap_s is None or line is None or lane.rows >= lane.rows_cap:
            return now
        until_s = max(self._worth_gathering(model, lane, line, gap_s), self._beside(model, lane, line, gap_s))
        return min(until_s, lane.oldest_s() + lane.key.latency_bound_s) if until_s > now else now

    def _worth_gathering(self, model: _Model, lane: Lane, line: tuple[float, float], gap_s: float) -> float:
        """Until when the next request is waited for, if that pays; else minus infinity."""
        fixed_s, per_row_s = line
        free = min(self.limits.workers - self.running, self.limits.workers_per_model_max - len(model.batches))
        if free > 1 or fixed_s <= (lane.requests + 1) * gap_s + lane.rows * per_row_s:
            return -math.inf
        return (lane.arrivals.last_s or 0.0) + HELD_GAPS * gap_s

    def _beside(self, model: _Model, lane: Lane, line: tuple[float, float], gap_s: float) -> float:
        """Until when the end of a run of the same lane is waited for, if that pays; else minus infinity."""
        if self.running < self.limits.cores_for_runs:
            return -math.inf
        fixed_s, per_row_s = line
        if fixed_s <= FIXED_SHARE_MIN * (fixed_s + per_row_s * lane.rows):
            return -math.inf
        beside = (batch for batch in model.batches if batch.lane is lane.key)
        if any(batch.expected_s >= ARRIVALS_MIN * gap_s for batch in beside):
            return math.inf  # the worker that is free then takes them
        return -math.inf

    def _close(self, model: _Model, lane: Lane, now: float) -> Batch | None:
        taken, late = lane.take(now)
        for request in (*taken, *late):
            request.waiting = False
            request.waited_s = lane.waited_s(request, now)
            self._taken_out(model, request)
        model.figures.late_refused += len(late)
        self.late += late
        if lane.requests:
            model.lanes.move_to_end(lane.key)
        else:
            del model.lanes[lane.key]
        if model.requests:
            self._turn.move_to_end(model.name)
        else:
            del self._turn[model.name]
        if not taken:
            return None
        rows = sum(request.rows for request in taken)
        return Batch(taken, rows, now, lane.times.expected_s(rows))

    def _put(self, model: _Model, lane: Lane, request: Request, now: float) -> None:
        request.waiting = True
        if not lane.requests:
            model.lanes[lane.key] = lane
        if not model.requests:
            self._turn[model.name] = model
        lane.put(request, now)
        self.requests += 1
        self.bytes += request.size_bytes
        model.requests += 1
        model.bytes += request.size_bytes

    def _leave(self, batch: Batch) -> _Model:
        model = self._models[batch.lane.model]
        del model.batches[batch]
        self.running -= not batch.inline
        return model

    def _give_up(self, request: Request) -> bool:
        if request.waiting:
            model, lane = self._models[request.lane.model], self._lanes[request.lane]
            request.waiting = False
            lane.remove(request)
            self._taken_out(model, request)
            if not lane.requests:
                del model.lanes[lane.key]
            if not model.requests:
                del self._turn[model.name]
                self._drop_if_forgotten(model)
            return True
        self.answered(request)
        return False

    def _taken_out(self, model: _Model, request: Request) -> None:
        self.requests -= 1
        self.bytes -= request.size_bytes
        model.requests -= 1
        model.bytes -= request.size_bytes
