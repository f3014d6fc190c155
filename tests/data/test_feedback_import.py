"""Feedback and labels from a file: joined to answers, counted once however often the file is read, nothing fatal."""

import hashlib
import itertools
import json
import multiprocessing
import os
import signal

import msgspec
import pytest

from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.core.record import Record, Segment
from longrein.data import feedback, seal
from longrein.data.requests import RequestLog

NOW = 1_700_000_000_000
number = itertools.count()


def answered(folder, count, **more):
    """Ids of answers in the log."""
    values = {"status": 200, "endpoint": "desk", "release": "ab" * 32, "output": " refund\n"} | more
    records = [Record(id=f"chatcmpl-{NOW:012x}{next(number):012x}", ts_ms=NOW, **values) for _ in range(count)]
    segment = Segment(folder, f"w{next(number)}")
    segment.append(b"".join(msgspec.json.encode(r) + b"\n" for r in records))
    segment.close()
    return [r.id for r in records]


def lines(path, *rows):
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows))
    return path


def scores(ledger, name="correct"):
    found = [b.scores[name] for b in ledger.traffic.blocks("desk", until_ms=1 << 62) if name in b.scores]
    return sum(h.count for h in found), sum(h.sum for h in found)


@pytest.mark.parametrize("sealed", [False, True])
def test_labels_say_whether_answers_were_right(ledger, tmp_path, sealed):
    log = RequestLog(tmp_path / "requests")
    right, wrong = answered(log.folder, 2)
    (hidden,) = answered(log.folder, 1, output=None, output_digest=hashlib.sha256(b"refund").hexdigest())
    (unknown,) = answered(log.folder, 1, output=None)
    if sealed:
        seal.keep(log.folder, {}, NOW)
    labels = {right: "refund", wrong: "退款", hidden: " refund", unknown: "x"}
    rows = [{"id": id, "label": text} for id, text in labels.items()]
    found = feedback.load(ledger, log, lines(tmp_path / "f.jsonl", *rows))
    assert (found["lines"], found["new"], found["late"], found["invalid"]) == (4, 4, 4, 0)
    assert scores(ledger) == (3, 2)
    assert dict(ledger.feedback.labels("desk")) == labels
    assert [f["value"] for f in ledger.feedback.of(unknown)] == [None]
    assert ledger.feedback.erase([wrong]) == 1 and wrong not in dict(ledger.feedback.labels("desk"))


def test_what_is_of_no_use_is_counted_and_the_rest_kept(ledger, tmp_path):
    log = RequestLog(tmp_path / "requests")
    (good,) = answered(log.folder, 1, session="s")
    (gone,) = answered(log.folder, 1, user="bob")
    seal.erase(log.folder, user="bob")
    file = lines(
        tmp_path / "f.jsonl", {"id": good, "metrics": {"stars": 4, "ok": True}}, b"", b"\xff", b"[]", {"id": good},
        {"id": gone, "metrics": {"stars": 1}}, {"id": "x" * 40, "label": "y"},
        {"id": good, "session": "s", "label": "y"},
        {"id": good, "label": "y", "metrics": {"correct": 1}}, {"id": good, "metrics": {"stars": 5}}, {"label": "y"},
        b'{"id": "x", "metrics": {"a": 1e999}}',
        {"session": "s", "comment": "fine\0"}, {"session": "t", "label": "y"},
    )  # fmt: skip
    found = feedback.load(ledger, log, file)
    assert {k: found[k] for k in ("lines", "new", "known", "unknown", "erased", "invalid")} == {
        "lines": 13, "new": 3, "known": 1, "unknown": 2, "erased": 1, "invalid": 7
    }  # fmt: skip
    assert found["first_invalid"].startswith("line 3:")
    assert scores(ledger, "stars") == (1, 4)
    again = feedback.load(ledger, log, file)
    assert (again["new"], scores(ledger, "stars")) == (0, (1, 4))
    with pytest.raises(Error, match="cannot be read"):
        feedback.load(ledger, log, tmp_path / "none")


def import_and_die(url, folder, file, after):
    ledger, calls = Ledger(url), itertools.count()
    keep = feedback._keep

    def killed(*given):
        found = keep(*given)
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)  # within the transaction
        return found

    feedback._keep = killed
    feedback.load(ledger, RequestLog(folder), file)


def test_killed_and_run_again_counts_each_once(ledger_url, tmp_path):
    log = RequestLog(tmp_path / "requests")
    ids = answered(log.folder, 3 * feedback.LINES)
    file = lines(tmp_path / "f.jsonl", *({"id": id, "label": "refund"} for id in ids))
    ledger = Ledger(ledger_url)
    process = multiprocessing.get_context("spawn").Process(
        target=import_and_die, args=(ledger_url, log.folder, file, 1)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert scores(ledger) == (feedback.LINES, feedback.LINES)
    found = feedback.load(ledger, log, file)
    assert (found["new"], found["known"]) == (2 * feedback.LINES, feedback.LINES)
    assert scores(ledger) == (len(ids), len(ids))
    ledger.close()
