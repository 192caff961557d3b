"""Bytes: strict JSON, signatures, envelopes, and the header of a statement.

Written against the specification and sharing nothing with the Rust code: Ed25519 is that of `cryptography` (OpenSSL),
and everything else the standard library's.
"""

import base64
import binascii
import functools
import hashlib
import json
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DOCUMENT, PAYLOAD, HUMAN_PAYLOAD, APPLICATION = 256 * 1024, 64 * 1024, 40 * 1024, 16 * 1024
MAX_ENVELOPE = DOCUMENT // 3 * 4 + 24 * 1024
# Every founder signs the charter
MOST_SIGNATURES, MOST_FOUNDERS = 16, 100
MAX_DEPTH = 32
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

HUMAN, LOG, LATEST = "human", "log", "latest"
PLACES = {
    **dict.fromkeys("charter application proposal vote leave withdrawal delegation recusal".split(), HUMAN),
    **dict.fromkeys("key-update key-revocation reply appeal emergency-order co-signature".split(), HUMAN),
    **dict.fromkeys("anchor box-offer close-seal enact-seal slot-status notice-sent".split(), LOG),
    **dict.fromkeys("evidence seal-evidence log-resume".split(), LOG),
    **dict.fromkeys("beacon offer requests grants challenge".split(), LATEST),
}


class Refused(Exception):
    """Something that does not hold, by the name that every audit gives it."""

    def __init__(self, category, why=""):
        super().__init__(f"{category}: {why}")
        self.category = category


class NotStrict(ValueError):
    """Text that two careful readers could understand differently."""


# Strict JSON


def _pairs(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotStrict("a key twice")
    return found


def _integer(text):
    if text == "-0":
        raise NotStrict("minus zero")
    number = int(text)
    if not INT_MIN <= number <= INT_MAX:
        raise NotStrict("a number beyond 64 bits")
    return number


def _refuse(text):
    raise NotStrict(f"{text} is no integer")


def _bounded(value, depth=0):
    if isinstance(value, str):
        value.encode()  # half a character is no text
    elif isinstance(value, (list, dict)):
        if depth >= MAX_DEPTH:
            raise NotStrict("nested too deep")
        if isinstance(value, dict):
            for key in value:
                key.encode()
            value = value.values()
        for item in value:
            _bounded(item, depth + 1)


def strict_json(data, limit):
    """The value of a document; raises ValueError (UnicodeError and NotStrict are) or RecursionError."""
    if len(data) > limit:
        raise NotStrict("too long")
    if data.startswith(b"\xef\xbb\xbf"):
        raise NotStrict("a byte order mark")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_pairs,
            parse_int=_integer,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except RecursionError as error:
        raise NotStrict("nested too deep") from error
    _bounded(value)
    return value


# Names

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
KEY = re.compile(r"ed25519:[0-9a-f]{64}")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
KIND = re.compile(r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?")
SUBJECT = re.compile(r"[a-z0-9/-]{1,80}")


def is_label(text, most):
    return isinstance(text, str) and len(text) <= most and LABEL.fullmatch(text) is not None


def bounded(number):
    """Times come from strangers: beyond 64 bits they stop."""
    return max(INT_MIN, min(INT_MAX, number))


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def raw(name):
    """The 32 bytes of a digest or key."""
    return bytes.fromhex(name.split(":")[1])


# Signatures: one rule, because conformant libraries disagree on the others

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P


def _root(square):
    """A square root, if there is one."""
    root = pow(square, (P + 3) // 8, P)
    if (root * root - square) % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    return None if (root * root - square) % P else root


def _small_spellings():
    """Every way to write one of the eight points that a careless verifier takes for anybody's."""
    ys = {0, 1, P - 1}
    # A point of order eight doubles to one with y = 0, so that d y^4 + 2 y^2 - 1 = 0.
    for root in (_root(1 + D), -_root(1 + D)):
        y = _root((root - 1) * pow(D, P - 2, P) % P)
        ys |= set() if y is None else {y, P - y}
    numbers = [number for y in ys for number in (y, y + P) if number < 2**255]
    return frozenset((n | sign << 255).to_bytes(32, "little") for n in numbers for sign in (0, 1))


SMALL = _small_spellings()


@functools.lru_cache(maxsize=4096)
def _public(key):
    encoded = raw(key)
    if encoded in SMALL:
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(encoded)
    except ValueError:
        return None


def verifies(key, message, signature):
    public = _public(key)
    if public is None or signature[:32] in SMALL:
        return False
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def base64_of(text):
    """Standard base64 with padding, in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


# Envelopes


def is_envelope(value):
    """Whether JSON has the shape of an envelope, no more and no less."""
    return (
        isinstance(value, dict)
        and value.keys() == {"payloadType", "payload", "signatures"}
        and isinstance(value["payloadType"], str)
        and isinstance(value["payload"], str)
        and isinstance(value["signatures"], list)
        and all(
            isinstance(s, dict)
            and s.keys() == {"keyid", "sig"}
            and isinstance(s["keyid"], str)
            and KEY.fullmatch(s["keyid"])
            and isinstance(s["sig"], str)
            for s in value["signatures"]
        )
    )


def kind_of_type(payload_type):
    kind = payload_type.removeprefix("application/vnd.koinon.").removesuffix(".v1+json")
    whole = payload_type == f"application/vnd.koinon.{kind}.v1+json"
    return kind if whole and KIND.fullmatch(kind) else None


def largest_payload(kind):
    if kind == "charter":
        return DOCUMENT
    if kind == "application":
        return APPLICATION
    return HUMAN_PAYLOAD if PLACES.get(kind) == HUMAN else PAYLOAD


def open_envelope(envelope, largest):
    """The payload of an envelope of which every signature verifies."""
    if len(envelope["payload"].encode()) > DOCUMENT // 3 * 4 + 4:
        raise Refused("TooLarge")
    payload = base64_of(envelope["payload"])
    if payload is None:
        raise Refused("BadEnvelope", "the payload is not canonical base64")
    if len(payload) > largest:
        raise Refused("TooLarge")
    signatures = envelope["signatures"]
    founds = kind_of_type(envelope["payloadType"]) == "charter"
    if not 1 <= len(signatures) <= (MOST_FOUNDERS if founds else MOST_SIGNATURES):
        raise Refused("BadEnvelope", "no signature, or too many")
    media = envelope["payloadType"].encode()
    message = b"DSSEv1 %d %s %d %s" % (len(media), media, len(payload), payload)
    seen = set()
    for signature in signatures:
        if signature["keyid"] in seen:
            raise Refused("BadEnvelope", "two signatures of one key")
        seen.add(signature["keyid"])
        data = base64_of(signature["sig"])
        if data is None or len(data) != 64:
            raise Refused("BadEnvelope", "a signature is not 64 bytes")
        if not verifies(signature["keyid"], message, data):
            raise Refused("BadSignature", signature["keyid"])
    return payload


# The header

HEADER = ("coop", "author", "site", "key", "kind", "rules", "issuedAt", "body")
POSITION = ("log", "subject", "seq", "prev", "to", "notAfter")


def _is_integer(value, least=INT_MIN, most=INT_MAX):
    return type(value) is int and least <= value <= most


def check_header(payload):
    """Raises BadPayload unless every field of the header that there is has its type."""

    def matches(pattern):
        return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None

    checks = {
        "coop": lambda v: isinstance(v, str),
        "author": lambda v: is_label(v, 30),
        "site": lambda v: is_label(v, 30),
        "key": matches(KEY),
        "kind": matches(KIND),
        "rules": lambda v: _is_integer(v, 0, 2**32 - 1),
        "issuedAt": _is_integer,
        "body": lambda v: True,
        "log": matches(KEY),
        "subject": matches(SUBJECT),
        "seq": lambda v: _is_integer(v, 0),
        "prev": matches(DIGEST),
        "to": lambda v: isinstance(v, str),
        "notAfter": _is_integer,
    }
    if not isinstance(payload, dict) or any(name not in payload for name in HEADER):
        raise Refused("BadPayload", "a field of the header is missing")
    for name, check in checks.items():
        absent = name in POSITION and payload.get(name) is None
        if not absent and not check(payload[name]):
            raise Refused("BadPayload", f"{name} of the header is not one")


def place_of(payload):
    """Where the fields of the position put a statement."""
    given = {name for name in POSITION if payload.get(name) is not None}
    if not given:
        place = HUMAN
    elif given == {"log", "seq", "prev"} and payload["log"] == payload["key"]:
        place = LOG
    elif given == {"subject", "seq", "to", "notAfter"} and (payload["to"] == "*" or is_label(payload["to"], 30)):
        place = LATEST
    else:
        raise Refused("BadPosition")
    if PLACES.get(payload["kind"], place) != place:
        raise Refused("BadPosition", "its fields are those of another sort of statement")
    return place
