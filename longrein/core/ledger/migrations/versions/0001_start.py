"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Key = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("kind", Key, nullable=False),
        sa.Column("subject", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("firing", Key, nullable=True),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("fired_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("firing", name=op.f("uq_alerts_firing")),
    )
    op.create_index("ix_alerts_subject_id", "alerts", ["subject", "id"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("kind", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("alias", Key, nullable=False),
        sa.Column("asset_id", Id, nullable=False),
        sa.Column("before_id", Id, nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "alias", name=op.f("pk_aliases")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", Key, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("team", Key, server_default="", nullable=False),
        sa.Column("release", Key, server_default="", nullable=False),
        sa.Column("limits", sa.JSON(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
    )
    op.create_table(
        "asset_tags",
        sa.Column("asset_id", Id, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("asset_id", "key", name=op.f("pk_asset_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "assets",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("kind", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", Key, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), server_default="live", nullable=False),
        sa.Column("stage", sa.String(), server_default="None", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("run_id", Key, server_default="", nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assets")),
        sa.UniqueConstraint("kind", "name", "version", name=op.f("uq_assets_kind_name_version")),
    )
    op.create_index(op.f("ix_assets_digest"), "assets", ["digest"], unique=False)
    op.create_index("ix_assets_kind_name_digest", "assets", ["kind", "name", "digest"], unique=False)
    op.create_index(op.f("ix_assets_run_id"), "assets", ["run_id"], unique=False)
    op.create_table(
        "edges",
        sa.Column("run_id", Key, nullable=False),
        sa.Column("asset_id", Id, nullable=False),
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("role", Key, server_default="", nullable=False),
        sa.Column("tags", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "asset_id", "direction", "role", name=op.f("pk_edges")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_edges_asset_id_direction", "edges", ["asset_id", "direction", "run_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("seq", Id, autoincrement=False, nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("kind", Key, nullable=False),
        sa.Column("subject", Key, nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
    )
    op.create_index("ix_events_kind_seq", "events", ["kind", "seq"], unique=False)
    op.create_index("ix_events_subject_seq", "events", ["subject", "seq"], unique=False)
    op.create_table(
        "experiment_tags",
        sa.Column("experiment_id", Id, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", "key", name=op.f("pk_experiment_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "experiments",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("lifecycle_stage", sa.String(), server_default="active", nullable=False),
        sa.Column("artifact_location", sa.Text(), server_default="", nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", name=op.f("uq_experiments_name")),
    )
    op.create_table(
        "feedback",
        sa.Column("request_id", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("source", Key, nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("endpoint", Key, nullable=False),
        sa.Column("release", Key, nullable=False),
        sa.Column("arm", Key, nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "name", "source", name=op.f("pk_feedback")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_feedback_endpoint_ts_ms", "feedback", ["endpoint", "ts_ms"], unique=False)
    op.create_table(
        "gated",
        sa.Column("kind", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("alias", Key, nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "alias", name=op.f("pk_gated")),
    )
    op.create_table(
        "latest_metrics",
        sa.Column("run_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_latest_metrics")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_latest_metrics_key_value", "latest_metrics", ["key", "value"], unique=False)
    op.create_table(
        "logged_model_metrics",
        sa.Column("model_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("dataset_name", Key, server_default="", nullable=False),
        sa.Column("dataset_digest", Key, server_default="", nullable=False),
        sa.Column("run_id", Key, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint(
            "model_id", "key", "dataset_name", "dataset_digest", "run_id", name=op.f("pk_logged_model_metrics")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "logged_model_params",
        sa.Column("model_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "key", name=op.f("pk_logged_model_params")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "logged_model_runs",
        sa.Column("model_id", Key, nullable=False),
        sa.Column("run_id", Key, nullable=False),
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "run_id", "direction", name=op.f("pk_logged_model_runs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_logged_model_runs_run_id"), "logged_model_runs", ["run_id"], unique=False)
    op.create_table(
        "logged_model_tags",
        sa.Column("model_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "key", name=op.f("pk_logged_model_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "logged_models",
        sa.Column("id", Key, nullable=False),
        sa.Column("experiment_id", Id, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("type", Key, server_default="", nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("lifecycle_stage", sa.String(), server_default="active", nullable=False),
        sa.Column("source_run_id", Key, server_default="", nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=False),
        sa.Column("asset_id", Id, nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logged_models")),
    )
    op.create_index(op.f("ix_logged_models_experiment_id"), "logged_models", ["experiment_id"], unique=False)
    op.create_index(op.f("ix_logged_models_source_run_id"), "logged_models", ["source_run_id"], unique=False)
    op.create_table(
        "metrics",
        sa.Column("run_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("ts_ms", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", "step", "ts_ms", "value", "is_nan", name=op.f("pk_metrics")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "name_tags",
        sa.Column("kind", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "key", name=op.f("pk_name_tags")),
    )
    op.create_table(
        "names",
        sa.Column("kind", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_names")),
    )
    op.create_table(
        "params",
        sa.Column("run_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_params")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollouts",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("endpoint", Key, nullable=False),
        sa.Column("stable_id", Id, nullable=False),
        sa.Column("candidate_id", Id, nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index("ix_rollouts_endpoint_id", "rollouts", ["endpoint", "id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", Key, nullable=False),
        sa.Column("experiment_id", Id, nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("capability", Key, server_default="", nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("lifecycle_stage", sa.String(), server_default="active", nullable=False),
        sa.Column("actor", sa.Text(), server_default="", nullable=False),
        sa.Column("step_key", Key, server_default="", nullable=False),
        sa.Column("config", sa.JSON(), nullable=True),
        sa.Column("code", sa.Text(), server_default="", nullable=False),
        sa.Column("environment", sa.JSON(), nullable=True),
        sa.Column("artifact_uri", sa.Text(), server_default="", nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("cpu_s", sa.Double(), nullable=True),
        sa.Column("wall_s", sa.Double(), nullable=True),
        sa.Column("max_rss_bytes", sa.BigInteger(), nullable=True),
        sa.Column("cost_usd", sa.Double(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_experiment_id"), "runs", ["experiment_id"], unique=False)
    op.create_index(op.f("ix_runs_status"), "runs", ["status"], unique=False)
    op.create_index(op.f("ix_runs_step_key"), "runs", ["step_key"], unique=False)
    op.create_table(
        "tags",
        sa.Column("run_id", Key, nullable=False),
        sa.Column("key", Key, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_tags")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "traffic",
        sa.Column("endpoint", Key, nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("length_ms", sa.BigInteger(), nullable=False),
        sa.Column("release", Key, nullable=False),
        sa.Column("arm", Key, nullable=False),
        sa.Column("team", Key, nullable=False),
        sa.Column("worker", Key, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("guarded", sa.BigInteger(), nullable=False),
        sa.Column("refusals", sa.BigInteger(), nullable=False),
        sa.Column("cached", sa.BigInteger(), nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("tokens_cached", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.Column("statuses", sa.Text(), nullable=False),
        sa.Column("finishes", sa.Text(), nullable=False),
        sa.Column("timings", sa.Text(), nullable=False),
        sa.Column("scores", sa.Text(), nullable=False),
        sa.Column("gauges", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "endpoint", "start_ms", "length_ms", "release", "arm", "team", "worker", name=op.f("pk_traffic")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_traffic_length_ms_start_ms", "traffic", ["length_ms", "start_ms"], unique=False)
    op.create_table(
        "drift",
        sa.Column("endpoint", Key, nullable=False),
        sa.Column("host", Key, nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "host", name=op.f("pk_drift")),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("gate", Key, nullable=False),
        sa.Column("gate_digest", Key, nullable=False),
        sa.Column("subject", Key, nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("report_id", Id, nullable=True),
        sa.Column("run_id", Key, server_default="", nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
    )
    op.create_index("ix_verdicts_subject_gate", "verdicts", ["subject", "gate"], unique=False)
    op.create_table(
        "wanted",
        sa.Column("revision", Id, autoincrement=True, nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("digest", Key, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_wanted")),
    )
    op.create_table(
        "work",
        sa.Column("key", Key, nullable=False),
        sa.Column("step", Key, nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("run_id", Key, nullable=False),
        sa.Column("basis", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_work")),
    )
    op.create_index(op.f("ix_work_step"), "work", ["step"], unique=False)
    op.create_table(
        "silences",
        sa.Column("id", Id, autoincrement=True, nullable=False),
        sa.Column("kind", Key, nullable=False),
        sa.Column("subject", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("end_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
    )
    op.create_index(op.f("ix_silences_end_ms"), "silences", ["end_ms"], unique=False)
    op.create_table(
        "notices",
        sa.Column("channel", Key, nullable=False),
        sa.Column("alert_id", Id, nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("done_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("channel", "alert_id", "turn", name=op.f("pk_notices")),
    )
    op.create_index("ix_notices_channel_done_ms_due_ms", "notices", ["channel", "done_ms", "due_ms"], unique=False)
    op.create_table(
        "channels",
        sa.Column("name", Key, nullable=False),
        sa.Column("token", sa.String(length=32), server_default="", nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failing_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_channels")),
    )
    op.create_table(
        "objectives",
        sa.Column("endpoint", Key, nullable=False),
        sa.Column("name", Key, nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "name", name=op.f("pk_objectives")),
    )


def downgrade() -> None:
    raise NotImplementedError("the ledger only moves forward")
