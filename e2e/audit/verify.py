#!/usr/bin/env python3
"""Audits a cooperative's history with an implementation of its own: no cluster, no network, nothing of Koinon's code.

verify.py BUNDLE                 what the bundle (`kubectl koinon audit export`) amounts to, in the canonical form
verify.py --histories FILE       many bundles, each with the outcome that another audit printed (`-` is standard input)
verify.py --vectors FOLDER       the committed statements and signatures

Exits with 1 on the first thing that does not hold, and on the first outcome that differs.
"""

import argparse
import base64
import collections
import difflib
import io
import json
import multiprocessing
import sys
import time
from pathlib import Path

import history
import outcome
import settled
import statements
import wire
from logs import MAX_LINE, Bundle, Finding


def audit(lines):
    """The canonical outcome of a bundle's lines; raises Finding."""
    bundle = Bundle(lines)
    found = history.follow(bundle)
    bundle.check_owners(found.owners)
    bundle.check_listed(found.owners, found.proofs)
    bundle.check_claims(found.heads())
    false = settled.first_false(found)
    if false:
        raise Finding(bundle.end, "Checkpoint", " ".join(false))
    return "".join(f"{line}\n" for line in outcome.lines_of(found))


def lines_of(stream):
    """The lines of a file, none of which is ever read beyond the length that a line may have."""
    while line := stream.readline(MAX_LINE + 1):
        yield line.removesuffix(b"\n")


def canonical(stream):
    try:
        return audit(lines_of(stream))
    except Finding as finding:
        return f"fails {finding.line} {finding.category}\n"


def compare(text):
    """One generated history: its seed, what was told of it, what is found here, and how many entries it has."""
    told = json.loads(text)
    found = canonical(io.BytesIO(told["bundle"].encode()))
    return told["seed"], told["canonical"], found, told["bundle"].count('\n{"entry":')


def tally_of(text):
    """The words of an outcome that say which rules were at work."""
    for line in text.splitlines():
        match line.split():
            case ["standing", "Invalid", why]:
                yield f"invalid: {why}"
            case ["standing", name, _]:
                yield f"proposals {name}"
            case ["vote", *_, verdict]:
                yield f"votes {verdict}"
            case ["fails", _, category]:
                yield f"fails: {category}"
            case ["version", "checkpoints", *_]:
                yield "checkpoints"
            case ["version", *_]:
                yield "decisions"
            case [("fork" | "fault" | "branch") as word, *_]:
                yield word
            case ["box", *_, outcome]:
                yield f"boxes {outcome}"
            case ["member", _, standing, *_]:
                yield f"members {standing}"
            case ["aside", _, "suspended", version, *_] if version != "-":
                yield "members suspended"
            case ["log", *_, replaced] if replaced != "-":
                yield "logs replaced"
            case ["proof", _, offence, *_]:
                yield f"proofs: {offence}"
            case ["keys", _, _, _, what, *_, verdict]:
                yield f"keys {what} {verdict}"
            case ["signed", *_, standing]:
                yield f"orders {standing}"
            case ["notice", *_, what]:
                yield f"notices {what}"


def histories(path, jobs):
    lines = sys.stdin if path == "-" else open(path, encoding="utf-8")
    seen, entries, words, began = 0, 0, collections.Counter(), time.monotonic()
    with multiprocessing.Pool(jobs) as pool:
        for seed, told, found, size in pool.imap(compare, lines, chunksize=16):
            if told != found:
                print(f"history {seed}: the other audit (-) and this one (+) differ")
                sys.stdout.writelines(difflib.unified_diff(told.splitlines(True), found.splitlines(True), n=1))
                pool.terminate()
                return 1
            seen, entries = seen + 1, entries + size
            words.update(tally_of(found))
    for word, count in sorted(words.items()):
        print(f"{count:8} {word}")
    print(f"{seen} histories with {entries} entries agree, in {time.monotonic() - began:.0f} s")
    return 0 if seen else 1


def vectors(folder):
    """Whether the committed statements and signatures are understood or refused as they should be."""
    wrong, cases = [], 0
    for case in json.loads((folder / "signatures.json").read_text())["cases"]:
        message, signature = base64.b64decode(case["message"]), base64.b64decode(case["signature"])
        cases += 1
        if wire.verifies(case["key"], message, signature) != case["valid"]:
            wrong.append(case["name"])
    for case in json.loads((folder / "statements.json").read_text())["cases"]:
        cases += 1
        try:
            read, error = statements.read_json(case["envelope"].encode()), None
        except wire.Refused as refused:
            read, error = None, refused.category
        same = error == case.get("error")
        if read and same:
            # What only its addressee is told decides nothing, so its body is not read here.
            same = read.id == case["id"] and (read.place == wire.LATEST or (read.body is not None) == case["effect"])
        if not same:
            wrong.append(f"{case['name']}: {error}")
    print("\n".join(wrong) if wrong else f"{cases} committed vectors agree")
    return 1 if wrong or not cases else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--histories", metavar="FILE")
    parser.add_argument("--vectors", metavar="FOLDER", type=Path)
    parser.add_argument("--jobs", type=int, default=None, help="processes at once; default: one a processor")
    arguments = parser.parse_args()
    if arguments.histories:
        return histories(arguments.histories, arguments.jobs)
    if arguments.vectors:
        return vectors(arguments.vectors)
    if not arguments.bundle:
        parser.error("name a bundle")
    with open(arguments.bundle, "rb") as stream:
        found = canonical(stream)
    print(found, end="")
    return 1 if found.startswith("fails") else 0


if __name__ == "__main__":
    sys.exit(main())
