"""Orders of a few: who stands behind them, until when they hold, and which of them came too soon again."""

from dataclasses import dataclass

from wire import bounded


@dataclass
class Order:
    """An emergency order and what became of it."""

    id: str
    author: str
    issued_at: int
    stop: tuple
    cause: str
    signed: frozenset
    owners: int
    needed: int
    until: int
    again_at: int
    barred_by: str | None = None

    @property
    def takes_effect(self):
        return self.owners >= self.needed and self.barred_by is None

    def standing(self, now):
        if self.barred_by:
            return "Barred"
        if not self.takes_effect:
            return "Short"
        return "Holds" if now < self.until else "Lapsed"


def needed(owners):
    """How many owners of so many: those of the member that it is about do not sign."""
    return max(1, min(owners - 1, max(2, -(-owners // 3))))


def orders(history):
    """All orders that name versions which are known, by their ids."""
    found = [_read(history, anchored) for anchored in history.gathered.orders.values()]
    found = sorted(filter(None, found), key=lambda order: (order.issued_at, order.id))
    effective = []
    for order in found:
        for earlier in effective:
            same = (earlier.stop, earlier.cause) == (order.stop, order.cause)
            if same and order.issued_at < earlier.again_at:
                order.barred_by = earlier.id
                break
        if order.takes_effect:
            effective.append(order)
    return {order.id: order for order in found}


def _subject(history, stop):
    what, about = stop
    if what == "member":
        return about
    if what == "key":
        # By the keys with which logs began: a rotation changes nothing about an order.
        for _, log in sorted(history.keys.logs.items()):
            if about in log.keys["recovery"] + log.keys["governance"] + [log.keys["operator"]]:
                return log.owner
    return None


def _read(history, anchored):
    statement, body = anchored.statement, anchored.statement.body
    numbers, pinned = history.numbers.get(body["charter"]), history.memberships.get(body["membership"])
    if numbers is None or pinned is None or not numbers.parameters["deliberation"]:
        return None
    periods, issued_at = numbers.parameters["deliberation"]["members"], statement.issued_at
    earliest = bounded(issued_at - numbers.parameters["clockToleranceSeconds"])
    until = bounded(issued_at + periods["emergencySeconds"])
    subject = pinned.get(_subject(history, body["stop"]))
    group = subject["controlGroup"] if subject else None
    signed = set()
    for said in (anchored, *history.gathered.co_signatures.get(statement.id, {}).values()):
        member = pinned.members.get(said.statement.author)
        if member is None or member["controlGroup"] == group:
            continue
        # A signature from before the order, or after its time, is for something else.
        in_time = [place for place in said.within_budget() if earliest <= place.at < until]
        if any(history.keys.governs(said.statement, place, pinned) for place in in_time):
            signed.add(member["id"])
    if statement.author not in signed:
        return None
    return Order(
        id=statement.id,
        author=statement.author,
        issued_at=issued_at,
        stop=body["stop"],
        cause=body["cause"],
        signed=frozenset(signed),
        owners=len({pinned.members[name]["controlGroup"] for name in signed}),
        needed=needed(len(pinned.groups())),
        until=until,
        again_at=bounded(issued_at + periods["emergencyAgainSeconds"]),
    )
