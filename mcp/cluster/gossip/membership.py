"""Who is there: what becomes of an update, and what a node does about what is said of itself.

Of itself a node knows best. It never takes itself for dead: a suspicion or a death of its present
incarnation is answered with a larger one (SWIM, section 4.2), and so is whatever the others remember of
its former life. It alone raises its incarnation and the version of its card.

A name belongs to the address that claimed it first. A node therefore says nothing of itself before it has
seen a view of somebody else; where its name is held by another address that is present there, it is
*contested*: it reports the conflict, keeps silent and goes on looking, until that one is dead or has
left, and then takes the name over with a larger incarnation. A node that is started again at a new
address soon after a crash waits in this way for its own death to be known, which takes about 2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcp.cluster.gossip.codec import is_address, is_name
from mcp.cluster.gossip.dissemination import Dissemination, LoadRelay
from mcp.cluster.gossip.events import Event, EventKind
from mcp.cluster.gossip.health import LocalHealth
from mcp.cluster.gossip.limits import (
    CARD_BYTES_MAX,
    CARD_INLINE_BYTES_MAX,
    COUNT_MAX,
    LOAD_BYTES_MAX,
    GossipLimits,
)
from mcp.cluster.gossip.suspicion import Suspicion
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, LoadUpdate, State, Suspect, Update
from mcp.cluster.gossip.view import Record, View
from mcp.errors import ConfigInvalid, TooLarge
from mcp.wire.codec import encode_map


class Membership:
    """The view, this node's own record in it, and the news to pass on.

    ``joined`` and ``suspected`` are called with the name of a member that is there anew, and of one that
    somebody else has just accused.
    """

    def __init__(
        self,
        name: str,
        address: str,
        limits: GossipLimits,
        report: Callable[[Event], None],
        now: float,
    ) -> None:
        if not is_name(name):
            raise ConfigInvalid(f"a member's name is 1 to 128 letters, digits and . _ : -, not {name!r:.80}")
        if not is_address(address):
            raise ConfigInvalid(f"an address is 1 to 128 visible ASCII characters, not {address!r:.80}")
        self.name = name
        self.address = address
        self.limits = limits
        self.health = LocalHealth(limits.health_max)
        self.news = Dissemination()
        self.loads = LoadRelay()
        self.joined: Callable[[str], None] = lambda _name: None
        self.suspected: Callable[[str, float], None] = lambda _name, _now: None
        self._report = report
        self._suspects: set[str] = set()
        self.view = View(limits, self._on_event)
        self.view.learn(Alive(name, 1, address, 0, b""), now)
        own = self.view.get(name)
        assert own is not None
        self.own: Record = own
        self.announced = False
        """Whether others may have been told of this node."""
        self.rival: Alive | None = None
        """Who holds this node's name, while it is contested."""
        self._rival_heard_at = 0.0
        self.leaving = False

    # -- what is known ------------------------------------------------------------------------------

    @property
    def transmissions(self) -> int:
        """How often an update is to be sent now."""
        return self.limits.transmissions(self.view.present)

    @property
    def withheld(self) -> str | None:
        """The own name, where nothing may be said of it even to those who ask."""
        return self.name if self.rival is not None else None

    @property
    def withheld_unasked(self) -> str | None:
        """The own name, where nothing may be said of it unasked."""
        return self.name if self.rival is not None or not self.announced else None

    def others_present(self) -> list[str]:
        """Who else is there."""
        return [name for name in self.view.names_present() if name != self.name]

    def _on_event(self, event: Event) -> None:
        if event.name == self.name and event.kind is not EventKind.CONFLICT:
            return
        if event.kind is EventKind.JOINED:
            self.joined(event.name)
        self._report(event)

    # -- this node ----------------------------------------------------------------------------------

    def announce(self, now: float) -> None:
        """Tell the others of this node, unless its name is contested."""
        if self.announced or self.rival is not None or self.leaving:
            return
        self.announced = True
        self._say_own(with_card=True)

    def set_card(self, card: Mapping[str, Any], now: float) -> None:
        """See :meth:`mcp.cluster.gossip.core.Gossip.set_card`."""
        encoded = encode_map(dict(card))
        if len(encoded) > CARD_BYTES_MAX:
            raise TooLarge(
                f"a card of {len(encoded)} bytes is over CARD_BYTES_MAX={CARD_BYTES_MAX}; say less"
            )
        if encoded != self.own.card:
            self._reissue_card(encoded, self.own.card_version + 1, now)

    def set_load(self, load: Mapping[str, Any]) -> None:
        """See :meth:`mcp.cluster.gossip.core.Gossip.set_load`."""
        encoded = encode_map(dict(load))
        if len(encoded) > LOAD_BYTES_MAX:
            raise TooLarge(
                f"a load of {len(encoded)} bytes is over LOAD_BYTES_MAX={LOAD_BYTES_MAX}; say less"
            )
        sequence = self.own.load.sequence + 1 if self.own.load else 1
        self.view.learn_load(LoadUpdate(self.name, self.own.incarnation, sequence, encoded))

    def leave(self, now: float) -> None:
        """Say farewell."""
        if self.leaving:
            return
        self.leaving = True
        self.news.forget(self.name)
        self.view.bury(self.own, self.own.incarnation, State.LEFT, now)
        if self.announced and self.rival is None:
            self.news.add(Left(self.name, self.own.incarnation))

    def _reissue_card(self, encoded: bytes, version: int, now: float) -> None:
        self.view.learn(self._own_alive(version, encoded), now)
        if self.announced:
            self._say_own(with_card=True)

    def _own_alive(self, version: int, card: bytes | None) -> Alive:
        return Alive(self.name, self.own.incarnation, self.address, min(version, COUNT_MAX), card)

    def _rise_above(self, incarnation: int, now: float) -> None:
        """Take an incarnation above this one, and say so."""
        raised = Alive(self.name, min(incarnation + 1, COUNT_MAX), self.address, self.own.card_version)
        self.view.learn(raised, now)
        if (load := self.own.load) is not None:
            # Or the others would go on with the last load of a former life.
            self.view.learn_load(LoadUpdate(self.name, self.own.incarnation, load.sequence, load.load))
        self._say_own(with_card=False)

    def _say_own(self, *, with_card: bool) -> None:
        if self.announced and self.rival is None and not self.leaving:
            self._pass_on(self.own.alive(with_card=with_card))

    def _about_own(self, update: Update, now: float) -> None:
        if self.leaving:
            return
        if isinstance(update, Alive):
            if update.address == self.address:
                self._former_life(update, now)
            else:
                self._claimed_elsewhere(update, now)
        elif self.rival is not None:
            gone = not isinstance(update, Suspect) and update.incarnation >= self.rival.incarnation
            if gone:
                self._take_over(max(update.incarnation, self.rival.incarnation), now)
        elif update.incarnation >= self.own.incarnation:
            if not isinstance(update, Left):
                self.health.worse()
            self._rise_above(update.incarnation, now)

    def _former_life(self, said: Alive, now: float) -> None:
        own = self.own
        if said.incarnation > own.incarnation:
            self._rise_above(said.incarnation, now)
        other_card = said.card_version == own.card_version and said.card not in (None, own.card)
        if said.card_version > own.card_version or other_card:
            self._reissue_card(own.card, said.card_version + 1, now)

    def _claimed_elsewhere(self, claim: Alive, now: float) -> None:
        own = self.own
        if claim.incarnation < own.incarnation:
            return  # an address that this node had before
        self.view.conflict(own, self.address, claim.address, now)
        later = claim.incarnation > own.incarnation or claim.address < self.address
        if later or not self.announced:
            self.rival, self._rival_heard_at = claim, now
            self.news.forget(self.name)

    def look_after_rival(self, now: float) -> None:
        """Take the name over where nobody has spoken of the rival for as long as the dead are remembered."""
        if self.rival is not None and now - self._rival_heard_at > self.limits.dead_remembered_s:
            self._take_over(self.rival.incarnation, now)

    def _take_over(self, incarnation: int, now: float) -> None:
        self.rival = None
        self._rise_above(max(incarnation, self.own.incarnation), now)
        self.announced = False
        self.announce(now)

    # -- the others ---------------------------------------------------------------------------------

    def apply(self, update: Update, now: float) -> None:
        """An update came by gossip: take it in, and pass on what of it is news."""
        if update.name == self.name:
            self._about_own(update, now)
            return
        if isinstance(update, Alive):
            news = self.view.learn(update, now)
            if news is not None:
                self._pass_on(news)
            return
        record = self.view.get(update.name)
        if record is None or update.incarnation < record.incarnation:
            return
        if isinstance(update, Suspect):
            self._accused(record, update, now)
            return
        state = State.LEFT if isinstance(update, Left) else State.DEAD
        if self.view.bury(record, update.incarnation, state, now):
            self._suspects.discard(record.name)
            self.loads.forget(record.name)
            self.news.add(update)

    def _accused(self, record: Record, said: Suspect, now: float) -> None:
        if not record.state.present:
            return
        if record.suspicion is not None and said.incarnation == record.incarnation:
            if record.suspicion.confirm(said.accuser):
                self.news.add(said)
            return
        self._begin_suspicion(record, said, now)

    def _begin_suspicion(self, record: Record, said: Suspect, now: float) -> None:
        limits, others = self.limits, self.view.present
        least_s = limits.suspicion_min_s(others)
        suspicion = Suspicion(
            said.accuser,
            now,
            min_s=least_s,
            max_s=least_s * limits.suspicion_max_mult,
            # The suspect and the accuser cannot confirm.
            confirmations_max=max(0, min(limits.confirmations, others - 2)),
        )
        self._suspects.add(record.name)
        self.view.suspect(record, said.incarnation, suspicion, now)
        self.news.add(said)
        if said.accuser != self.name:
            self.suspected(record.name, now)

    def _pass_on(self, update: Alive) -> None:
        if update.card is not None and len(update.card) > CARD_INLINE_BYTES_MAX:
            update = Alive(update.name, update.incarnation, update.address, update.card_version)
        self.news.add(update)

    def apply_load(self, load: LoadUpdate) -> None:
        """A load came, the member's own word or passed on."""
        if load.name != self.name and self.view.learn_load(load):
            self.loads.add(load)

    def apply_record(self, full: FullRecord, sender: str, now: float) -> bool:
        """A record came by stream; whether what is held here overrides it and the sender should know."""
        if full.name == self.name:
            self._about_own(_as_update(full, sender), now)
            if full.state is State.SUSPECT:
                self._about_own(Suspect(full.name, full.incarnation, sender), now)
            return False
        record = self.view.get(full.name)
        if full.state.present:
            return self._apply_present(full, sender, now)
        if record is None:
            if full.age_ms / 1000 < self.limits.dead_remembered_s:
                self.view.remember(full, now)
            return False
        if record.state.present and full.incarnation < record.incarnation:
            return True
        if record.state.present and full.state is State.DEAD:
            # Its view may have been cut off: the member is given the time to refute.
            if record.suspicion is None:
                self._begin_suspicion(record, Suspect(full.name, full.incarnation, sender), now)
            return False
        self.apply(_as_update(full, sender), now)
        return False

    def _apply_present(self, full: FullRecord, sender: str, now: float) -> bool:
        said = Alive(full.name, full.incarnation, full.address, full.card_version, full.card)
        self.apply(said, now)
        record = self.view.get(full.name)
        if record is None:
            return False
        if not record.state.present:
            return True
        if (
            full.state is State.SUSPECT
            and full.incarnation >= record.incarnation
            and record.suspicion is None
        ):
            self._begin_suspicion(record, Suspect(full.name, full.incarnation, sender), now)
        if full.load is not None:
            self.apply_load(full.load)
        return False

    # -- suspicions ---------------------------------------------------------------------------------

    def suspicion_due_at(self) -> float:
        """When the next suspicion ends in a death."""
        return min((s.expires_at for _, s in self._suspicions()), default=float("inf"))

    def postpone_suspicions(self, seconds: float) -> None:
        """This node stood still for so long."""
        for _, suspicion in self._suspicions():
            suspicion.postpone(seconds)

    def declare_dead(self, now: float) -> list[Record]:
        """Whose suspicion has run out is dead; those records."""
        due = [record for record, suspicion in self._suspicions() if suspicion.expires_at <= now]
        for record in due:
            self.apply(Dead(record.name, record.incarnation, self.name), now)
        return due

    def _suspicions(self) -> list[tuple[Record, Suspicion]]:
        found = []
        for name in sorted(self._suspects):
            record = self.view.get(name)
            if record is None or record.suspicion is None:
                self._suspects.discard(name)
            else:
                found.append((record, record.suspicion))
        return found


def _as_update(full: FullRecord, sender: str) -> Update:
    if full.state is State.DEAD:
        return Dead(full.name, full.incarnation, sender)
    if full.state is State.LEFT:
        return Left(full.name, full.incarnation)
    return Alive(full.name, full.incarnation, full.address, full.card_version, full.card)
