"""Who is a member, counted or not, version by version."""

from dataclasses import dataclass, field

import charter
from wire import INT_MIN, bounded

PROBATION, DORMANT = "probation", "dormant"


@dataclass(frozen=True)
class Aside:
    """A member that is not counted: new until a time, or silent since one."""

    member: dict
    why: str
    time: int


@dataclass
class Membership:
    """The members of one version."""

    hash: str
    number: int = 0
    members: dict = field(default_factory=dict)
    aside: dict = field(default_factory=dict)
    used_ids: frozenset = frozenset()
    used_keys: frozenset = frozenset()
    settled_at: int = INT_MIN

    def get(self, name):
        if name in self.members:
            return self.members[name]
        return self.aside[name].member if name in self.aside else None

    def is_governance(self, statement):
        """By the keys with which its author came, which under rules 1 are all that it ever has."""
        member = self.members.get(statement.author)
        return member is not None and statement.key in member["keys"]["governance"]

    def is_of(self, seal):
        """Whether a seal stands in the log of a counted member's operator."""
        member = self.members.get(seal.by)
        return member is not None and member["keys"]["operator"] == seal.log

    def groups(self, concerned=()):
        """Who votes: owners with their members, without the owners of those whom it concerns."""
        left_out = {self.get(name)["controlGroup"] for name in concerned if self.get(name)}
        found = {}
        for name, member in self.members.items():
            if member["controlGroup"] not in left_out:
                found.setdefault(member["controlGroup"], set()).add(name)
        return found

    def may_part(self, name):
        return name in self.aside or (name in self.members and len(self.members) > 1)

    # The next version: one member changes

    def _next(self, enacted, **changed):
        of_version = {"hash": enacted.version, "number": self.number + 1, "settled_at": enacted.settled_at}
        return Membership(**{**self.__dict__, **of_version, **changed})

    def _used(self, name, keys):
        return {"used_ids": self.used_ids | {name}, "used_keys": self.used_keys | set(keys)}

    def founded(self, member):
        """With one founder more."""
        used = self._used(member["id"], charter.keys_of(member))
        return Membership(**{**self.__dict__, "members": {**self.members, member["id"]: member}, **used})

    def admitted(self, enacted, member, until):
        name, used = member["id"], self._used(member["id"], charter.keys_of(member))
        if until is None:
            return self._next(enacted, members={**self.members, name: member}, **used)
        return self._next(enacted, aside={**self.aside, name: Aside(member, PROBATION, until)}, **used)

    def counted(self, enacted, name):
        aside = dict(self.aside)
        back = aside.pop(name, None)
        members = {**self.members, name: back.member} if back else self.members
        return self._next(enacted, members=members, aside=aside)

    def set_aside(self, enacted, name, since):
        members = dict(self.members)
        silent = members.pop(name, None)
        aside = {**self.aside, name: Aside(silent, DORMANT, since)} if silent else self.aside
        return self._next(enacted, members=members, aside=aside)

    def parted(self, enacted, name):
        members, aside = dict(self.members), dict(self.aside)
        members.pop(name, None)
        aside.pop(name, None)
        return self._next(enacted, members=members, aside=aside)

    def rekeyed(self, enacted, name, keys):
        members, aside = dict(self.members), dict(self.aside)
        if name in members:
            members[name] = {**members[name], "keys": keys}
        elif name in aside:
            aside[name] = Aside({**aside[name].member, "keys": keys}, aside[name].why, aside[name].time)
        used = self.used_keys | set(keys["recovery"] + keys["governance"] + [keys["operator"]])
        return self._next(enacted, members=members, aside=aside, used_keys=used)


@dataclass
class Standing:
    """A member, present or past."""

    member: dict
    standing: str
    since: str
    left: str | None = None
    suspended: str | None = None
    # Proofs that no vote has lifted, by their names
    proofs: dict = field(default_factory=dict)

    @property
    def log(self):
        return self.member["keys"]["operator"]


def probation(body, rules, parameters):
    """Until when whom a proposal admits is not counted, if that is so."""
    seconds = parameters["probationSeconds"]
    return bounded(body["eta"] + seconds) if rules >= 2 and seconds > 0 else None


def parting(body):
    """Who is counted no more once a proposal is in force."""
    name, change = body["action"]
    return change["member"] if name in ("expel", "markDormant") else None


def counted_after(body, rules, pinned, parameters):
    """How many are counted once a proposal is in force."""
    name, now = body["action"][0], len(pinned.members)
    if name in ("confirm", "reactivate") or (name == "admit" and probation(body, rules, parameters) is None):
        return now + 1
    return max(0, now - 1) if parting(body) in pinned.members else now
