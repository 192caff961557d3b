"""The count: who votes, which votes are in the box, which of them count, and what they amount to."""

import hashlib
from dataclasses import dataclass, field, replace

import shapes
from hearing import Hearing
from keys import is_taken_back
from wire import bounded, raw

# Votes of one author on one proposal that a box of rules 2 takes
MAX_VSEQ = 15
IN_BOX = ("Counted", "Superseded", "Equivocation")


def merkle_root(ids):
    """RFC 6962, section 2.1, over the 32 bytes of each id, in their order."""

    def tree(leaves):
        if len(leaves) == 1:
            return leaves[0]
        half = 1
        while half * 2 < len(leaves):
            half *= 2
        return hashlib.sha256(b"\x01" + tree(leaves[:half]) + tree(leaves[half:])).digest()

    leaves = [hashlib.sha256(b"\x00" + raw(name)).digest() for name in sorted(ids)]
    return "sha256:" + (tree(leaves) if leaves else hashlib.sha256(b"").digest()).hex()


def faults_tolerated(members):
    return 0 if members <= 3 else (members - 1) // 3


def seal_quorum(members):
    return members // 2 + 1 if members <= 3 else 2 * members // 3 + 1


def membership_quorum(members, after):
    """From three to four or back all that stay must seal: those two quorums need not share an honest operator."""
    return 3 if {members, after} == {3, 4} else seal_quorum(members)


def ceil(number, share):
    return -(-number * share["num"] // share["den"])


@dataclass
class Vote:
    """A vote where it stands, and what became of it."""

    spoken: object
    verdict: str

    @property
    def statement(self):
        return self.spoken.statement

    @property
    def place(self):
        return self.spoken.place

    @property
    def id(self):
        return self.statement.id

    @property
    def author(self):
        return self.statement.author

    @property
    def choice(self):
        return self.statement.body["choice"]

    @property
    def vseq(self):
        return self.statement.body["vseq"]


@dataclass
class Box:
    """A ballot box and its count."""

    ids: frozenset
    closed_at: int
    all_voted: bool
    electors: int
    counts: dict
    turnout_needed: int
    min_yes: int
    outcome: str
    withdrawn: bool = False
    objection: str | None = None
    votes: list = field(default_factory=list)

    @property
    def root(self):
        return merkle_root(self.ids)


class Poll:
    """One proposal with everything that is fixed for every vote on it."""

    def __init__(self, name, author, body, pinned, numbers, keys, gathered):
        self.id, self.author, self.body, self.pinned = name, author, body, pinned
        self.pinned_quorum = seal_quorum(len(pinned.members))
        self.keys, self.gathered = keys, gathered
        self.parameters, self.rules = numbers.parameters, numbers.classes[body["class"]]
        self.complete = shapes.proposal_rules(body) >= 2
        self.groups = pinned.groups(body["interested"] | ({body["subject"]} if body["subject"] else set()))
        self.group_of = {member: group for group, several in self.groups.items() for member in several}
        self.hearing = Hearing(self, gathered)
        # Earlier votes that refused the same
        self.refusals = []

    def governs(self, spoken):
        """Whether a key signed that may speak for the author: under rules 1 keys do not change."""
        if self.complete:
            return self.keys.governs(spoken.statement, spoken.place, self.pinned)
        return self.pinned.is_governance(spoken.statement)

    def judge(self, spoken):
        """Whether a vote counts, looking at nothing but itself."""
        vote, body = spoken.statement, self.body
        tolerance, grace = self.parameters["clockToleranceSeconds"], self.parameters["graceSeconds"]
        if spoken.place.void:
            return spoken.place.void
        if vote.author not in self.group_of:
            return "NotElector"
        if not self.governs(spoken):
            return "WrongKeyRole"
        if vote.issued_at < bounded(body["opensAt"] - tolerance):
            return "TooEarly"
        if vote.issued_at > body["closesAt"]:
            return "TooLate"
        if vote.body["choice"] == "veto" and not vote.body["ground"]:
            return "VetoWithoutGround"
        if self.complete:
            return "TooManyVotes" if vote.body["vseq"] > MAX_VSEQ else "Counted"
        # By rules 1 the box is what was anchored in time; by rules 2 what enough operators held.
        latest = bounded(bounded(body["closesAt"] + grace) + tolerance)
        return "AnchoredTooLate" if spoken.place.at > latest else "Counted"

    def count(self, spoken, recused=frozenset(), delegated=(), revoked=()):
        """The box that votes make. `delegated`: (from, to) in the order in which they are used."""
        votes = [Vote(found, self.judge(found)) for found in spoken]
        for vote in votes:
            if vote.verdict == "Counted" and is_taken_back(vote.statement, vote.place, revoked):
                vote.verdict = "Revoked"
        if self.parameters["closeWhenAllVoted"]:
            self._keep_first(votes)
        else:
            self._keep_newest_log(votes)
            void_equivocation(votes)
        # An interest is the owner's, whichever of its members declares it.
        interested = {self.group_of[member] for member in recused if member in self.group_of}
        for vote in votes:
            if vote.verdict == "Counted" and self.group_of[vote.author] in interested:
                vote.verdict = "Recused"
        choices = self._one_each(votes)
        self._stand_in(choices, votes, recused, delegated)
        votes.sort(key=lambda vote: (vote.author, vote.vseq, vote.id))
        return self._close(choices, votes)

    def _keep_first(self, votes):
        """Where votes are final the first one of its author counts: its logs have no gaps for an earlier one."""

        def order(vote):
            return self.keys.generation(vote.place), vote.place.order

        first = {}
        for vote in votes:
            if vote.verdict == "Counted":
                first[vote.author] = min(first.get(vote.author, order(vote)), order(vote))
        for vote in votes:
            if vote.verdict == "Counted" and order(vote) != first[vote.author]:
                vote.verdict = "AlreadyFinal"

    def _keep_newest_log(self, votes):
        """Who got other keys in the middle of a vote is heard by the log that it has now."""
        newest = {}
        for vote in votes:
            if vote.verdict == "Counted":
                newest[vote.author] = max(newest.get(vote.author, 0), self.keys.generation(vote.place))
        for vote in votes:
            if vote.verdict == "Counted" and self.keys.generation(vote.place) < newest[vote.author]:
                vote.verdict = "Superseded"

    def _one_each(self, votes):
        """The newest vote of every owner; among equal numbers the one with the smallest id."""
        choices = {}
        for group, members in sorted(self.groups.items()):
            counted = [vote for vote in votes if vote.verdict == "Counted" and vote.author in members]
            counted.sort(key=lambda vote: (-vote.vseq, vote.id))
            for older in counted[1:]:
                older.verdict = "Superseded"
            if counted:
                choices[group] = counted[0].choice
        return choices

    def _stand_in(self, choices, votes, recused, delegated):
        """Adds those who did not vote themselves. One hop: who has no vote of its own passes none on."""
        for member in sorted(recused):
            if member in self.group_of:
                choices.setdefault(self.group_of[member], "abstain")
        limits = self.parameters["deliberation"]
        if not self.rules["delegation"] or not limits:
            return
        liars = {vote.author for vote in votes if vote.verdict == "Equivocation"}
        direct, used = dict(choices), {}
        share = limits["delegationCap"]
        cap = max(1, len(self.groups) * share["num"] // share["den"])
        for giver, taker in [pair for pair in delegated if pair[1] not in liars]:
            giver, taker = self.group_of.get(giver), self.group_of.get(taker)
            if giver is None or taker not in direct or self.groups[taker] & recused:
                continue
            if used.get(taker, 0) < cap and not self.groups[giver] & liars and giver not in choices:
                used[taker] = used.get(taker, 0) + 1
                choices[giver] = direct[taker]

    def _close(self, choices, votes):
        inside = [vote for vote in votes if vote.verdict in IN_BOX]
        opens, closes = self.body["opensAt"], self.body["closesAt"]
        voted = {vote.author for vote in inside}
        # All members, not only all owners: a second member of one owner could still add to a closed box.
        all_voted = self.parameters["closeWhenAllVoted"] and all(member in voted for member in self.group_of)
        last = max((max(v.statement.issued_at, v.place.at) for v in inside), default=closes)
        counts = {choice: sum(c == choice for c in choices.values()) for choice in ("yes", "no", "abstain", "veto")}
        electors = len(self.groups)
        return Box(
            ids=frozenset(vote.id for vote in inside),
            closed_at=min(max(last, opens), closes) if all_voted else closes,
            all_voted=all_voted,
            electors=electors,
            counts=counts,
            turnout_needed=ceil(electors, self.rules["turnout"]),
            min_yes=least_yes(electors, self.rules),
            outcome=outcome(counts, electors, self.rules),
            votes=votes,
        )

    # Rules 2: the box is what enough operators offered

    def belongs(self, entry):
        """Whether what somebody said belongs into the box, whoever offers it; notices and signs of life stand beside it."""
        if entry not in self.gathered.said:
            return False
        statement, place = self.gathered.said[entry].statement, self.gathered.said[entry].place
        body, elector = statement.body, statement.author in self.group_of
        if statement.kind == "vote":
            return elector and body["proposal"] == self.id and body["vseq"] <= MAX_VSEQ
        if statement.kind == "recusal":
            return elector and body["proposal"] == self.id
        if statement.kind == "reply":
            return self.hearing.replied_at(entry) is not None
        if statement.kind == "withdrawal":
            return body["proposal"] == self.id and statement.author == self.author
        if statement.kind == "key-revocation":
            # What it takes back was signed for this vote, so not before it opened.
            opened = bounded(self.body["opensAt"] - self.parameters["clockToleranceSeconds"])
            good = elector and statement.issued_at >= opened
            return good and self.keys.takes_back(statement, place) is not None
        if statement.kind == "delegation":
            return elector and self.rules["delegation"] and self.body["class"] in body["classes"]
        return False

    def taken_back(self, several):
        """What the revocations among these take back."""
        return [t for t in (self.keys.takes_back(s.statement, s.place) for s in several) if t]

    def count_box(self, entries):
        """What a box of these log entries amounts to."""
        said = self.gathered.said
        inside = [said[entry] for entry in sorted(entries) if entry in said and self.belongs(entry)]
        revoked = self.taken_back(inside)

        def stands(spoken):
            return self.governs(spoken) and not is_taken_back(spoken.statement, spoken.place, revoked)

        heard = [spoken.statement for spoken in inside if stands(spoken)]
        recused = {s.author for s in heard if s.kind == "recusal" and s.issued_at <= self.body["closesAt"]}
        # One vote that was anchored twice is one vote, where it came first; where it does not stand others may have put it.
        votes = {}
        for spoken in (spoken for spoken in inside if spoken.statement.kind == "vote"):
            known = votes.setdefault(spoken.statement.id, spoken)
            votes[spoken.statement.id] = min(known, spoken, key=lambda s: (not stands(s), s.place.order))
        box = self.count(list(votes.values()), recused, self._delegated(heard), revoked)
        in_time = [s for s in heard if s.kind == "withdrawal" and s.issued_at <= self.body["closesAt"]]
        cools = "coolDown" if any(refusal.outweighs(entries, box) for refusal in self.refusals) else None
        objection = self.hearing.objection(entries) or cools
        box = replace(box, ids=frozenset(entries), withdrawn=bool(in_time), objection=objection)
        self.hearing.closes(box, entries)
        return box

    def _delegated(self, heard):
        """From whom to whom: each member's newest delegation, if it covers this vote, in the order of their ids."""
        newest = {}
        for statement in heard:
            if statement.kind == "delegation":
                order = (statement.body["vseq"], statement.id)
                if statement.author not in newest or order > newest[statement.author][0]:
                    newest[statement.author] = (order, statement)
        limits = self.parameters["deliberation"]
        longest = limits["delegationMaxSeconds"] if limits else 0
        good = []
        for _, statement in newest.values():
            body = statement.body
            covers = statement.issued_at <= self.body["opensAt"] and self.body["closesAt"] <= body["notAfter"]
            in_bounds = body["notAfter"] <= bounded(statement.issued_at + longest)
            if covers and in_bounds and body["to"] not in (None, statement.author):
                good.append((statement.id, statement.author, body["to"]))
        return [(giver, taker) for _, giver, taker in sorted(good)]


def void_equivocation(votes):
    """Two different choices under one number void all votes of their author."""
    choices = {}
    for vote in votes:
        if vote.verdict == "Counted":
            choices.setdefault((vote.author, vote.vseq), set()).add(vote.choice)
    liars = {author for (author, _), several in choices.items() if len(several) > 1}
    for vote in votes:
        if vote.verdict == "Counted" and vote.author in liars:
            vote.verdict = "Equivocation"


def least_yes(electors, rules):
    how, share = rules["minYes"]
    return ceil(electors, share) if how == "ceil" else electors * share["num"] // share["den"] + 1


def outcome(counts, electors, rules):
    """What a count amounts to; integers only."""
    yes, veto = counts["yes"], counts["veto"]
    turnout, deciding = sum(counts.values()), yes + counts["no"] + veto
    if turnout < ceil(electors, rules["turnout"]):
        return "quorumNotMet"
    blocks = rules["veto"]
    # With five or more electors one alone cannot block.
    if blocks and veto >= (1 if electors <= 4 else 2) and veto * blocks["den"] >= turnout * blocks["num"]:
        return "vetoed"
    how, share = rules["threshold"]
    left, right = yes * share["den"], deciding * share["num"]
    enough = left > right if how == "moreThan" else left >= right
    return "passed" if deciding and enough and yes >= least_yes(electors, rules) else "rejected"
