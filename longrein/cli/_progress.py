"""What apply is doing, live: bars on a terminal, a line now and then where there is none."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from longrein.cli import _text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from longrein.cli.main import Session
    from longrein.control.loop import News

EVERY_S = 5.0


def watcher(session: "Session") -> "Lines":
    """What to hand to `Workspace.apply`; also remembers what was done."""
    if session.quiet:
        return Lines(lambda _: None)
    plain = session.json or not sys.stderr.isatty()
    return Lines(session.say) if plain else Bars(session.say)


class Lines(AbstractContextManager["Lines"]):
    """One line for each thing that happens, and one every few seconds of a long step."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock
        self.done: list[str] = []  # refs
        self.failed: dict[str, dict[str, Any]] = {}  # step -> error, with the path of its log
        self.took: dict[str, float] = {}  # step -> seconds
        self._log = ""
        self._started = self._said = clock()
        self._waiting: set[str] = set()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def __call__(self, news: "News") -> None:
        getattr(self, f"on_{news.what}", self.on_other)(news.subject, news.data)

    def on_start(self, step: str, data: dict[str, Any]) -> None:
        self._started = self._said = self.clock()
        self._log = data["log"]
        again = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
        self.say(f"▶ {step}{again}: {_text.short('; '.join(data['reasons']), 100)}")

    def on_progress(self, step: str, data: dict[str, Any]) -> None:
        if self.clock() - self._said >= EVERY_S:
            self._said = self.clock()
            self.say(f"  {step} {self.told(data)}")

    def on_note(self, step: str, data: dict[str, Any]) -> None:
        self.say(f"  {data['text']}")

    def on_done(self, step: str, data: dict[str, Any]) -> None:
        self.done.append(data["ref"])
        self.took[step] = data.get("wall_s", 0.0)
        self.say(f"✓ {data['ref']}  {_text.duration(data.get('wall_s'))}")

    def on_failed(self, step: str, data: dict[str, Any]) -> None:
        self.failed[step] = data | {"log": self._log}
        self.say(f"✗ {step}: {data['message']}")

    def on_waiting(self, step: str, data: dict[str, Any]) -> None:
        if step not in self._waiting:
            self._waiting.add(step)
            self.say(f"… {step} is being done by another loop ({data['owner'].rsplit(':', 1)[0]}): waiting for it")

    def on_judged(self, release: str, data: dict[str, Any]) -> None:
        mark, word = ("✓", "passed") if data["passed"] else ("✗", "failed")
        self.say(f"{mark} gate {data['gate']} {word} for {release}: {'; '.join(data['reasons'])}")

    def on_rolling(self, subject: str, data: dict[str, Any]) -> None:
        self.say(f"✓ {data['strategy']} of {data['ref']} begins; {data['stable']} stays in production")

    def on_promoted(self, subject: str, data: dict[str, Any]) -> None:
        self.say(f"✓ {data['ref']} is in production")

    def on_unsent(self, tracker: str, data: dict[str, Any]) -> None:
        self.say(f"! {tracker} got no runs this time: {data['message']}; the next apply sends them")

    def on_other(self, subject: str, data: dict[str, Any]) -> None:
        """Metrics, params: on the run, not on the screen."""

    def told(self, data: dict[str, Any]) -> str:
        """12% · loss 0.31 · 8,123 tokens/s · 1:40 left"""
        left = data["fields"].get("left_s", self.left_s(data))
        told = [f"{share(data):4.0%}", *told_fields(data["fields"])]
        return " · ".join([*told, *([f"{_text.duration(left)} left"] if left is not None else [])])

    def left_s(self, data: dict[str, Any]) -> float | None:
        """Time left at the speed so far; None while it is too early to say."""
        done, spent = share(data), self.clock() - self._started
        return spent / done * (1 - done) if done > 0.02 and spent > 1 else None


class Bars(Lines):
    """The same with a bar for the step that runs."""

    _bars: "Progress"
    _bar: "TaskID | None"

    def __enter__(self) -> "Bars":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        from longrein.cli.main import visible

        columns = (TextColumn("  {task.description}"), BarColumn(bar_width=28), TextColumn("{task.fields[told]}"))
        console = Console(stderr=True, highlight=False)
        self._bars, self._bar = Progress(*columns, console=console, transient=True), None
        self.say = lambda text: console.print(visible(text), markup=False, soft_wrap=True)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_start(self, step: str, data: dict[str, Any]) -> None:
        super().on_start(step, data)
        self._bar = self._bars.add_task(step, total=None, told="")

    def on_progress(self, step: str, data: dict[str, Any]) -> None:
        if self._bar is None:
            return
        self._bars.update(self._bar, completed=data["done"], total=data["total"] or None, told=self.told(data))

    def on_done(self, step: str, data: dict[str, Any]) -> None:
        self._remove()
        super().on_done(step, data)

    def on_failed(self, step: str, data: dict[str, Any]) -> None:
        self._remove()
        super().on_failed(step, data)

    def _remove(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def share(data: dict[str, Any]) -> float:
    return min(1.0, data["done"] / data["total"]) if data["total"] else 0.0


def told_fields(fields: dict[str, Any]) -> list[str]:
    """{"loss": .31, "tokens_s": 8123} as "loss 0.31", "8,123 tokens/s"."""
    told = []
    for name, value in fields.items():
        if name == "left_s":
            continue
        if name == "tokens_s":
            told.append(f"{_text.number(round(float(value)))} tokens/s")
        elif name == "rows":
            told.append(f"{_text.number(value)} rows")
        else:
            told.append(f"{name.replace('_', ' ')} {_text.number(value)}")
    return told
