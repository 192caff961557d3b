"""Koinon's wire format once more, written against the specification and not against the Rust code.

Envelopes are securesystemslib's, Ed25519 is that of `cryptography` (OpenSSL). What the two have no word for (the
header, ids, Merkle roots, policy versions, manifests) is spelled out here in the plainest way.
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

# The moment at which the vectors are made: any fixed one would do.
T0 = 1_795_000_000


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def raw(name: str) -> bytes:
    """The 32 bytes of a digest or key."""
    return bytes.fromhex(name.split(":")[1])


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def payload_type(kind: str) -> str:
    return f"application/vnd.koinon.{kind}.v1+json"


class Key:
    """An Ed25519 key whose seed follows from a word."""

    def __init__(self, word: str):
        self.seed = hashlib.sha256(word.encode()).digest()
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        public = self.private.public_key()
        self.bytes = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = "ed25519:" + self.bytes.hex()
        self.signer = CryptoSigner(self.private, SSlibKey.from_crypto(public, keyid=self.id))

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


def envelope(kind: str, payload: bytes, *keys: Key) -> dict:
    """A DSSE envelope with a signature of each key."""
    made = Envelope(payload, payload_type(kind), {})
    for key in keys:
        made.sign(key.signer)
    return made.to_dict()


def verify(envelope_dict: dict) -> bytes:
    """The payload of an envelope all of whose signatures verify; raises otherwise."""
    signatures = [dict(signature) for signature in envelope_dict["signatures"]]
    read = Envelope.from_dict({**envelope_dict, "signatures": signatures})
    keys = []
    for keyid in read.signatures:
        public = Ed25519PublicKey.from_public_bytes(raw(keyid))
        keys.append(SSlibKey.from_crypto(public, keyid=keyid))
    read.verify(keys, len(keys))
    return read.payload


class Person:
    """A member with the keys of all its roles."""

    def __init__(self, name: str):
        self.name = name
        self.recovery, self.governance, self.operator = (
            Key(f"{name}/{role}") for role in ("recovery", "governance", "operator")
        )

    def member(self) -> dict:
        return {
            "id": self.name,
            "owner": f"{self.name} Datacenter Ltd",
            "controlGroup": self.name,
            "site": {"name": "main", "region": "eu-south", "jurisdiction": "ES"},
            "keys": {
                "recovery": [self.recovery.id],
                "governance": [self.governance.id],
                "operator": self.operator.id,
            },
            "endpoints": {
                "peer": [f"https://{self.name}.example:7443"],
                "gateway": [f"https://{self.name}.example:7444"],
            },
        }

    def header(self, coop: str, key: Key, kind: str, at: int, rules: int = 1) -> dict:
        return {
            "coop": coop,
            "author": self.name,
            "site": "main",
            "key": key.id,
            "kind": kind,
            "rules": rules,
            "issuedAt": at,
        }

    def human(self, coop: str, kind: str, body: dict, at: int = T0, co: tuple = (), rules: int = 1) -> dict:
        payload = compact({**self.header(coop, self.governance, kind, at, rules), "body": body})
        return envelope(kind, payload, self.governance, *co)

    def application(self, coop: str, at: int = T0) -> dict:
        return self.human(coop, "application", {"member": self.member()}, at, (self.operator,))

    def latest(self, coop: str, kind: str, subject: str, to: str, body: dict, at: int = T0) -> dict:
        position = {"subject": subject, "seq": at * 1_000_000, "to": to, "notAfter": at + 60}
        payload = compact({**self.header(coop, self.operator, kind, at), **position, "body": body})
        return envelope(kind, payload, self.operator)


class Log:
    """The log of one member's operator."""

    def __init__(self, person: Person, coop: str):
        self.person, self.coop, self.entries = person, coop, []

    def position(self) -> dict:
        prev = statement_id(self.entries[-1]) if self.entries else self.coop
        return {"log": self.person.operator.id, "seq": len(self.entries), "prev": prev}

    def make(self, kind: str, body: dict, at: int, **changes) -> dict:
        """The next entry, not yet added; `changes` replace fields of its payload."""
        header = self.person.header(self.coop, self.person.operator, kind, at)
        payload = {**header, **self.position(), "body": body, **changes}
        return envelope(kind, compact({k: v for k, v in payload.items() if v is not None}), self.person.operator)

    def add(self, kind: str, body: dict, at: int = T0) -> dict:
        self.entries.append(self.make(kind, body, at))
        return self.entries[-1]

    def anchor(self, statement: dict, at: int = T0) -> dict:
        return self.add("anchor", {"statement": statement}, at)


def statement_id(envelope_dict: dict) -> str:
    return digest(base64.b64decode(envelope_dict["payload"]))


def body_of(envelope_dict: dict) -> dict:
    return json.loads(base64.b64decode(envelope_dict["payload"]))["body"]


def merkle_root(ids) -> str:
    """RFC 6962, section 2.1, over the 32 bytes of each id, in their order."""

    def tree(leaves):
        if not leaves:
            return hashlib.sha256(b"").digest()
        if len(leaves) == 1:
            return hashlib.sha256(b"\x00" + leaves[0]).digest()
        k = 1
        while k * 2 < len(leaves):
            k *= 2
        return hashlib.sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()

    return "sha256:" + tree(sorted(raw(name) for name in ids)).hex()


def genesis(scope: str, coop: str) -> str:
    return digest(f"koinon/policy/v1\n{scope}\ngenesis\n{coop}\n".encode())


def version(scope: str, parent: str, proposal: str, root: str) -> str:
    return digest(f"koinon/policy/v1\n{scope}\n{parent}\n{proposal}\n{root}\n".encode())


def manifest_digest(files: dict) -> str:
    """`files` maps a path to the content's bytes."""
    lines = [f"{hashlib.sha256(content).hexdigest()} {len(content)} {path}\n" for path, content in files.items()]
    return digest("".join(sorted(lines)).encode())


def fraction(num: int, den: int) -> dict:
    return {"num": num, "den": den}


def charter(people, name: str = "Iberian league") -> dict:
    """A charter of minutes, in which a box closes when all have voted."""

    def rules(turnout, threshold, min_yes, veto):
        made = {
            "delaySeconds": 0,
            "periodSeconds": 120,
            "turnout": turnout,
            "threshold": threshold,
            "minYes": min_yes,
            "timelockSeconds": 0,
            "delegation": False,
        }
        return {**made, "veto": veto} if veto else made

    half, third, thirds = fraction(1, 2), fraction(1, 3), fraction(2, 3)
    routine = rules(third, {"moreThan": half}, {"ceil": fraction(1, 4)}, third)
    economic = rules(half, {"moreThan": half}, {"ceil": third}, third)
    return {
        "name": name,
        "preset": "custom",
        "founders": [person.member() for person in people],
        "parameters": {
            "graceSeconds": 0,
            "sealBySeconds": 0,
            "clockToleranceSeconds": 30,
            "enactWindowSeconds": 3600,
            "beaconSeconds": 2,
            "freshSeconds": 6,
            "lostSeconds": 20,
            "leaseSeconds": 20,
            "leaseMarginSeconds": 5,
            "keepServingMaxSeconds": 86400,
            "budgets": {"bytesPerDay": 64 << 20, "entriesPerDay": 20000},
            "inviteHours": 72,
            "sponsors": 1,
            "probationSeconds": 0,
            "maxOpenProposals": 20,
            "closeWhenAllVoted": True,
        },
        "classes": {
            "Routine": routine,
            "Economic": economic,
            "Admit": rules(half, {"atLeast": thirds}, {"ceil": third}, third),
            "Charter": rules(thirds, {"atLeast": thirds}, {"floorPlusOne": half}, third),
            "Expel": rules(thirds, {"atLeast": thirds}, {"ceil": thirds}, None),
            "Recall": rules(half, {"moreThan": half}, {"ceil": third}, None),
            "Cancel": rules(third, {"moreThan": half}, {"ceil": fraction(1, 4)}, None),
            "Emergency": rules(half, {"moreThan": half}, {"ceil": third}, None),
        },
        "releases": [],
        "engines": [],
    }


def found(people) -> dict:
    """The founding, signed by everybody in it."""
    first = people[0]
    payload = compact({**first.header("", first.governance, "charter", T0), "body": charter(people)})
    return envelope("charter", payload, *(person.governance for person in people))
