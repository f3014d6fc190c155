"""Experiment tracking, Longrein beside `mlflow server`, both on SQLite, in one run: `python benchmarks/track.py`.

Single metrics and batches of 1,000, each by plain HTTP and through the real mlflow client, the time from launch to the
first answer, and the memory of all processes (proportional set size, so that what workers share counts once). Every
write is committed before it is answered, on both sides. A third server that keeps nothing and answers at once shows how
much of a batch is the client's own work. Prints a table, the ratios, and one line of JSON. Needs the packages mlflow,
uvicorn and psutil.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
CLIENT_BATCHES = "batches of 1,000, mlflow client"
TARGETS = {  # what the project promises: (row, at least or at most, ratio)
    "single, HTTP, 1 connection": (">=", 20.0),
    "single, mlflow client": (">=", 3.0),
    "batches of 1,000, HTTP": (">=", 5.0),
    CLIENT_BATCHES: (">=", 5.0),
    "start-up": ("<=", 0.2),
    "memory after start": ("<=", 0.2),
    "memory after load": ("<=", 0.2),
}
UNITS = {  # of what is not metrics a second
    "start-up": "s",
    "memory after start": "MiB",
    "memory after load": "MiB",
    "single, HTTP, server CPU": "ms",
    "batches of 1,000, HTTP, server CPU": "ms",
}


def serve(port: int, folder: Path) -> None:
    """Longrein's MLflow routes alone, as `longrein serve` mounts them."""
    import uvicorn
    from starlette.applications import Starlette

    from longrein.core.ledger import Ledger
    from longrein.core.store import Store
    from longrein.gateway.mlflow import routes

    app = Starlette(routes=routes(Ledger(f"sqlite:///{folder}/ledger.db"), Store(folder / "store")))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def answer_at_once(port: int) -> None:
    """A server that does no work: what the client does not reach with it, it reaches with none."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--singles", type=int, default=4000, help="single metrics to Longrein; mlflow gets a tenth")
    parser.add_argument("--batches", type=int, default=20, help="batches of 1,000")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(int(args.serve[0]), Path(args.serve[1]))
        return
    if args.answer:
        answer_at_once(args.answer)
        return
    report(compare(args.singles, args.batches, args.repeats))


def longrein_command(port: int, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--serve", str(port), str(folder)]


def idle_command(port: int, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--answer", str(port)]


def mlflow_command(port: int, folder: Path) -> list[str]:
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *store]


def compare(singles: int, batches: int, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of `repeats` rounds. Both servers are up at once and take turns, so that a noisy machine is fair."""
    commands = {"longrein": longrein_command, "mlflow": mlflow_command}
    found: dict[str, dict[str, list[float]]] = {side: {} for side in commands}
    for _ in range(repeats):  # start-up from nothing each time, the database included
        for side, command in commands.items():
            with launched(command) as (_, _, took):
                found[side].setdefault("start-up", []).append(took)
    found["no server"] = {CLIENT_BATCHES: []}
    with launched(longrein_command) as ours, launched(mlflow_command) as theirs, launched(idle_command) as idle:
        servers = {"longrein": ours, "mlflow": theirs}
        for side, (_, process, _) in servers.items():
            settle(process)
            found[side]["memory after start"] = [pss_mib(process)]
        for _ in range(repeats):
            for side, (port, process, _) in servers.items():
                less = 1 if side == "longrein" else 10
                for name, rate in rates(port, process, max(80, singles // less), max(3, batches // less)).items():
                    found[side].setdefault(name, []).append(rate)
            found["no server"][CLIENT_BATCHES].append(batch_rate(idle[0], "0" * 32, batches))
        for side, (_, process, _) in servers.items():
            found[side]["memory after load"] = [pss_mib(process)]
    return {side: {name: statistics.median(v) for name, v in values.items()} for side, values in found.items()}


def rates(port: int, process: psutil.Process, singles: int, batches: int) -> dict[str, float]:
    """Metrics a second, each way; and what a request costs the server, which a busy machine blurs less."""
    from mlflow import MlflowClient

    run_id = post(connect(port), "runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]

    def send(key: str, count: int) -> None:
        connection = connect(port)
        for step in range(count):
            point = {
                "run_id": run_id,
                "key": key,
                "value": step * 0.1,
                "timestamp": 1_700_000_000_000 + step,
                "step": step,
            }
            post(connection, "runs/log-metric", point)

    def crowd() -> None:
        threads = [threading.Thread(target=send, args=(f"crowd{k}", singles // 8)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    client = MlflowClient(f"http://127.0.0.1:{port}")
    through = max(40, singles // 4)

    def one_by_one() -> None:
        for step in range(through):
            client.log_metric(run_id, "client", step * 0.1, timestamp=1_700_000_000_000 + step, step=step)

    def in_batches() -> None:
        connection = connect(port)
        for batch in range(batches):
            names = ("key", "value", "timestamp", "step")
            points = [dict(zip(names, point, strict=True)) for point in batch_of("plain", batch)]
            post(connection, "runs/log-batch", {"run_id": run_id, "metrics": points})

    client.log_metric(run_id, "warm", 0.0)
    before = cpu_s(process)
    plain = per_second(singles, lambda: send("plain", singles))
    between = cpu_s(process)
    crowded = per_second(singles // 8 * 8, crowd)
    alone = per_second(through, one_by_one)
    start = cpu_s(process)
    plain_batches = per_second(batches * 1000, in_batches)
    return {
        "single, HTTP, 1 connection": plain,
        "single, HTTP, server CPU": (between - before) / singles * 1000,
        "single, HTTP, 8 connections": crowded,
        "single, mlflow client": alone,
        "batches of 1,000, HTTP": plain_batches,
        "batches of 1,000, HTTP, server CPU": (cpu_s(process) - start) / batches * 1000,
        CLIENT_BATCHES: batch_rate(port, run_id, batches),
    }


def batch_rate(port: int, run_id: str, batches: int) -> float:
    """Metrics a second through the mlflow client, in batches of 1,000."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(f"http://127.0.0.1:{port}")

    def work() -> None:
        for batch in range(batches):
            client.log_batch(run_id, metrics=[Metric(*point) for point in batch_of("m", batch)])

    return per_second(batches * 1000, work)


def batch_of(name: str, batch: int) -> list[tuple[str, float, int, int]]:
    """1,000 points of ten metrics: key, value, time in milliseconds, step."""
    return [(f"{name}{i % 10}", i * 0.1, 1_700_000_000_000 + i, batch * 1000 + i) for i in range(1000)]


def per_second(count: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


@contextlib.contextmanager
def launched(command: Callable[[int, Path], list[str]]) -> Iterator[tuple[int, psutil.Process, float]]:
    """(port, process, seconds until the first search was answered) of a server of its own, on an empty folder."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        env = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = (Path(folder) / "log").open("wb")
        began = time.perf_counter()
        process = subprocess.Popen(
            command(port, Path(folder)), env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not answers(port):
                if process.poll() is not None or time.perf_counter() - began > 120:
                    raise SystemExit(f"the server did not come up:\n{(Path(folder) / 'log').read_text()[-2000:]}")
                time.sleep(0.01)
            yield port, psutil.Process(process.pid), time.perf_counter() - began
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        post(connect(port), "experiments/search", {"max_results": 1})
        return True
    return False


def settle(process: psutil.Process) -> None:
    """Wait until a server rests: mlflow's workers go on loading modules after the first answer."""
    before, ends = -1.0, time.perf_counter() + 60
    while (now := cpu_s(process)) - before > 0.1 and time.perf_counter() < ends:
        before = now
        time.sleep(1)


def pss_mib(process: psutil.Process) -> float:
    everyone = [process, *process.children(recursive=True)]
    return float(sum(p.memory_full_info().pss for p in everyone)) / 2**20


def cpu_s(process: psutil.Process) -> float:
    times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
    return float(sum(t.user + t.system for t in times))


def connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> Any:
    connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise http.client.HTTPException(f"{answer.status}: {text[:300]!r}")
    return json.loads(text)


def report(results: dict[str, dict[str, float]]) -> None:
    ours, theirs = results["longrein"], results["mlflow"]
    print(f"{'':34}{'longrein':>12}{'mlflow':>12}{'ratio':>9}   target")
    for name in ours:
        unit = UNITS.get(name, "/s")
        ratio = ours[name] / theirs[name]
        sign, bound = TARGETS.get(name, ("", 0.0))
        met = (ratio >= bound if sign == ">=" else ratio <= bound) if sign else None
        goal = f"{sign} {bound:g}  {'met' if met else 'MISSED'}" if sign else ""
        print(f"{name:34}{ours[name]:>9,.5g} {unit:3}{theirs[name]:>8,.5g} {unit:3}{ratio:>8.2f}   {goal}")
    most = results["no server"][CLIENT_BATCHES]
    print(f"To a server that does no work the mlflow client sends {most:,.0f} metrics/s in batches: no server can be")
    bound, reached = most / theirs[CLIENT_BATCHES], ours[CLIENT_BATCHES] / most
    print(
        f"more than {bound:.2f} times as fast as mlflow's this way; Longrein reaches {reached:.0%} of what is possible."
    )
    import mlflow

    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, mlflow {mlflow.__version__}"
    )
    print(machine)
    print(json.dumps({"machine": machine, **results}))


if __name__ == "__main__":
    main()
