"""The ledger's tables. A change here needs a migration in `migrations/versions` (a test compares the two)."""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER primary key
# PostgreSQL sorts text by the server's locale unless told otherwise; the same order everywhere is worth the clause.
Key = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Double: sa.Double[float] = sa.Double()


def _column(name: str, type_: Any, **options: Any) -> "sa.Column[Any]":
    """A column that holds no NULL unless it says so."""
    return sa.Column(name, type_, **{"nullable": False, **options})


def _pair(table: str, owner: str, owner_type: Any) -> sa.Table:
    """A key-value side table."""
    return sa.Table(
        table,
        metadata,
        _column(owner, owner_type, primary_key=True),
        _column("key", Key, primary_key=True),
        _column("value", sa.Text),
        sqlite_with_rowid=False,
    )


experiments = sa.Table(
    "experiments",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("name", Key, unique=True),
    _column("lifecycle_stage", sa.String, server_default="active"),
    _column("artifact_location", sa.Text, server_default=""),
    _column("created_ms", sa.BigInteger),
    _column("updated_ms", sa.BigInteger),
)
experiment_tags = _pair("experiment_tags", "experiment_id", Id)

runs = sa.Table(
    "runs",
    metadata,
    _column("id", Key, primary_key=True),  # 32 hex digits, the first 12 the start time: sorted by age
    _column("experiment_id", Id, index=True),
    _column("name", sa.Text, server_default=""),
    _column("capability", Key, server_default=""),  # "models.train", or "" for a run logged from outside
    _column("status", sa.String, index=True),  # SCHEDULED RUNNING FINISHED FAILED KILLED, MLflow's words
    _column("lifecycle_stage", sa.String, server_default="active"),
    _column("actor", sa.Text, server_default=""),
    _column("step_key", Key, index=True, server_default=""),
    _column("config", sa.JSON, nullable=True),
    _column("code", sa.Text, server_default=""),
    _column("environment", sa.JSON, nullable=True),
    _column("artifact_uri", sa.Text, server_default=""),
    _column("started_ms", sa.BigInteger),
    _column("ended_ms", sa.BigInteger, nullable=True),
    _column("cpu_s", Double, nullable=True),
    _column("wall_s", Double, nullable=True),
    _column("max_rss_bytes", sa.BigInteger, nullable=True),
    _column("cost_usd", Double, nullable=True),
    _column("error", sa.JSON, nullable=True),
)
params = _pair("params", "run_id", Key)
tags = _pair("tags", "run_id", Key)

metrics = sa.Table(
    "metrics",
    metadata,
    # The whole row is the key, so logging the same point twice (a retry) is harmless.
    _column("run_id", Key, primary_key=True),
    _column("key", Key, primary_key=True),
    _column("step", sa.BigInteger, primary_key=True),
    _column("ts_ms", sa.BigInteger, primary_key=True),
    _column("value", Double, primary_key=True),
    _column("is_nan", sa.Boolean, primary_key=True),
    sqlite_with_rowid=False,
)
latest_metrics = sa.Table(
    "latest_metrics",
    metadata,
    _column("run_id", Key, primary_key=True),
    _column("key", Key, primary_key=True),
    _column("step", sa.BigInteger),
    _column("ts_ms", sa.BigInteger),
    _column("value", Double),
    _column("is_nan", sa.Boolean),
    sa.Index("ix_latest_metrics_key_value", "key", "value"),
    sqlite_with_rowid=False,
)

logged_models = (
    sa.Table(  # MLflow's LoggedModel: what `log_model` makes; once ready, its bytes are an asset named by its id
        "logged_models",
        metadata,
        _column("id", Key, primary_key=True),  # m-<32 hex digits>
        _column("experiment_id", Id, index=True),
        _column("name", Key),
        _column("type", Key, server_default=""),
        _column("status", sa.String),  # PENDING READY FAILED, MLflow's LoggedModelStatus
        _column("lifecycle_stage", sa.String, server_default="active"),
        _column("source_run_id", Key, index=True, server_default=""),
        _column("artifact_uri", sa.Text),
        _column("asset_id", Id, nullable=True),
        _column("created_ms", sa.BigInteger),
        _column("updated_ms", sa.BigInteger),
    )
)
logged_model_params = _pair("logged_model_params", "model_id", Key)
logged_model_tags = _pair("logged_model_tags", "model_id", Key)
logged_model_runs = sa.Table(  # which runs made a logged model or read it; edges take over once it is an asset
    "logged_model_runs",
    metadata,
    _column("model_id", Key, primary_key=True),
    _column("run_id", Key, primary_key=True, index=True),
    _column("direction", sa.String(3), primary_key=True),  # in | out
    _column("step", sa.BigInteger),
    sqlite_with_rowid=False,
)
logged_model_metrics = sa.Table(  # the last value of each metric that a run logged about a logged model, by dataset
    "logged_model_metrics",
    metadata,
    _column("model_id", Key, primary_key=True),
    _column("key", Key, primary_key=True),
    _column("dataset_name", Key, primary_key=True, server_default=""),
    _column("dataset_digest", Key, primary_key=True, server_default=""),
    _column("run_id", Key, primary_key=True),
    _column("step", sa.BigInteger),
    _column("ts_ms", sa.BigInteger),
    _column("value", Double),
    _column("is_nan", sa.Boolean),
    sqlite_with_rowid=False,
)

names = sa.Table(
    "names",
    metadata,
    _column("kind", Key, primary_key=True),
    _column("name", Key, primary_key=True),
    _column("description", sa.Text, server_default=""),
    _column("created_ms", sa.BigInteger),
    _column("updated_ms", sa.BigInteger),
)
name_tags = sa.Table(
    "name_tags",
    metadata,
    _column("kind", Key, primary_key=True),
    _column("name", Key, primary_key=True),
    _column("key", Key, primary_key=True),
    _column("value", sa.Text),
)

assets = sa.Table(
    "assets",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("kind", Key),
    _column("name", Key),
    _column("version", sa.Integer),
    _column("digest", Key, index=True),
    _column("uri", sa.Text),
    _column("bytes", sa.BigInteger),
    _column("meta", sa.JSON),
    _column("state", sa.String, server_default="live"),  # live | deleted
    _column("stage", sa.String, server_default="None"),  # MLflow's model stage
    _column("description", sa.Text, server_default=""),
    _column("run_id", Key, index=True, server_default=""),  # the run that made it first
    _column("created_ms", sa.BigInteger),
    _column("updated_ms", sa.BigInteger),
    sa.UniqueConstraint("kind", "name", "version"),
    sa.Index("ix_assets_kind_name_digest", "kind", "name", "digest"),
)
asset_tags = _pair("asset_tags", "asset_id", Id)

edges = sa.Table(
    "edges",
    metadata,
    _column("run_id", Key, primary_key=True),
    _column("asset_id", Id, primary_key=True),
    _column("direction", sa.String(3), primary_key=True),  # in | out
    _column("role", Key, primary_key=True, server_default=""),
    _column(
        "tags", sa.JSON, nullable=True
    ),  # what MLflow's log_input says about the input, beside its context (the role)
    sa.Index("ix_edges_asset_id_direction", "asset_id", "direction", "run_id"),
    sqlite_with_rowid=False,
)

aliases = sa.Table(
    "aliases",
    metadata,
    _column("kind", Key, primary_key=True),
    _column("name", Key, primary_key=True),
    _column("alias", Key, primary_key=True),
    _column("asset_id", Id),
    _column("before_id", Id, nullable=True),  # what it pointed to before its last move
    _column("revision", sa.Integer),  # grows by one with each move: what compare-and-swap compares
    _column("actor", sa.Text),
    _column("updated_ms", sa.BigInteger),
)
gated = sa.Table(
    "gated",
    metadata,
    _column("kind", Key, primary_key=True),
    _column("name", Key, primary_key=True),
    _column("alias", Key, primary_key=True),
    _column("gates", sa.JSON),  # {gate name: digest of the gate's definition}
)
verdicts = sa.Table(
    "verdicts",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("gate", Key),
    _column("gate_digest", Key),
    _column("subject", Key),  # digest of the asset that was judged
    _column("passed", sa.Boolean),
    _column("reasons", sa.JSON),
    _column("report_id", Id, nullable=True),
    _column("run_id", Key, server_default=""),
    _column("actor", sa.Text),
    _column("created_ms", sa.BigInteger),
    sa.Index("ix_verdicts_subject_gate", "subject", "gate"),
)

events = sa.Table(
    "events",
    metadata,
    _column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    _column("ts_ms", sa.BigInteger),
    _column("actor", sa.Text),
    _column("kind", Key),
    _column("subject", Key),
    _column("data", sa.Text),  # canonical JSON, kept as text: the hash is over these very bytes
    _column("prev", sa.String(64)),
    _column("hash", sa.String(64)),
    sa.Index("ix_events_subject_seq", "subject", "seq"),
    sa.Index("ix_events_kind_seq", "kind", "seq"),
)

wanted = sa.Table(
    "wanted",
    metadata,
    _column("revision", Id, primary_key=True, autoincrement=True),
    _column("spec", sa.JSON),
    _column("digest", Key),
    _column("actor", sa.Text),
    _column("created_ms", sa.BigInteger),
)
work = sa.Table(
    "work",
    metadata,
    _column("key", Key, primary_key=True),  # the step's key: digest of its inputs, config and code
    _column("step", Key, index=True),  # "models.train support"
    _column("status", sa.String),  # running | done | failed
    _column("token", sa.String(32)),
    _column("owner", sa.Text),  # host:pid:start, so that a dead owner on this host is known at once
    _column("lease_ms", sa.BigInteger),
    _column("attempts", sa.Integer),
    _column("run_id", Key),
    _column("basis", sa.JSON),  # what the key was made of, for `plan` to say what changed
    _column("error", sa.JSON, nullable=True),
    _column("updated_ms", sa.BigInteger),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("endpoint", Key),
    _column("stable_id", Id),  # assets
    _column("candidate_id", Id),
    _column("config", sa.JSON),  # the strategy as declared when it began
    _column("state", sa.JSON),
    _column("weight", sa.Integer),  # of 10,000 buckets
    _column("shadow", sa.Integer),
    _column("status", sa.String),  # running | paused | promoted | rolled_back | replaced
    _column("reason", sa.Text),
    _column("actor", sa.Text),
    _column("revision", sa.Integer),  # what compare-and-swap compares
    _column("started_ms", sa.BigInteger),
    _column("updated_ms", sa.BigInteger),
    _column("ended_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_rollouts_endpoint_id", "endpoint", "id"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _column("id", Key, primary_key=True),
    _column("hash", sa.String(64), unique=True),
    _column("label", sa.Text),
    _column("scopes", sa.JSON),
    _column("team", Key, server_default=""),
    _column("release", Key, server_default=""),  # its requests go there, whatever is rolled out; "": where others do
    _column("limits", sa.JSON, nullable=True),  # {name of a limit: number}, as the gateway knows them
    _column("created_ms", sa.BigInteger),
    _column("revoked_ms", sa.BigInteger, nullable=True),
)
feedback = sa.Table(
    "feedback",
    metadata,
    _column("request_id", Key, primary_key=True),
    _column("name", Key, primary_key=True),  # of the metric; "" for a comment alone
    _column("source", Key, primary_key=True),  # the API key that said it
    _column("value", Double, nullable=True),
    _column("comment", sa.Text, server_default=""),
    _column("label", sa.Text, nullable=True),  # what the answer should have been
    _column("endpoint", Key),
    _column("release", Key),
    _column("arm", Key),
    _column("ts_ms", sa.BigInteger),
    sa.Index("ix_feedback_endpoint_ts_ms", "endpoint", "ts_ms"),
    sqlite_with_rowid=False,
)
traffic = sa.Table(
    "traffic",
    metadata,
    _column("endpoint", Key, primary_key=True),
    _column("start_ms", sa.BigInteger, primary_key=True),
    _column("length_ms", sa.BigInteger, primary_key=True),
    _column("release", Key, primary_key=True),  # digest; "" for requests that reached no release
    _column("arm", Key, primary_key=True),
    _column("team", Key, primary_key=True),
    _column("worker", Key, primary_key=True),  # the gateway process that wrote it; "" once blocks were joined
    _column("requests", sa.BigInteger),
    _column("errors", sa.BigInteger),
    _column("refused", sa.BigInteger),
    _column("cancelled", sa.BigInteger),
    _column("guarded", sa.BigInteger),
    _column("refusals", sa.BigInteger),
    _column("cached", sa.BigInteger),
    _column("tokens_in", sa.BigInteger),
    _column("tokens_out", sa.BigInteger),
    _column("tokens_cached", sa.BigInteger),
    _column("cost_usd", Double),
    _column("statuses", sa.Text),  # {name: count}, as JSON
    _column("finishes", sa.Text),
    _column("timings", sa.Text),  # {name: core.histogram}, as JSON
    _column("scores", sa.Text),
    _column("gauges", sa.Text),
    sa.Index("ix_traffic_length_ms_start_ms", "length_ms", "start_ms"),
    sqlite_with_rowid=False,
)
drift = sa.Table(  # what the observer of each host knows of an endpoint's drift
    "drift",
    metadata,
    _column("endpoint", Key, primary_key=True),
    _column("host", Key, primary_key=True),
    _column("state", sa.JSON),
    _column("updated_ms", sa.BigInteger),
)
alerts = sa.Table(
    "alerts",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("kind", Key),
    _column("subject", Key),
    _column("name", Key),
    _column("firing", Key, unique=True, nullable=True),  # the three together while it fires; NULL once it is over
    _column("severity", sa.String),
    _column("summary", sa.Text),
    _column("evidence", sa.JSON),
    _column("since_ms", sa.BigInteger),
    _column("fired_ms", sa.BigInteger),
    _column("updated_ms", sa.BigInteger),
    _column("resolved_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_alerts_subject_id", "subject", "id"),
)
silences = sa.Table(
    "silences",
    metadata,
    _column("id", Id, primary_key=True, autoincrement=True),
    _column("kind", Key),  # of the alerts that are not told; "" is any, here and below
    _column("subject", Key),
    _column("name", Key),
    _column("reason", sa.Text),
    _column("actor", sa.Text),
    _column("start_ms", sa.BigInteger),
    _column("end_ms", sa.BigInteger, index=True),
)
notices = sa.Table(  # the outbox: what is to be told of an alert, to whom, and what came of it
    "notices",
    metadata,
    _column("channel", Key, primary_key=True),
    _column("alert_id", Id, primary_key=True),
    _column("turn", sa.Integer, primary_key=True),  # 0 when it fires; then each time it is told again, and its end
    _column("what", sa.String),  # firing | resolved
    _column("severity", sa.String),
    _column("due_ms", sa.BigInteger),
    _column("done_ms", sa.BigInteger, nullable=True),  # sent, or given up
    _column("error", sa.Text, server_default=""),  # why it was given up; "" if it was not
    sa.Index("ix_notices_channel_done_ms_due_ms", "channel", "done_ms", "due_ms"),
)
channels = sa.Table(  # who sends to a channel just now, and how it goes
    "channels",
    metadata,
    _column("name", Key, primary_key=True),
    _column("token", sa.String(32), server_default=""),
    _column("lease_ms", sa.BigInteger, server_default="0"),
    _column("tries", sa.Integer, server_default="0"),  # that failed, since the last that did not
    _column("retry_ms", sa.BigInteger, server_default="0"),  # not before
    _column("failing_ms", sa.BigInteger, nullable=True),  # since when
    _column("error", sa.Text, server_default=""),
)
objectives = sa.Table(  # how each objective of an endpoint stood when it was looked at last
    "objectives",
    metadata,
    _column("endpoint", Key, primary_key=True),
    _column("name", Key, primary_key=True),
    _column("state", sa.JSON),
    _column("updated_ms", sa.BigInteger),
)
