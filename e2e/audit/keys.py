"""Which governance keys speak for a member at any place of its logs, and what was taken back."""

from dataclasses import dataclass

MOST_KEYS = 3


@dataclass
class Log:
    """A log that is or was a member's, and the keys with which it began."""

    owner: str
    keys: dict
    generation: int = 0
    # The number of the membership version that put another log in its place
    replaced: int | None = None


@dataclass(frozen=True)
class Ring:
    """The keys in force at one place, and those that never come back in this log."""

    number: int
    governance: frozenset
    retired: frozenset = frozenset()


def recovers(keys, signers):
    """Whether more than half of the recovery keys signed."""
    return 2 * sum(key in signers for key in keys["recovery"]) > len(keys["recovery"])


def turn(ring, keys, said):
    """The ring after one statement, and why it is the same as before, if so."""
    step = _rotated if said.kind == "key-update" else _revoked
    changed = step(ring, keys, said)
    return (ring, changed) if isinstance(changed, str) else (changed, None)


def _rotated(ring, keys, said):
    body, signers = said.body, said.signers
    wanted = frozenset(body["governance"])
    if body["number"] != ring.number + 1:
        return "NotNext"
    if len(wanted) != len(body["governance"]) or not 1 <= len(wanted) <= MOST_KEYS:
        return "KeyCount"
    if wanted & (ring.retired | set(keys["recovery"]) | {keys["operator"]}):
        return "Used"
    if not ring.governance & signers and not recovers(keys, signers):
        return "NotAllowed"
    if not wanted - ring.governance <= signers:
        return "NotProved"
    return Ring(body["number"], wanted, ring.retired | (ring.governance - wanted))


def _revoked(ring, keys, said):
    body = said.body
    if not recovers(keys, said.signers):
        return "NotAllowed"
    # One that was replaced before can be taken back too: what it signed may still stand in a box.
    if body["log"] == keys["operator"] and body["key"] not in ring.governance | ring.retired:
        return "NotInForce"
    return Ring(ring.number, ring.governance - {body["key"]}, ring.retired | {body["key"]})


class Keys:
    """All logs, and the ring at the end of any trail of statements about keys."""

    def __init__(self):
        self.logs, self._rings = {}, {}

    def begin(self, name, keys, number=None):
        """A member begins a log; those that it had before are replaced."""
        older = [log for log in self.logs.values() if log.owner == name]
        for log in older:
            if log.replaced is None:
                log.replaced = number
        self.logs[keys["operator"]] = Log(name, keys, len(older))

    def ring(self, log, trail):
        place = (log, tuple(said.carrier for said in trail))
        if place not in self._rings:
            began = self.logs[log].keys
            if trail:
                self._rings[place] = turn(self.ring(log, trail[:-1]), began, trail[-1].statement)[0]
            else:
                self._rings[place] = Ring(0, frozenset(began["governance"]))
        return self._rings[place]

    def in_force(self, statement, place):
        """The keys that may speak for the author where a statement stands, or None where its log is nobody's."""
        log = self.logs.get(place.log)
        if log is None or log.owner != statement.author:
            return None
        return self.ring(place.log, place.trail).governance

    def is_closed(self, place, pinned):
        log = self.logs.get(place.log)
        return log is not None and log.replaced is not None and log.replaced <= pinned.number

    def governs(self, statement, place, pinned):
        """Whether a statement is signed by a key in force, in a log that had not been replaced in a version."""
        if self.is_closed(place, pinned):
            return False
        return statement.key in (self.in_force(statement, place) or ())

    def generation(self, place):
        return self.logs[place.log].generation if place.log in self.logs else 0

    def takes_back(self, statement, place):
        """(member, key, log, position) from which a revocation takes back what a key signed, or None."""
        if statement.kind != "key-revocation" or place.log not in self.logs:
            return None
        if self.logs[place.log].owner != statement.author or not self._is_good(statement, place):
            return None
        for said in place.trail:
            earlier = said.statement
            same = earlier.kind == "key-revocation" and earlier.body["key"] == statement.body["key"]
            # Once is enough. One that does not hold is as if it had not been said.
            if same and self._is_good(earlier, place):
                return None
        body = statement.body
        return (statement.author, body["key"], body["log"], body["sinceSeq"])

    def _is_good(self, statement, place):
        about = self.logs.get(statement.body["log"])
        own = about is not None and about.owner == statement.author
        return own and recovers(self.logs[place.log].keys, statement.signers)

    def ever(self, log, trails):
        """Every governance key that was in force anywhere in a log, on whatever branch."""
        found = set(self.logs[log].keys["governance"])
        for trail in trails:
            ring = self.ring(log, trail)
            found |= ring.governance | ring.retired
        return found


def is_taken_back(statement, place, revoked):
    """Whether one of these revocations takes a statement back where it stands."""
    return any(
        (name, key, log) == (statement.author, statement.key, place.log) and place.seq >= since
        for name, key, log, since in revoked
    )
