"""Channels: who is told of which alerts, and how soon and how often."""

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ledger.alerts import SEVERITIES, Alert
from longrein.core.ports import Channel
from longrein.core.secret import VARIABLE, Secrets, refuse_literal, refuse_password

PUBLIC = ("webhook", "email")  # the addresses of all others are secrets: who knows one can write there
Wait = Annotated[float, Meta(ge=0, le=7 * 86400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel in longrein.yaml: where alerts are told. Secrets are written as ${NAME}, variables of the
    environment."""

    channel: str  # plugin of the port "channel"
    url: str  # "${FEISHU_URL}"
    options: dict[str, Any] = {}  # the plugin's
    kinds: list[str] = []  # only alerts of these kinds; none: of all
    endpoints: list[str] = []  # only alerts of these endpoints; none: of all, and of what is no endpoint
    severity: Literal["info", "warning", "critical"] = "warning"  # at least
    language: Literal["en", "zh"] = "en"
    resolved: bool = True  # tell when it is over, too
    wait_s: Wait = 30.0  # for what else fires, which is told in the same message
    repeat_s: Annotated[float, Meta(ge=60, le=30 * 86400)] = 4 * 3600.0  # while it fires

    def __post_init__(self) -> None:
        secret = self.channel not in PUBLIC and self.channel in plugins.names("channel")
        if secret and not VARIABLE.search(self.url):
            raise ValueError('Who knows the url of a channel can write there: write "${NAME}", and export NAME')
        try:
            refuse_password(self.url)
            refuse_literal(self.options)
        except Error as error:
            raise ValueError(error.message[0].upper() + error.message[1:]) from error

    def wants(self, alert: Alert) -> bool:
        if SEVERITIES.index(alert.severity) < SEVERITIES.index(self.severity):
            return False
        return (not self.kinds or alert.kind in self.kinds) and (not self.endpoints or of(alert) in self.endpoints)


def of(alert: Alert) -> str:
    """The endpoint that an alert is about: of "endpoint:a" and "release:a@3" it is "a"; "" where it is none."""
    kind, _, name = alert.subject.partition(":")
    return name.partition("@")[0] if kind in ("endpoint", "release") else ""


def connect(config: Config) -> tuple[Channel, Secrets]:
    """The channel, and what hides its secrets in any text. Errors: `invalid`, also for variables that are not set."""
    check(config)
    secrets = Secrets()
    url, options = secrets.fill(config.url), secrets.fill(config.options)
    return plugins.load("channel", config.channel)(url, options), secrets


def check(config: Config) -> None:
    """Errors: `invalid` for options that the plugin does not have."""
    kind = getattr(sys.modules[plugins.load("channel", config.channel).__module__], "Options", None)
    try:
        msgspec.convert(config.options, kind) if kind else None
    except msgspec.ValidationError as error:
        hint = f"see `channel {config.channel}` in docs/reference/plugins.md"
        raise Error("invalid", f"options of a {config.channel} channel: {error}", hint) from error
