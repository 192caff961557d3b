"""Whether a proposal may be voted on at all: by itself, what it pins, and its author's own log."""

import charter
import shapes
from ballots import bounded

LAST_TERM = 1_000


def judge(history, anchored):
    """The name of the first rule that a proposal breaks, or None."""
    statement, body = anchored.statement, anchored.statement.body
    if anchored.void:
        return "AnchorVoid"
    numbers = history.numbers.get(body["charter"] or history.genesis("charter"))
    if numbers is None:
        return "UnknownCharter"
    if anchored.open_before >= numbers.parameters["maxOpenProposals"]:
        return "TooManyOpen"
    pinned = history.memberships.get(body["membership"])
    if pinned is None:
        return "UnknownMembership"
    if statement.author not in pinned.members:
        return "AuthorNotActive"
    if statement.key not in pinned.members[statement.author]["keys"]["governance"]:
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
    return _judge_action(history, anchored, numbers, pinned)


def _times_hold(body, issued_at, numbers):
    rules, parameters = numbers.classes[body["class"]], numbers.parameters
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
    if name == "expel":
        if body["parent"] != body["membership"]:
            return "PinnedElsewhere"
        if body["subject"] != change["member"] or change["member"] not in pinned.members:
            return "WrongSubject"
        # Two members part; neither can put the other out.
        return "TooFewMembers" if len(pinned.members) < 3 else None
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
    if len(pinned.members) >= charter.MOST_MEMBERS[history.rules]:
        return "TooManyMembers"
    if member["id"] in pinned.used_ids or pinned.used_keys & set(charter.keys_of(member)):
        return "IdOrKeyUsed"
    needed = min(numbers.parameters["sponsors"], len(pinned.members))
    sponsors = [m for m in pinned.members.values() if anchored.signers & set(m["keys"]["governance"])]
    return "TooFewSponsors" if len(sponsors) < needed else None
