"""Feishu (飞书) and Lark group bots, with their signature (签名校验)."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from longrein.core.ports import Message
from longrein.plugins.channel._post import answered, check, clip, post

VERSION = 1
COLORS = {"critical": "red", "warning": "orange", "info": "blue", "": "green"}
MOST_BYTES = 16_000  # of 20 KB for the whole request
BUSY = (11232, 9499)  # 100 messages a minute, 5 a second


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    secret: str = ""  # "${FEISHU_SECRET}"
    mention: list[str] = []  # open_ids of who is called when something fires, or "all"


class Feishu:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = check(url), msgspec.convert(dict(options), Options)

    def send(self, message: Message) -> None:
        elements = [_text("plain_text", clip("\n".join(message.lines), MOST_BYTES))]
        if message.severity and self.options.mention:
            elements.append(_text("lark_md", " ".join(f"<at id={one}></at>" for one in self.options.mention)))
        title = {"tag": "plain_text", "content": clip(message.title, 500)}
        header = {"title": title, "template": COLORS[message.severity]}
        card = {"config": {"wide_screen_mode": True}, "header": header, "elements": elements}
        answer = post(self.url, {**self._signature(), "msg_type": "interactive", "card": card})
        answered(answer, "StatusCode" if b'"StatusCode"' in answer and b'"code"' not in answer else "code", "msg", BUSY)

    def _signature(self) -> dict[str, str]:
        """https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: the key signs nothing."""
        if not self.options.secret:
            return {}
        timestamp = str(time.time_ns() // 1_000_000_000)
        sign = hmac.digest(f"{timestamp}\n{self.options.secret}".encode(), b"", hashlib.sha256)
        return {"timestamp": timestamp, "sign": base64.b64encode(sign).decode()}


def _text(tag: str, content: str) -> dict[str, Any]:
    return {"tag": "div", "text": {"tag": tag, "content": content}}


plugin = Feishu
