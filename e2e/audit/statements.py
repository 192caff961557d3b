"""Statements: envelopes with a header, a place and a body that may or may not have an effect."""

from dataclasses import dataclass, field

import charter
import shapes
from wire import (
    DIGEST,
    HUMAN,
    LATEST,
    LOG,
    MAX_ENVELOPE,
    POSITION,
    HEADER,
    Refused,
    check_header,
    digest,
    is_envelope,
    kind_of_type,
    largest_payload,
    open_envelope,
    place_of,
    strict_json,
)


@dataclass(eq=False)
class Statement:
    """A statement whose signatures, header and nested statements were checked."""

    id: str
    kind: str
    coop: str
    author: str
    key: str
    rules: int
    issued_at: int
    place: str
    seq: int | None
    prev: str | None
    body: dict | None
    nested: "Statement | None"
    signers: frozenset
    size: int = field(default=0)


def read(envelope):
    """Verifies an envelope and reads what is in it; raises Refused."""
    claimed = kind_of_type(envelope["payloadType"])
    if claimed is None:
        raise Refused("KindMismatch")
    payload = open_envelope(envelope, largest_payload(claimed))
    try:
        said = strict_json(payload, largest_payload(claimed))
    except ValueError as error:
        raise Refused("BadPayload", str(error)) from error
    check_header(said)
    if said["kind"] != claimed:
        raise Refused("KindMismatch")
    signers = frozenset(signature["keyid"] for signature in envelope["signatures"])
    if said["key"] not in signers:
        raise Refused("KeyDidNotSign")
    name, founds = digest(payload), claimed == "charter"
    if (said["coop"] != "") if founds else not DIGEST.fullmatch(said["coop"]):
        raise Refused("BadCoop")
    place = place_of(said)
    body = _body(said, place)
    statement = Statement(
        id=name,
        kind=claimed,
        coop=said["coop"] or name,
        author=said["author"],
        key=said["key"],
        rules=said["rules"],
        issued_at=said["issuedAt"],
        place=place,
        seq=said.get("seq"),
        prev=said.get("prev"),
        body=body,
        nested=None,
        signers=signers,
        size=len(payload),
    )
    try:
        statement.nested = _nested(statement)
    except Refused:
        if place != LOG:
            raise
        # In a log the entry itself is good: it takes its place, and what it carries has no effect.
        statement.body = None
    if claimed == "application" and statement.body:
        _check_application(statement)
    return statement


def _body(said, place):
    if place == LATEST:
        # Nothing that is decided rests on what only its addressee was told.
        return None
    if said.keys() - set(HEADER) - set(POSITION):
        return None
    return shapes.read_body(said["kind"], said["rules"], said["body"])


def _nested(statement):
    if statement.body is None:
        return None
    if statement.kind == "anchor":
        try:
            inner = read(statement.body["statement"])
        except Refused as error:
            raise Refused("BadNested", str(error)) from error
        if inner.place != HUMAN or inner.kind == "charter":
            raise Refused("BadNested", "only what people sign after the founding can be anchored")
        return inner
    if statement.kind == "proposal" and statement.body["action"][0] == "admit":
        try:
            inner = read(statement.body["action"][1]["application"])
        except Refused as error:
            raise Refused("BadNested", str(error)) from error
        if inner.body is None:
            raise Refused("BadNested", "an application that is not understood")
        if inner.kind != "application" or inner.coop != statement.coop:
            raise Refused("BadApplication")
        return inner
    return None


def _check_application(statement):
    member = statement.body["member"]
    good = (
        charter.member_holds(member)
        and member["id"] == statement.author
        and statement.key in member["keys"]["governance"]
        and member["keys"]["operator"] in statement.signers
    )
    if not good:
        raise Refused("BadApplication")


def read_json(data):
    """The statement of an envelope as it travels alone."""
    try:
        envelope = strict_json(data, MAX_ENVELOPE)
    except ValueError as error:
        raise Refused("TooLarge" if len(data) > MAX_ENVELOPE else "BadEnvelope", str(error)) from error
    if not is_envelope(envelope):
        raise Refused("BadEnvelope")
    return read(envelope)


def found(envelope, coop):
    """The charter's statement, if it founds the cooperative of that id."""
    try:
        statement = read(envelope)
    except Refused as error:
        raise Refused("BadFounding", str(error)) from error
    body = statement.body
    if statement.kind != "charter" or body is None or not charter.charter_holds(body):
        raise Refused("BadFounding", "this is no charter that holds")
    governance = [set(founder["keys"]["governance"]) for founder in body["founders"]]
    if not statement.signers <= set().union(*governance) or not all(keys & statement.signers for keys in governance):
        raise Refused("BadFounding", "a founder has not signed, or somebody else has")
    if statement.coop != coop:
        raise Refused("OtherCooperative")
    return statement
