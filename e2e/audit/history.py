"""The history: from the charter, version by version, to what is in force."""

from dataclasses import dataclass, field

import cooldown
import emergency
import hearing
import quarantine
import shapes
import validity
from ballots import Poll, Vote, seal_quorum
from gather import Gathered
from keys import Keys, turn
from logs import forks_of, reported
from members import Membership, Standing, probation
from seals import Leaving, Sealing, genesis, triple

# Chains with versions, in the order in which two decisions at once are taken
CHAINS = "membership releases engines charter standing placement economy operators checkpoints".split()
FIRST_CHAINS = CHAINS[:4]


@dataclass
class Numbers:
    """The numbers of one charter version."""

    parameters: dict
    classes: dict
    rules: int


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
    appealed_by: str | None = None
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
    # Up to where each log is settled
    floor: dict = field(default_factory=dict)
    forgiving: bool = False
    proposals: dict = field(default_factory=dict)
    leaves: list = field(default_factory=list)
    stray: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def __post_init__(self):
        self.forks, self.proofs = forks_of(self.bundle, self.owners, self.floor)
        self._read_reports()
        self.gathered = Gathered(self.bundle, self.owners, self.forks, self.floor, self.forgiving)
        self._begin()
        self._read_keys()
        while decided := self._next():
            self._enact(*decided)
            self._read_keys()
        self._read_proposals()
        self._read_leaves()
        self._read_key_changes()
        self._read_stray_votes()
        self._read_faults()
        self._read_quarantine()
        self.orders = emergency.orders(self)

    # From the charter on

    def genesis(self, scope):
        return genesis(scope, self.bundle.coop)

    def _begin(self):
        body = self.bundle.founding.body
        self.rules = self.bundle.founding.rules
        self.parameters, self.classes = body["parameters"], body["classes"]
        first, self.keys, self.lifted = Membership(self.genesis("membership")), Keys(), {}
        for founder in body["founders"]:
            first = first.founded(founder)
            self.keys.begin(founder["id"], founder["keys"])
        self.memberships = {first.hash: first}
        self.numbers = {self.genesis("charter"): Numbers(self.parameters, self.classes, self.rules)}
        self.chains = {scope: [Version(self.genesis(scope), None, None)] for scope in CHAINS}
        self.members = {name: Standing(member, "Active", first.hash) for name, member in first.members.items()}
        self.releases = {r["manifestDigest"]: Release(self.genesis("releases")) for r in body["releases"]}
        self.engines = {engine["name"]: engine for engine in body["engines"]}

    def heads(self):
        """The newest version of every chain. One that came with rules 2 is named once something was decided there."""
        named = [scope for scope in CHAINS if scope in FIRST_CHAINS or len(self.chains[scope]) > 1]
        return {scope: self.head(scope) for scope in named}

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

    def can_read(self, entry):
        """Whether what a box may name is here, with everything that it takes to read it."""
        if entry not in self.gathered.refused:
            return self.gathered.holds(entry)
        known = self.gathered.proposals.get(self.gathered.refused[entry])
        return known is not None and known.statement.body["membership"] in self.memberships

    _is_read = False

    # Decisions, one after the other

    def _sealing(self, anchored):
        """A proposal's seals, or why it may not be voted on."""
        invalid = validity.judge(self, anchored)
        if invalid:
            return invalid, None
        statement, body = anchored.statement, anchored.statement.body
        numbers = self.numbers[body["charter"] or self.genesis("charter")]
        pinned = self.memberships[body["membership"]]
        poll = Poll(statement.id, statement.author, body, pinned, numbers, self.keys, self.gathered)
        poll.refusals = cooldown.refusals(self, poll)
        return None, Sealing(self, poll, statement.issued_at, self.gathered)

    def _next(self):
        """The next version that the seals prove. If liars beyond the quorum prove two, everybody takes the same one."""
        found = []
        for anchored in self.gathered.proposals.values():
            body = anchored.statement.body
            follows = body["scope"] in CHAINS and body["parent"] == self.head(body["scope"])
            if follows and anchored.statement.id in self.gathered.seals["enact-seal"]:
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
            # What is decided about all work changes nobody's say.
            apply = getattr(self, f"_apply_{name}", None)
            if apply:
                apply(enacted, change, statement)
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
        member, body = statement.nested.body["member"], statement.body
        parameters = self.numbers[body["charter"] or self.genesis("charter")].parameters
        until = probation(body, shapes.proposal_rules(body), parameters)
        self._change_members(self.membership.admitted(enacted, member, until))
        self._begin_log(member["id"], member["keys"])
        standing = "Active" if until is None else "Probationary"
        self.members[member["id"]] = Standing(member, standing, enacted.version)

    def _apply_expel(self, enacted, change, _):
        self._part(enacted, change["member"], "Expelled")

    def _apply_confirm(self, enacted, change, _):
        self._change_members(self.membership.counted(enacted, change["member"]))
        self.members[change["member"]].standing = "Active"

    _apply_reactivate = _apply_confirm

    def _apply_markDormant(self, enacted, change, statement):
        since = statement.body["closesAt"]
        self._change_members(self.membership.set_aside(enacted, change["member"], since))
        self.members[change["member"]].standing = "Dormant"

    def _apply_resetKeys(self, enacted, change, _):
        name, keys = change["member"], change["keys"]
        self._change_members(self.membership.rekeyed(enacted, name, keys))
        self.members[name].member = {**self.members[name].member, "keys": keys}
        self._begin_log(name, keys)

    def _apply_suspend(self, enacted, change, _):
        self.members[change["member"]].suspended = enacted.version

    def _apply_reinstate(self, _, change, __):
        self.members[change["member"]].suspended = None

    def _apply_liftQuarantine(self, _, change, __):
        self.lifted[change["member"]] = self.lifted.get(change["member"], frozenset()) | change["proofs"]

    def _apply_setRules(self, enacted, change, _):
        self.rules = change["rules"]
        self.parameters = {**self.parameters, "deliberation": change["deliberation"]}
        self.numbers[enacted.version] = Numbers(self.parameters, self.classes, self.rules)

    def _apply_changeCharter(self, enacted, change, _):
        self.parameters, self.classes = change["parameters"], change["classes"]
        self.numbers[enacted.version] = Numbers(self.parameters, self.classes, self.rules)

    def _part(self, enacted, name, how):
        self._change_members(self.membership.parted(enacted, name))
        if name in self.members:
            self.members[name].standing, self.members[name].left = how, enacted.version

    def _change_members(self, changed):
        self.memberships[changed.hash], self._newest = changed, changed.number

    def _begin_log(self, name, keys):
        self.keys.begin(name, keys, self._newest)

    def _read_keys(self):
        """What is known of keys with the logs that are known so far."""
        self.appealed = hearing.appealed(self.gathered, self.keys)

    def keys_ever(self, log):
        return self.keys.ever(log, self.gathered.trails.get(log, ())) if log in self.keys.logs else set()

    def ring(self, log):
        """The keys in force at the end of a log."""
        return self.keys.ring(log, self.gathered.ends.get(log, ()))

    def settled(self):
        """The positions up to which checkpoints have settled the logs."""
        floor = {}
        for version in self.chains["checkpoints"][1:]:
            _, change = self.proposals[version.enacted.child].body["action"]
            for log, head in change["logs"].items():
                floor[log] = max(floor.get(log, (0, "")), (head["seq"], head["id"]))
        return floor

    # What became of everything

    def _read_proposals(self):
        self._is_read = True
        for name, anchored in sorted(self.gathered.proposals.items()):
            invalid, sealing = self._sealing(anchored)
            if sealing:
                votes = sealing.votes
            else:
                votes = [Vote(found.spoken, "NoProposal") for found in self.gathered.votes.get(name, {}).values()]
            proposal = Proposal(anchored, invalid, sealing, votes)
            child = self._child(proposal.body)
            if child and child.child == name:
                proposal.enacted = child
            elif child:
                proposal.superseded_by = child.child
            head = self.head("membership")
            stale = self.is_stale(proposal.body["membership"], anchored.statement.issued_at, head)
            proposal.stale = bool(stale)
            if sealing:
                best = sealing.certificates[0] if sealing.certificates else None
                eta = sealing.eta(best.closed_at) if best else proposal.body["eta"]
                pinned = self.memberships[proposal.body["membership"]]
                proposal.appealed_by = hearing.appeal_against(
                    name, proposal.body, eta, pinned, self.gathered, self.keys
                )
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
            if name not in enacted and not leaving.may_leave:
                continue
            member = self.members.get(anchored.statement.author)
            if member and member.standing in ("Active", "Dormant"):
                member.standing = "Leaving"
            self.leaves.append((leaving, enacted.get(name)))

    def _read_stray_votes(self):
        for name, votes in self.gathered.votes.items():
            if name not in self.proposals:
                self.stray += [(name, Vote(found.spoken, "NoProposal")) for found in votes.values()]

    def _read_faults(self):
        first = {}
        for _, seals in sorted(self.gathered.seals["close-seal"].items()):
            for seal in seals:
                said = quarantine.says(seal.body)
                known = first.setdefault((seal.log, seal.body["proposal"], seal.body["round"]), (seal.id, said))
                if known[1] != said:
                    self.faults.append(("TwoCloseSeals", seal.by, seal.body["proposal"], known[0], seal.id))
        first = {}
        for _, seals in sorted(self.gathered.seals["enact-seal"].items()):
            for seal in seals:
                slot = triple(seal.body["slot"])
                known = first.setdefault((seal.log, slot), (seal.id, seal.body))
                if known[1] != seal.body:
                    self.faults.append(("TwoEnactSeals", seal.by, slot[0], known[0], seal.id))

    def _read_reports(self):
        """What other members have shown of two seals."""
        pairs = [(pair, quarantine.of_statements(*pair, self.bundle.coop)) for pair in reported(self.bundle, self.owners)]
        self.reported = [proof for _, shown in pairs for proof in shown]
        self.proofs += [pair for pair, shown in pairs if shown]

    def _read_key_changes(self):
        """Every statement about keys, with what became of it."""
        self.key_changes = {}
        for log, trails in self.gathered.trails.items():
            if log in self.keys.logs:
                for *earlier, said in trails:
                    before, began = self.keys.ring(log, tuple(earlier)), self.keys.logs[log].keys
                    self.key_changes[said.carrier] = (said.statement, turn(before, began, said.statement)[1])

    def _read_quarantine(self):
        by_log = quarantine.against(self)
        for name, member in self.members.items():
            lifted = self.lifted.get(name, frozenset())
            member.proofs = {i: proof for i, proof in by_log.get(member.log, {}).items() if i not in lifted}

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
        ended = {triple(status.body["slot"]) for status in self.gathered.statuses}
        return {slot: self._slot(slot, self.membership) for slot in ended}

    def _slot(self, slot, membership):
        said, members = {}, membership.members
        for status in self.gathered.statuses:
            if triple(status.body["slot"]) == slot and membership.is_of(status):
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

    def open_term(self, scope, parent, membership):
        """The first term that is not over, and the child that is bound to it: the one that the last term came to."""
        term, bound = 0, None
        while (what := self._slot((scope, parent, term), membership)) != "open":
            term, bound = term + 1, bound if what == "free" else what
        return term, bound


def read(bundle, owners, floor):
    """By rules 1 a fork undoes what was anchored behind it. Once later rules are in force one member could take back by
    that what it proposed before them: of the two readings then the one counts in which more stands."""
    history = History(bundle, owners, floor)
    if not history.gathered.undoes:
        return history
    whole = History(bundle, owners, floor, forgiving=True)
    decided = [sum(map(len, reading.chains.values())) for reading in (whole, history)]
    return whole if whole.rules >= 2 and decided[0] > decided[1] else history


def follow(bundle):
    """The history of a bundle; a member's log counts from the round after the one in which it was admitted."""
    owners = {founder["keys"]["operator"]: founder["id"] for founder in bundle.founding.body["founders"]}
    floor = {}
    while True:
        history = read(bundle, owners, floor)
        if history.settled() != floor:
            # Below what is settled a conflict has no effect: the past is read again without it.
            floor = history.settled()
            continue
        found = {log: began.owner for log, began in history.keys.logs.items()}
        if found.keys() <= owners.keys():
            return history
        owners = {**found, **owners}
