"""What every tracking function works with: the ledger, the artifacts, who asks; and the small shapes they share."""

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.models.track.artifacts import Artifacts

Json = dict[str, Any]
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what a database and protobuf hold
Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # milliseconds since 1970
STAGES = {
    "ACTIVE_ONLY": ("active",), "1": ("active",), "DELETED_ONLY": ("deleted",), "2": ("deleted",),
    "ALL": ("active", "deleted"), "3": ("active", "deleted"),
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    ledger: Ledger
    artifacts: Artifacts
    actor: str = ""


class Request(msgspec.Struct, kw_only=True):
    """Unknown fields are ignored, as protobuf does: an older server serves a newer client."""


class Pair(msgspec.Struct):
    key: str
    value: str = ""


def pairs(values: dict[str, str]) -> list[Json]:
    return [{"key": k, "value": v} for k, v in sorted(values.items())]


def exists(message: str) -> Error:
    return Error("conflict", message, "choose another name, or restore the deleted one")


def stages(view_type: str | int) -> tuple[str, ...]:
    try:
        return STAGES[str(view_type)]
    except KeyError:
        raise Error("invalid", f"Invalid view type {view_type!r}", "valid: ACTIVE_ONLY, DELETED_ONLY, ALL") from None


def offset_of(token: str) -> int:
    """Where a page starts. Errors: `invalid` for a token that is not ours."""
    if not token:
        return 0
    try:
        offset = msgspec.json.decode(base64.b64decode(token, validate=True), type=dict[str, Time])["offset"]
    except (binascii.Error, ValueError, KeyError) as error:
        raise Error("invalid", f"Invalid page token {token[:40]!r}", "pass back next_page_token as it came") from error
    return offset


def page(rows: list[Any], offset: int, limit: int) -> tuple[list[Any], Json]:
    """At most `limit` of rows fetched with limit + 1, and the token of the next page if there is one."""
    if len(rows) <= limit:
        return rows, {}
    token = base64.b64encode(msgspec.json.encode({"offset": offset + limit})).decode()
    return rows[:limit], {"next_page_token": token}


def check_limit(limit: int, most: int) -> int:
    if not 0 < limit <= most:
        raise Error(
            "invalid",
            f"Invalid value {limit} for parameter 'max_results' supplied: It must be at least 1 and at most {most}",
        )
    return limit


def number(value: float, is_nan: bool = False) -> float | str:
    """A double in protobuf's JSON, where what JSON cannot say is a string."""
    if is_nan or math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
