"""Statements as they come over the wire, good and bad, with what is to be said of each."""

import base64
import json

from koinon import (
    T0,
    Key,
    Log,
    Person,
    b64,
    compact,
    digest,
    envelope,
    found,
    merkle_root,
    payload_type,
    statement_id,
    verify,
)

COOP = digest(b"a cooperative")


def release(uri: str, content: bytes) -> dict:
    return {
        "uri": uri,
        "revision": "main",
        "manifestDigest": digest(content),
        "quantization": "none",
        "license": "Apache-2.0",
        "engines": ["llama-cpp"],
    }


def proposal(action: dict, scope: str) -> dict:
    return {
        "class": "Admit" if scope == "membership" else "Routine",
        "scope": scope,
        "parent": digest(b"parent"),
        "membership": digest(b"members"),
        "action": action,
        "opensAt": T0,
        "closesAt": T0 + 120,
        "eta": T0 + 120,
        "expiresAt": T0 + 3720,
        "term": 0,
        "title": "A change",
        "text": "Why not.\n",
    }


def placement_rules() -> dict:
    row = {"class": "reset", "reason": "VotedReason", "action": "ResetGPU", "offer": "Nothing", "work": "Drain"}
    return {
        "jurisdictions": ["ES"],
        "residency": {},
        "minEvidence": "Claimed",
        "xids": [
            {"code": 94, "state": "Unhealthy", **row, "holdSeconds": 0},
            {"code": 200, "state": "Degraded", **row, "work": "Keep", "holdSeconds": 3600},
        ],
    }


def engine() -> dict:
    arguments = "--model {modelPath} --served-name {servedName} --host 0.0.0.0 --port {port} --ctx {maxModelLen} --parallel {maxConcurrency}"
    return {
        "name": "llama-cpp",
        "image": "registry.example/llama@" + digest(b"image"),
        "args": arguments.split(),
        "options": {
            "threads": {"type": "integer", "min": 1, "max": 64, "flag": "--threads"},
            "flash": {"type": "boolean", "flag": "--flash-attn"},
            "cache": {"type": "enum", "values": ["f16", "q8_0"], "flag": "--cache-type"},
        },
        "port": 8000,
        "healthPath": "/health",
        "writablePaths": ["/home/engine"],
        "resources": {"cpu": "500m", "memory": "2Gi", "shm": "64Mi"},
    }


def good_statements():
    """One of every kind, in the words of the specification."""
    people = [Person(name) for name in ("aarhus", "bilbao", "cork")]
    aarhus, bilbao, cork = people
    log = Log(aarhus, COOP)
    vote = aarhus.human(COOP, "vote", {"proposal": digest(b"p"), "choice": "yes", "vseq": 0})
    job = {"namespace": "team-a", "name": "chat", "uid": "0b5f2c1e-1111-4222-8333-444455556666"}
    model = {k: v for k, v in release("hf://org/tiny", b"tiny").items() if k not in ("license", "engines")}
    yield "a founding charter with all signatures", found(people)
    yield "an application with both signatures", cork.application(COOP)
    yield "a proposal to approve a model", aarhus.human(
        COOP, "proposal", proposal({"addModelRelease": release("hf://org/tiny", b"x")}, "releases")
    )
    yield "a proposal to withdraw one", aarhus.human(
        COOP, "proposal", proposal({"withdrawModelRelease": {"manifestDigest": digest(b"x")}}, "releases")
    )
    yield "a proposal to add an engine", aarhus.human(
        COOP, "proposal", proposal({"addEngine": {"engine": engine()}}, "engines")
    )
    yield "a proposal to remove one", aarhus.human(
        COOP, "proposal", proposal({"removeEngine": {"name": "llama-cpp"}}, "engines")
    )
    yield "a proposal about errors of GPUs", aarhus.human(
        COOP, "proposal", proposal({"setPlacementRules": placement_rules()}, "placement"), rules=2
    )
    admit = proposal({"admit": {"application": cork.application(COOP)}}, "membership")
    yield "a proposal to admit a member, co-signed", aarhus.human(COOP, "proposal", admit, T0, (bilbao.governance,))
    yield "a vote", vote
    veto = {"proposal": digest(b"p"), "choice": "veto", "vseq": 3, "ground": "legal", "reason": "Grüße — 法律"}
    yield "a veto with its ground and words of several scripts", aarhus.human(COOP, "vote", veto)
    yield "a leaving", aarhus.human(COOP, "leave", {})
    yield "an anchor", log.anchor(vote)
    box = {"proposal": digest(b"p"), "root": merkle_root([]), "count": 0, "round": 1, "membershipHead": digest(b"m")}
    yield "a close seal", log.add("close-seal", {**box, "outcome": "quorumNotMet", "closedAt": T0})
    slot = {"scope": "releases", "parent": digest(b"parent"), "term": 0}
    yield "an enact seal", log.add(
        "enact-seal", {"slot": slot, "proposal": digest(b"p"), "root": merkle_root([]), "version": digest(b"v")}
    )
    proof = {"log": bilbao.operator.id, "seq": 3, "first": digest(b"1"), "second": digest(b"2"), "envelopes": []}
    yield "evidence that names its payloads", log.add("evidence", proof)
    yield "a resumption", log.add(
        "log-resume", {"oldLog": aarhus.operator.id, "oldHead": {"seq": 9, "id": digest(b"9")}}
    )
    beacon = {
        "heads": {aarhus.operator.id: {"seq": 4, "id": digest(b"4")}},
        "policy": {"membership": digest(b"m")},
        "rulesSupported": [1],
        "clockMicros": T0 * 1_000_000,
    }
    yield "a beacon", aarhus.latest(COOP, "beacon", "beacon", "*", beacon)
    offered = {
        "class": "h100-80",
        "product": "NVIDIA H100 80GB HBM3",
        "memoryBytes": 85520809984,
        "offered": 6,
        "largestBlock": 4,
        "largestNode": 8,
        "evidence": "SchedulerConsistent",
    }
    offer = {
        "classes": [offered],
        "guests": "Accept",
        "networkPolicy": "Enforced",
        "weights": [digest(b"w")],
        "gateway": ["https://aarhus.example:7444"],
        "jurisdiction": "DK",
    }
    yield "an offer", aarhus.latest(COOP, "offer", "offer", "*", offer)
    yield "an offer with a field of a later version", aarhus.latest(
        COOP, "offer", "offer", "*", {**offer, "carbon": 12}
    )
    later = {**offer, "guests": "WhenCheap", "networkPolicy": "Quantum"}
    yield "an offer with words of a later version", aarhus.latest(COOP, "offer", "offer", "*", later)
    request = {
        "job": job,
        "replica": 0,
        "epoch": 3,
        "servedName": "chat",
        "model": model,
        "engine": {"name": "llama-cpp", "options": {"threads": 4, "flash": True, "cache": "q8_0"}},
        "maxModelLen": 4096,
        "maxConcurrency": 4,
        "gpu": {"class": "h100-80", "count": 2},
        "leaseSeconds": 20,
        "onPartition": "KeepServing",
    }
    yield "requests", aarhus.latest(COOP, "requests", "requests/cork", "cork", {"requests": [request]})
    grant = {
        "jobUid": job["uid"],
        "replica": 0,
        "epoch": 3,
        "request": digest(b"r"),
        "state": "Refused",
        "reason": "InsufficientGPUs",
        "numbers": {"asked": 9, "largest": 8},
        "leaseSeconds": 20,
    }
    yield "grants", aarhus.latest(COOP, "grants", "grants/cork", "cork", {"grants": [grant]})
    measured = {
        "host": "cork",
        "class": "h100-80",
        "rules": digest(b"rules"),
        "devices": 8,
        "began": T0 * 1_000_000,
        "ended": T0 * 1_000_000 + 30_000_000,
    }
    for name, outcome in (("that nobody answered", "unanswered"), ("with a wrong answer", "refuted")):
        report = {**measured, "outcome": {outcome: {"why": "it has no 8 GPUs free on one node"}}}
        yield f"a challenge {name}", aarhus.latest(COOP, "challenge", "challenge/0", "*", report)
    payload = json.loads(verify(vote))
    loose = json.dumps({k: payload[k] for k in reversed(payload)}, indent=3, ensure_ascii=True).encode()
    yield "a payload in another order with spaces: its bytes count, not its shape", envelope(
        "vote", loose, aarhus.governance
    )


def entries_without_effect():
    """Good signature, good link: part of the log, and of no consequence."""
    aarhus = Person("aarhus")
    log = Log(aarhus, COOP)
    vote = aarhus.human(COOP, "vote", {"proposal": digest(b"p"), "choice": "yes", "vseq": 0})
    yield "a kind of a later version", log.make("ledger-day", {"anything": 1}, T0)
    yield "rules of a later version", log.make("anchor", {"statement": vote}, T0, rules=3)
    yield "a field that this version does not know", log.make("anchor", {"statement": vote, "more": 1}, T0)
    yield "a header field that this version does not know", log.make(
        "anchor", {"statement": vote}, T0, onBehalfOf="cork"
    )
    forged = {**vote, "signatures": [{**vote["signatures"][0], "sig": b64(bytes(64))}]}
    yield "an anchor of a forged vote", log.make("anchor", {"statement": forged}, T0)
    yield "an anchor of an entry", log.make("anchor", {"statement": log.make("anchor", {"statement": vote}, T0)}, T0)
    yield "an outcome of a later version", log.make("close-seal", {"outcome": "postponed"}, T0)


def altered_payloads():
    """Payloads that were signed as they are and still mean nothing: (name, text of the vote's payload, error)."""
    aarhus = Person("aarhus")
    vote = aarhus.human(COOP, "vote", {"proposal": digest(b"p"), "choice": "yes", "vseq": 0})
    text = verify(vote).decode()

    def swap(old, new):
        assert old in text, old
        return text.replace(old, new, 1)

    yield "a key twice", swap('"rules":1', '"rules":1,"rules":1'), "BadPayload"
    yield "a key twice in the body", swap('"vseq":0', '"vseq":0,"vseq":1'), "BadPayload"
    yield "a key twice, once in disguise", swap('"vseq":0', '"vseq":0,"\\u0076seq":1'), "BadPayload"
    yield "a float", swap('"vseq":0', '"vseq":0.0'), "BadPayload"
    yield "an exponent", swap('"vseq":0', '"vseq":0e0'), "BadPayload"
    yield "minus zero", swap('"vseq":0', '"vseq":-0'), "BadPayload"
    yield "a number beyond 64 bits", swap('"vseq":0', '"vseq":9223372036854775808'), "BadPayload"
    yield "nested too deep", swap('"vseq":0', '"vseq":' + "[" * 40 + "]" * 40), "BadPayload"
    yield "something behind the end", text + "{}", "BadPayload"
    yield "half a character", swap('"yes"', '"\\ud800"'), "BadPayload"
    yield "no object", "[]", "BadPayload"
    yield "nothing", "", "BadPayload"
    yield "an author in capitals", swap('"author":"aarhus"', '"author":"Aarhus"'), "BadPayload"
    yield "another kind inside", swap('"kind":"vote"', '"kind":"leave"'), "KindMismatch"
    yield "no cooperative", swap(COOP, ""), "BadCoop"
    yield "a cooperative in capitals", swap(COOP, COOP.upper()), "BadCoop"
    yield "another key in the header", swap(aarhus.governance.id, Person("bilbao").governance.id), "KeyDidNotSign"
    yield "a position that people's statements do not have", swap(
        '"body"', f'"seq":0,"prev":"{COOP}","log":"{aarhus.governance.id}","body"'
    ), "BadPosition"
    yield "half a position", swap('"body"', '"seq":0,"body"'), "BadPosition"
    yield "a missing field", swap('"site":"main",', ""), "BadPayload"


def bad_statements():
    """(name, envelope as text, what is said of it)."""
    aarhus, bilbao, cork = (Person(name) for name in ("aarhus", "bilbao", "cork"))
    vote = aarhus.human(COOP, "vote", {"proposal": digest(b"p"), "choice": "yes", "vseq": 0})
    signature, text = vote["signatures"][0], verify(vote)

    def changed(**fields):
        return compact({**vote, **fields}).decode()

    for name, payload, error in altered_payloads():
        yield name, compact(envelope("vote", payload.encode(), aarhus.governance)).decode(), error
    yield "bytes that are no text", compact(envelope("vote", text + b"\xff", aarhus.governance)).decode(), "BadPayload"
    yield "a byte order mark", compact(
        envelope("vote", b"\xef\xbb\xbf" + text, aarhus.governance)
    ).decode(), "BadPayload"

    yield "one byte of the payload changed", changed(payload=b64(text.replace(b"yes", b"yeS"))), "BadSignature"
    yield "signed by somebody else in this key's name", changed(
        signatures=[{**envelope("vote", text, bilbao.governance)["signatures"][0], "keyid": aarhus.governance.id}]
    ), "BadSignature"
    yield "relabelled as another kind", changed(payloadType=payload_type("leave")), "BadSignature"
    yield "a media type that is not ours", changed(payloadType="application/json"), "KindMismatch"
    yield "S plus the order", changed(signatures=[{**signature, "sig": _plus_order(signature["sig"])}]), "BadSignature"
    yield "a small order key that signs everything", _small_order(text), "BadSignature"
    yield "a good signature and a forged one", changed(
        signatures=[signature, {"keyid": bilbao.governance.id, "sig": signature["sig"]}]
    ), "BadSignature"
    yield "no signature", changed(signatures=[]), "BadEnvelope"
    yield "two signatures of one key", changed(signatures=[signature, signature]), "BadEnvelope"
    many = envelope("vote", text, *(Key(f"key {n}") for n in range(17)))
    yield "seventeen signatures", compact(many).decode(), "BadEnvelope"
    yield "a signature of 63 bytes", changed(
        signatures=[{**signature, "sig": b64(base64.b64decode(signature["sig"])[:63])}]
    ), "BadEnvelope"
    yield "a key in capitals", changed(
        signatures=[{**signature, "keyid": signature["keyid"].upper().replace("ED25519", "ed25519")}]
    ), "BadEnvelope"
    yield "a field that envelopes do not have", changed(note="hello"), "BadEnvelope"
    yield "an envelope with a key twice", '{"payload":"",' + changed()[1:], "BadEnvelope"
    yield "no envelope", "[]", "BadEnvelope"
    bare = vote["payload"].rstrip("=")
    padded = text + b" " * (3 - len(text) % 3 + 1)
    loose = envelope("vote", padded, aarhus.governance)
    assert loose["payload"].endswith("=="), "this case needs bits to spare"
    tail = loose["payload"][-3]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sloppy = loose["payload"][:-3] + alphabet[alphabet.index(tail) + 1] + "=="
    yield "base64 without its padding", compact(
        {**loose, "payload": loose["payload"].rstrip("=")}
    ).decode(), "BadEnvelope"
    yield "base64 with bits that mean nothing", compact({**loose, "payload": sloppy}).decode(), "BadEnvelope"
    yield "base64 with a line break", changed(payload=bare[:40] + "\n" + vote["payload"][40:]), "BadEnvelope"
    filler = lambda size: text.replace(b'"vseq":0', b'"vseq":0' + b" " * (size - len(text)))
    yield "a vote one byte over the limit", compact(
        envelope("vote", filler(40 * 1024 + 1), aarhus.governance)
    ).decode(), "TooLarge"
    log = Log(aarhus, COOP)
    large = {**aarhus.header(COOP, aarhus.operator, "ledger-day", T0), **log.position(), "body": "x" * (64 * 1024)}
    yield "an entry over the limit", compact(
        envelope("ledger-day", compact(large), aarhus.operator)
    ).decode(), "TooLarge"
    anchor = {"statement": vote}
    yield "a log of another key", compact(
        log.make("anchor", anchor, T0, log=bilbao.operator.id)
    ).decode(), "BadPosition"
    yield "an entry without its predecessor", compact(log.make("anchor", anchor, T0, prev=None)).decode(), "BadPosition"
    yield "an entry with an addressee", compact(log.make("anchor", anchor, T0, to="*")).decode(), "BadPosition"
    yield "an anchor without position", compact(aarhus.human(COOP, "anchor", anchor)).decode(), "BadPosition"
    yield "a beacon in a log", compact(log.make("beacon", {}, T0)).decode(), "BadPosition"
    yield "a charter that names a cooperative", compact(aarhus.human(COOP, "charter", {})).decode(), "BadCoop"
    one_key = cork.human(COOP, "application", {"member": cork.member()})
    yield "an application without the operator's signature", compact(one_key).decode(), "BadApplication"
    stolen = cork.human(COOP, "application", {"member": bilbao.member()}, T0, (cork.operator,))
    yield "an application in another member's name", compact(stolen).decode(), "BadApplication"
    shared = cork.member()
    shared["keys"]["governance"] = [cork.governance.id, cork.operator.id]
    both = cork.human(COOP, "application", {"member": shared}, T0, (cork.operator,))
    yield "an application whose operator key could vote", compact(both).decode(), "BadApplication"
    admit = proposal({"admit": {"application": one_key}}, "membership")
    yield "a proposal to admit on half an application", compact(
        aarhus.human(COOP, "proposal", admit)
    ).decode(), "BadNested"
    elsewhere = proposal({"admit": {"application": cork.application(digest(b"elsewhere"))}}, "membership")
    yield "a proposal to admit an applicant of another cooperative", compact(
        aarhus.human(COOP, "proposal", elsewhere)
    ).decode(), "BadApplication"


def _plus_order(signature: str) -> str:
    from edwards import L

    data = base64.b64decode(signature)
    return b64(data[:32] + (int.from_bytes(data[32:], "little") + L).to_bytes(32, "little"))


def _small_order(text: bytes) -> str:
    """The key is the neutral point: R neutral and S zero satisfy the equation for every message."""
    neutral = (1).to_bytes(32, "little")
    keyid = "ed25519:" + neutral.hex()
    payload = json.loads(text)
    payload["key"] = keyid
    made = {
        "payloadType": payload_type("vote"),
        "payload": b64(compact(payload)),
        "signatures": [{"keyid": keyid, "sig": b64(neutral + bytes(32))}],
    }
    return compact(made).decode()


def statements() -> dict:
    made = []
    for name, good in good_statements():
        kind = good["payloadType"].split(".")[2]
        made.append(
            {"name": name, "envelope": compact(good).decode(), "id": statement_id(good), "kind": kind, "effect": True}
        )
    for name, entry in entries_without_effect():
        kind = entry["payloadType"].split(".")[2]
        made.append(
            {
                "name": name,
                "envelope": compact(entry).decode(),
                "id": statement_id(entry),
                "kind": kind,
                "effect": False,
            }
        )
    for name, text, error in bad_statements():
        made.append({"name": name, "envelope": text, "error": error})
    return {"coop": COOP, "cases": made}
