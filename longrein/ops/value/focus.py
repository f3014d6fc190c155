"""A report in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification (https://focus.finops.org).

What belongs to a group of requests is a charge for usage, and so are idle time and the steps of the loop: with `--idle`
no more is charged than without. Columns that begin with x_ are our own, as the specification wants it.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from longrein.ops.value.report import Line, Report, Rest

CURRENCY = "USD"
SERVICE = {
    "ServiceCategory": "AI and Machine Learning", "ServiceSubcategory": "Generative AI", "ServiceName": "Longrein",
    "ProviderName": "Longrein", "PublisherName": "Longrein", "InvoiceIssuerName": "Longrein",
}  # fmt: skip
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ResourceId", "ResourceName",
    "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "Tags", "x_Value", "x_Margin",
    "x_Requests", "x_Answered",
)  # fmt: skip


def rows(report: Report, project: str) -> Iterable[dict[str, Any]]:
    """One row for each group, and for what belongs to none. Unknown costs are left out: FOCUS has no word for them."""
    about = _about(report, project)
    for line in report.lines:
        yield {**about, **_usage(report, line)}
    for rest in report.rest:
        if not rest.what.startswith("(value"):
            yield {
                **about,
                **_cost(rest.usd),
                **_charge(rest, "serving"),
                "ChargeDescription": f"{rest.what}: {rest.why}",
            }
    for step in report.steps:
        yield {**about, **_cost(step.usd), **_charge(step, "step"), "ChargeDescription": f"{step.what}: {step.why}"}


def _about(report: Report, project: str) -> dict[str, Any]:
    since, until = _time(report.since_ms), _time(report.until_ms)
    first = since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = until.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = last if last >= until else last.replace(year=last.year + last.month // 12, month=last.month % 12 + 1)
    return {
        **dict.fromkeys(COLUMNS), **SERVICE, "BillingAccountId": project, "BillingAccountName": project,
        "BillingCurrency": CURRENCY, "BillingPeriodStart": _text(first), "BillingPeriodEnd": _text(last),
        "ChargePeriodStart": _text(since), "ChargePeriodEnd": _text(until), "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based", "PricingCategory": "Standard",
    }  # fmt: skip


def _usage(report: Report, line: Line) -> dict[str, Any]:
    tokens = line.tokens_in + line.tokens_out
    return {
        **_cost(line.cost_usd), "ChargeDescription": f"answers by {report.by}: {line.group}",
        "ConsumedQuantity": tokens, "ConsumedUnit": "Tokens", "PricingQuantity": tokens, "PricingUnit": "Tokens",
        "ResourceId": line.group, "ResourceName": line.group, "ResourceType": report.by, "SkuId": "answers",
        "Tags": msgspec.json.encode({report.by: line.group, "endpoints": ",".join(line.endpoints)}).decode(),
        "x_Value": line.value_usd, "x_Margin": line.margin_usd, "x_Requests": line.requests,
        "x_Answered": line.answered,
    }  # fmt: skip


def _charge(rest: Rest, sku: str) -> dict[str, Any]:
    return {"ResourceId": rest.what, "ResourceName": rest.what, "ResourceType": sku, "SkuId": sku, "Tags": "{}"}


def _cost(usd: float) -> dict[str, float]:
    return dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), usd)


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
