"""What the shapes of a charter, a member and an engine cannot say: numbers within bounds, names that are taken once."""

DAY = 86_400
CLASSES = ("Routine", "Economic", "Admit", "Charter", "Expel", "Recall", "Cancel", "Emergency")
PLACEHOLDERS = ("modelPath", "servedName", "port", "maxModelLen", "maxConcurrency", "gpuCount")
# Most members: three where operators may fail but not lie, and then what a box offer can hold.
MOST_MEMBERS = {1: 3, 2: 100}

BOUNDS = {
    "graceSeconds": (0, 7 * DAY),
    "sealBySeconds": (0, 7 * DAY),
    "clockToleranceSeconds": (1, 3600),
    "enactWindowSeconds": (60, 90 * DAY),
    "beaconSeconds": (1, 3600),
    "freshSeconds": (2, DAY),
    "lostSeconds": (5, 7 * DAY),
    "leaseSeconds": (5, 7 * DAY),
    "leaseMarginSeconds": (1, DAY),
    "keepServingMaxSeconds": (60, 365 * DAY),
    "inviteHours": (1, 720),
    "sponsors": (1, 3),
    "maxOpenProposals": (1, 100),
}


def is_share(fraction):
    return 1 <= fraction["den"] <= 1000 and fraction["num"] <= fraction["den"]


def class_holds(rules):
    shares = [rules["turnout"], rules["threshold"][1], rules["minYes"][1]]
    shares += [rules["veto"]] if rules["veto"] else []
    periods = (("delaySeconds", 0), ("periodSeconds", 1), ("timelockSeconds", 0))
    return all(map(is_share, shares)) and all(least <= rules[name] <= 90 * DAY for name, least in periods)


def deliberation_holds(rules):
    cap = rules["delegationCap"]
    periods = rules["members"]
    again = 2 * periods["emergencySeconds"]
    return (
        0 <= rules["delegationMaxSeconds"] <= 365 * DAY
        and 0 <= rules["coolDownSeconds"] <= 90 * DAY
        and 60 <= periods["dormantAfterSeconds"] <= 365 * DAY
        and 0 <= periods["noticeSeconds"] <= 30 * DAY
        and 1 <= periods["emergencySeconds"] <= 30 * DAY
        # An order that may follow itself would never end.
        and again <= periods["emergencyAgainSeconds"] <= 365 * DAY
        and 1 <= cap["den"] <= 1000
        and cap["num"] <= cap["den"] // 2
    )


def numbers_hold(parameters, classes):
    """Whether these can be a charter's periods, limits and classes."""
    p, budgets = parameters, parameters["budgets"]
    return (
        set(classes) == set(CLASSES)
        and all(map(class_holds, classes.values()))
        and all(least <= p[name] <= most for name, (least, most) in BOUNDS.items())
        # Who is new is counted by a vote that rules 1 do not have.
        and 0 <= p["probationSeconds"] <= (365 * DAY if p["deliberation"] else 0)
        and 64 * 1024 <= budgets["bytesPerDay"] <= 1 << 30
        and 16 <= budgets["entriesPerDay"] <= 100_000
        and p["beaconSeconds"] < p["freshSeconds"] < p["lostSeconds"]
        and p["keepServingMaxSeconds"] >= p["leaseSeconds"]
        and (p["deliberation"] is None or deliberation_holds(p["deliberation"]))
    )


def keys_of(member):
    keys = member["keys"]
    return keys["recovery"] + keys["governance"] + [keys["operator"]]


def member_holds(member):
    keys = member["keys"]
    return (
        1 <= len(keys["governance"]) <= 3
        and len(keys["recovery"]) <= 5
        and len(set(keys_of(member))) == len(keys_of(member))
        and all(len(addresses) <= 8 for addresses in member["endpoints"].values())
        and bool(member["owner"].strip())
    )


def option_holds(option):
    least, most, values = option["min"], option["max"], option["values"]
    if option["type"] == "integer":
        return not values and least is not None and most is not None and least <= most
    if least is not None or most is not None:
        return False
    if option["type"] == "boolean":
        return not values
    return 1 <= len(values) <= 64 and len(set(values)) == len(values)


def engine_holds(engine):
    named = [part.split("}")[0] for argument in engine["args"] for part in argument.split("{")[1:]]
    return (
        len(engine["args"]) <= 64
        and len(engine["options"]) <= 64
        and len(engine["writablePaths"]) <= 16
        and engine["port"] >= 1024
        and all(name in PLACEHOLDERS for name in named)
        and all(map(option_holds, engine["options"].values()))
    )


MOST_LISTED, MOST_PRICE, MOST_XIDS = 128, 1_000_000_000, 64


def xid_holds(row):
    if not 1 <= row["code"] <= 9_999:
        return False
    if row["state"] == "Healthy":
        return row["offer"] == "Any" and row["work"] in ("Keep", "RestartWorkload")
    if row["state"] == "Degraded":
        return row["offer"] != "Any" and 60 <= row["holdSeconds"] <= 30 * DAY
    return row["state"] == "Unhealthy" and row["offer"] == "Nothing" and row["work"] in ("Drain", "DrainNode")


def xids_hold(rows):
    """Whether rows about errors of GPUs are few, ordered by their codes, and each says one thing."""
    codes = [row["code"] for row in rows]
    return len(rows) <= MOST_XIDS and codes == sorted(set(codes)) and all(map(xid_holds, rows))


def windows_hold(of_class, most):
    """Whether there is no time to compute again, and both answers end in time."""
    compute, recall = of_class["compute"], of_class["recall"]
    return (
        all(1 <= window["least"] < window["most"] <= 3_600_000 for window in (compute, recall))
        and 4 * recall["most"] <= compute["least"]
        and compute["most"] + recall["most"] <= 1000 * most
    )


def challenges_hold(rules):
    """Whether challenges are rare enough, and can be repeated in time."""
    most, every = rules["mostSeconds"], rules["everySeconds"]
    return (
        1 <= rules["challengers"] <= 4
        and 60 <= rules["freshSeconds"] <= DAY
        and 1 <= most <= 600
        and 200 * (rules["challengers"] + 1) * most <= every <= rules["freshSeconds"] // 10 * 9
        and 1 <= len(rules["classes"]) <= 32
        and all(windows_hold(of_class, most) for of_class in rules["classes"].values())
    )


def norm_holds(name, change):
    """Whether what would be in force for all work contradicts itself nowhere."""
    if name == "setPlacementRules":
        residency = change["residency"].values()
        listed = max(len(change["jurisdictions"]), len(residency)) <= MOST_LISTED
        reachable = change["minEvidence"] != "Attested"
        tested = change["challenges"] is None or challenges_hold(change["challenges"])
        residency_holds = all(1 <= len(of_model) <= MOST_LISTED for of_model in residency)
        return listed and reachable and tested and residency_holds and xids_hold(change["xids"])
    if name == "setShares":
        share = change["hostShare"]
        return 1 <= share["num"] <= share["den"] <= 1000
    if name == "setPrices":
        prices = change["gpuSecondMicros"].values()
        return len(prices) <= MOST_LISTED and all(price <= MOST_PRICE for price in prices)
    if name == "setAuditRate":
        return change["perTenThousand"] <= 10_000
    return name != "checkpoint" or 1 <= len(change["logs"]) <= MOST_LISTED


def charter_holds(body):
    """Whether a charter contradicts itself nowhere."""
    founders = body["founders"]
    rules = 2 if body["parameters"]["deliberation"] else 1
    names = [founder["id"] for founder in founders]
    keys = [key for founder in founders for key in keys_of(founder)]
    listed = [engine["name"] for engine in body["engines"]] + [r["manifestDigest"] for r in body["releases"]]
    return (
        1 <= len(founders) <= MOST_MEMBERS[rules]
        and all(map(member_holds, founders))
        and len(set(names)) == len(names)
        and len(set(keys)) == len(keys)
        and numbers_hold(body["parameters"], body["classes"])
        and all(map(engine_holds, body["engines"]))
        and len(set(listed)) == len(listed)
    )
