"""data.ingest in many processes, killed, run again: the same version, and no work done twice."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.step import Context, Output
from longrein.data import collect, ingest, partition, pipeline, version
from longrein.demo import corpus

TRANSFORMS = ["normalize", "pii", "conflict", "dedup", {"near_dedup": {"ngram": 2}}, "noise"]
CONFIG: dict[str, Any] = {"output": "intent", "transforms": TRANSFORMS}
LIGHT: dict[str, Any] = {"output": "intent", "transforms": ["normalize", "pii", "conflict", "dedup", "noise"]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions and pieces so small that little data makes many."""
    monkeypatch.setattr(partition, "PART_BYTES", 8 << 10)
    monkeypatch.setattr(pipeline, "PIECE_BYTES", 4 << 10)
    monkeypatch.setattr(pipeline, "WORTH_BYTES", 1)


def run(project: Any, cpus: int = 1, runner: Any = "local", name: str = "tickets", **config: Any) -> Output:
    job = project.job(name, **config)
    job = type(job)(**{**vars(job), "cpus": cpus, "runner": runner})
    context = Context(job, project.root / ".longrein" / "work" / name)
    ingest.run(context)
    return context.outputs[0]


def seen(made: Output) -> dict[str, Any]:
    """What a run says of the rows; how long it took aside."""
    steps = [(s["name"], s["rows_in"], s["rows_out"]) for s in made.meta["steps"]]
    return {k: v for k, v in made.meta.items() if k not in ("steps", "rejected")} | {"steps": steps}


def rejected(project: Any, made: Output) -> list[dict[str, Any]]:
    return list(version.rows(project.store, made.meta["rejected"]))


def test_one_worker_or_many_make_the_same_version(projects, small):
    told = []
    for cpus in (1, 2):
        project = projects(str(cpus))
        corpus.write(project.root / "data", rows=400)
        made = run(project, cpus, **CONFIG)
        told.append((made.digest, seen(made), rejected(project, made)))
    assert told[0] == told[1]
    assert len(told[0][1]["steps"]) == len(TRANSFORMS) + 2


def test_how_files_are_cut_does_not_matter(projects, small, monkeypatch):
    whole, cut = projects("whole"), projects("cut")
    for project in (whole, cut):
        rows = [{"text": f"row {i} 文字", "label": str(i % 7)} for i in range(3000)]
        project.write("data/a.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n\n" for r in rows))
        project.write("data/b.csv", "label;text\n" + "".join(f"{r['label']};b{r['text']}\n" for r in rows))
        project.write("data/c.txt", "\ufeff" + "".join(f"c{r['text']}\r\n" for r in rows))
        project.write("data/d.csv", 'text,label\n"d\nd",1\n' + "e,f\n" * 3000)
        project.write("data/e.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode("utf-16"))
        pq.write_table(pa.Table.from_pylist(rows), project.root / "data/f.parquet", row_group_size=500)
    cut_made = run(cut, 2)
    monkeypatch.setattr(partition, "PART_BYTES", 1 << 30)
    made = run(whole)
    assert made.digest == cut_made.digest and made.meta["sources"] == cut_made.meta["sources"]
    key = lambda r: (r["source"], r["line"])  # noqa: E731
    assert sorted(rejected(whole, made), key=key) == sorted(rejected(cut, cut_made), key=key)
    assert len(list((cut.store.root / "parts/tickets").iterdir())) > 20


def test_only_what_is_new_or_changed_is_read(projects):
    reader = (
        "from pathlib import Path\nfrom longrein.core.ports import Record\n"
        "class Noted:\n    suffixes = ('.noted',)\n    def read(self, blob, options):\n"
        "        with open(Path(blob).parent.parent / 'read.log', 'a') as log: log.write(blob.name + '\\n')\n"
        "        for i, line in enumerate(Path(blob).read_text().splitlines(), 1): yield Record({'text': line}, i)\n"
        "plugin = Noted()\n"
    )
    project, fresh = projects("again"), projects("fresh")
    project.write("plugins/reader/noted.py", reader)
    sources = [{"path": "data/*.noted", "reader": "noted"}]

    def read(**config: Any) -> tuple[list[str], Output]:
        (project.root / "read.log").unlink(missing_ok=True)
        made = run(project, sources=sources, **config)
        log = project.root / "read.log"
        return log.read_text().split() if log.exists() else [], made

    plugins.use_project(project.root)
    for i in range(50):
        project.write(f"data/{i:02}.noted", f"one of {i}\ncommon\n")
    files, first = read(transforms=["normalize", "dedup"])
    assert len(files) == 50
    assert read(transforms=["normalize", "dedup"])[0] == []
    project.write("data/30b.noted", "a new one\n")
    project.write("data/07.noted", "another text\n")
    files, second = read(transforms=["normalize", "dedup"])
    assert sorted(files) == ["07.noted", "30b.noted"] and second.digest != first.digest
    (project.root / "data/03.noted").unlink()
    files, third = read(transforms=["normalize", "dedup"])
    assert files == [] and third.meta["rows_in"] == second.meta["rows_in"] - 2
    assert len([p for p in (project.store.root / "parts/tickets").iterdir() if p.name != "lock"]) == 50
    for path in (project.root / "data").iterdir():
        fresh.write(f"data/{path.name}", path.read_bytes())
    assert run(fresh, sources=sources, transforms=["normalize", "dedup"]).digest == third.digest
    assert len(read(transforms=["normalize", {"length": {"min": 3}}, "dedup"])[0]) == 50  # another pipeline


def test_a_damaged_part_is_made_again(project):
    corpus.write(project.root / "data", rows=50)
    made = run(project, **CONFIG)
    for path in (project.store.root / "parts/tickets").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert run(project, **CONFIG).digest == made.digest


def test_a_transform_that_says_nothing_of_itself_sees_all_rows_in_order(projects, small):
    """Its neighbours are mapped, before and after; what it surveys and changes is kept in order."""
    code = (
        "from collections import Counter\nfrom longrein.core.ports import Verdict\n"
        "class Numbered:\n    def __init__(self, options): self.counts = Counter()\n"
        "    def survey(self, rows): self.total = sum(1 for _ in rows)\n    def apply(self, rows):\n"
        "        for i, row in enumerate(rows, 1):\n            self.counts['rows'] += 1\n"
        "            row = row | {'input': f\"{i}/{self.total} {row['input']}\"}\n"
        "            yield Verdict(row, 'unlucky' if i == 13 else '', 'the 13th')\nplugin = Numbered\n"
    )
    told = []
    for cpus in (1, 2):
        project = projects(str(cpus))
        plugins.use_project(project.root)
        project.write("plugins/transform/numbered.py", code)
        corpus.write(project.root / "data", rows=200)
        made = run(project, cpus, output="intent", transforms=["normalize", "dedup", "numbered", "numbered", "pii"])
        told.append((made.digest, seen(made), rejected(project, made)))
        total = made.meta["transforms"]["numbered"]["rows"] // 2 + 1
        first = next(version.rows(project.store, made.uri))
        assert first["input"].startswith(f"1/{total - 1} 1/{total} ") and first["touched"].endswith("numbered,numbered")
    assert told[0] == told[1] and told[0][1]["dropped"]["unlucky"] == 2


def test_a_transform_that_loses_rows_is_told(project):
    project.write(
        "plugins/transform/leaky.py",
        "from collections import Counter\nfrom longrein.core.ports import Verdict\n"
        "class Leaky:\n    rowwise = True\n    def __init__(self, options): self.counts = Counter()\n"
        "    def apply(self, rows):\n        next(rows)\n        yield from map(Verdict, rows)\nplugin = Leaky\n",
    )
    plugins.use_project(project.root)
    project.write("data/a.txt", "a\nb\n")
    with pytest.raises(Error, match="leaky was given 2 rows and judged 1"):
        run(project, transforms=["leaky"])


def test_parts_that_nobody_used_for_long_are_garbage(project, ledger):
    corpus.write(project.root / "data", rows=50)
    run(project, **CONFIG)
    parts = [p for p in (project.store.root / "parts/tickets").iterdir() if p.name != "lock"]
    work = project.root / ".longrein/work"
    assert not {*parts} & {*collect.find(ledger, project.store, work).paths}
    for path in parts:
        os.utime(path, (0, 0))
    assert {*parts} <= {*collect.find(ledger, project.store, work).paths}


# -- killed: the driver dies at a point, the next start goes on

DRIVER = """
import os, signal, sys
from pathlib import Path
from longrein.core import plugins, worker
from longrein.data import part, partition, pipeline

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(times, module, name):
    real = getattr(module, name)
    left = [times]
    def counted(*given, **named):
        left[0] -= 1
        return die() if left[0] < 0 else real(*given, **named)
    setattr(module, name, counted)

partition.PART_BYTES, pipeline.PIECE_BYTES, pipeline.WORTH_BYTES = 8 << 10, 4 << 10, 1
point = sys.argv[2]
if point.startswith("part "):
    after(int(point[5:]), part, "make")
elif point.startswith("within part "):
    after(int(point[12:]), os, "replace")
elif point == "survey":
    after(200, part.Part, "_grouped")
elif point == "apply":
    after(600, part.Part, "_grouped")
elif point == "write":
    pipeline.Pipeline.write = die
elif point == "between the tables":
    after(1, pipeline.version, "commit")
elif point == "end":
    pipeline.Output = die
sys.exit(worker.main(Path(sys.argv[1])))
"""
POINTS = ["within part 2", "part 9", "survey", "apply", "part 2", "write", "between the tables"]


def start(project: Any, cpus: int, point: str = "") -> "subprocess.Popen[bytes]":
    scratch = project.root / ".longrein" / "work" / "tickets"
    job = project.job(**LIGHT)
    type(job)(**{**vars(job), "cpus": cpus}).write(scratch)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", DRIVER, scratch, point], cwd=project.root, env=env)


def parts_of(project: Any) -> dict[str, int]:
    folder = project.store.root / "parts/tickets"
    found = folder.iterdir() if folder.exists() else []
    return {p.name: p.stat().st_ino for p in found if not p.name.endswith((".tmp", "lock"))}


def test_killed_in_every_phase(projects, small):
    whole, project = projects("whole"), projects("killed")
    for one in (whole, project):
        corpus.write(one.root / "data", rows=300)
    expected = run(whole, **LIGHT)
    before: dict[str, int] = {}
    for point in [*POINTS, "end"]:
        assert start(project, 1, point).wait(60) == -signal.SIGKILL, f"{point} was never reached"
        assert (project.store.root / "lance/tickets.lance").exists() == (point == "end")
        now = parts_of(project)
        assert before.items() <= now.items(), "a finished part was made again"
        before = now
    assert start(project, 1).wait(60) == 0
    result = json.loads((project.root / ".longrein/work/tickets/result.json").read_text())["outputs"][0]
    assert result["digest"] == expected.digest and result["uri"].endswith("version=1")
    assert before == parts_of(project)
    assert list(version.rows(project.store, result["meta"]["rejected"])) == rejected(whole, expected)


def test_killed_at_any_moment_with_its_workers(projects, small):
    """Workers end with the process that they work for; those that die alone have their work done again."""
    whole, project = projects("whole"), projects("killed")
    for one in (whole, project):
        corpus.write(one.root / "data", rows=800)
    expected = run(whole, **LIGHT)
    draw = random.Random(0)
    for what in ("driver", "worker"):
        process = start(project, 2)
        target = len(parts_of(project)) + draw.randrange(1, 8)
        while len(parts_of(project)) < target:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
        workers = [
            p for p in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())
        ]
        if what == "driver":
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
            gone, alive = psutil.wait_procs(workers, timeout=30)
            assert len(gone) >= 2 and not alive
        else:
            workers[-1].kill()
            assert process.wait(120) == 0
    result = json.loads((project.root / ".longrein/work/tickets/result.json").read_text())["outputs"][0]
    assert result["digest"] == expected.digest


# -- on a cluster


def test_a_ray_cluster_makes_the_same_version_though_a_worker_and_a_node_die(projects, small, cluster):
    told = []
    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    for name, runner, pid in (("local", "local", 0), ("ray", {"ray": {"retries": 3}}, _raylet(doomed))):
        project = projects(name)
        corpus.write(project.root / "data", rows=600)
        project.write("plugins/transform/hurt.py", HURT.replace("PID", str(pid)))
        plugins.use_project(project.root)
        made = run(project, 1, runner, output="intent", transforms=["hurt", *TRANSFORMS])
        told.append((made.digest, seen(made), rejected(project, made)))
    assert told[0] == told[1]
    assert {p.name for p in (project.root / "hurt").iterdir()} == {"worker", "node"}
    cluster.remove_node(doomed)


def _raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


HURT = """
import os, signal
from collections import Counter
from pathlib import Path
from longrein.core.ports import Verdict

class Hurt:
    rowwise = True

    def __init__(self, options):
        self.counts = Counter()

    def apply(self, rows):
        for row in rows:
            if PID and row["line"] == 90:
                once("worker", os.getpid())
            if PID and row["line"] == 300:
                once("node", PID)
            yield Verdict(row)

def once(name, pid):
    place = Path(__file__).parents[2] / "hurt" / name
    place.parent.mkdir(exist_ok=True)
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(pid, signal.SIGKILL)

plugin = Hurt
"""


# -- a disk that fills


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_disk_that_fills_is_told_and_the_work_goes_on_when_there_is_room(project, small, tmp_path, cpus):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        project.store.root = disk / "store"
        draw = random.Random(0)
        for i in range(40):
            project.write(f"data/{i:02}.txt", "".join(f"{draw.randbytes(300).hex()}\n" for _ in range(60)))
        with pytest.raises(Error) as raised:
            run(project, cpus, transforms=["normalize", "dedup"])
        assert raised.value.code == "no_space" and not (disk / "store/lance/tickets.lance").exists()
        before = parts_of(project)
        assert before and not list((disk / "store/parts/tickets").glob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        made = run(project, cpus, transforms=["normalize", "dedup"])
        assert made.meta["rows"] == 2400 and before.items() <= parts_of(project).items()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
