"""What remains of a history at a checkpoint, and whether that is what the checkpoint says.

A checkpoint names a position of each log that it settles, and the digest of what remains of the entries up to there:
every version that was made, of every log its end, its latest time and the proposals in it, and the names of the entries
that may still decide something. It follows from those entries alone, so it is read from them as if nothing else were.
"""

import json

import history
import shapes
from members import DORMANT
from wire import INT_MIN, bounded, digest

# A version may name versions of the chains before its own.
ORDER = "charter membership releases engines standing placement economy operators checkpoints".split()
# Whatever may yet be shown with them, they say something about a whole log or about all that is decided.
ALWAYS = ("evidence", "seal-evidence", "log-resume")
# What was proposed may be in force, and seals that come only later may say that it was refused.
ALWAYS_SAID = ("proposal", "leave", "delegation", "key-update", "key-revocation", "emergency-order", "co-signature")
ABOUT_A_PROPOSAL = ("vote", "withdrawal", "recusal", "reply", "appeal")


class NotSettled(Exception):
    """Nothing can be settled at these positions."""


class Remains:
    """What remains of the entries up to `heads`, (position, id) by log, where all up to `floor` was settled before."""

    def __init__(self, whole, heads, floor):
        self.heads = heads
        _check(whole, heads)
        self.past = history.read(whole.bundle.up_to(heads), whole.owners, heads)
        rules = self.past.parameters["deliberation"]
        if self.past.rules < 2 or not rules:
            raise NotSettled("the rules in force there know no checkpoints")
        # What was settled of a log before stays so.
        grows = {log for log, head in heads.items() if floor.get(log) != head}
        accused = [name for name, member in self.past.members.items() if member.proofs and member.log in grows]
        if accused:
            raise NotSettled(f"there are proofs against {', '.join(accused)}")
        ends = sorted(self._chain(log).by_id[name].at for log, (_, name) in heads.items())
        middle = ends[len(ends) // 2] if ends else 0
        self.recent = bounded(middle - rules["members"]["dormantAfterSeconds"])
        self.over = {name for name, proposal in self.past.proposals.items() if self._is_over(proposal)}
        made = [version.enacted for scope in ORDER for version in self.past.chains[scope] if version.enacted]
        self.made = {enacted.child for enacted in made}
        self.over |= self.made & self.past.gathered.leaves.keys()

    @property
    def digest(self):
        said = {"logs": self._logs(), "versions": list(self._versions()), "kept": sorted(self._kept())}
        return digest(json.dumps(said, separators=(",", ":")).encode())

    def _chain(self, log):
        return self.past.bundle.chains[log]

    def _logs(self):
        return {log: self._of_log(log) for log in sorted(self.heads)}

    def _of_log(self, log):
        seq, name = self.heads[log]
        counted = [entry for entry in self._chain(log).entries() if entry.within_budget]
        own = [(entry.seq, entry.statement.nested) for entry in counted if self._is_own(log, entry)]
        proposals = sorted((at, said.id, said.body["closesAt"]) for at, said in own if said.kind == "proposal")
        return {
            "head": {"seq": seq, "id": name},
            "lastAt": max((entry.at for entry in counted), default=INT_MIN),
            "proposals": [{"seq": at, "id": said, "closesAt": closes} for at, said, closes in proposals],
        }

    def _versions(self):
        for scope in ORDER:
            for enacted in (version.enacted for version in self.past.chains[scope] if version.enacted):
                yield {
                    "scope": scope,
                    "version": enacted.version,
                    "proposal": enacted.child,
                    "root": enacted.root,
                    "term": enacted.term,
                    "settledAt": enacted.settled_at,
                }

    def _kept(self):
        for log, (_, last) in self.heads.items():
            yield from (entry.id for entry in self._chain(log).entries() if entry.id != last and self._may_decide(log, entry))

    def _is_own(self, log, entry):
        inner = entry.statement.nested
        own = entry.statement.kind == "anchor" and inner is not None and inner.body is not None
        return own and inner.author == self.past.owners[log] and inner.coop == self.past.bundle.coop

    def _may_decide(self, log, entry):
        """Whether something above may still hang on an entry."""
        if entry.at > self.recent or self._shows_return(log, entry):
            return True
        kind, body = entry.statement.kind, entry.statement.body
        if body is None:
            return False
        if kind == "anchor":
            return self._is_own(log, entry) and self._said_may_decide(entry.statement.nested)
        # What was refused may be proposed again at any later version.
        if kind == "close-seal" and entry.id in self.past.gathered.refused:
            return True
        if kind in ("box-offer", "close-seal", "notice-sent"):
            return body["proposal"] not in self.over
        if kind == "enact-seal":
            # What an operator sealed for a membership bars it from an older one for ever.
            return body["slot"]["scope"] == "membership" or body["proposal"] not in self.over
        if kind == "slot-status":
            return not self._was_followed(body["slot"]["scope"], body["slot"]["parent"])
        return kind in ALWAYS

    def _said_may_decide(self, said):
        if said.kind in ABOUT_A_PROPOSAL:
            return said.body["proposal"] not in self.over
        return said.kind in ALWAYS_SAID

    def _shows_return(self, log, entry):
        """A silent member speaks in its present log."""
        owner = self.past.owners[log]
        aside = self.past.membership.aside.get(owner)
        silent = aside is not None and aside.why == DORMANT and entry.at > aside.time
        return silent and self.past.members[owner].log == log

    def _was_followed(self, scope, version):
        names = [known.hash for known in self.past.chains.get(scope, ())]
        return version in names[:-1]

    def _is_over(self, proposal):
        """Whether nothing can come of a proposal, whatever is still learned."""
        action, change = proposal.body["action"]
        if action == "cancelProposal":
            # It is over with what it would stop.
            target = self.past.proposals.get(change["proposal"])
            return target is not None and target.body["action"][0] != action and self._is_over(target)
        if shapes.proposal_rules(proposal.body) < 2:
            return True
        return self._was_followed(proposal.body["scope"], proposal.body["parent"])


def _check(whole, heads):
    """Whether the entries up to there are all here, and one branch."""
    for log, (seq, name) in heads.items():
        entry = whole.bundle.chains[log].by_id.get(name) if log in whole.bundle.chains else None
        if entry is None or entry.seq != seq:
            raise NotSettled(f"entry {seq} of {log} is another one")
        if log in whole.forks and whole.forks[log][0] <= seq:
            raise NotSettled(f"{log} forked before it was settled")


def _check_order(whole, floor, heads):
    """Whether a checkpoint goes on from those before it."""
    for log, (_, name) in floor.items():
        if log not in heads or name not in whole.bundle.chains[log].leading_to(heads[log][1]):
            raise NotSettled(f"{log} was settled before, up to another entry")


def first_false(whole):
    """The first checkpoint in force that says something else than the entries up to it, with why; or None."""
    floor = {}
    for version in whole.chains["checkpoints"][1:]:
        _, said = whole.proposals[version.enacted.child].body["action"]
        heads = {log: (head["seq"], head["id"]) for log, head in said["logs"].items()}
        try:
            found = Remains(whole, heads, floor).digest
            _check_order(whole, floor, heads)
        except NotSettled as error:
            return version.hash, str(error)
        if found != said["state"]:
            return version.hash, f"what remains is {found}"
        floor.update(heads)
    return None
