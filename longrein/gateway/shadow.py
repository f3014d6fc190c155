"""Copies of requests for a release that is being tried: noted and compared, shown to nobody, in nobody's way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from longrein.core.errors import Error
from longrein.core.ledger import now_ms
from longrein.core.record import ID_MS, Record
from longrein.gateway.cost import Costs
from longrein.gateway.record import Recorder
from longrein.gateway.replicas import Replica

if TYPE_CHECKING:
    from longrein.gateway.inference import Call, Exchange

ARM = "shadow"
MOST = 32  # copies under way; more are left out, so that a slow release costs no memory
LONGEST_S = 300.0


class Shadow:
    """Asks once the client has its answer, so that the two never wait for each other.

    ask: answers a call by a replica, as for a client. A copy has a record of its own, arm "shadow", whose id ends as
    that of the request does. Feedback "agreement" says whether all its choices are word for word the client's.
    """

    def __init__(
        self, ask: "Callable[[Exchange, Call, Replica], Awaitable[None]]", recorder: Recorder, costs: Costs
    ) -> None:
        self.ask, self.recorder, self.costs = ask, recorder, costs
        self.left_out = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self, exchange: "Exchange", call: "Call", replica: Replica) -> None:
        """Of a request that was answered; does not wait."""
        if len(self._tasks) >= MOST:
            self.left_out += 1
            return
        said = exchange.source.text() if exchange.source else []
        real = exchange.record
        record = Record(
            id="shadow-" + real.id[-2 * ID_MS :], ts_ms=now_ms(), endpoint=real.endpoint, arm=ARM, stream=real.stream,
            user=real.user, session=real.session, key_id=real.key_id, team=real.team, input_digest=real.input_digest,
            tags=real.tags,
        )  # fmt: skip
        mine = type(exchange)(_nowhere, record, self._keep)
        mine.log_text, mine.input, mine.shadow = exchange.log_text, exchange.input, replica
        task = asyncio.create_task(self._run(mine, call, replica, said))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep(self, mine: "Exchange") -> None:
        self.costs.price(mine.record, mine.spent)
        self.recorder.put(mine.record)

    async def _run(self, mine: "Exchange", call: "Call", replica: Replica, said: list[str]) -> None:
        try:
            async with asyncio.timeout(LONGEST_S):
                await self.ask(mine, call, replica)
        except Error as error:
            await mine.fail(error)
        except TimeoutError:
            await mine.fail(Error("timeout", f"a copy took longer than {LONGEST_S:g} s"))
        finally:
            mine.end()
        if mine.record.status == 200 and self.recorder.tally:
            same = mine.source is not None and mine.source.text() == said
            self.recorder.tally.score(mine.record.endpoint, mine.record.release, ARM, "agreement", float(same))


async def _nowhere(message: Any) -> None:
    """Where a copy's answer goes."""
