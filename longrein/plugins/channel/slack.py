"""Slack's incoming webhooks, and what speaks their format: Mattermost, Rocket.Chat, Discord with /slack."""

from collections.abc import Mapping
from typing import Any

import msgspec

from longrein.core.errors import Error
from longrein.core.ports import Message
from longrein.plugins.channel._post import check, clip, post

VERSION = 1
COLORS = {"critical": "#d32f2f", "warning": "#f9a825", "info": "#1976d2", "": "#388e3c"}
HEADER, SECTION = 150, 3000  # what Slack takes: https://docs.slack.dev/reference/block-kit/blocks


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mention: list[str] = []  # who is called when something fires: "<!channel>", "<@U012AB3CD>"


class Slack:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = check(url), msgspec.convert(dict(options), Options)

    def send(self, message: Message) -> None:
        called = " ".join(self.options.mention) if message.severity else ""
        text = clip("\n".join(filter(None, [called, *map(_quoted, message.lines)])), SECTION)
        blocks = [
            {"type": "header", "text": {"type": "plain_text", "text": clip(message.title, HEADER)}},
            {"type": "section", "text": {"type": "mrkdwn", "text": text}},
        ]
        body = {"text": _quoted(message.title), "attachments": [{"color": COLORS[message.severity], "blocks": blocks}]}
        answer = post(self.url, body)
        if answer.strip() not in (b"ok", b""):
            raise Error("bad_gateway", f"the receiver answered {answer[:100].decode(errors='replace')!r}, not ok")


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


plugin = Slack
