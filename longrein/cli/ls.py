"""List assets, the versions of one (kind:name), or runs, events, keys, aliases; requests are in `longrein logs`."""

from typing import TYPE_CHECKING, Any

import click

from longrein.cli import _text
from longrein.cli._complete import refs
from longrein.cli.main import Session
from longrein.core.errors import Error, nearest
from longrein.core.ref import KINDS, Ref

if TYPE_CHECKING:
    from longrein.core.ledger import Ledger

Listing = tuple[list[dict[str, Any]], list[tuple[Any, ...]], tuple[str, ...]]  # data, rows, heads


@click.command(help=__doc__)
@click.argument("what", default="", shell_complete=refs)
@click.option("-n", "--limit", default=50, show_default=True, help="At most so many, the newest ones.")
@click.pass_obj
def command(session: Session, what: str, limit: int) -> None:
    ledger = session.workspace.ledger
    if what in LISTS:
        data, rows, heads = LISTS[what](ledger, limit)
    elif ":" in what:
        data, rows, heads = versions(ledger, what, limit)
    else:
        data, rows, heads = assets(ledger, what, limit)
    session.show(data, _text.table(rows, heads) if rows else f"there are no {what or 'assets'} yet")


def assets(ledger: "Ledger", what: str, limit: int) -> Listing:
    kinds = {k: k for k in KINDS} | {_plural(k): k for k in KINDS}
    if what and what not in kinds:
        valid = [*(_plural(k) for k in KINDS), *LISTS]
        hint = "longrein logs" if what == "requests" else nearest(what, valid)
        raise Error("invalid", f"there is no list of {what!r}", hint)
    found = ledger.assets.latest(kinds.get(what, ""), limit)
    data = [
        {"ref": a.ref, "versions": n, "digest": a.digest, "bytes": a.bytes, "created_ms": a.created_ms}
        for a, n in found
    ]
    rows = [(a.ref, n, _text.size(a.bytes), a.digest[:12], _text.ago(a.created_ms)) for a, n in found]
    return data, rows, ("newest", "versions", "size", "digest", "made")


def versions(ledger: "Ledger", what: str, limit: int) -> Listing:
    from longrein.models import registry

    ref = Ref.parse(what)
    ledger.assets.get(ref)  # the error names the nearest
    data = registry.versions(ledger, ref.kind, ref.name, limit)
    if ref.kind != "model":  # a dataset is read by evaluations too, and they are not about it
        data = [{k: value for k, value in v.items() if k != "metrics"} for v in data]
    rows = [
        (
            v["ref"], v["digest"][:12], " ".join(v["aliases"]) or "–",
            " ".join(f"{k} {_text.number(m['value'])}" for k, m in v.get("metrics", {}).items()) or "–",
            v["run"][:12] or "–", _text.ago(v["created_ms"]),
        )
        for v in data
    ]  # fmt: skip
    return data, rows, ("version", "digest", "aliases", "metrics", "run", "made")


def runs(ledger: "Ledger", limit: int) -> Listing:
    found = ledger.runs.recent(limit=limit)
    rows = [
        (r.id, r.capability or "–", r.name or "–", r.status.lower(), _text.duration(r.wall_s), _text.money(r.cost_usd),
         _text.ago(r.started_ms))
        for r in found
    ]  # fmt: skip
    return [as_data(r) for r in found], rows, ("run", "capability", "name", "status", "took", "cost", "started")


def events(ledger: "Ledger", limit: int) -> Listing:
    found = ledger.events.recent(limit=limit)
    rows = [
        (e.seq, _text.when(e.ts_ms), e.actor or "–", e.kind, e.subject, _text.short(told(e.data), 80)) for e in found
    ]
    return [as_data(e) for e in found], rows, ("seq", "time", "actor", "event", "subject", "data")


def keys(ledger: "Ledger", _: int) -> Listing:
    found = ledger.keys.all()
    rows = [
        (k.id, k.label or "–", k.team or "–", " ".join(k.scopes), "revoked" if k.revoked_ms else "live",
         _text.ago(k.created_ms), " ".join(f"{n}={v}" for n, v in (k.limits or {}).items()) or "–")
        for k in found
    ]  # fmt: skip
    return [as_data(k) for k in found], rows, ("key", "label", "team", "scopes", "state", "made", "limits")


def aliases(ledger: "Ledger", limit: int) -> Listing:
    found = [
        (f"{a.kind}:{a.name}@{alias}", to.ref, to.digest, revision)
        for a, _ in ledger.assets.latest(limit=limit)
        for alias, (to, revision) in ledger.aliases.get(a.kind, a.name).items()
    ]
    data = [{"alias": a, "ref": ref, "digest": d, "revision": n} for a, ref, d, n in found]
    return data, [(a, ref, d[:12], n) for a, ref, d, n in found], ("alias", "points at", "digest", "moved")


LISTS = {"runs": runs, "events": events, "keys": keys, "aliases": aliases}


def as_data(value: Any) -> dict[str, Any]:
    return dict(value._asdict() if hasattr(value, "_asdict") else vars(value))


def told(data: dict[str, Any]) -> str:
    """An event's data on one line, digests and run ids, which say the least, at the end and shortened."""
    kept = sorted((p for p in data.items() if p[1] not in (None, "", [], {})), key=lambda p: p[0] in ("digest", "run"))
    return " ".join(f"{k}={v[:12] if k in ('digest', 'run') else v}" for k, v in kept)


def _plural(kind: str) -> str:
    return {"index": "indexes", "policy": "policies"}.get(kind, kind + "s")
