"""Has a sample of answers graded by another endpoint; the score comes back as feedback, like anybody's: `judged`."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from longrein.control.scaffold import own_key, read_secret
from longrein.core.errors import Error
from longrein.core.judge import Judge
from longrein.core.observation import Observation

if TYPE_CHECKING:
    from longrein.control.observer import Site

METRIC = "judged"
NOTE = "gateway.json"  # in .longrein: where this project's gateway listens
MOST = 100  # answers that wait to be graded
ANSWER_S = 60.0
FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "grade",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"score": {"type": "number", "minimum": 0, "maximum": 1}},
            "required": ["score"],
            "additionalProperties": False,
        },
    },
}
log = logging.getLogger(__name__)


class Judges:
    """`offer` never waits; a thread asks the gateway, one answer at a time."""

    def __init__(self, site: "Site", judges: Mapping[str, Judge]) -> None:
        """judges: by the endpoint whose answers they grade."""
        self.site, self.judges = site, judges
        self.counts = {name: {"graded": 0, "failed": 0, "left_out": 0} for name in judges}
        self._waiting: deque[Observation] = deque()
        self._asked: dict[str, deque[float]] = {name: deque(maxlen=judge.per_minute) for name, judge in judges.items()}
        self._failing = False
        self._closing = threading.Event()
        self._came = threading.Event()
        self._thread = threading.Thread(target=self._run, name="judges", daemon=True)
        if judges:
            self._thread.start()

    def offer(self, heard: Sequence[Observation]) -> None:
        """Takes its share of them, and of that as many as may be asked for in a minute."""
        for one in heard:
            judge = self.judges.get(one.endpoint)
            if judge is None or not one.output or not _chosen(one.id, judge.share):
                continue
            asked, now = self._asked[one.endpoint], time.monotonic()
            if len(self._waiting) >= MOST or (len(asked) == asked.maxlen and now - asked[0] < 60):
                self.counts[one.endpoint]["left_out"] += 1
                continue
            asked.append(now)
            self._waiting.append(one)
            self._came.set()

    def close(self) -> None:
        """What waits is left out."""
        self._closing.set()
        self._came.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._came.wait()
            self._came.clear()
            while self._waiting and not self._closing.is_set():
                self._grade(self._waiting.popleft())

    def _grade(self, one: Observation) -> None:
        counts = self.counts[one.endpoint]
        try:
            score = self._ask(self.judges[one.endpoint], one)
            self._post("/v1/feedback", {"request_id": one.id, "metrics": {METRIC: score}})
            counts["graded"] += 1
            self._failing = False
        except (Error, SQLAlchemyError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            counts["failed"] += 1
            if not self._failing:
                why = error.read()[:500].decode("utf-8", "replace") if isinstance(error, HTTPError) else error
                log.warning("an answer of %s was not graded: %s", one.endpoint, why)
            self._failing = True

    def _ask(self, judge: Judge, one: Observation) -> float:
        """Errors: ValueError and its like for an answer that is no grade; OSError for none."""
        material = json.dumps({"request": one.input, "answer": one.output}, ensure_ascii=False)
        body = {
            "model": judge.endpoint,
            "messages": [{"role": "system", "content": judge.prompt}, {"role": "user", "content": material}],
            "temperature": 0,
            "max_tokens": 50,
            "response_format": FORMAT,
        }
        answer = self._post("/v1/chat/completions", body)
        grade = msgspec.json.decode(answer["choices"][0]["message"]["content"], type=_Grade)
        return grade.score

    def _post(self, path: str, body: Any) -> Any:
        url = json.loads((self.site.home / NOTE).read_text("utf-8"))["url"]
        key = read_secret(own_key(self.site.ledger, self.site.home, actor=self.site.actor))
        head = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        with urlopen(Request(url + path, json.dumps(body).encode(), head), timeout=ANSWER_S) as response:
            return json.load(response)


class _Grade(msgspec.Struct):
    score: float

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError("a score is between 0 and 1")


def _chosen(id: str, share: float) -> bool:
    return int.from_bytes(sha256(id.encode()).digest()[:4], "big") < share * 2**32
