"""Proofs by an operator's own signatures that it did what an honest one does not."""

from dataclasses import dataclass

from seals import triple
from wire import digest


@dataclass(frozen=True)
class Proof:
    """Two entries of one log, and what they show."""

    log: str
    offence: tuple
    entries: tuple

    @property
    def id(self):
        text = "\n".join(map(str, self.offence))
        return digest(f"koinon/proof/v1\n{self.log}\n{text}\n".encode())


def says(body):
    """A close seal without what it rests on: the same box can be named by other offers."""
    return {name: value for name, value in body.items() if name != "basis"}


def of_close_seals(one, two):
    """What two close seals of one operator show. Those of rules 1 show nothing."""
    if not one["basis"] or not two["basis"]:
        return []
    left, right = triple(one["basis"]["slot"]), triple(two["basis"]["slot"])
    shown = []
    same_round = (one["proposal"], one["round"]) == (two["proposal"], two["round"])
    if same_round and (says(one), left) != (says(two), right):
        shown.append(("round", one["proposal"], one["round"]))
    both = one["outcome"] == two["outcome"] == "passed" and left == right
    if both and one["proposal"] != two["proposal"] and left[0] != "cancellations":
        shown.append(("passed", *left))
    return shown


def of_enact_seals(one, two):
    return [("enacted", *triple(one["slot"]))] if one["slot"] == two["slot"] and one != two else []


def of_statements(one, two, coop):
    """What two entries show that somebody reports."""
    same = (one.key, one.author, one.coop) == (two.key, two.author, two.coop)
    if not same or one.coop != coop or one.id == two.id or None in (one.seq, two.seq, one.body, two.body):
        return []
    if one.kind == two.kind == "close-seal":
        shown = of_close_seals(one.body, two.body)
    elif one.kind == two.kind == "enact-seal":
        shown = of_enact_seals(one.body, two.body)
    else:
        shown = []
    return [Proof(one.key, offence, tuple(sorted((one.id, two.id)))) for offence in shown]


def of_held(gathered):
    """The conflicts between all seals that are held; a seal is compared with the first one of its sort."""
    found = []

    def compare(first, key, seal, shows):
        known = first.setdefault(key, seal)
        pair = tuple(sorted((known.id, seal.id)))
        found.extend(Proof(seal.log, offence, pair) for offence in shows(known.body, seal.body))

    rounds, passed, enacted = {}, {}, {}
    for _, seals in sorted(gathered.seals["close-seal"].items()):
        for seal in (seal for seal in seals if seal.body["basis"]):
            compare(rounds, (seal.log, seal.body["proposal"], seal.body["round"]), seal, of_close_seals)
            if seal.body["outcome"] == "passed":
                compare(passed, (seal.log, triple(seal.body["basis"]["slot"])), seal, of_close_seals)
    for _, seals in sorted(gathered.seals["enact-seal"].items()):
        for seal in seals:
            compare(enacted, (seal.log, triple(seal.body["slot"])), seal, of_enact_seals)
    return found


def against(history):
    """The standing proofs by log: of each name the one with the smallest entries."""
    found = of_held(history.gathered) + history.reported
    found += [Proof(log, ("fork", seq), (one, two)) for log, (seq, one, two) in history.forks.items()]
    by_log = {}
    for proof in found:
        known = by_log.setdefault(proof.log, {})
        known[proof.id] = min(known.get(proof.id, proof), proof, key=lambda p: p.entries)
    return by_log
