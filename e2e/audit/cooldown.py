"""What was refused within the cool-down needs two thirds of all electors the next time."""

from collections import defaultdict
from dataclasses import dataclass, field

import shapes
from ballots import seal_quorum
from wire import bounded

# What protects the others waits for nothing
URGENT = ("Cancel", "Recall", "Emergency")


@dataclass
class Refusal:
    """An earlier vote that refused the same, with the seals that say so."""

    by: str
    closed_at: int
    quorum: int
    seals: dict = field(default_factory=dict)

    def shown_by(self, entries):
        return len({member for entry, member in self.seals.items() if entry in entries}) >= self.quorum

    def outweighs(self, entries, box):
        """Whether it holds against the count of a box with these entries."""
        overruled = box.electors and box.counts["yes"] * 3 >= box.electors * 2
        return not overruled and self.shown_by(entries)


def subject_matter(action):
    """An application is what it says, not who signed the copy of it."""
    name, change = action
    if name == "admit":
        application = change["application"]
        return name, application["payloadType"], application["payload"]
    return name, change


def owner(membership, member):
    found = membership.members.get(member)
    return found["controlGroup"] if found else None


def repeats(body, earlier):
    """Whether a proposal asks again, and asks nobody whom an interest kept from the earlier vote."""
    return earlier["interested"] <= body["interested"] and subject_matter(body["action"]) == subject_matter(
        earlier["action"]
    )


def refusals(history, poll):
    """What a box of a proposal may show to have been refused."""
    limits, body, gathered = poll.parameters["deliberation"], poll.body, history.gathered
    urgent = shapes.ACTIONS[body["action"][0]][1] in URGENT
    if not limits or limits["coolDownSeconds"] <= 0 or urgent:
        return []
    after, mine, found = bounded(body["opensAt"] - limits["coolDownSeconds"]), owner(poll.pinned, poll.author), []
    for name in sorted(set(gathered.refused.values()) - {poll.id}):
        known = gathered.proposals.get(name)
        if known is None or not repeats(body, known.statement.body):
            continue
        pinned = history.memberships.get(known.statement.body["membership"])
        if pinned is None:
            continue
        theirs = owner(pinned, known.statement.author)
        own = theirs is not None and theirs == mine
        agreed = defaultdict(dict)
        for seal in gathered.seals["close-seal"].get(name, ()):
            said = seal.body
            if seal.id not in gathered.refused or not pinned.is_of(seal):
                continue
            recent = said["closedAt"] > after and (own or said["closedAt"] <= body["opensAt"])
            if recent and (own or said["outcome"] != "withdrawn"):
                keys = ("count", "root", "membershipHead", "outcome", "closedAt")
                agreed[(*said["basis"]["slot"].values(), *(said[key] for key in keys))][seal.id] = seal.by
        quorum = seal_quorum(len(pinned.members))
        found += [Refusal(name, says[-1], quorum, seals) for says, seals in agreed.items()]
    return found


def to_offer(found):
    """The seals of the oldest refusal that is complete."""
    whole = [refusal for refusal in found if refusal.shown_by(refusal.seals)]
    oldest = min(whole, key=lambda refusal: (refusal.closed_at, refusal.by), default=None)
    return set(oldest.seals) if oldest else set()
