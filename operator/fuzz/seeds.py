#!/usr/bin/env python3
"""Writes what the fuzzers begin with into `corpus/`, or the folder that is named: the statements of the test vectors, opened, and messages.

Standard library only. A payload that stands in the place of an envelope is signed by the fuzz target itself.
"""

import base64
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "core" / "testdata" / "vectors"
INTO = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpus"
KEY = "ed25519:" + "ab" * 32
ID = "sha256:" + "cd" * 32


def write(target, name, data):
    folder = INTO / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def opened(envelope):
    payload = json.loads(base64.b64decode(envelope["payload"], validate=True))
    body = payload.get("body")
    if isinstance(body, dict):
        if isinstance(body.get("statement"), dict):
            body["statement"] = opened(body["statement"])
        if isinstance(body.get("action"), dict) and "admit" in body["action"]:
            body["action"]["admit"]["application"] = opened(body["action"]["admit"]["application"])
        if isinstance(body.get("envelopes"), list):
            body["envelopes"] = [opened(inner) for inner in body["envelopes"]]
    return payload


def challenges():
    """One small device asked three questions. Its tree has seven levels, and eight of its rows are looked at."""
    node, seed = "ef" * 16, "01" * 32
    paths = [base64.b64encode(bytes(7 * 16)).decode()] * 8
    replies = [
        {"step": "computed", "millis": [5]},
        {"step": "recalled", "roots": [node], "millis": [1]},
        {"step": "opened", "paths": [paths]},
    ]
    size = {"rows": 128, "depth": 64}
    task = {"seed": seed, "size": size}
    asks = [
        {"step": "begin", "task": task, "devices": 1, "commitment": seed},
        {"step": "recall", "salt": seed},
        {"step": "open", "secret": seed},
    ]
    occasion = {"coop": ID, "challenger": "aarhus", "host": "bilbao", "class": "h100-80", "after": ID, "nonce": seed}
    transcript = {
        "occasion": occasion, "size": size, "secret": seed, "timing": {"computeMillis": 5, "recallMillis": 1},
        "devices": [{"root": node, "paths": paths}],
    }
    report = {
        "host": "bilbao", "class": "h100-80", "rules": ID, "devices": 1, "began": 1, "ended": 2,
        "outcome": {"answered": transcript},
    }
    window = {"least": 80, "most": 200}
    rules = {
        "engine": "koinon-challenge", "model": ID, "everySeconds": 36000, "challengers": 2, "freshSeconds": 86400,
        "mostSeconds": 60,
        "classes": {"h100-80": {"size": size, "compute": window, "recall": {"least": 10, "most": 20}}},
    }

    def lines(messages):
        return "\n".join(json.dumps(message, separators=(",", ":")) for message in messages).encode()

    write("challenge", "asks", lines(asks))
    write("challenge", "replies", lines(replies))
    write("challenge", "transcript", lines([transcript]))
    write("challenge", "report", lines([report, rules]))


def main():
    envelopes = list(json.loads((VECTORS / "decision.json").read_text())["entries"])
    for index, case in enumerate(json.loads((VECTORS / "statements.json").read_text())["cases"]):
        write("envelope", f"case-{index}", case["envelope"].encode())
        try:
            envelopes.append(json.loads(case["envelope"]))
        except ValueError:
            pass
    lines = []
    for index, envelope in enumerate(envelopes):
        text = json.dumps(envelope).encode()
        write("envelope", str(index), text)
        write("peer", f"entry-{index}", b'\0{"entry":' + text + b"}")
        write("peer", f"join-{index}", b'\2{"secret":"x","application":' + text + b"}")
        try:
            payload = json.dumps(opened(envelope)).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        write("statement", str(index), payload)
        lines.append(payload)
    for index in range(0, max(1, len(lines) - 8), 2):
        write("commons", str(index), b"\n".join(lines[index : index + 8]))
    heads = '{"heads":{"%s":{"seq":7,"id":"%s"}}}' % (KEY, ID)
    messages = {
        "heads": "\1" + heads,
        "line-heads": "\0" + heads,
        "line-ping": '\0{"ping":7}',
        "line-bye": '\0{"bye":{"limit":{"limit":"streams","allowed":1,"seen":2}}}',
        "accepted": '\3{"application":"%s"}' % ID,
        "refused": '\4{"reason":"taken","message":"used"}',
        "dialled": '\5{"dialled":[{"endpoint":"https://a.example:7443","error":"no"}]}',
        "limit": '\6{"limit":"streams","allowed":1,"seen":2}',
        "error": '\6{"error":"notFound","message":"no such log"}',
        "leaf": "\7\1\0@",
    }
    for name, message in messages.items():
        write("peer", name, message.encode())
    digest = "a" * 64
    write("text", "manifest", f"{digest} 7 model.gguf\n{digest} 0 dir/tokenizer.json\n".encode())
    invite = {
        "coop": ID, "sponsor": "aarhus", "operatorKey": KEY, "endpoints": ["https://a.example:7443"],
        "membershipHead": ID, "member": "delft", "secret": "abc", "expiresAt": 1795000000,
    }
    write("text", "invite", json.dumps(invite).encode())
    challenges()
    print(f"{len(lines)} statements")


if __name__ == "__main__":
    main()
