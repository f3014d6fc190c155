"""What MLflow lets a name, a value and a batch be: code that runs against it runs here, and the reverse."""

import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache

from longrein.core.errors import Error

KEY, PARAM, TAG, BATCH_BYTES = 250, 6000, 8000, 1_000_000
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH, PER_BATCH = 1000, 100, 100, 1000
EXPERIMENT_NAME, EXPERIMENT_TAG, REGISTRY_TAG, ALIAS = 500, 20_000, 100_000, 255
DATASETS, DATASET_NAME, DATASET_DIGEST, DATASET_SOURCE, DATASET_SCHEMA = 1000, 500, 36, 65_535, 1_048_575

_KEY = re.compile(r"[/\w.\- :]*")
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}")


@lru_cache(65_536)
def check_key(key: str, path: str = "key") -> str:
    """A metric's, param's or tag's name. Errors: `invalid`."""
    if not _KEY.fullmatch(key):
        why = (
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) "
            "and slashes (/)."
        )
        raise Error("invalid", f"Invalid value {key[:300]!r} for parameter '{path}' supplied: {why}")
    normal = posixpath.normpath(key)
    if normal != key or normal == "." or normal.startswith(("..", "/")):
        why = f"Names may be treated as files in certain cases, and must not resolve to other names: {normal[:300]!r}"
        raise Error("invalid", f"Invalid value {key[:300]!r} for parameter '{path}' supplied: {why}")
    return within(key, KEY, path)


def within(value: str, limit: int, what: str) -> str:
    if len(value) > limit:
        raise Error("invalid", f"'{what}' exceeds the maximum length of {limit} characters")
    return value


def check_batch(metrics: Sequence[object], params: Sequence[object], tags: Sequence[object]) -> None:
    counts = (
        ("metrics", len(metrics), METRICS_PER_BATCH),
        ("params", len(params), PARAMS_PER_BATCH),
        ("tags", len(tags), TAGS_PER_BATCH),
        ("metrics, params, and tags", len(metrics) + len(params) + len(tags), PER_BATCH),
    )
    for what, count, limit in counts:
        if count > limit:
            raise Error(
                "invalid",
                f"A batch logging request can contain at most {limit} {what}. Got {count} {what}.",
                "split it up",
            )


def check_run_id(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise Error("invalid", f"Invalid value {run_id[:300]!r} for parameter 'run_id' supplied.")
    return run_id


def check_experiment_name(name: str) -> str:
    if not name:
        raise Error("invalid", f"Invalid experiment name: {name!r}")
    return within(name, EXPERIMENT_NAME, "name")
