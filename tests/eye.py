"""An observer of drift over a World's ledger that looks when it is told to, and requests to tell it of."""

import random
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from world import World

from longrein.control.drifting import Drifting
from longrein.control.observer import Observer, Site
from longrein.core.drift import Group
from longrein.core.ledger import Alert, now_ms
from longrein.core.observation import SOCKET, Observation, pack
from longrein.core.unix import short
from longrein.ops.drift.stream import Stream
from longrein.workspace import Workspace

BANK = "account card pin transfer money balance bank savings cash branch loan rate pay bill fee credit"
TRAVEL = "flight hotel luggage visa passport airport train ticket seat gate delay island beach tour map"
SHOP = "退款 订单 发货 快递 地址 优惠券 会员 密码 登录 客服 评价 尺码"
TOPICS = {"bank": BANK.split(), "travel": TRAVEL.split(), "中文": SHOP.split()}
QUICK: dict[str, Any] = {"warm_up": 200, "false_alarm_requests": 5000}


def texts(topic: str, count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(f"{topic} {seed}")
    return [" ".join(chosen.choices(TOPICS[topic], k=chosen.randint(3, 9))) for _ in range(count)]


class Eye:
    """An observer of drift alone that looks when it is told to, and a way to its socket."""

    def __init__(self, at: World | Workspace, folder: Path | None = None, name: str = "", of: str = "support") -> None:
        self.home = (folder or (at.folder if isinstance(at, World) else at.root)) / ".longrein"
        self.ledger, self.endpoint = at.ledger, of
        self.name, self.sent = name, 0
        self.observer = Observer(at.ledger, at.store, self.home.parent, actor="eye", parts=[self.make])
        self.observer.look()

    def make(self, site: Site) -> Drifting:
        part = Drifting(site)
        part.name = self.name or part.name
        return part

    @property
    def part(self) -> Drifting:
        (part,) = self.observer._parts
        assert isinstance(part, Drifting)
        return part

    def stream(self, group: Group = "input", release: str = "") -> Stream | None:
        assert self.part.host
        with self.part.host.lock:
            return self.part.host.endpoints[self.endpoint].streams.get((group, release))

    def tell(self, asked: Sequence[str], answer: str = "fine", release: str = "r1", at_ms: int = 0) -> None:
        """As a gateway does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, short(self.home / SOCKET) as name:
            for start in range(0, len(asked), 20):
                found = [
                    Observation(
                        id=f"r{self.sent + i:06d}", ts_ms=(at_ms or now_ms()) + i, endpoint=self.endpoint, input=text,
                        release=release, output=answer, finish_reason="stop",
                    )
                    for i, text in enumerate(asked[start : start + 20])
                ]  # fmt: skip
                self.sent += len(found)
                sock.sendto(pack("w", 0, [msgspec.Raw(msgspec.msgpack.encode(o)) for o in found]), name)

    def weigh(self, asked: Sequence[str], **more: Any) -> None:
        before = self.observed
        self.tell(asked, **more)
        until(lambda: self.observed >= before + len(asked))
        self.observer.look()

    @property
    def observed(self) -> int:
        assert self.part.host
        with self.part.host.lock:
            return self.part.host.endpoints[self.endpoint].observed

    def firing(self) -> list[Alert]:
        return self.ledger.alerts.firing("drifted")

    def close(self) -> None:
        self.observer.close()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value
