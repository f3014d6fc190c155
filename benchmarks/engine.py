"""The embedded engine against transformers' continuous batching, on the CPU, in one run.

    python benchmarks/engine.py [--engine torch|openvino] [--threads 1] [--json result.json]

A Llama of 5 M parameters with random weights; clients that each send one request after the other: 64 tokens in, 128
tokens out, greedy. Ours is measured through its process and protocol, streamed; transformers' in its own process,
without streaming, with the cache sized for the load (its default takes all free memory). Both use the same threads,
take turns, and the best of three rounds counts. CPU is that of the whole process, ours with the client side added:
on a busy machine it is the steadier figure. The answers must be equal. Then the same through the gateway as `longrein
serve` runs it, over HTTP, streamed: route, engine, stream and request log; its CPU is left out, the peer has no server.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from longrein.gateway.engine import EngineProcess, Request

PROMPT, ANSWER, VOCABULARY = 64, 128, 4096
LOADS = {1: 4, 8: 2, 32: 2}  # clients: requests of each
ROUNDS = 3
COLUMNS = ("clients", "tokens/s", "tokens/s peer", "ratio", "CPU µs/token", "CPU µs/token peer", "CPU ratio")


def prompts(clients: int) -> list[list[list[int]]]:
    """For each client, its requests."""
    draw = random.Random(clients)
    one = range(PROMPT)
    return [[[draw.randrange(3, VOCABULARY) for _ in one] for _ in range(LOADS[clients])] for _ in range(clients)]


def make_model(folder: Path, positions: int = 512) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<eos>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    print(f"a Llama of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", file=sys.stderr)


class Result(NamedTuple):
    rate: float  # tokens per second
    cpu_us: float  # microseconds of CPU a token
    answers: list[list[list[int]]]


async def ours(engine: EngineProcess, clients: int) -> Result:
    async def client(requests: list[list[int]]) -> list[list[int]]:
        answers = []
        for prompt in requests:
            request = Request(prompt=prompt, max_tokens=ANSWER, temperature=0, ignore_eos=True)
            answers.append([id async for event in engine.generate(request) for id in event.token_ids])
        return answers

    def cpu_s() -> float:
        times = psutil.Process(engine.pid).cpu_times()
        return time.process_time() + times.user + times.system

    tokens = clients * LOADS[clients] * ANSWER
    began, used = time.perf_counter(), cpu_s()
    answers = await asyncio.gather(*(client(requests) for requests in prompts(clients)))
    return Result(tokens / (time.perf_counter() - began), (cpu_s() - used) / tokens * 1e6, list(answers))


def peer(folder: str) -> None:
    """The other process: reads a number of clients a line, answers with tokens/s, CPU seconds and the answers."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generation = GenerationConfig(max_new_tokens=ANSWER, do_sample=False, eos_token_id=-1)
    for line in sys.stdin:
        clients = int(line)
        config = ContinuousBatchingConfig(block_size=32, num_blocks=clients * 8 + 8, max_batch_tokens=clients * PROMPT)
        with model.continuous_batching_context_manager(generation, continuous_batching_config=config) as manager:
            drive(manager, [[[1] * PROMPT]])  # warm-up
            began, used = time.perf_counter(), time.process_time()
            answers = drive(manager, prompts(clients))
            took, used = time.perf_counter() - began, time.process_time() - used
        tokens = clients * LOADS[clients] * ANSWER
        print(json.dumps(Result(tokens / took, used / tokens * 1e6, answers)), flush=True)


def drive(manager: Any, requests: list[list[list[int]]]) -> list[list[list[int]]]:
    """Each client sends its next request when the one before is answered."""
    answers: list[list[list[int]]] = [[] for _ in requests]
    for client, own in enumerate(requests):
        manager.add_request(own[0], request_id=f"{client}-0", max_new_tokens=ANSWER)
    while any(len(got) < len(own) for got, own in zip(answers, requests, strict=True)):
        result = manager.get_result(timeout=60)
        assert result is not None and result.error is None, result
        client = int(result.request_id.split("-")[0])
        answers[client].append(result.generated_tokens)
        done = len(answers[client])
        if done < len(requests[client]):
            manager.add_request(requests[client][done], request_id=f"{client}-{done}", max_new_tokens=ANSWER)
    return answers


def serve(engine: str, model: Path, folder: Path, port: int) -> None:
    """The gateway, in a process of its own."""
    from longrein.core.ledger import Ledger
    from longrein.core.store import Store
    from longrein.gateway.server import Gateway

    folder.mkdir()
    ledger, store = Ledger(f"sqlite:///{folder}/ledger.db"), Store(folder / "store")
    stored = store.put(model)
    asset = ledger.assets.put("model", "m", stored.digest, uri=stored.uri, actor="bench")
    part = {"ref": asset.ref, "digest": asset.digest, "uri": asset.uri}
    options = {"max_batch": 32, "threads": int(os.environ["OMP_NUM_THREADS"])}
    meta = {"model": part, "prompt": None, "engine": engine, "options": options}
    (folder / "release.json").write_text(json.dumps(meta))
    stored = store.put(folder / "release.json")
    release = ledger.assets.put("release", "m", stored.digest, uri=stored.uri, meta=meta, actor="bench")
    ledger.aliases.move("release", "m", "prod", release, actor="bench")
    ledger.work.want({"project": "bench", "endpoints": {"m": {"model": "m", "options": options}}}, actor="bench")
    Gateway(ledger, store, folder, port=port, auth=False).serve()


async def over_http(port: int, clients: int) -> float:
    """Tokens a second; every client keeps its connection."""

    async def client(requests: list[list[int]]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for prompt in requests:
            fields = {"model": "m", "prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
            body = json.dumps(fields | {"stream": True, "stream_options": {"include_usage": True}}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            answer = await reader.readuntil(b"data: [DONE]")
            await reader.readuntil(b"0\r\n\r\n")
            assert b'"completion_tokens":%d' % ANSWER in answer, answer[:500]
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(requests) for requests in prompts(clients)))
    return clients * LOADS[clients] * ANSWER / (time.perf_counter() - began)


async def through_the_gateway(name: str, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Adds "gateway tokens/s" to the row of each load, and what it is to the peer's of the same run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--serve", name, str(folder), str(folder.parent / "project"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as gateway:
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"):
                    break
                await asyncio.sleep(0.25)
            for row in rows:
                rates = [await over_http(port, row["clients"]) for _ in range(ROUNDS)]
                row["gateway tokens/s"] = max(rates)
                row["gateway ratio"] = max(rates) / row["tokens/s peer"]
                ratio = f"{row['gateway ratio']:.2f} of the peer's"
                print(f"{row['clients']:>7} through the gateway {max(rates):.0f}, {ratio}")
        finally:
            gateway.terminate()


def compare(clients: int, mine: list[Result], theirs: list[Result]) -> dict[str, Any]:
    rates = max(r.rate for r in mine), max(r.rate for r in theirs)
    cpus = min(r.cpu_us for r in mine), min(r.cpu_us for r in theirs)
    ratios = rates[0] / rates[1], cpus[1] / cpus[0]
    return dict(zip(COLUMNS, (clients, *map(round, rates), ratios[0], *map(round, cpus), ratios[1]), strict=True))


def agreement(mine: Result, theirs: Result) -> float:
    """The share of answers that are equal to the last of their tokens: other kernels round otherwise."""
    pairs = [pair for ours in zip(mine.answers, theirs.answers, strict=True) for pair in zip(*ours, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


async def run(name: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--peer", str(folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin and other.stdout
    engine = await EngineProcess.start(name, folder, {"max_batch": 32, "threads": threads})
    rows: list[dict[str, Any]] = []
    for clients in LOADS:
        mine, theirs = [], []
        for _ in range(ROUNDS):
            other.stdin.write(f"{clients}\n")
            other.stdin.flush()
            theirs.append(Result(*json.loads(await asyncio.to_thread(other.stdout.readline))))
            mine.append(await ours(engine, clients))
            assert agreement(mine[-1], theirs[-1]) >= 0.95, "the answers differ"
        rows.append(row := compare(clients, mine, theirs))
        print(" ".join(f"{v:>{len(k)}.{2 * isinstance(v, float)}f}" for k, v in row.items()), flush=True)
    stats = await engine.stats()
    await engine.stop()
    other.stdin.close()
    other.wait()
    print(f"steps of ours: {stats['steps_total']}, by batch size: {stats['batch_sizes']}", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="torch", choices=["torch", "openvino"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        name, model, project, port = arguments.serve
        return serve(name, Path(model), Path(project), int(port))
    if arguments.peer:
        return peer(arguments.peer)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        make_model(folder)
        print(f"{arguments.threads} thread(s); longrein with {arguments.engine}, then transformers")
        print(" ".join(COLUMNS))
        rows = asyncio.run(run(arguments.engine, folder, arguments.threads))
        asyncio.run(through_the_gateway(arguments.engine, folder, rows))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"engine": arguments.engine, "threads": arguments.threads, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
