"""Seals: which of them hold, what enough of them agree on, and what that enacts."""

from dataclasses import dataclass

import ballots
import cooldown
import members
from keys import is_taken_back
from shapes import OUTCOMES
from wire import bounded, digest


# Of one author and kind: so many of the newest numbers, and so many of each
NUMBERS_OFFERED, OFFERED_OF_A_NUMBER = 2, 2


def genesis(scope, coop):
    return digest(f"koinon/policy/v1\n{scope}\ngenesis\n{coop}\n".encode())


def version(scope, parent, child, root):
    return digest(f"koinon/policy/v1\n{scope}\n{parent}\n{child}\n{root}\n".encode())


@dataclass
class Certificate:
    """A box that enough sealers agree on."""

    scope: str
    parent: str
    term: int
    count: int
    root: str
    head: str
    outcome: str
    closed_at: int
    seals: dict

    @property
    def order(self):
        return (self.head, OUTCOMES.index(self.outcome), self.closed_at)


@dataclass
class Enactment:
    """What made a version, and the log entries that prove it."""

    child: str
    root: str
    version: str
    term: int
    settled_at: int
    close_seals: list
    enact_seals: list


def agreements(seals, slot_of):
    """Seals by what they say; of one member the last that says it."""
    agreed = {}
    for seal in seals:
        body = seal.body
        says = (body["count"], body["root"], body["membershipHead"], body["outcome"], body["closedAt"])
        agreed.setdefault((slot_of(body), says), {})[seal.by] = seal.id
    return agreed


def certificates(seals, quorum, slot_of):
    made = []
    for ((scope, parent, term), says), signers in agreements(seals, slot_of).items():
        if len(signers) >= quorum:
            count, root, head, outcome, closed_at = says
            made.append(Certificate(scope, parent, term, count, root, head, outcome, closed_at, signers))
    made.sort(key=lambda c: c.order)
    return made


def by_size(certificate):
    """The largest box of the highest term last; of one that passed for some and is stale for others the latter."""
    c = certificate
    return c.term, c.count, c.root, OUTCOMES.index(c.outcome)


def triple(slot):
    return (slot["scope"], slot["parent"], slot["term"])


class Sealing:
    """What the logs say of one valid proposal: the box, its certificates, and whether it was enacted."""

    def __init__(self, history, poll, issued_at, gathered):
        self.history, self.poll, self.issued_at = history, poll, issued_at
        self.id, self.body = poll.id, poll.body
        self.slot = triple(self.body)
        self.sealers = frozenset(poll.pinned.members)
        self.quorum = ballots.seal_quorum(len(self.sealers))
        after = members.counted_after(self.body, 2 if poll.complete else 1, poll.pinned, poll.parameters)
        self.enact_quorum = ballots.membership_quorum(len(self.sealers), after)
        votes = gathered.votes.get(self.id, {})
        anchored = [votes[name] for name in sorted(votes)]
        if poll.complete:
            self._read_complete(gathered, anchored)
        else:
            self._read_first_rules(gathered, [vote.spoken for vote in anchored])
        self.enactment = next(filter(None, map(self._enacted_on, self.certificates)), None)

    # Rules 1: operators may fail, and do not lie

    def _read_first_rules(self, gathered, votes):
        body, parameters = self.body, self.poll.parameters
        self.box = self.poll.count(votes)
        self.votes, self.outcome = self.box.votes, self.box.outcome

        def holds(seal):
            at = seal.body["closedAt"]
            early = parameters["closeWhenAllVoted"] and body["opensAt"] <= at < body["closesAt"]
            in_time = at == body["closesAt"] or early
            after_grace = seal.at >= bounded(at + parameters["graceSeconds"])
            return not seal.body["basis"] and seal.by in self.sealers and in_time and after_grace

        self.close_seals = [s for s in gathered.seals["close-seal"].get(self.id, ()) if holds(s)]
        self.certificates = certificates(self.close_seals, self.quorum, lambda _: self.slot)
        # The largest box first; what else they say only breaks ties.
        self.certificates.sort(key=lambda c: (c.count, c.root, *c.order), reverse=True)
        self._read_enact_seals(gathered, lambda seal, slot: slot == self.slot and seal.by in self.sealers)

    # Rules 2: up to a third of the operators may lie

    def _read_complete(self, gathered, anchored):
        offers = gathered.seals["box-offer"].get(self.id, ())
        first = {}
        for offer in offers:
            if self.poll.pinned.is_of(offer):
                first.setdefault(offer.by, offer)
        held = self._held(gathered)
        enough = len(first) >= self.quorum
        entries = self._vouched(first.values()) if enough else held
        self.box = self.poll.count_box(entries)
        self.outcome = self._outcome(self.box, self.history.head("membership")) or "stale"
        self.votes = self._explain(gathered, held, anchored, enough)
        by_id = {offer.id: offer for offer in offers}
        close = gathered.seals["close-seal"].get(self.id, ())
        own = [seal for seal in close if self.poll.pinned.is_of(seal)]
        self.close_seals = [seal for seal in own if self._follows(seal, by_id, gathered)]
        self.certificates = certificates(self.close_seals, self.quorum, lambda body: triple(body["basis"]["slot"]))
        self.certificates.sort(key=by_size, reverse=True)
        scope, parent, term = self.slot

        def fits(seal, slot):
            return slot[:2] == (scope, parent) and slot[2] >= term and self.poll.pinned.is_of(seal)

        self._read_enact_seals(gathered, fits)

    def _held(self, gathered):
        """What an operator would offer: of every author the newest, so that nobody fills an offer alone."""
        found, poll = {}, self.poll
        revoked = poll.taken_back(gathered.said.values())
        for entry, spoken in gathered.said.items():
            if poll.belongs(entry):
                statement, place = spoken.statement, spoken.place
                number = statement.body.get("vseq", 0)
                # What a stolen key signed must not take the place of what its owner said.
                stands = poll.governs(spoken) and not is_taken_back(statement, place, revoked)
                sort = (statement.author, statement.kind, stands)
                found.setdefault(sort, []).append((-number, statement.id, entry))
        held = poll.hearing.to_offer() | cooldown.to_offer(poll.refusals)
        for several in found.values():
            several.sort()
            numbers = sorted({number for number, _, _ in several})[:NUMBERS_OFFERED]
            for number in numbers:
                held |= {entry for n, _, entry in [s for s in several if s[0] == number][:OFFERED_OF_A_NUMBER]}
        return held

    def _vouched(self, offers):
        """What more operators name than may lie: an honest one had it in time."""
        named = {}
        for offer in offers:
            for entry in offer.body["entries"]:
                named[entry] = named.get(entry, 0) + 1
        enough = ballots.faults_tolerated(len(self.sealers)) + 1
        return {entry for entry, count in named.items() if count >= enough}

    def _explain(self, gathered, held, anchored, enough):
        """Every vote that is known, with what became of it in the box."""
        votes = self.poll.count_box(held).votes
        told = {vote.id for vote in votes}
        on_this = {vote.statement.id for vote in anchored}
        said = [gathered.said[entry] for entry in sorted(gathered.said) if entry not in held]
        beyond = [vote.spoken for vote in anchored if vote.first.void == "OverBudget"]
        for spoken in [s for s in said if s.statement.id in on_this] + beyond:
            if spoken.statement.id not in told:
                told.add(spoken.statement.id)
                # What would count and is offered by nobody has two newer ones of its author before it.
                verdict = self.poll.judge(spoken)
                votes.append(ballots.Vote(spoken, "Superseded" if verdict == "Counted" else verdict))
        boxed = {vote.id: vote.verdict for vote in self.box.votes}
        for vote in votes:
            missing = enough and vote.verdict == "Counted"
            vote.verdict = boxed.get(vote.id, "NotInBox" if missing else vote.verdict)
        return votes

    def _follows(self, seal, offers, gathered):
        """Whether everything that a close seal says follows from the offers that it names: nobody is believed."""
        said, basis = seal.body, seal.body["basis"]
        if not basis or not basis["offers"] <= offers.keys():
            return False
        named = [offers[name] for name in basis["offers"]]
        authors = {offer.by for offer in named}
        own = all(map(self.poll.pinned.is_of, named))
        if len(authors) != len(named) or not own or len(authors) < self.quorum:
            return False
        entries = self._vouched(named)
        if not all(map(self.history.can_read, entries)):
            return False
        box = self.poll.count_box(entries)
        scope, parent, term = triple(basis["slot"])
        # Offers are signed one grace after the close, and have another one to travel.
        earliest = bounded(said["closedAt"] + 2 * self.poll.parameters["graceSeconds"])
        return (
            (said["root"], said["count"], said["closedAt"]) == (box.root, len(entries), box.closed_at)
            and said["outcome"] == self._outcome(box, said["membershipHead"])
            and (scope, parent) == self.slot[:2]
            and term >= self.slot[2]
            and seal.at >= earliest
        )

    def _outcome(self, box, head):
        if box.withdrawn:
            return "withdrawn"
        stale = self.history.is_stale(self.body["membership"], self.issued_at, head)
        return None if stale is None else "stale" if stale else box.objection or box.outcome

    # Enactment

    def _read_enact_seals(self, gathered, fits):
        scope, parent, _ = self.slot

        def holds(seal):
            made = version(scope, parent, self.id, seal.body["root"])
            return fits(seal, triple(seal.body["slot"])) and seal.body["version"] == made

        self.enact_seals = [seal for seal in gathered.seals["enact-seal"].get(self.id, ()) if holds(seal)]

    def eta(self, closed_at):
        return bounded(closed_at + bounded(self.body["eta"] - self.body["closesAt"]))

    def deadline(self, term):
        """A child that is carried on gets as much time again in each later term."""
        parameters, further = self.poll.parameters, max(0, term - self.body["term"])
        each = parameters["enactWindowSeconds"] + 2 * parameters["clockToleranceSeconds"]
        return bounded(self.body["expiresAt"] + further * each)

    def seal_by(self):
        before = bounded(self.body["eta"] - self.poll.parameters["sealBySeconds"])
        earliest = bounded(self.body["closesAt"] + 2 * self.poll.parameters["graceSeconds"])
        in_time = before > earliest and self.body["action"][0] != "cancelProposal"
        return before if in_time else self.body["expiresAt"]

    def signed_on(self, certificate):
        """The members that signed the enactment of a certified box in time, with their last such seal."""
        slot = (certificate.scope, certificate.parent, certificate.term)
        eta, latest = self.eta(certificate.closed_at), self.deadline(certificate.term)
        # From four members to three all that stay must sign: who parts does not stay.
        parts = members.parting(self.body) if len(self.sealers) == 4 else None
        return {
            seal.by: seal.id
            for seal in self.enact_seals
            if triple(seal.body["slot"]) == slot
            and seal.body["root"] == certificate.root
            and eta <= seal.at <= latest
            and seal.by != parts
        }

    def _enacted_on(self, certificate):
        if certificate.outcome != "passed":
            return None
        signers = self.signed_on(certificate)
        if len(signers) < self.enact_quorum:
            return None
        scope, parent, _ = self.slot
        return Enactment(
            child=self.id,
            root=certificate.root,
            version=version(scope, parent, self.id, certificate.root),
            term=certificate.term,
            settled_at=self.body["expiresAt"],
            close_seals=sorted(certificate.seals.values()),
            enact_seals=sorted(signers.values()),
        )

    def best_agreement(self):
        """How many sealers agree on the box that most agree on."""
        return max((len(signers) for signers in agreements(self.close_seals, lambda _: None).values()), default=0)


class Leaving:
    """A member's own leaving: nobody votes on it, and a seal quorum only gives it its place."""

    def __init__(self, history, anchored, gathered):
        self.history, self.statement = history, anchored.statement
        current = history.membership
        self.may_leave = self._may_leave(current, anchored)
        self.root = ballots.merkle_root([self.statement.id])
        close = gathered.seals["close-seal"].get(self.statement.id, ())
        quorum = ballots.seal_quorum(len(current.members))
        good = [seal for seal in close if current.is_of(seal) and self._binds(seal.body, current)]
        self.certificates = certificates(good, quorum, lambda body: triple(body["basis"]["slot"]))
        self.certificates.sort(key=by_size, reverse=True)
        valid = self.may_leave and current.may_part(self.statement.author)
        self.enactment = self._enactment(gathered, current) if valid else None

    def _may_leave(self, current, anchored):
        """Whether it stands anywhere signed by who may speak for a member."""
        if self.history.rules < 2:
            return any(not place.void for place in anchored.places) and current.is_governance(self.statement)
        # A later fork of the log does not take it away, or its author could come back by one.
        places, governs = anchored.within_budget(), self.history.keys.governs
        member = current.get(self.statement.author) is not None
        return member and any(governs(self.statement, place, current) for place in places)

    def _binds(self, body, current):
        basis = body["basis"]
        if not basis or basis["offers"] or triple(basis["slot"])[:2] != ("membership", current.hash):
            return False
        says = (body["root"], body["count"], body["outcome"], body["closedAt"])
        return says == (self.root, 1, "passed", self.statement.issued_at)

    def _signs(self, seal, current):
        """Whether a member's enact seal counts: under rules 2 in its operator's own log, and from four to three not its own."""
        if self.history.rules < 2:
            return seal.by in current.members
        stays = len(current.members) != 4 or seal.by != self.statement.author
        return current.is_of(seal) and stays

    def _founding_window(self):
        """By the founding charter: which later one was in force then, logs alone do not say."""
        return self.history.bundle.founding.body["parameters"]["enactWindowSeconds"]

    def _enactment(self, gathered, current):
        child, size = self.statement.id, len(current.members)
        made = version("membership", current.hash, child, self.root)
        terms = {}
        for seal in gathered.seals["enact-seal"].get(child, ()):
            scope, parent, term = triple(seal.body["slot"])
            fits = (scope, parent) == ("membership", current.hash) and self._signs(seal, current)
            if fits and (seal.body["root"], seal.body["version"]) == (self.root, made):
                terms.setdefault(term, {})[seal.by] = seal.id
        after = size - (self.statement.author in current.members)
        for term, signers in sorted(terms.items()):
            held = [certificate for certificate in self.certificates if certificate.term == term]
            # Under rules 2 a slot is bound to it first, so that it has no second child.
            bound = self.history.rules < 2 or held
            if len(signers) >= ballots.membership_quorum(size, after) and bound:
                return Enactment(
                    child=child,
                    root=self.root,
                    version=made,
                    term=term,
                    settled_at=bounded(self.statement.issued_at + self._founding_window()),
                    close_seals=sorted({seal for certificate in held for seal in certificate.seals.values()}),
                    enact_seals=sorted(signers.values()),
                )
        return None
