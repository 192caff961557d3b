"""What the logs say, sorted by what it is about: human statements with the places from which they count, and seals."""

from dataclasses import dataclass, field

import shapes


@dataclass(frozen=True)
class Carried:
    """A statement about keys, and the entry that anchors it."""

    carrier: str
    statement: object


@dataclass(eq=False)
class Place:
    """Where a human statement stands in the log of its author's own operator, and what that log says before it."""

    log: str
    seq: int
    at: int
    void: str | None
    trail: tuple
    open_before: int
    signers: frozenset

    @property
    def order(self):
        return (self.log, self.seq, self.at, self.void or "")


@dataclass(eq=False)
class Spoken:
    """A human statement at one place."""

    statement: object
    place: Place


@dataclass(eq=False)
class Anchored:
    """A human statement with every place at which it stands: what holds at one of them holds."""

    statement: object
    places: list = field(default_factory=list)

    @property
    def first(self):
        """The place by which it is told."""
        return next((place for place in self.places if not place.void), self.places[0])

    @property
    def spoken(self):
        return Spoken(self.statement, self.first)

    @property
    def signers(self):
        """Copies differ in who else signed, and each of them adds to it."""
        good = [place.signers for place in self.places if not place.void]
        return frozenset().union(*good) if good else self.places[0].signers

    def within_budget(self):
        return [place for place in self.places if place.void != "OverBudget"]


@dataclass(eq=False)
class Seal:
    """What an operator says in its own name: a seal, an offer, a notice."""

    id: str
    by: str
    log: str
    seq: int
    at: int
    body: dict


@dataclass(frozen=True)
class Sign:
    """An entry of somebody whose silence is voted on, and the time of the one before it."""

    by: str
    log: str
    at: int
    before: int | None


SEALS = ("box-offer", "close-seal", "enact-seal")
# What may stand in a box of rules 2; the last two in anybody's
SAID = ("vote", "recusal", "withdrawal", "reply", "delegation", "key-revocation")
ABOUT_KEYS = ("key-update", "key-revocation")
REFUSALS = ("rejected", "vetoed", "withdrawn")
SILENCE = ("markDormant", "reactivate")


class Gathered:
    """All that counts, from the logs of `owners`."""

    def __init__(self, bundle, owners, forks, floor, forgiving=False):
        self.coop, self.forgiving = bundle.coop, forgiving
        # Whether a fork takes the place away from something that rules 1 may have decided
        self.undoes = False
        self.proposals, self.leaves, self.orders = {}, {}, {}
        # By what they are about
        self.votes, self.appeals, self.co_signatures = {}, {}, {}
        # In the order of logs, positions and ids, so that "first" means the same everywhere.
        self.seals = {kind: {} for kind in SEALS}
        self.statuses, self.notices = [], {}
        # Close seals that say that a vote refused something, and what
        self.refused = {}
        # By the entry that anchors it: in a box of rules 2 that is what operators offer.
        self.said, self.signs = {}, {}
        # By log: every trail of statements about keys, and the one at the end of what may have an effect
        self.trails, self.ends = {}, {}
        chains = [(log, owners[log], bundle.chains[log]) for log in sorted(owners) if log in bundle.chains]
        for log, owner, chain in chains:
            beside = chain.beside(floor[log]) if log in floor else set()
            self._read(chain, owner, forks[log][0] if log in forks else None, beside)
        self._note_signs(chains)

    def _read(self, chain, owner, fork, beside):
        # What its own chain says behind an entry: whatever else is known of its log
        behind = {}
        for entry in (entry for entry in chain.entries() if entry.id not in beside):
            before = behind.get(entry.statement.prev, ((), {}))
            trail, still_open = before
            own, inner = self._own(entry, owner), entry.statement.nested
            if own and entry.within_budget and inner.kind in ABOUT_KEYS:
                trail = (*trail, Carried(entry.id, inner))
                self.trails.setdefault(chain.log, []).append(trail)
            if own and entry.within_budget and inner.kind == "proposal":
                still_open = {**still_open, inner.id: inner.body["closesAt"]}
            behind[entry.id] = (trail, still_open)
            if entry.within_budget and (fork is None or entry.seq < fork):
                self.ends[chain.log] = trail
            if entry.statement.body is not None:
                self._sort(entry, owner, chain.log)
            if own:
                self._place(entry, fork, *before)

    def _own(self, entry, owner):
        """Only the operator of its author's own seat gives a statement its place; anywhere else it is a copy."""
        inner = entry.statement.nested
        if entry.statement.kind != "anchor" or inner is None or inner.body is None:
            return False
        return inner.author == owner and inner.coop == self.coop

    def _sort(self, entry, owner, log):
        kind, body = entry.statement.kind, entry.statement.body
        if not entry.within_budget:
            return
        seal = Seal(entry.id, owner, log, entry.seq, entry.at, body)
        if kind == "close-seal" and body["basis"] is not None and body["outcome"] in REFUSALS:
            self.refused[entry.id] = body["proposal"]
        if kind in SEALS:
            self.seals[kind].setdefault(body["proposal"], []).append(seal)
        elif kind == "slot-status":
            self.statuses.append(seal)
        elif kind == "notice-sent":
            self.notices[entry.id] = seal

    def _place(self, entry, fork, trail, earlier):
        inner = entry.statement.nested
        others = [closes for name, closes in earlier.items() if name != inner.id and closes > inner.issued_at]

        def at(void):
            return Place(entry.statement.key, entry.seq, entry.at, void, trail, len(others), inner.signers)

        if inner.kind in SAID and entry.within_budget:
            self.said[entry.id] = Spoken(inner, at(None))
        void = None if entry.within_budget else "OverBudget"
        if void is None and fork is not None and entry.seq >= fork:
            void = "LogForked"
        if void == "LogForked" and self._decides(inner):
            # Under rules 2 its author could otherwise undo what was decided by forking its own past.
            complete = inner.kind == "proposal" and shapes.proposal_rules(inner.body) >= 2
            self.undoes |= not complete
            void = None if complete or self.forgiving else void
        if inner.kind == "proposal":
            self._keep(self.proposals, inner, at(void))
        elif inner.kind == "vote":
            self._keep(self.votes.setdefault(inner.body["proposal"], {}), inner, at(void))
        elif inner.kind == "appeal":
            self._keep(self.appeals.setdefault(inner.body["proposal"], {}), inner, at(void))
        elif inner.kind == "co-signature":
            self._keep(self.co_signatures.setdefault(inner.body["order"], {}), inner, at(void))
        elif inner.kind == "leave":
            self._keep(self.leaves, inner, at(void))
        elif inner.kind == "emergency-order":
            self._keep(self.orders, inner, at(void))

    @staticmethod
    def _decides(statement):
        return statement.kind in ("proposal", "leave")

    @staticmethod
    def _keep(kept, statement, place):
        kept.setdefault(statement.id, Anchored(statement)).places.append(place)

    def _note_signs(self, chains):
        actions = [anchored.statement.body["action"] for anchored in self.proposals.values()]
        awaited = {change["member"] for name, change in actions if name in SILENCE}
        for log, owner, chain in chains:
            if owner in awaited:
                valid = {entry.id: entry for entry in chain.entries() if entry.within_budget}
                for entry in valid.values():
                    before = valid.get(entry.statement.prev)
                    self.signs[entry.id] = Sign(owner, log, entry.at, before.at if before else None)

    def holds(self, entry):
        """Whether what a box may name is here."""
        return entry in self.said or entry in self.signs or entry in self.notices
