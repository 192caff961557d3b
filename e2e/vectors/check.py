#!/usr/bin/env python3
"""Verifies what the Rust code signs.

cargo run -p koinon-core --features testkit --example statements > FILE
check.py FILE
"""

import base64
import json
import sys
from pathlib import Path

from koinon import body_of, digest, genesis, merkle_root, payload_type, statement_id, verify, version

HEADER = ["coop", "author", "site", "key", "kind", "rules", "issuedAt"]
POSITIONS = {(), ("log", "seq", "prev"), ("subject", "seq", "to", "notAfter")}


def read(envelope):
    """The payload of a good envelope, as the specification describes it."""
    payload = json.loads(verify(envelope))
    assert envelope["payloadType"] == payload_type(payload["kind"]), envelope["payloadType"]
    assert payload["key"] in [s["keyid"] for s in envelope["signatures"]], "the key of the header did not sign"
    fields = list(payload)
    assert fields[:7] == HEADER and fields[-1] == "body", fields
    assert sorted(fields[7:-1]) in [sorted(p) for p in POSITIONS], fields
    assert payload["rules"] == 1 and isinstance(payload["issuedAt"], int)
    return payload


def refuses_changes(envelope):
    """A verifier that took everything would find all of the above in order."""
    data = bytearray(base64.b64decode(envelope["payload"]))
    data[len(data) // 2] ^= 1
    for changed in (
        {**envelope, "payload": base64.b64encode(bytes(data)).decode()},
        {**envelope, "payloadType": envelope["payloadType"].replace("koinon.", "koinon.x-")},
    ):
        try:
            verify(changed)
        except Exception:  # whatever the library calls it
            continue
        raise AssertionError("a changed envelope passed")


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    made = json.loads(Path(arguments[0]).read_text())
    coop, seen = made["coop"], 0
    for envelope, name in zip(made["statements"], made["ids"], strict=True):
        payload = read(envelope)
        assert statement_id(envelope) == name
        assert payload["coop"] == ("" if payload["kind"] == "charter" else coop)
        refuses_changes(envelope)
        seen += 1
    assert made["ids"][0] == coop, "the cooperative is not its charter"

    votes, closes, enacts, leaves, humans = [], {}, {}, [], {}
    for log, entries in made["logs"].items():
        before = coop
        for number, entry in enumerate(entries):
            payload = read(entry)
            assert (payload["log"], payload["seq"], payload["prev"]) == (log, number, before), "the chain is broken"
            before, seen = statement_id(entry), seen + 1
            refuses_changes(entry)
            if payload["kind"] == "anchor":
                inner = payload["body"]["statement"]
                statement = read(inner)
                humans[statement_id(inner)] = statement
                if statement["kind"] == "vote" and statement["body"]["proposal"] == made["proposal"]:
                    votes.append(statement_id(inner))
                if statement["kind"] == "leave":
                    leaves.append(statement_id(inner))
            elif payload["kind"] == "close-seal":
                closes.setdefault(payload["author"], []).append(payload["body"])
            elif payload["kind"] == "enact-seal":
                enacts.setdefault(payload["body"]["proposal"], []).append(payload["body"])

    root = merkle_root(votes)
    assert root == made["root"] and len(votes) == 3
    agreeing = [
        seals
        for seals in closes.values()
        if any(seal["root"] == root and seal["outcome"] == "passed" for seal in seals)
    ]
    assert len(agreeing) >= 2, "no close certificate"
    parents = {scope: genesis(scope, coop) for scope in ("membership", "releases", "engines", "charter")}
    expected = dict(parents)
    for scope, name, box in [("releases", made["proposal"], root), ("membership", leaves[0], merkle_root(leaves))]:
        seals = enacts[name]
        expected[scope] = version(scope, parents[scope], name, box)
        assert len(seals) >= 2, f"{scope}: too few enact seals"
        for seal in seals:
            assert seal["slot"]["scope"] == scope and seal["slot"]["parent"] == parents[scope]
            assert seal["root"] == box and seal["version"] == expected[scope]
    assert made["heads"] == expected, (made["heads"], expected)
    assert made["active"] == ["aarhus", "bilbao"]
    release = humans[made["proposal"]]["body"]["action"]["addModelRelease"]
    assert release["manifestDigest"] == digest(b"tiny")
    assert body_of(made["statements"][0])["founders"][0]["id"] == "aarhus"
    print(f"verified {seen} statements, one decision and one leaving")


if __name__ == "__main__":
    main(sys.argv[1:])
