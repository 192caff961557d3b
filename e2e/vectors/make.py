#!/usr/bin/env python3
"""Writes the test vectors that the Rust code is held against.

make.py FOLDER           writes them
make.py --check FOLDER   fails if the ones in FOLDER are not what this program writes
"""

import base64
import json
import sys
from pathlib import Path

import cases
from edwards import BASE, L, add, challenge, encode, multiply, scalar_of, small_order_points, torsion
from koinon import (
    T0,
    Key,
    Log,
    Person,
    b64,
    body_of,
    digest,
    found,
    genesis,
    manifest_digest,
    merkle_root,
    statement_id,
    version,
)


def signatures():
    """Raw Ed25519: what the one strict rule takes and what it refuses."""
    key, message = Key("signatures"), b"the one rule that every member must share"
    good = key.sign(message)
    made = []

    def case(name, public, signature, valid, text=message):
        made.append(
            {
                "name": name,
                "key": "ed25519:" + public.hex(),
                "message": b64(text),
                "signature": b64(signature),
                "valid": valid,
            }
        )

    case("a good signature", key.bytes, good, True)
    case("another message", key.bytes, good, False, message + b".")
    case("one bit of R changed", key.bytes, bytes([good[0] ^ 1]) + good[1:], False)
    case("one bit of S changed", key.bytes, good[:32] + bytes([good[32] ^ 1]) + good[33:], False)
    s = int.from_bytes(good[32:], "little")
    case(
        "S plus the order: the same signature spelled differently",
        key.bytes,
        good[:32] + (s + L).to_bytes(32, "little"),
        False,
    )
    case("all zero", bytes(32), bytes(64), False)
    for index, point in enumerate(small_order_points()):
        # With R = 0 and S = 0 a small order key signs every message whose challenge is a multiple of its order.
        for attempt in range(64):
            text = message + bytes([attempt])
            if multiply(challenge(encode((0, 1)), encode(point), text) % 8, point) == (0, 1):
                break
        case(f"small order key number {index}", encode(point), encode((0, 1)) + bytes(32), False, text)
    for name, y, sign in [("zero", 0, 0), ("one", 1, 0), ("one, negative", 1, 1), ("minus one, negative", -1, 1)]:
        for shift in (0, 2**255 - 19):
            encoded = ((y % (2**255 - 19)) + shift) | sign << 255
            if encoded < 2**256 and (shift == 0 or y in (0, 1)):
                case(
                    f"small order key y = {name}{' not reduced' if shift else ''}",
                    encoded.to_bytes(32, "little"),
                    encode((0, 1)) + bytes(32),
                    False,
                )
    scalar = scalar_of(key.seed)
    for index, point in enumerate(small_order_points()):
        r = encode(point)
        k = challenge(r, key.bytes, message)
        case(
            f"small order R number {index}, good for careless verifiers",
            key.bytes,
            r + (k * scalar % L).to_bytes(32, "little"),
            False,
        )
    # Keys and nonces with a part of order eight: the equation without cofactor holds only by chance.
    extra = torsion()
    mixed = encode(add(multiply(scalar, BASE), extra))
    nonce = 987654321
    r = encode(multiply(nonce, BASE))
    for attempt in range(64):
        text = message + bytes([attempt])
        k = challenge(r, mixed, text)
        if k % 8:
            break
    case("a key with a part of order eight", mixed, r + ((nonce + k * scalar) % L).to_bytes(32, "little"), False, text)
    r = encode(add(multiply(nonce, BASE), extra))
    k = challenge(r, key.bytes, message)
    case("an R with a part of order eight", key.bytes, r + ((nonce + k * scalar) % L).to_bytes(32, "little"), False)
    case("an R that is no point", key.bytes, (2).to_bytes(32, "little") + good[32:], False)
    case("a key that is no point", (2).to_bytes(32, "little"), good, False)
    return {"cases": made}


def logs():
    """One operator's log, its fork, and entries that have no place in it."""
    people = [Person(name) for name in ("aarhus", "bilbao", "cork")]
    founding = found(people)
    coop = statement_id(founding)
    log = Log(people[1], coop)
    note = lambda n: {"oldLog": people[1].operator.id, "oldHead": {"seq": n, "id": digest(bytes([n]))}}
    for n in range(5):
        log.add("log-resume", note(n), T0 + n)
    fork = Log(people[1], coop)
    fork.entries = log.entries[:3]
    other = fork.add("log-resume", note(77), T0 + 3)
    stranger, elsewhere = Log(Person("eve"), coop), Log(people[1], digest(b"another cooperative"))
    false_start = Log(people[1], coop).make("log-resume", note(0), T0, prev=digest(b"anything"))
    impostor = Log(people[1], coop).make("log-resume", note(0), T0, author="cork")
    first, second = sorted([log.entries[3], other], key=statement_id)
    return {
        "founding": founding,
        "coop": coop,
        "entries": log.entries,
        "head": {"seq": 4, "id": statement_id(log.entries[4])},
        "fork": {
            "entry": other,
            "seq": 3,
            "first": statement_id(first),
            "second": statement_id(second),
            "log": people[1].operator.id,
        },
        "refused": [
            {"name": "a stranger's log", "entry": stranger.make("log-resume", note(0), T0), "error": "UnknownLog"},
            {
                "name": "another cooperative",
                "entry": elsewhere.make("log-resume", note(0), T0),
                "error": "OtherCooperative",
            },
            {"name": "a first entry that follows something else", "entry": false_start, "error": "WrongStart"},
            {"name": "an author who does not own the log", "entry": impostor, "error": "OtherAuthor"},
            {"name": "a person's statement", "entry": people[1].application(coop), "error": "NotAnEntry"},
        ],
    }


def decision():
    """A whole decision: proposal, three votes, close seals, enact seals, and a member who leaves."""
    people = [Person(name) for name in ("aarhus", "bilbao", "cork")]
    founding = found(people)
    coop = statement_id(founding)
    logs = [Log(person, coop) for person in people]
    members, releases = genesis("membership", coop), genesis("releases", coop)
    release = cases.release("https://models.example/tiny.gguf", b"tiny")
    proposal = people[0].human(
        coop,
        "proposal",
        {
            "class": "Routine",
            "scope": "releases",
            "parent": releases,
            "membership": members,
            "action": {"addModelRelease": release},
            "opensAt": T0,
            "closesAt": T0 + 120,
            "eta": T0 + 120,
            "expiresAt": T0 + 3720,
            "term": 0,
            "title": "Approve tiny",
            "text": "It fits everywhere.",
        },
    )
    name = statement_id(proposal)
    logs[0].anchor(proposal, T0)
    ballots = [("yes", T0 + 5), ("abstain", T0 + 7), ("yes", T0 + 9)]
    votes = []
    for person, log, (choice, at) in zip(people, logs, ballots):
        vote = person.human(coop, "vote", {"proposal": name, "choice": choice, "vseq": 0}, at)
        log.anchor(vote, at + 1)
        votes.append(vote)
    root = merkle_root(statement_id(vote) for vote in votes)
    close = {
        "proposal": name,
        "round": 1,
        "root": root,
        "count": 3,
        "membershipHead": members,
        "outcome": "passed",
        "closedAt": T0 + 10,
    }
    enacted = version("releases", releases, name, root)
    enact = {
        "slot": {"scope": "releases", "parent": releases, "term": 0},
        "proposal": name,
        "root": root,
        "version": enacted,
    }
    for log in logs[:2]:
        log.add("close-seal", close, T0 + 11)
    for log in logs[1:]:
        log.add("enact-seal", enact, T0 + 12)
    leave = people[2].human(coop, "leave", {"reason": "Sold the building."}, T0 + 20)
    logs[2].anchor(leave, T0 + 20)
    alone = merkle_root([statement_id(leave)])
    left = version("membership", members, statement_id(leave), alone)
    slot = {"scope": "membership", "parent": members, "term": 0}
    for log in (logs[0], logs[2]):
        log.add("enact-seal", {"slot": slot, "proposal": statement_id(leave), "root": alone, "version": left}, T0 + 21)
    # What anybody could put into a log, and what must change nothing.
    late = people[0].human(coop, "vote", {"proposal": name, "choice": "no", "vseq": 9}, T0 + 30)
    logs[0].anchor(late, T0 + 30)
    wrong = {**enact, "version": digest(b"something else")}
    logs[0].add("enact-seal", wrong, T0 + 31)
    return {
        "founding": founding,
        "coop": coop,
        "entries": [entry for log in logs for entry in log.entries],
        "proposal": name,
        "root": root,
        "heads": {
            "releases": enacted,
            "membership": left,
            "engines": genesis("engines", coop),
            "charter": genesis("charter", coop),
        },
        "active": ["aarhus", "bilbao"],
        "release": body_of(proposal)["action"]["addModelRelease"]["manifestDigest"],
        "tally": {"electors": 3, "yes": 2, "no": 0, "abstain": 1, "veto": 0},
        "votes": {statement_id(vote): "Counted" for vote in votes} | {statement_id(late): "AlreadyFinal"},
    }


def trees():
    """Merkle roots of boxes of every size, and digests of manifests."""
    ids = [digest(bytes([n])) for n in range(40)]
    files = {"config.json": b"{}", "model-00001.safetensors": b"weights", "tokenizer/tokenizer.json": b"[]"}
    single = {"tiny.gguf": b"GGUF"}
    return {
        "boxes": [{"ids": ids[:count], "root": merkle_root(ids[:count])} for count in (*range(18), 33)],
        "manifests": [
            {"files": {path: b64(content) for path, content in made.items()}, "digest": manifest_digest(made)}
            for made in (files, single)
        ],
    }


def everything():
    return {
        "signatures.json": signatures(),
        "statements.json": cases.statements(),
        "logs.json": logs(),
        "decision.json": decision(),
        "trees.json": trees(),
    }


def main(arguments):
    check = arguments[:1] == ["--check"]
    folder = Path(arguments[-1]) if arguments else sys.exit(__doc__)
    different = []
    for name, content in everything().items():
        text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
        path = folder / name
        if check and (not path.exists() or path.read_text() != text):
            different.append(name)
        elif not check:
            path.write_text(text)
    if different:
        sys.exit(f"out of date: {', '.join(different)}; run make.py {folder}")
    print(f"{'checked' if check else 'wrote'} {len(everything())} files in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
