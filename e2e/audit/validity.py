"""Whether a proposal may be voted on at all: by itself, what it pins, and its author's own log."""

import charter
import shapes
from hearing import is_evidence
from members import DORMANT, PROBATION
from wire import bounded

LAST_TERM = 1_000
MOST_PROOFS = 64


def judge(history, anchored):
    """The name of the first rule that a proposal breaks where it is told, or None if it holds at any of its places."""
    first = _judge_at(history, anchored, anchored.first)
    others = [place for place in anchored.places if place is not anchored.first]
    held = first is None or any(_judge_at(history, anchored, place) is None for place in others)
    return None if held else first


def _judge_at(history, anchored, place):
    statement, body = anchored.statement, anchored.statement.body
    if place.void:
        return "AnchorVoid"
    numbers = history.numbers.get(body["charter"] or history.genesis("charter"))
    if numbers is None:
        return "UnknownCharter"
    if place.open_before >= numbers.parameters["maxOpenProposals"]:
        return "TooManyOpen"
    pinned = history.memberships.get(body["membership"])
    if pinned is None:
        return "UnknownMembership"
    if statement.author not in pinned.members:
        return "AuthorNotActive"
    if not _is_signed(history, statement, place, pinned):
        return "WrongKeyRole"
    scope, class_name, _, _ = shapes.ACTIONS[body["action"][0]]
    if body["scope"] != scope:
        return "WrongScope"
    if body["class"] != class_name:
        return "WrongClass"
    if not history.is_version(scope, body["parent"]):
        return "UnknownParent"
    if body["term"] > LAST_TERM:
        return "WrongTerm"
    rules = shapes.proposal_rules(body)
    if rules > history.rules or (rules >= 2) != (body["charter"] is not None):
        return "OtherRules"
    if not _times_hold(body, statement.issued_at, numbers):
        return "WrongTime"
    # Whoever proposes could otherwise leave out all that are against it.
    named = [pinned.get(name) for name in body["interested"]]
    if not all(member and anchored.signers & _keys_to_sign(history, member, True) for member in named):
        return "InterestNotSigned"
    return _judge_action(history, anchored, numbers, pinned)


def _keys_to_sign(history, member, complete):
    """What a member signs besides has no place in its own log, so under rules 2 any key that it ever had there does."""
    ever = history.keys_ever(member["keys"]["operator"]) if complete else set()
    return set(member["keys"]["governance"]) | ever


def _is_signed(history, statement, place, pinned):
    """By a key that may speak for its author there; by rules 1 keys do not change."""
    complete = shapes.proposal_rules(statement.body) >= 2
    if not complete or history.keys.in_force(statement, place) is None:
        return pinned.is_governance(statement)
    return history.keys.governs(statement, place, pinned)


def pace(rules, action):
    """The periods of a class: a second vote takes place while the first one would wait, and has an effect at once."""
    name, change = action
    if name != "expel" or change["appeal"] is None:
        return rules
    return {**rules, "delaySeconds": 0, "periodSeconds": max(1, rules["timelockSeconds"]), "timelockSeconds": 0}


def _times_hold(body, issued_at, numbers):
    rules, parameters = pace(numbers.classes[body["class"]], body["action"]), numbers.parameters
    after_close = parameters["graceSeconds"] + rules["timelockSeconds"]
    return (
        body["opensAt"] >= bounded(issued_at + rules["delaySeconds"])
        and body["closesAt"] >= bounded(body["opensAt"] + rules["periodSeconds"])
        and body["eta"] == bounded(body["closesAt"] + after_close)
        and body["expiresAt"] == bounded(body["eta"] + parameters["enactWindowSeconds"])
    )


def _judge_action(history, anchored, numbers, pinned):
    body = anchored.statement.body
    name, change = body["action"]
    if name == "admit":
        return _judge_admission(history, anchored, numbers, pinned)
    if name in ABOUT_MEMBERS:
        follows = body["scope"] == "standing" or body["parent"] == body["membership"]
        return ABOUT_MEMBERS[name](history, anchored, pinned, change) if follows else "PinnedElsewhere"
    if body["subject"] is not None:
        return "WrongSubject"
    if name == "addEngine":
        return None if charter.engine_holds(change["engine"]) else "InvalidEngine"
    if name == "setRules":
        # By the rules of the version that it follows, so that what it sets does not make it wrong.
        if change["rules"] not in (1, 2) or change["rules"] <= history.numbers[body["parent"]].rules:
            return "OtherRules"
        return None if charter.deliberation_holds(change["deliberation"]) else "InvalidCharter"
    if name == "changeCharter":
        parameters, classes = change["parameters"], change["classes"]
        good = parameters["deliberation"] and charter.numbers_hold(parameters, classes)
        return None if good else "InvalidCharter"
    if not charter.norm_holds(name, change):
        return "InvalidNorm"
    if name == "cancelProposal":
        target = history.target(change["proposal"])
        if target is None:
            return "UnknownTarget"
        latest = bounded(target["eta"] - 3 * numbers.parameters["graceSeconds"])
        return "TooLateToCancel" if body["closesAt"] > latest else None
    return None


def _judge_admission(history, anchored, numbers, pinned):
    body = anchored.statement.body
    if body["parent"] != body["membership"]:
        return "PinnedElsewhere"
    member = anchored.statement.nested.body["member"]
    if body["subject"] not in (None, member["id"]):
        return "WrongSubject"
    if len(pinned.members) + len(pinned.aside) >= charter.MOST_MEMBERS[history.rules]:
        return "TooManyMembers"
    if member["id"] in pinned.used_ids or pinned.used_keys & set(charter.keys_of(member)):
        return "IdOrKeyUsed"
    needed = min(numbers.parameters["sponsors"], len(pinned.members))
    complete = shapes.proposal_rules(body) >= 2
    sponsors = [m for m in pinned.members.values() if anchored.signers & _keys_to_sign(history, m, complete)]
    return "TooFewSponsors" if len(sponsors) < needed else None


# Decisions about single members


def _is_subject(body, pinned, name):
    """Whether a proposal says whom it is about: neither it nor its owner's other members vote."""
    return body["subject"] == name and pinned.get(name) is not None


def _judge_expulsion(history, anchored, pinned, change):
    body, name = anchored.statement.body, change["member"]
    if not _is_subject(body, pinned, name):
        return "WrongSubject"
    if not is_evidence(change["evidence"]):
        return "NoEvidence"
    if change["appeal"] is not None:
        appeal = history.appealed.get(change["appeal"])
        if appeal is None:
            return "UnknownTarget"
        member, eta, is_first = appeal
        if member != name or not is_first or anchored.statement.issued_at > eta:
            return "NoSecondVote"
    return _with_two(pinned, name)


def _with_two(pinned, name):
    """Two members part; neither can decide alone about the other."""
    return "TooFewMembers" if name in pinned.members and len(pinned.members) < 3 else None


def _judge_reset(_, anchored, pinned, change):
    body, name, keys = anchored.statement.body, change["member"], change["keys"]
    if not _is_subject(body, pinned, name):
        return "WrongSubject"
    if _with_two(pinned, name):
        return "TooFewMembers"
    member = {**pinned.get(name), "keys": keys}
    if not charter.member_holds(member):
        return "InvalidKeys"
    if pinned.used_keys & set(charter.keys_of(member)):
        return "IdOrKeyUsed"
    proved = keys["operator"] in anchored.signers and anchored.signers & set(keys["governance"])
    return None if proved else "KeyNotProved"


def _judge_confirmation(_, anchored, pinned, change):
    body, aside = anchored.statement.body, pinned.aside.get(change["member"])
    if body["subject"] is not None:
        return "WrongSubject"
    if aside is None or aside.why != PROBATION:
        return "NotOnProbation"
    return "WrongTime" if body["opensAt"] < aside.time else None


def _judge_dormancy(_, anchored, pinned, change):
    # Its own vote would be a sign of life: it keeps it.
    if anchored.statement.body["subject"] is not None or change["member"] not in pinned.members:
        return "WrongSubject"
    return _with_two(pinned, change["member"])


def _judge_return(_, anchored, pinned, change):
    if anchored.statement.body["subject"] is not None:
        return "WrongSubject"
    aside = pinned.aside.get(change["member"])
    return None if aside is not None and aside.why == DORMANT else "NotDormant"


def _judge_lifting(_, anchored, pinned, change):
    if not _is_subject(anchored.statement.body, pinned, change["member"]):
        return "WrongSubject"
    return None if 1 <= len(change["proofs"]) <= MOST_PROOFS else "NoProofs"


def _judge_subject(_, anchored, pinned, change):
    return None if _is_subject(anchored.statement.body, pinned, change["member"]) else "WrongSubject"


ABOUT_MEMBERS = {
    "expel": _judge_expulsion,
    "resetKeys": _judge_reset,
    "confirm": _judge_confirmation,
    "markDormant": _judge_dormancy,
    "reactivate": _judge_return,
    "liftQuarantine": _judge_lifting,
    "suspend": _judge_subject,
    "reinstate": _judge_subject,
}
