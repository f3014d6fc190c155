"""Tells channels of alerts: writes what is to be told into the ledger's outbox, and sends it from there."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from longrein.core.errors import Error
from longrein.core.ledger import Alert
from longrein.core.ledger.alerts import SEVERITIES
from longrein.core.ledger.notices import LEASE_MS, Claim, Notice
from longrein.core.secret import Secrets
from longrein.ops.monitor.channel import Config, connect
from longrein.ops.monitor.message import message

if TYPE_CHECKING:
    from longrein.control.observer import Site

CLOSE_S = 5.0  # for what is being sent; what is not marked by then is sent again when the claim has run out
log = logging.getLogger(__name__)


class Delivery:
    """Each channel has a thread of its own while it is sent to: a slow receiver holds nobody else up."""

    def __init__(self, site: "Site") -> None:
        self.site, self.channels = site, site.spec.channels
        self._sending: dict[str, tuple[threading.Thread, float, Claim]] = {}
        self._known = False

    def look(self, now: int) -> None:
        if not self._known:  # what waits for channels that were taken out of the file
            self.site.ledger.notices.abandon(self.channels, now)
            self._known = True
        if not self.channels:
            return
        self._notice(now)
        for name, config in self.channels.items():
            if self._busy(name, now):
                continue
            if claim := self.site.ledger.notices.claim(name, now, int(config.wait_s * 1000)):
                thread = threading.Thread(target=self._send, args=(claim, config, now), name=f"to {name}", daemon=True)
                self._sending[name] = thread, time.monotonic(), claim
                thread.start()

    def _busy(self, name: str, now: int) -> bool:
        """Whether it is being sent to. Who drips an answer for longer than a claim lasts is left to it, as failed."""
        thread, began_s, claim = self._sending.get(name, (None, 0.0, None))
        if thread is None or claim is None or not thread.is_alive():
            return False
        if time.monotonic() - began_s >= LEASE_MS / 1000:
            del self._sending[name]
            self.site.ledger.notices.failed(claim, "the receiver takes too long", now)
        return True

    def close(self) -> None:
        deadline = time.monotonic() + CLOSE_S
        for thread, _, _ in self._sending.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _notice(self, now: int) -> None:
        """Put into the outbox what is new, what has become worse, what still fires after a while, and what is over."""
        ledger = self.site.ledger
        firing, last = ledger.alerts.firing(), ledger.notices.open()
        over = {alert_id for _, alert_id in last} - {a.id for a in firing}
        if not firing and not over:
            return
        silences = ledger.silences.active(now)
        for alert in [*reversed(firing), *reversed(ledger.alerts.many(over))]:
            if any(silence.covers(alert) for silence in silences):
                continue
            for name, config in self.channels.items():
                before = last.get((name, alert.id))
                if before is None and not (alert.firing and config.wants(alert)):
                    continue
                if before is None or _is_due(before, alert, config, now):
                    turn = before.turn + 1 if before else 0
                    ledger.notices.add(name, alert, turn, now + int(config.wait_s * 1000))

    def _send(self, claim: Claim, config: Config, now: int) -> None:
        """In a thread. Errors of the ledger: the claim runs out, and it is sent once more."""
        began_s, notices = time.monotonic(), self.site.ledger.notices
        try:
            error = self._deliver(claim, config, now)
            now += int((time.monotonic() - began_s) * 1000)
            if error is None:
                if not notices.sent(claim, now):
                    log.warning("channel %s was slow: another may have sent the same", claim.channel)
                return
            lost = notices.failed(claim, error.message, now, error.details.get("retry_after_s", 0.0))
            log.warning("channel %s: %s", claim.channel, error.message)
            if lost:
                log.error("channel %s: given up after a day: %d notices of alerts", claim.channel, len(lost))
        except (Error, SQLAlchemyError) as failure:
            log.warning("channel %s: %s", claim.channel, failure)

    def _deliver(self, claim: Claim, config: Config, now: int) -> Error | None:
        found = self.site.ledger.alerts.many({n.alert_id for n in claim.notices})
        alerts = [a for a in found if a.firing or config.resolved]
        secrets = Secrets()
        try:
            if alerts:
                channel, secrets = connect(config)
                channel.send(message(claim.id, alerts, config.language, now))
        except Error as error:
            return Error(error.code, secrets.hide(error.message), error.hint, **error.details)
        except Exception as error:  # noqa: BLE001 - a channel of somebody else's: what it raises must not end it all
            return Error("failed", secrets.hide(f"{type(error).__name__}: {error}"))
        return None


def _is_due(before: Notice, alert: Alert, config: Config, now: int) -> bool:
    """Whether an alert that was noticed is to be told again."""
    if not alert.firing:
        return True
    if not config.wants(alert):
        return False
    worse = SEVERITIES.index(alert.severity) > SEVERITIES.index(before.severity)
    return worse or (before.done_ms is not None and now - before.due_ms >= config.repeat_s * 1000)
