"""A bundle's lines, the chains of entries that they make, and where a chain forked."""

import copy
from dataclasses import dataclass

import statements
from shapes import Shape, closed, digest, envelope, head, i64, key, mapping, scope, sequence, u32, u64, variant
from wire import LOG, MAX_ENVELOPE, Refused, strict_json

DAY = 86_400
MAX_LINE = 4 << 20
FORMAT = 1


def heads(value):
    return frozenset((item["seq"], item["id"]) for item in sequence(head)(value))


LINE = variant(
    {
        "founding": closed({"format": u32, "coop": digest, "asOf": i64, "charter": envelope}),
        "entry": envelope,
        "end": closed({"entries": u64, "policy": mapping(scope, digest), "logs": mapping(key, heads)}),
    }
)


class Finding(Exception):
    """The first line that does not hold, and what is wrong with it."""

    def __init__(self, line, category, why=""):
        super().__init__(f"line {line}: {category} {why}")
        self.line, self.category = line, category


@dataclass(eq=False)
class Entry:
    """An entry in its place."""

    statement: statements.Statement
    line: int
    usage: tuple
    within_budget: bool

    @property
    def id(self):
        return self.statement.id

    @property
    def seq(self):
        return self.statement.seq

    @property
    def at(self):
        return self.statement.issued_at


class Chain:
    """Everything that one operator key has signed, each entry behind the one that it names."""

    def __init__(self, log):
        self.log, self.by_id, self.by_seq = log, {}, {}

    def refusal(self, statement, coop):
        """Why a statement cannot stand here, if so."""
        if statement.id in self.by_id:
            return "Repeated"
        if statement.seq == 0:
            if statement.prev != coop:
                return "WrongStart"
        else:
            before = self.by_id.get(statement.prev)
            if before is None or before.seq != statement.seq - 1:
                return "Gap"
        if len(self.by_seq.get(statement.seq, ())) > 1:
            return "ThirdBranch"
        return None

    def add(self, statement, line, budgets):
        before = self.by_id.get(statement.prev)
        day, size, count = before.usage if before else (0, 0, 0)
        today = max(statement.issued_at // DAY, day)
        if today != day:
            size, count = 0, 0
        # The budget is counted along the chain, on either branch of a fork for itself.
        usage = (today, size + statement.size, count + 1)
        within = usage[1] <= budgets["bytesPerDay"] and usage[2] <= budgets["entriesPerDay"]
        entry = Entry(statement, line, usage, within)
        self.by_id[entry.id] = entry
        self.by_seq.setdefault(entry.seq, []).append(entry)
        return entry

    def entries(self):
        """In an order that does not depend on which branch of a fork came first."""
        return sorted(self.by_id.values(), key=lambda entry: (entry.seq, entry.id))

    def leading_to(self, name):
        """An entry and all that it follows, or nothing where it is not here."""
        found, entry = {}, self.by_id.get(name)
        while entry:
            found[entry.id] = entry
            entry = self.by_id.get(entry.statement.prev)
        return found

    def beside(self, settled):
        """What neither leads to a settled entry nor follows it: whoever wrote it did so after that was settled."""
        branch = self.leading_to(settled[1])
        if not branch:
            return set()
        for entry in self.entries():
            if entry.seq > settled[0] and entry.statement.prev in branch:
                branch[entry.id] = entry
        return self.by_id.keys() - branch.keys()

    def up_to(self, name):
        """As it was when it ended with an entry."""
        before = Chain(self.log)
        before.by_id = self.leading_to(name)
        before.by_seq = {entry.seq: [entry] for entry in before.by_id.values()}
        return before

    def last(self):
        followed = {entry.statement.prev for entry in self.by_id.values()}
        return frozenset((entry.seq, entry.id) for entry in self.by_id.values() if entry.id not in followed)


class Bundle:
    """What one file holds, before anybody asks what it amounts to."""

    def __init__(self, lines):
        self.founding, self.claims, self.as_of = None, None, 0
        self.chains, self.count, number = {}, 0, 0
        for number, text in enumerate(lines, 1):
            try:
                self._line(number, text)
            except Refused as error:
                raise Finding(number, error.category, str(error)) from error
        if self.claims is None:
            raise Finding(number + 1, "CutOff")
        self.end = number
        if self.claims["entries"] != self.count:
            raise Finding(number, "WrongCount")

    @property
    def coop(self):
        return self.founding.id

    def _line(self, number, text):
        try:
            name, said = LINE(strict_json(text, MAX_LINE))
        except (ValueError, Shape) as error:
            raise Refused("BadLine", str(error)) from error
        if self.claims or (name == "founding") != (self.founding is None):
            raise Refused("OutOfPlace")
        if name == "founding":
            if said["format"] != FORMAT:
                raise Refused("OtherFormat")
            self.founding, self.as_of = statements.found(said["charter"], said["coop"]), said["asOf"]
            self.budgets = self.founding.body["parameters"]["budgets"]
        elif name == "end":
            self.claims = said
        else:
            self._entry(number, statements.read(said))

    def _entry(self, number, statement):
        if statement.place != LOG:
            raise Refused("NotAnEntry")
        if statement.coop != self.coop:
            raise Refused("OtherCooperative")
        chain = self.chains.setdefault(statement.key, Chain(statement.key))
        refusal = chain.refusal(statement, self.coop)
        if refusal:
            raise Refused(refusal)
        chain.add(statement, number, self.budgets)
        self.count += 1

    def up_to(self, heads):
        """As it was when these logs ended there, and no other had begun."""
        before = copy.copy(self)
        before.chains = {log: self.chains[log].up_to(name) for log, (_, name) in heads.items()}
        return before

    def check_owners(self, owners):
        """Every log must be a member's, and every entry in it its owner's."""
        by_line = {e.line: e.statement for chain in self.chains.values() for e in chain.by_id.values()}
        for line, entry in sorted(by_line.items()):
            if entry.key not in owners:
                raise Finding(line, "UnknownLog")
            if entry.author != owners[entry.key]:
                raise Finding(line, "OtherAuthor")

    def unlisted(self, owners, proofs):
        """The entries in proofs without a line: those that could have one, and those on branches that nobody gave."""
        missing, branches = [], set()
        for statement in (statement for proof in proofs for statement in proof):
            if owners.get(statement.key) != statement.author:
                continue
            refusal = self.chains.get(statement.key, Chain(statement.key)).refusal(statement, self.coop)
            if refusal is None:
                missing.append(statement)
            elif refusal != "Repeated":
                branches.add((statement.key, statement.seq, statement.id))
        return missing, branches

    def check_listed(self, owners, proofs):
        """What a proof carries is an entry like any other: where it follows what is there it must have its line."""
        missing, _ = self.unlisted(owners, proofs)
        if missing:
            raise Finding(self.end, "Unlisted")

    def check_claims(self, policy):
        if self.claims["policy"] != policy:
            raise Finding(self.end, "PolicyHead")
        last = {log: chain.last() for log, chain in self.chains.items() if chain.by_id}
        if self.claims["logs"] != last:
            raise Finding(self.end, "LogHead")


def proof_of(evidence, coop):
    """The two entries by which evidence proves a fork, or None."""
    if len(evidence["envelopes"]) != 2:
        return None
    try:
        one, two = map(statements.read, evidence["envelopes"])
    except Refused:
        return None
    same = all(getattr(one, name) == getattr(two, name) for name in ("place", "seq", "key", "author", "coop"))
    named = (one.key, one.seq, one.coop) == (evidence["log"], evidence["seq"], coop)
    return (one, two) if same and named and one.place == LOG and one.id != two.id else None


def reported(bundle, owners):
    """The two entries of every report of two seals; in another's name a log proves nothing."""
    found = []
    for chain in (chain for log, chain in sorted(bundle.chains.items()) if log in owners):
        for entry in chain.entries():
            body = entry.statement.body
            if entry.statement.kind != "seal-evidence" or body is None or not entry.within_budget:
                continue
            try:
                one, two = statements.read(body["first"]), statements.read(body["second"])
            except Refused:
                continue
            if owners.get(one.key) == one.author:
                found.append((one, two))
    return found


def forks_of(bundle, owners, floor):
    """For every log that forked: where, and the two payloads there, the smaller id first; and every proof."""
    found, proofs = {}, []

    def note(log, seq, ids):
        # Of several proofs of one position the one with the smallest ids, so that all show the same.
        place = (seq, *sorted(ids))
        if log not in floor or seq > floor[log][0]:
            found[log] = min(found.get(log, place), place)

    for log, chain in bundle.chains.items():
        if log not in owners:
            continue
        for seq, entries in chain.by_seq.items():
            if len(entries) > 1:
                note(log, seq, [entry.id for entry in entries])
        for entry in chain.entries():
            if entry.statement.kind == "evidence" and entry.statement.body:
                proof = proof_of(entry.statement.body, bundle.coop)
                if proof:
                    proofs.append(proof)
                    note(proof[0].key, proof[0].seq, [statement.id for statement in proof])
    return found, proofs
