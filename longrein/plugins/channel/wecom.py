"""WeCom (企业微信) group robots."""

from collections.abc import Mapping
from typing import Any

import msgspec

from longrein.core.ports import Message
from longrein.plugins.channel._post import answered, check, clip, plain, post

VERSION = 1
MOST_BYTES = 4096  # https://developer.work.weixin.qq.com/document/path/91770
COLORS = {"critical": "warning", "warning": "warning", "info": "comment", "": "info"}  # orange, grey, green
BUSY = (45009, 45033, -1)  # 20 messages a minute


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mention: list[str] = []  # userids of who is called when something fires


class WeCom:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = check(url), msgspec.convert(dict(options), Options)

    def send(self, message: Message) -> None:
        mention = self.options.mention if message.severity else []
        called = "".join(f"\n<@{one}>" for one in mention)
        head = f'<font color="{COLORS[message.severity]}">{plain(message.title)}</font>'
        text = clip(
            "\n".join([head, *(f"> {plain(line)}" for line in message.lines)]), MOST_BYTES - len(called.encode())
        )
        answer = post(self.url, {"msgtype": "markdown", "markdown": {"content": text + called}})
        answered(answer, "errcode", "errmsg", BUSY)


plugin = WeCom
