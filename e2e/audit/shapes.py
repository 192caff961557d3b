"""What a body must look like. Bodies that decide are closed: one field too many, and it says nothing at all."""

import ipaddress
import re
import unicodedata

from wire import DIGEST, INT_MAX, INT_MIN, KEY, is_envelope, is_label


class Shape(Exception):
    """A body breaks its schema."""


def need(condition, what="a value"):
    if not condition:
        raise Shape(what)


# Simple values: each of these takes a value and returns it, or raises


def integer(least=INT_MIN, most=INT_MAX):
    def check(value):
        need(type(value) is int and least <= value <= most, "a number")
        return value

    return check


u16, u32, u64, i64 = integer(0, 2**16 - 1), integer(0, 2**32 - 1), integer(0), integer()


def boolean(value):
    need(type(value) is bool, "true or false")
    return value


def string(holds):
    def check(value):
        need(isinstance(value, str) and holds(value), f"{value!r:.60}")
        return value

    return check


def matching(pattern):
    compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
    return string(lambda text: compiled.fullmatch(text) is not None)


def text(most):
    """What people read: no control characters that could steer a terminal."""

    def holds(value):
        controls = any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in value)
        return len(value.encode()) <= most and not controls

    return string(holds)


def is_subdomain(name):
    return len(name.encode()) <= 253 and all(is_label(part, 63) for part in name.split("."))


def is_endpoint(value):
    host, colon, port = value.removeprefix("https://").rpartition(":")
    if not value.startswith("https://") or not colon or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        return False
    if host.startswith("[") and host.endswith("]"):
        try:
            return "%" not in host and bool(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return False
    return is_subdomain(host)


label30, label63 = string(lambda t: is_label(t, 30)), string(lambda t: is_label(t, 63))
digest, key, line, prose = matching(DIGEST), matching(KEY), text(200), text(8192)


def visible(most):
    return matching(rf"[!-~]{{1,{most}}}")


def plain(most, allowed):
    return rf"[A-Za-z0-9{re.escape(allowed)}]{{1,{most}}}"


# Composed values


def closed(required, optional=None, defaults=None):
    """An object with these fields and no other. Null is absent where a field is optional, and nowhere else."""
    optional, defaults = optional or {}, defaults or {}

    def check(value):
        need(isinstance(value, dict), "an object")
        need(value.keys() <= required.keys() | optional.keys() | defaults.keys(), "a field that nobody knows")
        read = {name: of(value[name]) for name, of in required.items() if name in value}
        need(read.keys() == required.keys(), "a field is missing")
        for name, of in optional.items():
            read[name] = None if value.get(name) is None else of(value[name])
        for name, (of, otherwise) in defaults.items():
            read[name] = of(value[name]) if name in value else otherwise()
        return read

    return check


def sequence(of):
    def check(value):
        need(isinstance(value, list), "a list")
        return [of(item) for item in value]

    return check


def collection(of):
    return lambda value: frozenset(sequence(of)(value))


def mapping(key_of, of):
    def check(value):
        need(isinstance(value, dict), "an object")
        return {key_of(name): of(item) for name, item in value.items()}

    return check


def word(*words):
    return string(lambda value: value in words)


def variant(of):
    """An object with one key, which says what the value is."""

    def check(value):
        need(isinstance(value, dict) and len(value) == 1, "one key")
        ((name, inner),) = value.items()
        need(name in of, name)
        return name, of[name](inner)

    return check


def envelope(value):
    need(is_envelope(value), "an envelope")
    return value


# The charter and the catalogue

SCOPES = (
    "membership releases engines charter standing placement economy operators checkpoints cancellations"
).split()
CLASSES = ("Routine", "Economic", "Admit", "Charter", "Expel", "Recall", "Cancel", "Emergency")
scope, class_name = word(*SCOPES), word(*CLASSES)

fraction = closed({"num": u32, "den": u32})
DAY = 86_400
MEMBER_PERIODS = {
    "dormantAfterSeconds": 30 * DAY,
    "noticeSeconds": 3 * DAY,
    "emergencySeconds": 3 * DAY,
    "emergencyAgainSeconds": 30 * DAY,
}
member_periods = closed({}, defaults={name: (i64, lambda days=days: days) for name, days in MEMBER_PERIODS.items()})
deliberation = closed(
    {"delegationMaxSeconds": i64, "delegationCap": fraction},
    defaults={"coolDownSeconds": (i64, lambda: 14 * DAY), "members": (member_periods, lambda: dict(MEMBER_PERIODS))},
)
class_rules = closed(
    {
        "delaySeconds": i64,
        "periodSeconds": i64,
        "turnout": fraction,
        "threshold": variant({"moreThan": fraction, "atLeast": fraction}),
        "minYes": variant({"ceil": fraction, "floorPlusOne": fraction}),
        "timelockSeconds": i64,
        "delegation": boolean,
    },
    {"veto": fraction},
)
PERIODS = (
    "graceSeconds sealBySeconds clockToleranceSeconds enactWindowSeconds beaconSeconds freshSeconds lostSeconds "
    "leaseSeconds leaseMarginSeconds keepServingMaxSeconds probationSeconds"
).split()
parameters = closed(
    {
        **dict.fromkeys(PERIODS, i64),
        "budgets": closed({"bytesPerDay": u64, "entriesPerDay": u64}),
        "inviteHours": u32,
        "sponsors": u32,
        "maxOpenProposals": u32,
        "closeWhenAllVoted": boolean,
    },
    {"deliberation": deliberation},
)
classes = mapping(class_name, class_rules)

endpoints = (sequence(string(is_endpoint)), list)
member_keys = closed({"governance": sequence(key), "operator": key}, defaults={"recovery": (sequence(key), list)})
member = closed(
    {
        "id": label30,
        "owner": line,
        "controlGroup": label63,
        "site": closed({"name": label30, "region": label63, "jurisdiction": matching(r"[A-Z]{2}")}),
        "keys": member_keys,
        "endpoints": closed({}, defaults={"peer": endpoints, "gateway": endpoints}),
    }
)

uri = matching(r"(?=[!-~]{1,512}$)(hf|https?)://[!-~]+")
release = closed(
    {"uri": uri, "revision": visible(128), "manifestDigest": digest, "quantization": label63, "license": visible(64)},
    {"memoryBytes": u64},
    {"engines": (sequence(label63), list)},
)
path = string(
    lambda t: re.fullmatch(plain(255, "/._-"), t) and t.startswith("/") and len(t) > 1 and ".." not in t.split("/")
)
argument = string(
    lambda t: 1 <= len(t.encode()) <= 512 and not any(unicodedata.category(c) == "Cc" for c in t)
)
quantity = matching(r"[0-9]{1,15}(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
option = closed(
    {"type": word("integer", "boolean", "enum"), "flag": matching("(?=-)" + plain(63, "-_"))},
    {"min": i64, "max": i64},
    {"values": (sequence(matching(plain(63, "-_."))), list)},
)
engine = closed(
    {
        "name": label63,
        "image": matching(plain(400, "./-_:") + "@" + DIGEST.pattern),
        "args": sequence(argument),
        "port": u16,
        "healthPath": path,
        "resources": closed({"cpu": quantity, "memory": quantity, "shm": quantity}),
    },
    defaults={
        "options": (mapping(matching(plain(63, "-_")), option), dict),
        "writablePaths": (sequence(path), list),
    },
)

# What a decision about a member rests on

evidence = sequence(variant({"entry": digest, "document": closed({"digest": digest, "text": line})}))
of_member = closed({"member": label30})

# What is decided about all work

jurisdictions = collection(matching(r"[A-Z]{2}"))
xid_row = closed(
    {
        "code": u32,
        "class": word("info", "app", "unknown", "workflow", "reset", "reboot"),
        "state": word("Healthy", "Degraded", "Unhealthy", "Unknown"),
        "reason": matching("(?=[A-Z])" + r"[A-Za-z0-9]{1,63}"),
        "action": word(
            "None",
            "Watch",
            "RestartWorkload",
            "ApplyConfig",
            "CheckCooling",
            "Investigate",
            "DrainP2P",
            "ResetWhenIdle",
            "RestartVM",
            "ResetGPU",
            "RebootNode",
            "Replace",
        ),
        "offer": word("Any", "SingleOnly", "Nothing"),
        "work": word("Keep", "RestartWorkload", "Drain", "DrainNode"),
    },
    defaults={"holdSeconds": (u32, lambda: 0)},
)
window = closed({"least": u32, "most": u32})


def steps(step, most):
    """A whole number of steps."""

    def check(value):
        need(u32(value) % step == 0 and 0 < value <= most, "whole steps")
        return value

    return check


challenged = closed(
    {"size": closed({"rows": steps(128, 2**18), "depth": steps(64, 2**16)}), "compute": window, "recall": window}
)
challenges = closed(
    {
        "engine": label63,
        "model": digest,
        "everySeconds": i64,
        "challengers": u32,
        "freshSeconds": i64,
        "mostSeconds": i64,
        "classes": mapping(label63, challenged),
    }
)
placement_rules = closed(
    {},
    {"maxReplicasPerMember": u32, "challenges": challenges},
    {
        "jurisdictions": (jurisdictions, frozenset),
        "residency": (mapping(digest, jurisdictions), dict),
        "minEvidence": (word("Claimed", "SchedulerConsistent", "Challenged", "Attested"), lambda: "Claimed"),
        "xids": (sequence(xid_row), list),
    },
)
head = closed({"seq": u64, "id": digest})

# What can be proposed: where it is decided, how, since which rules, and what it looks like

ACTIONS = {
    "addModelRelease": ("releases", "Routine", 1, release),
    "withdrawModelRelease": ("releases", "Routine", 1, closed({"manifestDigest": digest})),
    "addEngine": ("engines", "Routine", 1, closed({"engine": engine})),
    "removeEngine": ("engines", "Routine", 1, closed({"name": label63})),
    "admit": ("membership", "Admit", 1, closed({"application": envelope})),
    "setRules": ("charter", "Charter", 1, closed({"rules": u32, "deliberation": deliberation})),
    "changeCharter": ("charter", "Charter", 2, closed({"parameters": parameters, "classes": classes})),
    "cancelProposal": ("cancellations", "Cancel", 2, closed({"proposal": digest})),
    "expel": (
        "membership",
        "Expel",
        2,
        closed({"member": label30}, {"appeal": digest}, {"evidence": (evidence, list)}),
    ),
    "resetKeys": ("membership", "Admit", 2, closed({"member": label30, "keys": member_keys})),
    "confirm": ("membership", "Admit", 2, of_member),
    "markDormant": ("membership", "Routine", 2, of_member),
    "reactivate": ("membership", "Routine", 2, of_member),
    "liftQuarantine": ("standing", "Routine", 2, closed({"member": label30, "proofs": collection(digest)})),
    "setPlacementRules": ("placement", "Routine", 2, placement_rules),
    "setShares": ("placement", "Economic", 2, closed({"hostShare": fraction}, {"mostGpus": u32})),
    "setPrices": ("economy", "Economic", 2, closed({"gpuSecondMicros": mapping(label63, u64)})),
    "setAuditRate": ("economy", "Economic", 2, closed({"perTenThousand": u32})),
    "adviseOperatorRelease": ("operators", "Routine", 2, closed({"version": line, "image": digest})),
    "checkpoint": ("checkpoints", "Routine", 2, closed({"logs": mapping(key, head), "state": digest})),
    "suspend": ("standing", "Recall", 2, of_member),
    "reinstate": ("standing", "Recall", 2, of_member),
}

slot = closed({"scope": scope, "parent": digest, "term": u32})
OUTCOMES = ("passed", "rejected", "quorumNotMet", "vetoed", "stale", "withdrawn", "refuted", "unheard", "coolDown")

BODIES = {
    "charter": closed(
        {
            "name": line,
            "preset": word("trial", "standard", "custom"),
            "founders": sequence(member),
            "parameters": parameters,
            "classes": classes,
        },
        defaults={"releases": (sequence(release), list), "engines": (sequence(engine), list)},
    ),
    "application": closed({"member": member}),
    "proposal": closed(
        {
            "class": class_name,
            "scope": scope,
            "parent": digest,
            "membership": digest,
            "action": variant({name: shape for name, (_, _, _, shape) in ACTIONS.items()}),
            **dict.fromkeys(("opensAt", "closesAt", "eta", "expiresAt"), i64),
            "term": u32,
            "title": line,
        },
        {"charter": digest, "subject": label30},
        {"interested": (collection(label30), frozenset), "text": (prose, str)},
    ),
    "vote": closed(
        {"proposal": digest, "choice": word("yes", "no", "abstain", "veto"), "vseq": u32},
        {"ground": word("legal", "safety", "solvency", "charter"), "reason": prose},
    ),
    "leave": closed({}, {"reason": prose}),
    "withdrawal": closed({"proposal": digest}),
    "delegation": closed({"classes": collection(class_name), "vseq": u32, "notAfter": i64}, {"to": label30}),
    "recusal": closed({"proposal": digest}),
    "key-update": closed({"number": u32, "governance": sequence(key)}),
    "key-revocation": closed({"key": key, "log": key, "sinceSeq": u64}),
    "reply": closed({"proposal": digest, "text": prose}),
    "appeal": closed({"proposal": digest, "evidence": evidence, "text": prose}),
    "emergency-order": closed(
        {
            "stop": variant({"member": label30, "release": digest, "key": key}),
            "cause": word("keyCompromise", "safety", "fraud", "legal"),
            "membership": digest,
            "charter": digest,
        },
        defaults={"text": (prose, str)},
    ),
    "co-signature": closed({"order": digest}),
    "anchor": closed({"statement": envelope}),
    "box-offer": closed({"proposal": digest, "entries": collection(digest)}),
    "close-seal": closed(
        {
            "proposal": digest,
            "round": u32,
            "root": digest,
            "count": u32,
            "membershipHead": digest,
            "outcome": word(*OUTCOMES),
            "closedAt": i64,
        },
        {"basis": closed({"slot": slot, "offers": collection(digest)})},
    ),
    "enact-seal": closed({"slot": slot, "proposal": digest, "root": digest, "version": digest}),
    "slot-status": closed({"slot": slot}, {"signed": digest}),
    "notice-sent": closed({"proposal": digest, "notice": word("received", "delivered", "tried")}),
    "seal-evidence": closed({"first": envelope, "second": envelope}),
    "evidence": closed(
        {"log": key, "seq": u64, "first": digest, "second": digest},
        defaults={"envelopes": (sequence(envelope), list)},
    ),
    "log-resume": closed({"oldLog": key}, {"oldHead": head}),
}

# Fields of rules 2: under rules 1 even null has no meaning
LATER_FIELDS = {"proposal": ("charter", "interested"), "close-seal": ("basis",)}
LATER_OUTCOMES = ("withdrawn", "refuted", "unheard", "coolDown")
LATER_KINDS = (
    "withdrawal delegation recusal key-update key-revocation reply appeal emergency-order co-signature "
    "box-offer slot-status notice-sent seal-evidence"
).split()


def proposal_rules(body):
    """The rules by which a proposal is judged."""
    if body["charter"] or body["interested"]:
        return 2
    return ACTIONS[body["action"][0]][2]


def since_rules(kind, body):
    """The lowest rules that know a body."""
    if kind == "proposal":
        return proposal_rules(body)
    if kind == "close-seal":
        return 2 if body["basis"] or body["outcome"] in LATER_OUTCOMES else 1
    if kind == "charter":
        return 2 if body["parameters"]["deliberation"] else 1
    return 2 if kind in LATER_KINDS else 1


def read_body(kind, rules, said):
    """What a body says, or None if it has no effect."""
    if rules not in (1, 2) or kind not in BODIES:
        return None
    try:
        body = BODIES[kind](said)
    except Shape:
        return None
    later = any(name in said for name in LATER_FIELDS.get(kind, ()))
    later |= kind == "charter" and "deliberation" in said["parameters"]
    return None if since_rules(kind, body) > rules or (rules == 1 and later) else body
