"""DingTalk (钉钉) group robots, with their signature (加签)."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from longrein.core.ports import Message
from longrein.plugins.channel._post import answered, check, clip, plain, post

VERSION = 1
MOST_BYTES = 18_000  # of 20,000 for the whole message
BUSY = (-1, 130101, 130102)  # 20 messages a minute


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    secret: str = ""  # "${DINGTALK_SECRET}", SEC…
    mention: list[str] = []  # mobile numbers of who is called when something fires, or "all"


class DingTalk:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = check(url), msgspec.convert(dict(options), Options)

    def send(self, message: Message) -> None:
        mention = self.options.mention if message.severity else []
        lines = [f"#### {plain(message.title)}", *map(plain, message.lines), " ".join(f"@{one}" for one in mention)]
        body = {
            "msgtype": "markdown",
            "markdown": {"title": message.title, "text": clip("\n\n".join(filter(None, lines)), MOST_BYTES)},
            "at": {"atMobiles": [one for one in mention if one != "all"], "isAtAll": "all" in mention},
        }
        answered(post(self._signed(), body), "errcode", "errmsg", BUSY)

    def _signed(self) -> str:
        """https://open.dingtalk.com/document/robots/customize-robot-security-settings"""
        if not self.options.secret:
            return self.url
        timestamp = str(time.time_ns() // 1_000_000)
        text = f"{timestamp}\n{self.options.secret}"
        sign = base64.b64encode(hmac.digest(self.options.secret.encode(), text.encode(), hashlib.sha256)).decode()
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode({'timestamp': timestamp, 'sign': sign})}"


plugin = DingTalk
