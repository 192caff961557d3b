"""The outcome in the one form that every implementation of the audit prints, to be compared byte by byte."""

import shapes
from history import CHAINS


def or_dash(value):
    return "-" if value is None or value == "" else str(value)


def names(ids):
    return ",".join(sorted(ids)) or "-"


def phase(history, proposal, now):
    """Where a proposal stands, and what that is about. Only this depends on a time."""
    body, sealing = proposal.body, proposal.sealing
    if proposal.enacted:
        return "Enacted", proposal.enacted.version
    if proposal.invalid:
        return "Invalid", proposal.invalid
    certificate = sealing.certificates[0] if sealing.certificates else None
    if certificate and certificate.outcome != "passed":
        return certificate.outcome[0].upper() + certificate.outcome[1:], None
    if certificate and body["action"][0] == "cancelProposal":
        return "Enacted", body["action"][1]["proposal"]
    if proposal.cancelled_by:
        return "Cancelled", proposal.cancelled_by
    if proposal.superseded_by:
        return "Superseded", proposal.superseded_by
    if proposal.stale:
        return "Stale", None
    if now > (sealing.deadline(certificate.term) if certificate else body["expiresAt"]):
        return after_deadline(history, proposal, certificate)
    if sealing.poll.complete and not certificate and now > sealing.seal_by():
        return "Stalled", None
    if proposal.appealed_by and certificate and certificate.term == body["term"]:
        return "Appealed", proposal.appealed_by
    if certificate:
        signed = len(sealing.signed_on(certificate))
        return "Queued", f"{signed}/{sealing.enact_quorum}@{sealing.eta(certificate.closed_at)}"
    if now < body["opensAt"] and not sealing.box.all_voted:
        return "Pending", body["opensAt"]
    if sealing.box.all_voted or now >= body["closesAt"]:
        return "Closing", f"{sealing.best_agreement()}/{sealing.quorum}"
    return "Open", body["closesAt"]


def after_deadline(history, proposal, certificate):
    """What passed may have been enacted unseen: until operators have said what they signed, nobody can know."""
    if certificate and proposal.sealing.poll.complete and certificate.scope in CHAINS:
        pinned = history.memberships[proposal.body["membership"]]
        term, bound = history.open_term(certificate.scope, certificate.parent, pinned)
        if term <= certificate.term or bound == proposal.id:
            return "AwaitingSlot", term
    return "Expired", None


def of_vote(vote):
    return f"{vote.id} {vote.author} {vote.choice} {vote.vseq} {vote.verdict}"


def of_certificates(certificates):
    for c in certificates:
        yield f" certificate {c.term} {c.root} {c.count} {c.outcome} {c.closed_at}"
        yield f"  of {c.head} by {names(c.seals.values())}"


def of_proposal(history, proposal, now):
    statement, body, sealing = proposal.anchored.statement, proposal.body, proposal.sealing
    name, detail = phase(history, proposal, now)
    yield f"proposal {proposal.id} {statement.author} {body['action'][0]} {shapes.proposal_rules(body)}"
    yield f" standing {name} {or_dash(detail)}"
    if sealing:
        scope, parent, term = sealing.slot
        quorums = f"{len(sealing.sealers)} {sealing.quorum}/{sealing.enact_quorum}"
        yield f" slot {scope} {parent} {term} {quorums}"
        box, counts = sealing.box, sealing.box.counts
        closed = "early" if box.all_voted else "late"
        yield f" box {box.root} {len(box.ids)} {box.closed_at} {closed} {sealing.outcome}"
        counted = "/".join(str(counts[choice]) for choice in ("yes", "no", "abstain", "veto"))
        yield f" tally {box.electors} {counted} {box.turnout_needed} {box.min_yes} {box.outcome}"
    about = [seal for seal in history.gathered.notices.values() if seal.body["proposal"] == proposal.id]
    yield from sorted(f" notice {s.id} {s.by} {s.at} {s.body['notice'].capitalize()}" for s in about)
    if sealing:
        yield from of_certificates(sealing.certificates)
    yield from sorted(f" vote {of_vote(vote)}" for vote in proposal.votes)


def of_member(history, name, m):
    fork, ring = history.forks.get(m.log), history.ring(m.log)
    yield f"member {name} {m.standing} {m.since} {or_dash(m.left)} {or_dash(fork[0] if fork else None)}"
    aside = history.membership.aside.get(name)
    when = or_dash(aside.time if aside else None)
    yield f" aside {when} suspended {or_dash(m.suspended)} keys {ring.number} {names(ring.governance)}"
    logs = [(began.generation, log, began.replaced) for log, began in history.keys.logs.items() if began.owner == name]
    yield from (f" log {log} {generation} {or_dash(replaced)}" for generation, log, replaced in sorted(logs))
    for proof in (m.proofs[known] for known in sorted(m.proofs)):
        yield f" proof {proof.id} {' '.join(map(str, proof.offence))} {' '.join(proof.entries)}"


def of_key_change(history, entry):
    statement, problem = history.key_changes[entry]
    body = statement.body
    if statement.kind == "key-update":
        said = f"update {body['number']} {','.join(body['governance']) or '-'}"
    else:
        said = f"revoke {body['key']} {body['log']} {body['sinceSeq']}"
    return f"keys {entry} {statement.author} {statement.id} {said} {problem or 'Holds'}"


def of_order(order, now):
    stop = " ".join(order.stop)
    yield f"order {order.id} {order.author} {stop} {order.cause} {order.issued_at} {order.until}"
    barred = or_dash(order.barred_by)
    yield f" signed {names(order.signed)} {order.owners}/{order.needed} barred {barred} {order.standing(now)}"


def lines_of(history):
    bundle = history.bundle
    yield f"coop {bundle.coop}"
    yield f"asOf {bundle.as_of}"
    yield f"rules {history.rules}"
    yield f"entries {bundle.count}"
    for scope in CHAINS:
        yield f"head {scope} {or_dash(history.heads().get(scope))}"
    for scope in CHAINS:
        for number, version in enumerate(history.chains[scope]):
            if e := version.enacted:
                yield f"version {scope} {number} {version.hash} {e.child} {e.root} {e.term}"
                yield f" settled {e.settled_at} close {names(e.close_seals)} enact {names(e.enact_seals)}"
    for name, member in sorted(history.members.items()):
        yield from of_member(history, name, member)
    yield from sorted(of_key_change(history, entry) for entry in history.key_changes)
    for name, release in sorted(history.releases.items()):
        yield f"release {name} {release.since} {or_dash(release.withdrawn)}"
    for name, engine in sorted(history.engines.items()):
        yield f"engine {name} {engine['image']}"
    for _, proposal in sorted(history.proposals.items()):
        yield from of_proposal(history, proposal, bundle.as_of)
    for leaving, enacted in history.leaves:
        yield f"leave {leaving.statement.id} {leaving.statement.author} {or_dash(enacted)}"
        yield from of_certificates(leaving.certificates)
    ended = history.slots().items()
    yield from sorted(f"ended {scope} {parent} {term} {what}" for (scope, parent, term), what in ended)
    yield from sorted(f"stray {name} {of_vote(vote)}" for name, vote in history.stray)
    yield from sorted({f"fault {' '.join(fault)}" for fault in history.faults})
    for log, (seq, first, second) in sorted(history.forks.items()):
        yield f"fork {log} {seq} {first} {second}"
    _, branches = bundle.unlisted(history.owners, history.proofs)
    yield from sorted(f"branch {log} {seq} {name}" for log, seq, name in branches)
    for _, order in sorted(history.orders.items()):
        yield from of_order(order, bundle.as_of)
    yield "holds"
