"""What runs read and made: MLflow's dataset inputs and logged models as edges of our lineage, and back."""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.schema import assets, edges, logged_model_runs, logged_models, runs
from longrein.core.ref import NAME
from longrein.models.track import limits, points
from longrein.models.track.call import Call, Int, Json, Pair, Request, pairs
from longrein.models.track.grammar import Clause
from longrein.models.track.query import Column, compare

CONTEXT = "mlflow.data.context"  # the tag that says what a dataset was read for: an edge's role


class Dataset(Request, kw_only=True):
    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str = ""
    profile: str = ""


class DatasetInput(Request, kw_only=True):
    dataset: Dataset
    tags: tuple[Pair, ...] = ()


class ModelInput(Request, kw_only=True):
    model_id: str


class ModelOutput(Request, kw_only=True):
    model_id: str
    step: Int = 0


class LogInputs(Request, kw_only=True):
    run_id: str
    datasets: tuple[DatasetInput, ...] = ()
    models: tuple[ModelInput, ...] = ()


class LogOutputs(Request, kw_only=True):
    run_id: str
    models: tuple[ModelOutput, ...] = ()


def log_inputs(call: Call, request: LogInputs) -> Json:
    """Each dataset becomes, or is found to be, an asset that the run read."""
    if len(request.datasets) > limits.DATASETS:
        raise Error("invalid", f"A log-inputs request can contain at most {limits.DATASETS} datasets.", "split it up")
    with call.ledger.db.write() as connection:
        points.check_active(call, request.run_id)
        for item in request.datasets:
            said = {t.key: t.value for t in item.tags}
            asset_id, role = _dataset(call, connection, item.dataset), said.pop(CONTEXT, "")
            row = {
                "run_id": request.run_id,
                "asset_id": asset_id,
                "direction": "in",
                "role": role,
                "tags": said or None,
            }
            if not role and _reads(connection, request.run_id, asset_id):
                continue  # a metric names the dataset it is about; the input itself was told before
            connection.execute(call.ledger.db.insert(edges).values(row).on_conflict_do_nothing())
        for model in request.models:
            _link(call, connection, request.run_id, model.model_id, "in", 0)
    return {}


def log_outputs(call: Call, request: LogOutputs) -> Json:
    with call.ledger.db.write() as connection:
        points.check_active(call, request.run_id)
        for model in request.models:
            _link(call, connection, request.run_id, model.model_id, "out", model.step)
    return {}


def join(call: Call, connection: sa.Connection, model_id: str, asset_id: int) -> None:
    """Once a logged model is an asset: give it the edges to the runs that made it or read it."""
    for row in connection.execute(sa.select(logged_model_runs).where(logged_model_runs.c.model_id == model_id)).all():
        call.ledger.assets.link(row.run_id, asset_id, row.direction, "model")


def of_runs(connection: sa.Connection, ids: list[str]) -> tuple[dict[str, Json], dict[str, Json]]:
    """MLflow's `inputs` and `outputs` of runs."""
    reads: dict[str, Json] = defaultdict(dict)
    writes: dict[str, Json] = defaultdict(dict)
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        found = (
            sa.select(edges, assets.c.name, assets.c.digest, assets.c.uri, assets.c.meta)
            .join(assets, assets.c.id == edges.c.asset_id)
            .where(edges.c.run_id.in_(chunk), edges.c.direction == "in", assets.c.kind == "dataset")
        )
        for row in connection.execute(found):
            reads[row.run_id].setdefault("dataset_inputs", []).append(_input(row))
        for row in connection.execute(sa.select(logged_model_runs).where(logged_model_runs.c.run_id.in_(chunk))):
            if row.direction == "in":
                reads[row.run_id].setdefault("model_inputs", []).append({"model_id": row.model_id})
            else:
                model = {"model_id": row.model_id, "step": row.step}
                writes[row.run_id].setdefault("model_outputs", []).append(model)
    return reads, writes


def matching(clause: Clause, sqlite: bool) -> Column:
    """Runs that read a dataset of which the clause is true."""
    column: Any = {
        "name": sa.func.coalesce(assets.c.meta["name"].as_string(), assets.c.name),
        "digest": assets.c.digest,
        "context": edges.c.role,
    }[clause.key]
    return runs.c.id.in_(
        sa.select(edges.c.run_id)
        .join(assets, assets.c.id == edges.c.asset_id)
        .where(edges.c.direction == "in", assets.c.kind == "dataset", compare(column, clause, sqlite))
    )


def _dataset(call: Call, connection: sa.Connection, dataset: Dataset) -> int:
    """The asset behind a dataset that a client names: ours when the digest says so, else one that stands for it."""
    if not dataset.name or not dataset.digest:
        raise Error("invalid", "a dataset needs a name and a digest")
    limits.within(dataset.name, limits.DATASET_NAME, "name")
    limits.within(dataset.source, limits.DATASET_SOURCE, "source")
    limits.within(dataset.schema, limits.DATASET_SCHEMA, "schema")
    name = asset_name(dataset.name)
    known = connection.execute(
        sa.select(assets.c.id, assets.c.digest, assets.c.uri).where(assets.c.kind == "dataset", assets.c.name == name)
    ).all()
    for row in known:
        if row.digest == dataset.digest or (
            len(dataset.digest) >= 8 and row.uri and row.digest.startswith(dataset.digest)
        ):
            return int(row.id)
    if any(row.uri for row in known):  # a dataset of the lifecycle file: what only shares its name is no version of it
        name = f"{name[:190]} (mlflow)"
    limits.within(dataset.digest, limits.DATASET_DIGEST, "digest")
    meta = {f: getattr(dataset, f) for f in dataset.__struct_fields__}
    return call.ledger.assets.put("dataset", name, dataset.digest, meta=meta, actor=call.actor).id


def asset_name(name: str) -> str:
    """A name as refs allow it: "org/data" becomes "org-data"."""
    clean = "".join("-" if c in "@:/\\?#" or ord(c) < 32 else c for c in name)[:200].strip()
    return clean if NAME.fullmatch(clean) else "dataset"


def _link(call: Call, connection: sa.Connection, run_id: str, model_id: str, direction: str, step: int) -> None:
    row = connection.execute(sa.select(logged_models).where(logged_models.c.id == model_id)).first()
    if row is None:
        raise Error("not_found", f"Logged model with ID '{model_id}' not found.")
    link = {"model_id": model_id, "run_id": run_id, "direction": direction, "step": step}
    connection.execute(call.ledger.db.insert(logged_model_runs).values(link).on_conflict_do_nothing())
    if row.asset_id is not None:
        call.ledger.assets.link(run_id, row.asset_id, direction, "model")


def _reads(connection: sa.Connection, run_id: str, asset_id: int) -> bool:
    where = (edges.c.run_id == run_id, edges.c.asset_id == asset_id, edges.c.direction == "in")
    return connection.execute(sa.select(edges.c.role).where(*where).limit(1)).first() is not None


def _input(row: Any) -> Json:
    meta = row.meta or {}
    told = {k: meta[k] for k in ("schema", "profile") if isinstance(meta.get(k), str) and meta[k]}
    return {
        "dataset": {
            "name": meta.get("name") or row.name, "digest": row.digest, "source": meta.get("source") or row.uri,
            "source_type": meta.get("source_type") or "longrein", **told,
        },
        "tags": pairs(({CONTEXT: row.role} if row.role else {}) | (row.tags or {})),
    }  # fmt: skip
