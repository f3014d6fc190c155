"""Params and tags of one run into the ledger, by MLflow's rules, in the transaction the caller holds."""

import sqlalchemy as sa

from longrein.core.errors import Error
from longrein.core.ledger.database import execute
from longrein.core.ledger.schema import params, runs, tags
from longrein.models.track.call import Call


def check_active(call: Call, run_id: str) -> None:
    """Errors: `not_found`; `invalid` for a deleted run."""
    with call.ledger.db.read() as connection:
        mark = "?" if call.ledger.db.sqlite else "%s"  # text for the driver: asked for every logged metric
        row = execute(connection, f"SELECT lifecycle_stage FROM {runs.name} WHERE id = {mark}", (run_id,)).fetchone()
    if row is None:
        raise Error("not_found", f"Run with id={run_id} not found")
    if row[0] != "active":
        raise Error(
            "invalid", f"The run {run_id} must be in the 'active' state. Current state is {row[0]}.", "restore it"
        )


def add_params(call: Call, run_id: str, values: dict[str, str]) -> None:
    """Errors: `invalid` when a param is there with another value: params do not change."""
    if not values:
        return
    with call.ledger.db.write() as connection:
        rows = [{"run_id": run_id, "key": k, "value": v} for k, v in values.items()]
        connection.execute(call.ledger.db.insert(params).on_conflict_do_nothing(), rows)
        kept = connection.execute(_KEPT, {"run_id": run_id, "keys": list(values)})
        for row in kept:
            if row.value != values[row.key]:
                raise Error(
                    "invalid",
                    f"Changing param values is not allowed. Param with key='{row.key}' was already logged with "
                    f"value='{row.value}' for run ID='{run_id}'. Attempted logging new value '{values[row.key]}'.",
                    "log it in a nested run of its own",
                )


def set_tags(call: Call, run_id: str, values: dict[str, str]) -> None:
    if not values:
        return
    insert = call.ledger.db.insert(tags)
    with call.ledger.db.write() as connection:
        connection.execute(
            insert.on_conflict_do_update(index_elements=["run_id", "key"], set_={"value": insert.excluded.value}),
            [{"run_id": run_id, "key": k, "value": v} for k, v in values.items()],
        )
        if "mlflow.runName" in values:
            connection.execute(runs.update().where(runs.c.id == run_id).values(name=values["mlflow.runName"]))


_KEPT = sa.select(params).where(
    params.c.run_id == sa.bindparam("run_id"), params.c.key.in_(sa.bindparam("keys", expanding=True))
)
