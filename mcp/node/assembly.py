"""The parts of one node, made and joined. :mod:`mcp.node.node` starts and stops them."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from consensus.driver import Driver
from consensus.errors import ConsensusError
from consensus.interface import Engine, EngineStatus
from consensus.raft.config import RaftConfig
from consensus.raft.engine import RaftEngine
from consensus.solo import SoloEngine
from executor.interface import Executor
from executor.onnx import OnnxRuntime, providers_available
from executor.options import RuntimeOptions
from mcp.errors import Unavailable
from mcp.net.connection import Connection
from mcp.net.listener import Listener
from mcp.node.admitting import Admitting
from mcp.node.artefacts import Artefacts
from mcp.node.assignments import Assignments
from mcp.node.blobs import BlobStore
from mcp.node.config import NodeConfig
from mcp.node.deploy import Deployer
from mcp.node.dispatch import Dispatch
from mcp.node.follow import Follower
from mcp.node.gossiping import Gossiping
from mcp.node.inference import DirectInference
from mcp.node.joining import Joining
from mcp.node.ledger import LimitLedger
from mcp.node.links import PeerLinks
from mcp.node.machines import UserMachine
from mcp.node.membership import Membership
from mcp.node.namesakes import refuse_a_namesake
from mcp.node.order import Order
from mcp.node.ordered import OrderedState
from mcp.node.ownership import is_newcomer
from mcp.node.reads import Reads
from mcp.node.relaying import Relaying
from mcp.node.replacing import Replacing
from mcp.node.report import Report
from mcp.node.rollouts import Counting, RolloutDriver
from mcp.node.roster import Roster, first_configuration
from mcp.node.routed import Routed
from mcp.node.routing import Routing
from mcp.node.scheduling import Scheduling
from mcp.node.shelf import Shelf
from mcp.node.stamps import Stamps
from mcp.node.storage import NodeFiles
from mcp.node.streaming import StreamedInference
from mcp.node.submitting import Submitting
from mcp.node.surroundings import Surroundings
from mcp.state.commands import GROUP
from mcp.state.state import ReplicatedState

_log = logging.getLogger("mcp.node")

Dial = Callable[[str], Awaitable[Connection]]


class Assembly:
    """Every part of a node. What has to be closed is pushed on ``stack``, in order of making."""

    def __init__(
        self,
        config: NodeConfig,
        files: NodeFiles,
        around: Surroundings,
        executors: Mapping[str, Executor],
        dial: Dial,
        visit: Dial,
        stack: contextlib.AsyncExitStack,
        on_failure: Callable[[ConsensusError], None],
        on_change: Callable[[EngineStatus], None],
    ) -> None:
        self.config = config
        self._around = around
        self._clock = around.clock
        self._stack = stack
        self.listeners: list[Listener] = []
        """Where this node is heard, once it listens."""
        self.state = ReplicatedState(
            machines={name: UserMachine(e) for name, e in executors.items()},
            schema_max=config.schema_max,
            make_ledger=LimitLedger,
        )
        self.order = Order()
        self.reads = Reads(self.state, self.order)
        self.roster = Roster(config, self.order, self._clock)
        self.roster.refuse_a_namesake = functools.partial(refuse_a_namesake, visit, self._clock)
        self.routing = Routing(config.node_id, self.state, self._clock.random())
        self.links = self._make_links(dial)
        self._make_execution()
        self._make_followers()
        self.driver = self._make_driver(files, on_failure, on_change)
        self.joining = Joining(
            config,
            self.order,
            self.roster,
            self.links,
            dial,
            self._clock,
            journal=files.journal.incarnation,
            newcomer=is_newcomer(config.data_dir),
        )
        self.gossiping = Gossiping(self, around, visit)
        stack.push_async_callback(self.gossiping.close)
        self.joining.contacts = self.gossiping.contacts
        self.routing.seen = self.gossiping.view
        self._make_rollouts()
        self._make_replacing()
        self._make_admitting()
        self._make_scheduling()
        self._make_answers()
        self.links.aim(self.roster.peers())

    def _make_links(self, dial: Dial) -> PeerLinks:
        limits = self.config.limits
        return PeerLinks(
            self.config.node_id,
            dial,
            backoff_s_min=limits.peer_backoff_s_min,
            backoff_s_max=limits.peer_backoff_s_max,
            generator=self._clock.random(),
            on_up=self._on_peer_up,
            on_down=self._on_peer_down,
            journal_of=self.roster.journal_of,
        )

    # The parts refer to one another in circles; these close them.

    def _on_peer_up(self, peer: str) -> None:
        self.driver.on_connected(peer)
        self.gossiping.met(peer)

    def _on_peer_down(self, peer: str) -> None:
        self.driver.on_disconnected(peer)

    def _admit(self, op: str, args: Mapping[str, Any]) -> None:
        """Refuse a client's operation that is not a client's, not in force, or makes no sense."""
        self.order.admit_client_op(op)
        if op == "machine.execute" and not self.membership.caught_up:
            raise Unavailable(
                "this node has not yet said which executors it has; ask again, or ask another one"
            )
        self._in_force(op)
        self.routing.check(op, args)

    def _in_force(self, op: str, args: Mapping[str, Any] | None = None) -> None:
        if not self.state.schema.has(op, args):
            raise self.state.schema.refusal(op, self.driver.status().voters, args)

    def _on_members(self, status: EngineStatus) -> None:
        _log.info(
            "voters are %s%s",
            ", ".join(status.voters),
            f"; observers are {', '.join(status.observers)}" if status.observers else "",
        )
        self.joining.members_changed()
        self.links.aim(self.roster.peers())

    def _on_model_ready(self, digest: str) -> None:
        self.follower.announce(digest)

    def _make_execution(self) -> None:
        config, limits = self.config, self.config.limits
        blobs = BlobStore(
            config.data_dir / "blobs",
            blob_bytes_max=limits.blob_bytes_max,
            uploads_max=limits.uploads_max,
        )
        options = RuntimeOptions(
            providers=config.providers,
            allow_fallback=config.allow_provider_fallback,
            intra_op_threads=config.threads,
            memory_arena=config.memory_arena != "off",
            shrink_arena=config.memory_arena == "shrink",
            shrink_bytes_min=limits.arena_shrink_bytes_min,
            device_memory_bytes_max=config.device_memory_bytes_max or 0,
        )
        self.providers = options.usable(providers_available())
        """What models run on here, the first preferred."""
        missing = [name for name in config.providers if name not in self.providers]
        if missing:
            _log.warning("no %s here: models run on %s", ", ".join(missing), ", ".join(self.providers))
        self.runtime = OnnxRuntime(options, monotonic=self._clock.monotonic)
        self._stack.callback(self.runtime.close)
        self.pool = self._around.make_pool(self.runtime, config)
        self._stack.push_async_callback(self.pool.aclose)
        self.artefacts = Artefacts(blobs, self.links, self._clock, chunk_bytes_max=limits.chunk_bytes_max)
        self._stack.push_async_callback(self.artefacts.close)
        self.shelf = Shelf(
            self.runtime,
            self.pool,
            self.artefacts,
            on_ready=self._on_model_ready,
            batching=config.batching,
        )
        self._stack.push_async_callback(self.shelf.close)

    def _make_followers(self) -> None:
        config, limits = self.config, self.config.limits
        self.assignments = Assignments(
            config.node_id,
            self.state,
            self.shelf,
            self.artefacts,
            self.order.internal,
            runs_max=limits.assigned_runs_max,
            run_timeout_s=limits.inference_lease_s,
            inline_bytes_max=self.state.limits.inline_bytes_max,
        )
        self._stack.push_async_callback(self.assignments.close)
        self.follower = Follower(
            config.node_id, self.state, self.shelf, self.assignments, self.reads, self.order
        )
        self._stack.push_async_callback(self.follower.close)
        self.membership = Membership(
            config.node_id,
            self.state,
            self.order,
            self._clock,
            self.order.internal,
            providers=self.providers,
            node_dead_after_s=limits.node_dead_after_s,
            inference_lease_s=limits.inference_lease_s,
        )
        self.ordered = OrderedState(
            self.state,
            queue_commands_max=limits.queue_commands_max,
            commands_per_slice=limits.commands_per_slice,
            on_applied=self.follower.applied,
            on_restored=self.follower.restored,
        )
        self._stack.callback(self.ordered.close)

    def _make_driver(
        self,
        files: NodeFiles,
        on_failure: Callable[[ConsensusError], None],
        on_change: Callable[[EngineStatus], None],
    ) -> Driver:
        generator = self._clock.random()
        driver = Driver(
            self._make_engine(files, generator),
            files.journal,
            files.snapshots,
            self.ordered,
            self.links,
            wall=Stamps(self._clock, lambda: self.state.time_s).now,
            stopwatch=self._clock.monotonic,
            generator=generator,
            limits=self.config.consensus_limits,
            on_change=on_change,
            on_members=self._on_members,
            on_failure=on_failure,
        )
        self._stack.callback(driver.stop)
        self.ordered.bind(driver)
        self.order.bind(driver)
        return driver

    def _make_engine(self, files: NodeFiles, generator: random.Random) -> Engine:
        config = self.config
        if config.engine == "solo":
            return SoloEngine(config.node_id, files.recovered)
        timing = RaftConfig(
            election_timeout_min_s=config.election_timeout_min_s,
            election_timeout_max_s=config.election_timeout_max_s,
            heartbeat_s=config.heartbeat_s,
            leader_fallback_s=config.election_timeout_max_s,
        )
        return RaftEngine(
            config.node_id,
            first_configuration(config),
            files.recovered,
            now=self._clock.monotonic(),
            random=generator,
            config=timing,
        )

    def _make_rollouts(self) -> None:
        self.counting = Counting(self.state)
        self.rollouts = RolloutDriver(
            self.config.node_id,
            self.state,
            self.order,
            self.links,
            self._clock,
            self.counting,
            self.order.internal,
            caught_up=lambda: self.membership.caught_up,
        )
        self._stack.push_async_callback(self.rollouts.close)

    def _make_replacing(self) -> None:
        config = self.config
        self.replacing = Replacing(
            config.node_id,
            self.order,
            self.roster,
            self._clock,
            self.gossiping.members,
            after_s=config.replace_dead_after_s,
            heard_s=config.election_timeout_max_s,
        )
        self._stack.push_async_callback(self.replacing.close)

    def _make_admitting(self) -> None:
        config = self.config
        self.admitting = Admitting(
            config.node_id,
            lambda: self.membership.incarnation,
            self.state,
            self._clock.random(),
            self.order.execute,
            caught_up=lambda: self.membership.caught_up,
        )
        self._stack.push_async_callback(self.admitting.close)

    def _make_scheduling(self) -> None:
        self.scheduling = Scheduling(
            self.config.node_id,
            self.state,
            self._clock,
            view=self.routing.view,
            depth=lambda: (self.pool.queued, self.pool.running, self.config.workers),
        )
        self._stack.callback(self.scheduling.close)
        self.routing.preview = self.scheduling.preview

    def _make_answers(self) -> None:
        config, limits = self.config, self.config.limits
        deployer = Deployer(
            config.node_id,
            self.roster,
            self.order,
            self.shelf,
            self.artefacts,
            self.links,
            self._clock,
            in_force=self._in_force,
        )
        self._stack.push_async_callback(deployer.close)
        self.routed = Routed(config.node_id, self.state, self.shelf, self.links, self._clock)
        self.relaying = Relaying(self.links, streams_max=limits.relayed_streams_max)
        self.streamed = StreamedInference(
            config.node_id,
            self.order,
            self.shelf,
            self.routing,
            self.routed,
            self.relaying,
            self.admitting,
            self.counting,
            self.scheduling,
            streams_max=limits.inference_streams_max,
            state_bytes_max=limits.stream_state_bytes_max,
        )
        self.report = Report(self, self._clock)
        submitting = Submitting(self.state, self.order, self.admitting.submit)
        self._stack.push_async_callback(submitting.close)
        self.dispatch = Dispatch(
            self.order,
            self.reads,
            DirectInference(
                config.node_id,
                self.order,
                self.shelf,
                self.routing,
                self.routed,
                self.admitting,
                self.counting,
                self.scheduling,
            ),
            self.streamed,
            self.routing,
            deployer,
            self.artefacts,
            self.report.status,
            self.roster,
            self.counting,
            caught_up=lambda: self.membership.caught_up and not self.roster.outside,
            admit=self._admit,
            submitting=submitting,
            others=self.gossiping.operations,
            in_groups=lambda: self.state.schema.has(GROUP),
            request_timeout_s_max=limits.request_timeout_s_max,
        )
        self._stack.push_async_callback(self.dispatch.close)
        self._stack.callback(self.order.close, Unavailable("this node is stopping; ask another one"))
