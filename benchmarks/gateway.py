"""What a request through the gateway costs, beside LiteLLM's proxy and Portkey's gateway, in one run.

    python benchmarks/gateway.py --litellm litellm/bin/litellm --portkey portkey/node_modules/@portkey-ai/gateway

All stand before the same mock upstream, one worker each, and take turns: 64 connections, whole answers, then streams of
50 events 10 ms apart. Ours has everything on: API keys, weighted routing that sticks to the user, limits
of the key and the endpoint, a rule filter, counting of tokens, metrics, the request log. CPU is that of all processes
of a gateway, from /proc; the load's and the mock's own are not in it. The added latency is the median's difference to
asking the mock directly, one request at a time, the two alternating. Every answer is checked to be whole. Ours is then
asked 200,000 times more, and its memory told before and after. Prints a table and one line of JSON.

The peers live in environments of their own: `pip install 'litellm[proxy]==1.106.2'` (never 1.82.7 or 1.82.8, which
carried a back door), `npm install @portkey-ai/gateway@1.15.2` with {"overrides": {"@hono/node-server": "1.12.2"}} in
package.json: with the newer versions that npm picks by itself it answers every stream with status 500.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
EVENTS, GAP_S = 50, 0.01
WORDS = "Your card is on its way and should arrive within five working days. "
TARGETS = [("litellm", 50), ("portkey", 6)]  # how many times less CPU ours is to use


# -- the mock upstream


def whole_answer() -> bytes:
    message = {"role": "assistant", "content": WORDS * 3, "refusal": None}
    body = json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef", "object": "chat.completion", "created": 1795000000, "model": "mock",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 40, "completion_tokens": 42, "total_tokens": 82},
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def stream_parts() -> list[bytes]:
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1795000000}

    def event(choices: list[Any], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "model": "mock", "choices": choices, **more}).encode() + b"\n\n"

    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word + " "} for word in (WORDS * 10).split()[: EVENTS - 3]]
    events = [event([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    events.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    usage = {"prompt_tokens": 40, "completion_tokens": EVENTS - 3, "total_tokens": 37 + EVENTS}
    events += [event([], usage=usage), b"data: [DONE]\n\n"]
    start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [b"%x\r\n%b\r\n" % (len(e), e) for e in events]
    return [start + parts[0], *parts[1:-1], parts[-1] + b"0\r\n\r\n"]


class Mock(asyncio.Protocol):
    """Answers every POST at once, or in pieces GAP_S apart where its body asks for a stream."""

    whole, parts = whole_answer(), stream_parts()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head, length = self.data[:end].lower(), 0
            if found := re.search(rb"content-length: *(\d+)", head):
                length = int(found[1])
            if len(self.data) < end + 4 + length:
                return
            body, self.data = self.data[end + 4 : end + 4 + length], self.data[end + 4 + length :]
            if re.search(rb'"stream": ?true', body):
                self.send(0)
            else:
                self.transport.write(self.whole)

    def send(self, i: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(self.parts[i])
        if i + 1 < len(self.parts):
            asyncio.get_running_loop().call_later(GAP_S, self.send, i + 1)


async def mock(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port)
    await server.serve_forever()


# -- the load


class Asking(asyncio.Protocol):
    """One connection that asks again and again until the load is done."""

    def __init__(self, load: "Load") -> None:
        self.load, self.data = load, bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        if self.load.take():
            self.began = time.perf_counter()
            self.transport.write(self.load.request())
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.data[:end]).lower()
        if found := re.search(rb"content-length: *(\d+)", head):
            over = len(self.data) >= end + 4 + int(found[1])
        else:
            over = self.data.endswith(b"0\r\n\r\n")
        if over:
            self.load.answered(bytes(self.data), time.perf_counter() - self.began)
            self.data.clear()
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost(bytes(self.data))


class Load:
    """So many requests over so many connections; `bad` are answers that are not what the mock said."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.left, self.stream, self.open = spec["requests"], spec["stream"], spec["connections"]
        self.spec, self.latencies, self.bad, self.sample = spec, [], 0, ""
        self.number = 0
        self.done = asyncio.get_running_loop().create_future()

    def request(self) -> bytes:
        self.number += 1
        message = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": WORDS * 2}]
        body = {"model": self.spec["model"], "messages": message, "user": f"user-{self.number % 997}"}
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        head = {"host": "x", "content-type": "application/json", "content-length": len(data), **self.spec["headers"]}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST {self.spec['path']} HTTP/1.1\r\n{lines}\r\n".encode() + data

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def answered(self, data: bytes, took: float) -> None:
        self.latencies.append(took)
        good = data.startswith(b"HTTP/1.1 200")
        good &= (data.count(b"data: {") >= EVENTS - 2 and b"[DONE]" in data) if self.stream else b"five working" in data
        if not good:
            self.bad += 1
            self.sample = self.sample or data[:500].decode("utf-8", "replace")

    def lost(self, data: bytes) -> None:
        if self.left >= 0:
            self.bad += 1
            self.sample = self.sample or "the connection was closed " + data[:300].decode("utf-8", "replace")
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)


async def load(spec: dict[str, Any]) -> None:
    found = Load(spec)
    loop = asyncio.get_running_loop()
    for _ in range(spec["connections"]):
        await loop.create_connection(lambda: Asking(found), "127.0.0.1", spec["port"])
    await found.done
    print(json.dumps({"latencies": found.latencies[:20000], "bad": found.bad, "sample": found.sample}))


# -- ours


def serve(folder: Path, port: int, upstream: int) -> None:
    """The gateway as `longrein serve` runs it; its endpoint sends a tenth of the users to a candidate."""
    from longrein.core.errors import Error
    from longrein.core.ledger import Ledger
    from longrein.core.limit import Limit
    from longrein.core.store import Store
    from longrein.gateway.server import Gateway

    (folder / ".longrein").mkdir(parents=True)
    ledger = Ledger(f"sqlite:///{folder}/.longrein/ledger.db")
    store = Store(folder / ".longrein" / "store")
    releases = []
    for total_s in (600.0, 601.0):
        options = {"urls": [f"http://127.0.0.1:{upstream}/v1"], "model": "mock", "total_s": total_s}
        file = folder / "release.json"
        file.write_text(json.dumps(options))
        stored = store.put(file)
        meta = {"model": None, "prompt": None, "engine": "openai", "options": options}
        releases.append(ledger.assets.put("release", "gpt", stored.digest, uri=stored.uri, meta=meta, actor="bench"))
    ledger.aliases.move("release", "gpt", "prod", releases[0], actor="bench")
    limits = {"requests_per_minute": 10**9, "tokens_per_day": 10**12, "usd_per_day": 10**6}
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    endpoint = {"upstream": releases[0].meta["options"], "limits": limits, "price": price}
    ledger.work.want({"project": "bench", "endpoints": {"gpt": endpoint}}, actor="bench")
    ledger.rollouts.start(releases[0], releases[1], {}, {}, weight=1000, actor="bench")  # a tenth of the users
    key = ledger.keys.create("bench", ("infer",), team="blue", limits=Limit(**limits), actor="bench")
    gateway = Gateway(ledger, store, folder, port=port)
    forbidden = re.compile(rb"(?i)ignore (all|previous) instructions|\b\d{13,19}\b")

    def rule(call: Any) -> None:
        if forbidden.search(call.data):
            raise Error("invalid", "this is not allowed here")

    configure = gateway._config

    def configured() -> Any:
        config = configure()
        gateway.inference.filters = [rule]
        return config

    gateway._config = configured
    (folder / "key").write_text(key)
    gateway.serve()


# -- gateways as processes


class Side(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str
    headers: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def await_port(process: subprocess.Popen[bytes], port: int, log: Path, patience_s: float = 180) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise SystemExit(f"it did not start:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def ours(folder: Path, upstream: int) -> Iterator[Side]:
    port, log = free_port(), folder / "ours.log"
    command = [sys.executable, __file__, "--serve", str(folder / "ours"), str(port), str(upstream)]
    with running(command, log) as process:
        await_port(process, port, log)
        key = folder / "ours" / "key"
        while not key.exists():
            time.sleep(0.1)
        yield Side("longrein", process, port, "gpt", {"authorization": f"Bearer {key.read_text()}"})


@contextlib.contextmanager
def litellm(binary: Path, folder: Path, upstream: int) -> Iterator[Side]:
    port, log, config = free_port(), folder / "litellm.log", folder / "litellm.json"
    model = {"model": "openai/mock", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    settings = {"general_settings": {"master_key": "sk-bench"}, "litellm_settings": {"telemetry": False}}
    config.write_text(json.dumps({"model_list": [{"model_name": "gpt", "litellm_params": model}], **settings}))
    command = [str(binary), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    with running(command, log, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR") as process:
        await_port(process, port, log)
        yield Side("litellm", process, port, "gpt", {"authorization": "Bearer sk-bench"})


@contextlib.contextmanager
def portkey(package: Path, folder: Path, upstream: int) -> Iterator[Side]:
    port, log = free_port(), folder / "portkey.log"
    node = shutil.which("node") or "node"
    command = [node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    with running(command, log, NODE_ENV="production") as process:
        await_port(process, port, log)
        headers = {
            "authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        }
        yield Side("portkey", process, port, "mock", headers)


# -- measuring


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def cpu_s(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """(all, of it the kernel's) of a gateway's processes so far."""
    user = kernel = 0
    for one in tree(process):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()
            user, kernel = user + int(fields[11]), kernel + int(fields[12])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + kernel) / tick, kernel / tick


def rss_mb(process: subprocess.Popen[bytes]) -> float:
    return sum(one.memory_info().rss for one in tree(process)) / 1e6


def drive(side: Side | None, port: int, requests: int, connections: int, stream: bool) -> dict[str, Any]:
    spec = {
        "port": side.port if side else port, "requests": requests, "connections": connections, "stream": stream,
        "model": side.model if side else "mock", "headers": side.headers if side else {},
        "path": "/v1/chat/completions",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--load", json.dumps(spec)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cost(side: Side, requests: int, stream: bool) -> dict[str, Any]:
    """CPU µs a request at 64 connections, after a tenth as many to warm up."""
    drive(side, 0, max(64, requests // 10), 64, stream)
    before, began = cpu_s(side.process), time.perf_counter()
    found = drive(side, 0, requests, 64, stream)
    took, kernel = (after - then for after, then in zip(cpu_s(side.process), before, strict=True))
    return {
        "cpu_us": took / requests * 1e6, "kernel_us": kernel / requests * 1e6,
        "bad": found["bad"], "sample": found["sample"],
        "requests_s": requests / (time.perf_counter() - began),
    }  # fmt: skip


def added_ms(side: Side, upstream: int, requests: int) -> float:
    """The median latency of one request at a time, less that of the mock; five turns of each."""
    differences = []
    for _ in range(5):
        direct = statistics.median(drive(None, upstream, requests, 1, False)["latencies"])
        through = statistics.median(drive(side, 0, requests, 1, False)["latencies"])
        differences.append((through - direct) * 1000)
    return statistics.median(differences)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    upstream, log = free_port(), folder / "mock.log"
    with running([sys.executable, __file__, "--mock", str(upstream)], log) as process, contextlib.ExitStack() as stack:
        await_port(process, upstream, log)
        sides = [stack.enter_context(ours(folder, upstream))]
        if args.litellm:
            sides.append(stack.enter_context(litellm(args.litellm, folder, upstream)))
        if args.portkey:
            sides.append(stack.enter_context(portkey(args.portkey, folder, upstream)))
        found: dict[str, Any] = {side.name: {"whole": [], "stream": []} for side in sides}
        for _ in range(args.repeats):  # taking turns, so that a noisy machine is fair
            for side in sides:
                share = 1.0 if side.name == "longrein" else 0.1 if side.name == "litellm" else 0.25
                for name, stream, count in (("whole", False, args.requests), ("stream", True, args.requests // 5)):
                    found[side.name][name].append(cost(side, max(64, int(count * share)), stream))
        for side in sides:
            found[side.name]["added_ms"] = added_ms(side, upstream, args.requests // 50)
        if args.soak:
            found["longrein"] |= soak(sides[0], args.soak)
    return found


def soak(side: Side, requests: int) -> dict[str, Any]:
    """Memory after a tenth, and after all, of many requests: every sixth of them a stream."""
    told = []
    for _ in range(10):
        drive(side, 0, requests * 5 // 60, 64, False)
        drive(side, 0, requests // 60, 64, True)
        told.append(round(rss_mb(side.process), 1))
    return {"rss_mb": told}


def report(found: dict[str, Any]) -> None:
    for one in found.values():
        for name in ("whole", "stream"):
            rounds = one[name]
            one[name] = {k: statistics.median(r[k] for r in rounds) for k in ("cpu_us", "kernel_us", "requests_s")}
            one[name] |= {"bad": sum(r["bad"] for r in rounds), "sample": next((r["sample"] for r in rounds), "")}
    mine = found["longrein"]
    columns = ("CPU µs/request", "ratio", "CPU µs/stream", "ratio", "of it kernel", "µs/event", "added ms")
    print(f"{'':10}" + "".join(f"{column:>16}" for column in columns))
    for name, one in found.items():
        whole, stream = one["whole"]["cpu_us"], one["stream"]["cpu_us"]
        ratios = (whole / mine["whole"]["cpu_us"], stream / mine["stream"]["cpu_us"])
        print(
            f"{name:10}{whole:16,.0f}{ratios[0]:16.1f}{stream:16,.0f}{ratios[1]:16.1f}{one['stream']['kernel_us']:16,.0f}"
            f"{(stream - whole) / EVENTS:16.1f}{one['added_ms']:16.2f}"
        )
        for kind in ("whole", "stream"):
            if one[kind]["bad"]:
                print(f"  {one[kind]['bad']} bad answers ({kind}): {one[kind]['sample'][:200]!r}")
    for name, ratio in TARGETS:
        if name in found:
            for kind in ("whole", "stream"):
                got = found[name][kind]["cpu_us"] / mine[kind]["cpu_us"]
                word = "met" if got >= ratio else "missed"
                print(f"{kind}: {got:.1f} times less CPU than {name}; wanted {ratio}: {word}")
    if "rss_mb" in mine:
        print(f"memory over the soak, MB: {mine['rss_mb']}")
    print(json.dumps({"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--litellm", type=Path, help="the command `litellm` of its environment")
    parser.add_argument("--portkey", type=Path, help="the folder of the package @portkey-ai/gateway")
    parser.add_argument("--requests", type=int, default=20_000, help="of ours; LiteLLM gets a tenth, Portkey a quarter")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many rounds is shown")
    parser.add_argument("--soak", type=int, default=200_000, help="requests to ours for the memory's sake; 0: none")
    parser.add_argument("--mock", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(Path(args.serve[0]), int(args.serve[1]), int(args.serve[2]))
    elif args.mock or args.load:
        import uvloop

        uvloop.run(mock(args.mock) if args.mock else load(json.loads(args.load)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            report(compare(args, Path(folder)))


if __name__ == "__main__":
    main()
