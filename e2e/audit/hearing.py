"""Whom a decision is about is heard: signs of life, replies, notices and appeals."""

from members import DORMANT
from wire import bounded

MOST_EVIDENCE = 16


class Hearing:
    """What entries of a box say of the member that a proposal is about, beside the votes."""

    def __init__(self, poll, gathered):
        self.poll, self.gathered = poll, gathered
        self.action, self.change = poll.body["action"]

    # Signs of life

    def _awaited_since(self):
        """From when on a sign of life counts, or None."""
        if self.action == "markDormant" and self.poll.parameters["deliberation"]:
            silence = self.poll.parameters["deliberation"]["members"]["dormantAfterSeconds"]
            return bounded(self.poll.body["opensAt"] - silence)
        if self.action == "reactivate":
            aside = self.poll.pinned.aside.get(self.change["member"])
            return aside.time if aside and aside.why == DORMANT else None
        return None

    def is_sign(self, entry):
        """The first entry after a silence is enough; those behind it would only fill the box."""
        sign, since = self.gathered.signs.get(entry), self._awaited_since()
        if sign is None or since is None or sign.by != self.change["member"]:
            return False
        member = self.poll.pinned.get(sign.by)
        own = member is not None and member["keys"]["operator"] == sign.log
        return own and sign.at > since and (sign.before is None or sign.before <= since)

    # Replies and notices

    def replied_at(self, entry):
        """When the member to be expelled replied, if an entry is its reply."""
        spoken = self.gathered.said.get(entry)
        if self.action != "expel" or spoken is None or spoken.statement.kind != "reply":
            return None
        statement = spoken.statement
        about = statement.body["proposal"] == self.poll.id and statement.author == self.change["member"]
        return spoken.place.at if about and self.poll.governs(spoken) else None

    def notice(self, entry):
        """Whose notice an entry is and of when: the member's own that it has it, or another's that it sent it."""
        said = self.gathered.notices.get(entry)
        if self.action != "expel" or said is None or said.body["proposal"] != self.poll.id:
            return None
        own = said.by == self.change["member"]
        if own != (said.body["notice"] == "received") or not self.poll.pinned.is_of(said):
            return None
        return said.by, said.at

    def to_offer(self):
        """Of every operator the first notice, and the signs of life."""
        first = {}
        for entry in self.gathered.notices:
            told = self.notice(entry)
            if told:
                by, at = told
                first[by] = min(first.get(by, (at, entry)), (at, entry))
        signs = {entry for entry in self.gathered.signs if self.is_sign(entry)}
        return {entry for _, entry in first.values()} | signs

    def heard_at(self, entries):
        """Since when the member counts as heard: it replied, or as many as must seal told it or tried."""
        times = [at for at in map(self.replied_at, entries) if at is not None]
        told = {}
        for found in filter(None, map(self.notice, entries)):
            told[found[0]] = min(told.get(*found), found[1])
        last = sorted(told.values())[: self.poll.pinned_quorum]
        if len(last) == self.poll.pinned_quorum:
            times.append(last[-1])
        return min(times, default=None)

    def _first_vote(self):
        # Before a second vote it was heard by its appeal.
        return self.action == "expel" and self.change["appeal"] is None

    def closes(self, box, entries):
        """Where a box closes once all have voted, it closes no earlier than the member is heard."""
        if not self._first_vote() or not box.all_voted:
            return
        heard, last = self.heard_at(entries), self.poll.body["closesAt"]
        box.all_voted = heard is not None
        box.closed_at = min(last if heard is None else max(box.closed_at, heard), last)

    def objection(self, entries):
        """What keeps a box from deciding, whatever the votes say."""
        signs = any(map(self.is_sign, entries))
        if self.action == "markDormant" and signs:
            return "refuted"
        if self.action == "reactivate" and not signs:
            return "unheard"
        if self._first_vote() and self.heard_at(entries) is None:
            return "unheard"
        return None


# Appeals


def is_evidence(pieces):
    return 1 <= len(pieces) <= MOST_EVIDENCE


def has_news(appeal, change):
    return is_evidence(appeal["evidence"]) and any(piece not in change["evidence"] for piece in appeal["evidence"])


def appealed(gathered, keys):
    """By appeal: the member, the expulsion's time of effect, and whether that was a first vote."""
    found = {}
    for target, appeals in gathered.appeals.items():
        known = gathered.proposals.get(target)
        if known is None or known.statement.body["action"][0] != "expel":
            continue
        change, eta = known.statement.body["action"][1], known.statement.body["eta"]
        for name, anchored in appeals.items():
            statement = anchored.statement
            signed = any(
                statement.key in (keys.in_force(statement, place) or ()) for place in anchored.within_budget()
            )
            if statement.author == change["member"] and signed:
                found[name] = (change["member"], eta, change["appeal"] is None)
    return found


def appeal_against(proposal_id, body, eta, pinned, gathered, keys):
    """The first appeal with anything new, made before an expulsion takes effect."""
    name, change = body["action"]
    if name != "expel" or change["appeal"] is not None:
        return None
    made = []
    for appeal_id, anchored in gathered.appeals.get(proposal_id, {}).items():
        statement = anchored.statement
        if statement.author == change["member"] and has_news(statement.body, change):
            good = [p for p in anchored.within_budget() if p.at <= eta and keys.governs(statement, p, pinned)]
            made += [(place.at, appeal_id) for place in good]
    return min(made)[1] if made else None
