"""The history: from the charter, version by version, to what is in force."""

from dataclasses import dataclass, field

import charter
import shapes
import validity
from ballots import Poll, Vote, seal_quorum
from gather import Gathered
from logs import forks_of
from seals import Leaving, Sealing, genesis, triple
from wire import INT_MIN

# Chains with versions, in the order in which two decisions at once are taken
CHAINS = ("membership", "releases", "engines", "charter")


@dataclass
class Numbers:
    """The numbers of one charter version."""

    parameters: dict
    classes: dict
    rules: int


@dataclass
class Membership:
    """The members of one version."""

    hash: str
    number: int
    members: dict
    used_ids: frozenset
    used_keys: frozenset
    settled_at: int

    def with_member(self, member):
        keys = self.used_keys | set(charter.keys_of(member))
        members = {**self.members, member["id"]: member}
        return Membership(self.hash, self.number, members, self.used_ids | {member["id"]}, keys, self.settled_at)

    def without(self, name):
        members = {known: member for known, member in self.members.items() if known != name}
        return Membership(self.hash, self.number, members, self.used_ids, self.used_keys, self.settled_at)

    def is_governance(self, statement):
        member = self.members.get(statement.author)
        return member is not None and statement.key in member["keys"]["governance"]


@dataclass
class Standing:
    """A member, present or past."""

    member: dict
    standing: str
    since: str
    left: str | None = None


@dataclass
class Release:
    """A model that was voted on."""

    since: str
    withdrawn: str | None = None


@dataclass
class Version:
    """One version of a chain; the charter's own has no enactment."""

    hash: str
    parent: str | None
    enacted: object | None


@dataclass
class Proposal:
    """A proposal and what became of it."""

    anchored: object
    invalid: str | None
    sealing: Sealing | None
    votes: list
    enacted: object | None = None
    superseded_by: str | None = None
    cancelled_by: str | None = None
    stale: bool = False

    @property
    def id(self):
        return self.anchored.statement.id

    @property
    def body(self):
        return self.anchored.statement.body


@dataclass
class History:
    """What a cooperative has decided, from the logs of the members that are known."""

    bundle: object
    owners: dict
    proposals: dict = field(default_factory=dict)
    leaves: list = field(default_factory=list)
    stray: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def __post_init__(self):
        self.forks, self.proofs = forks_of(self.bundle, self.owners)
        self.gathered = Gathered(self.bundle, self.owners, self.forks)
        self._begin()
        while decided := self._next():
            self._enact(*decided)
        self._read_proposals()
        self._read_leaves()
        self._read_stray_votes()
        self._read_faults()

    # From the charter on

    def genesis(self, scope):
        return genesis(scope, self.bundle.coop)

    def _begin(self):
        body = self.bundle.founding.body
        self.rules = self.bundle.founding.rules
        self.parameters, self.classes = body["parameters"], body["classes"]
        first = Membership(self.genesis("membership"), 0, {}, frozenset(), frozenset(), INT_MIN)
        for founder in body["founders"]:
            first = first.with_member(founder)
        self.memberships = {first.hash: first}
        self.numbers = {self.genesis("charter"): Numbers(self.parameters, self.classes, self.rules)}
        self.chains = {scope: [Version(self.genesis(scope), None, None)] for scope in CHAINS}
        self.members = {name: Standing(member, "Active", first.hash) for name, member in first.members.items()}
        self.releases = {r["manifestDigest"]: Release(self.genesis("releases")) for r in body["releases"]}
        self.engines = {engine["name"]: engine for engine in body["engines"]}

    def head(self, scope):
        return self.chains[scope][-1].hash if scope in self.chains else self.genesis(scope)

    @property
    def membership(self):
        return self.memberships[self.head("membership")]

    def is_version(self, scope, name):
        return name == self.genesis(scope) or any(version.hash == name for version in self.chains.get(scope, ()))

    def is_stale(self, pinned, issued_at, head):
        """Whether the membership up to `head` moved on too far for a proposal; None if either version is not known."""
        pinned, head = self.memberships.get(pinned), self.memberships.get(head)
        if pinned is None or head is None:
            return None
        between = [m for m in self.memberships.values() if pinned.number < m.number <= head.number]
        return head.number >= pinned.number + 2 or any(m.settled_at <= issued_at for m in between)

    def target(self, name):
        """What a cancellation would stop; there is nothing to stop about another cancellation."""
        known = self.gathered.proposals.get(name)
        is_cancel = known is not None and known.statement.body["action"][0] == "cancelProposal"
        return None if known is None or is_cancel or not self._is_read else known.statement.body

    _is_read = False

    # Decisions, one after the other

    def _sealing(self, anchored):
        """A proposal's seals, or why it may not be voted on."""
        invalid = validity.judge(self, anchored)
        if invalid:
            return invalid, None
        statement, body = anchored.statement, anchored.statement.body
        numbers = self.numbers[body["charter"] or self.genesis("charter")]
        members = self.memberships[body["membership"]].members
        poll = Poll(statement.id, statement.author, body, members, numbers)
        return None, Sealing(self, poll, statement.issued_at, self.gathered)

    def _next(self):
        """The next version that the seals prove. If liars beyond the quorum prove two, everybody takes the same one."""
        found = []
        for anchored in self.gathered.proposals.values():
            body = anchored.statement.body
            if body["scope"] in CHAINS and body["parent"] == self.head(body["scope"]):
                _, sealing = self._sealing(anchored)
                if sealing and sealing.enactment:
                    found.append((body["scope"], sealing.enactment, anchored.statement))
        for anchored in self.gathered.leaves.values():
            leaving = Leaving(self, anchored, self.gathered)
            if leaving.enactment:
                found.append(("membership", leaving.enactment, anchored.statement))
        return min(found, key=lambda f: (CHAINS.index(f[0]), f[1].term, f[1].child, f[1].root), default=None)

    def _enact(self, scope, enacted, statement):
        if statement.kind == "leave":
            self._part(enacted, statement.author, "Left")
        else:
            name, change = statement.body["action"]
            getattr(self, f"_apply_{name}")(enacted, change, statement)
        self.chains[scope].append(Version(enacted.version, self.head(scope), enacted))

    def _apply_addModelRelease(self, enacted, release, _):
        self.releases[release["manifestDigest"]] = Release(enacted.version)

    def _apply_withdrawModelRelease(self, enacted, change, _):
        if change["manifestDigest"] in self.releases:
            self.releases[change["manifestDigest"]].withdrawn = enacted.version

    def _apply_addEngine(self, _, change, __):
        self.engines[change["engine"]["name"]] = change["engine"]

    def _apply_removeEngine(self, _, change, __):
        self.engines.pop(change["name"], None)

    def _apply_admit(self, enacted, _, statement):
        member = statement.nested.body["member"]
        self._next_membership(enacted, self.membership.with_member(member))
        self.members[member["id"]] = Standing(member, "Active", enacted.version)

    def _apply_expel(self, enacted, change, _):
        self._part(enacted, change["member"], "Expelled")

    def _apply_setRules(self, enacted, change, _):
        self.rules = change["rules"]
        self.parameters = {**self.parameters, "deliberation": change["deliberation"]}
        self.numbers[enacted.version] = Numbers(self.parameters, self.classes, self.rules)

    def _apply_changeCharter(self, enacted, change, _):
        self.parameters, self.classes = change["parameters"], change["classes"]
        self.numbers[enacted.version] = Numbers(self.parameters, self.classes, self.rules)

    def _part(self, enacted, name, how):
        self._next_membership(enacted, self.membership.without(name))
        if name in self.members:
            self.members[name].standing, self.members[name].left = how, enacted.version

    def _next_membership(self, enacted, changed):
        changed.hash, changed.number, changed.settled_at = enacted.version, changed.number + 1, enacted.settled_at
        self.memberships[enacted.version] = changed

    # What became of everything

    def _read_proposals(self):
        self._is_read = True
        for name, anchored in sorted(self.gathered.proposals.items()):
            invalid, sealing = self._sealing(anchored)
            if sealing:
                votes = sealing.votes
            else:
                votes = [Vote(found, "NoProposal") for found in self.gathered.votes.get(name, {}).values()]
            proposal = Proposal(anchored, invalid, sealing, votes)
            child = self._child(proposal.body)
            if child and child.child == name:
                proposal.enacted = child
            elif child:
                proposal.superseded_by = child.child
            head = self.head("membership")
            stale = self.is_stale(proposal.body["membership"], anchored.statement.issued_at, head)
            proposal.stale = bool(stale)
            self.proposals[name] = proposal
        for proposal in self.proposals.values():
            if not proposal.enacted:
                proposal.cancelled_by = self._cancellation(proposal.id)

    def _child(self, body):
        """What was enacted where a proposal would be."""
        versions = self.chains.get(body["scope"], ())
        return next((version.enacted for version in versions if version.parent == body["parent"]), None)

    def _cancellation(self, name):
        for proposal in self.proposals.values():
            action, change = proposal.body["action"]
            if action == "cancelProposal" and change["proposal"] == name and proposal.sealing:
                if any(certificate.outcome == "passed" for certificate in proposal.sealing.certificates):
                    return proposal.id
        return None

    def _read_leaves(self):
        enacted = {v.enacted.child: v.hash for v in self.chains["membership"] if v.enacted}
        for name, anchored in sorted(self.gathered.leaves.items()):
            leaving = Leaving(self, anchored, self.gathered)
            if name not in enacted and not (leaving.is_anchored and leaving.is_member):
                continue
            member = self.members.get(anchored.statement.author)
            if member and member.standing == "Active":
                member.standing = "Leaving"
            self.leaves.append((leaving, enacted.get(name)))

    def _read_stray_votes(self):
        for name, votes in self.gathered.votes.items():
            if name not in self.proposals:
                self.stray += [(name, Vote(found, "NoProposal")) for found in votes.values()]

    def _read_faults(self):
        first = {}
        for _, seals in sorted(self.gathered.seals["close-seal"].items()):
            for seal in seals:
                said = {**seal.body, "basis": None}
                known = first.setdefault((seal.by, seal.body["proposal"], seal.body["round"]), (seal.id, said))
                if known[1] != said:
                    self.faults.append(("TwoCloseSeals", seal.by, seal.body["proposal"], known[0], seal.id))
        first = {}
        for _, seals in sorted(self.gathered.seals["enact-seal"].items()):
            for seal in seals:
                slot = triple(seal.body["slot"])
                known = first.setdefault((seal.by, slot), (seal.id, seal.body))
                if known[1] != seal.body:
                    self.faults.append(("TwoEnactSeals", seal.by, slot[0], known[0], seal.id))

    # Slots

    def _certificates(self, child):
        if child in self.proposals:
            sealing = self.proposals[child].sealing
            return sealing.certificates if sealing else []
        return next((leaving.certificates for leaving, _ in self.leaves if leaving.statement.id == child), [])

    def _hold(self, child, slot):
        """Whether a child holds a slot: "unknown" without a certificate, "void" where something larger undid it."""
        certificates = self._certificates(child)
        if not any((c.scope, c.parent, c.term) == slot and c.outcome == "passed" for c in certificates):
            return "unknown"
        # Beside a larger box that did not pass, or a cancellation that did, it cannot have been enacted.
        stands = certificates[0].outcome == "passed" and not self._cancellation(child)
        return "stands" if stands else "void"

    def slots(self):
        """What operators have said of each slot that they ended, by the newest membership."""
        members = self.membership.members
        return {slot: self._slot(slot, members) for slot in {triple(s.body["slot"]) for s in self.gathered.statuses}}

    def _slot(self, slot, members):
        said = {}
        for status in self.gathered.statuses:
            if triple(status.body["slot"]) == slot and status.by in members:
                said.setdefault(status.by, status.body["signed"])
        checked = []
        for child in said.values():
            hold = self._hold(child, slot) if child else "void"
            # Who names a child without a certificate is not counted: an honest operator has seen one, so it comes.
            if hold != "unknown":
                checked.append(child if hold == "stands" else None)
        if len(checked) < seal_quorum(len(members)):
            return "open"
        seals = [seal for several in self.gathered.seals["enact-seal"].values() for seal in several]
        seen = {seal.body["proposal"] for seal in seals if triple(seal.body["slot"]) == slot}
        stand = {child for child in seen | set(checked) if child and self._hold(child, slot) == "stands"}
        named = {child: checked.count(child) for child in stand}
        if not named:
            return "free"
        # Two children only where operators may not lie at all; then everybody is waited for.
        if len(named) > 1 and len(checked) < len(members):
            return "open"
        return min(named, key=lambda child: (-named[child], child))

    def open_term(self, scope, parent, members):
        """The first term that is not over, and the child that is bound to it: the one that the last term came to."""
        term, bound = 0, None
        while (what := self._slot((scope, parent, term), members)) != "open":
            term, bound = term + 1, bound if what == "free" else what
        return term, bound


def follow(bundle):
    """The history of a bundle; a member's log counts from the round after the one in which it was admitted."""
    owners = {founder["keys"]["operator"]: founder["id"] for founder in bundle.founding.body["founders"]}
    while True:
        history = History(bundle, owners)
        found = {standing.member["keys"]["operator"]: name for name, standing in history.members.items()}
        if found.keys() <= owners.keys():
            return history
        owners = {**found, **owners}
