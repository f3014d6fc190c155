"""Any web server, sent the JSON of Alertmanager's webhooks (version 4), which many tools read, with the evidence."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from longrein.core.ports import Message
from longrein.plugins.channel._post import check, post

VERSION = 1


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    headers: dict[str, str] = {}  # {Authorization: "Bearer ${TOKEN}"}
    secret: str = ""  # signs the body: X-Longrein-Signature: sha256=<hex of HMAC-SHA256>


class Webhook:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = check(url), msgspec.convert(dict(options), Options)

    def send(self, message: Message) -> None:
        """The header Idempotency-Key tells a message that is sent twice."""
        body = msgspec.json.encode(payload(message), enc_hook=str)
        headers = {**self.options.headers, "Idempotency-Key": message.id}
        if self.options.secret:
            signature = hmac.new(self.options.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Longrein-Signature"] = f"sha256={signature}"
        post(self.url, body, headers)


def payload(message: Message) -> dict[str, Any]:
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""
    return {
        "version": "4", "groupKey": message.id, "truncatedAlerts": 0, "receiver": "longrein",
        "status": "firing" if message.severity else "resolved", "groupLabels": {}, "commonLabels": {},
        "commonAnnotations": {"title": message.title, "text": "\n".join(message.lines)}, "externalURL": "",
        "alerts": [_alert(alert) for alert in message.alerts],
    }  # fmt: skip


def _alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"alertname": alert["kind"], **{name: alert[name] for name in ("subject", "name", "severity")}}
    key = "\0".join((alert["kind"], alert["subject"], alert["name"]))
    ended = alert["resolved_ms"]
    return {
        "status": alert["state"], "labels": labels, "annotations": {"summary": alert["summary"]},
        "startsAt": _time(alert["since_ms"]), "endsAt": "0001-01-01T00:00:00Z" if ended is None else _time(ended),
        "generatorURL": "", "fingerprint": hashlib.sha256(key.encode()).hexdigest()[:16], "evidence": alert["evidence"],
    }  # fmt: skip


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


plugin = Webhook
