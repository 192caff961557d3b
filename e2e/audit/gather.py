"""What the logs say, sorted by what it is about: human statements with the place from which they count, and seals."""

from dataclasses import dataclass

import shapes


@dataclass(eq=False)
class Anchored:
    """A human statement in the log of its author's own operator."""

    statement: object
    log: str
    seq: int
    at: int
    void: str | None
    signers: frozenset
    open_before: int = 0

    @property
    def place(self):
        return (self.log, self.seq, self.at)


@dataclass(eq=False)
class Seal:
    """A seal or an offer in somebody's log."""

    id: str
    by: str
    log: str
    seq: int
    at: int
    body: dict


SEALS = ("box-offer", "close-seal", "enact-seal")
# What may stand in a box of rules 2
SAID = ("vote", "recusal", "withdrawal", "delegation")


class Gathered:
    """All that counts, from the logs of `owners`."""

    def __init__(self, bundle, owners, forks):
        self.coop = bundle.coop
        self.proposals, self.leaves, self.votes = {}, {}, {}
        # In the order of logs, positions and ids, so that "first" means the same everywhere.
        self.seals = {kind: {} for kind in SEALS}
        self.statuses = []
        # By the entry that anchors it: in a box of rules 2 that is what operators offer.
        self.said = {}
        for log in sorted(owners):
            if log in bundle.chains:
                fork = forks[log][0] if log in forks else None
                self._read(bundle.chains[log], owners[log], fork)

    def _read(self, chain, owner, fork):
        still_open = {}
        for entry in chain.entries():
            statement = entry.statement
            if statement.body is None:
                continue
            seal = Seal(entry.id, owner, chain.log, entry.seq, entry.at, statement.body)
            if statement.kind in SEALS and entry.within_budget:
                self.seals[statement.kind].setdefault(statement.body["proposal"], []).append(seal)
            elif statement.kind == "slot-status" and entry.within_budget:
                self.statuses.append(seal)
            elif statement.kind == "anchor":
                self._anchor(entry, owner, fork, still_open, chain)

    def _anchor(self, entry, owner, fork, still_open, chain):
        inner = entry.statement.nested
        # Only the operator of its author's own seat gives a statement its place; anywhere else it is a copy.
        if inner.author != owner or inner.coop != self.coop or inner.body is None:
            return
        void = None if entry.within_budget else "OverBudget"
        if inner.kind in SAID and void is None:
            self.said[entry.id] = self._place(entry, None)
        if void is None and fork is not None and entry.seq >= fork:
            void = "LogForked"
        found = self._place(entry, void)
        if inner.kind == "proposal":
            if void == "LogForked" and shapes.proposal_rules(inner.body) >= 2:
                # Its author could undo what was decided by forking its own past.
                found.void = None
            if fork is not None:
                # What is learned of another branch must not make one too many of them.
                still_open = self._open_on_branch(entry, chain)
            others = [closes for name, closes in still_open.items() if name != inner.id and closes > inner.issued_at]
            found.open_before = len(others)
            if found.void is None:
                still_open[inner.id] = inner.body["closesAt"]
            self._keep(self.proposals, found)
        elif inner.kind == "vote":
            self._keep(self.votes.setdefault(inner.body["proposal"], {}), found)
        elif inner.kind == "leave":
            self._keep(self.leaves, found)

    @staticmethod
    def _open_on_branch(entry, chain):
        """The proposals before an entry on its own branch, with their closes."""
        still_open = {}
        while entry := chain.by_id.get(entry.statement.prev):
            inner = entry.statement.nested
            if entry.within_budget and inner and inner.kind == "proposal" and inner.body:
                still_open[inner.id] = inner.body["closesAt"]
        return still_open

    @staticmethod
    def _place(entry, void):
        inner, log = entry.statement.nested, entry.statement.key
        return Anchored(inner, log, entry.seq, entry.at, void, inner.signers)

    @staticmethod
    def _keep(kept, found):
        """The first anchor that counts; later ones only add the signatures of sponsors."""
        known = kept.get(found.statement.id)
        if known is None or (known.void and not found.void):
            kept[found.statement.id] = found
        elif not known.void and not found.void:
            known.signers |= found.signers
            known.open_before = min(known.open_before, found.open_before)
