"""Stands for the program `vllm`: `serve` with the API of vLLM v0.31's server, on uvicorn as that is. Its "model" says
the tokens behind the prompt's last one, in the order of their ids.

What it was started with, and which requests were aborted, is appended to $FAKE_VLLM_LOG. $FAKE_VLLM=dies ends it at its
start, with status 3.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer

FIELDS = {
    "model", "prompt", "stream", "stream_options", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p",
    "seed", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "ignore_eos", "priority",
    "cache_salt", "return_token_ids", "logit_bias", "structured_outputs",
}  # fmt: skip
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("command", choices=["serve"])
parser.add_argument("model")
for name in ("uds", "served-model-name", "max-num-seqs", "max-model-len", "max-num-batched-tokens", "dtype"):
    parser.add_argument(f"--{name}")
for name in ("quantization", "tensor-parallel-size", "gpu-memory-utilization", "scheduling-policy"):
    parser.add_argument(f"--{name}")
parser.add_argument("--generation-config")
parser.add_argument("--enable-prompt-tokens-details", action=argparse.BooleanOptionalAction)
parser.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction)
arguments = parser.parse_args()
folder = Path(arguments.model)
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
config = json.loads((folder / "config.json").read_text())
context = int(arguments.max_model_len or config["max_position_embeddings"])
looks = 0  # at its health
running = steps = 0


def note(**what):
    with open(os.environ["FAKE_VLLM_LOG"], "a") as file:
        file.write(json.dumps(what) + "\n")


async def health(request: Request):
    global looks
    looks += 1
    return Response(status_code=200 if looks > 1 else 503)


async def models(request: Request):
    card = {"id": arguments.served_model_name, "object": "model", "root": arguments.model, "max_model_len": context}
    return JSONResponse({"object": "list", "data": [card]})


async def metrics(request: Request):
    label = f'{{engine="0",model_name="{arguments.served_model_name}"}}'
    return Response(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        "# TYPE vllm:num_requests_running gauge\n"
        f"vllm:num_requests_running{label} {float(running)}\n"
        f"vllm:num_requests_waiting{label} 0.0\n"
        f"vllm:iteration_tokens_total_count{label} {float(steps)}\n"
        f"vllm:inter_token_latency_seconds_sum{label} {steps / 100}\n"
        f"vllm:inter_token_latency_seconds_count{label} {float(steps)}\n",
        media_type="text/plain",
    )


def refuse(message, param=None, status=400):
    error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return JSONResponse({"error": error}, status)


async def completions(request: Request):
    body = await request.json()
    if unknown := body.keys() - FIELDS:
        return refuse(f"unknown fields {unknown}")
    if body["model"] != arguments.served_model_name:
        return refuse(f"The model `{body['model']}` does not exist.", "model", 404)
    if body.get("cache_salt") == "":
        return refuse("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if max(body["prompt"]) >= tokenizer.get_vocab_size():
        return refuse("Token id is out of vocabulary", "prompt")
    return StreamingResponse(stream(body), media_type="text/event-stream")


def chunk(choices, usage=None, **more):
    value = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "model", "choices": choices}
    return f"data: {json.dumps(value | {'usage': usage} | more, ensure_ascii=False)}\n\n"


async def stream(body):
    global running, steps
    running += 1
    said, sent, ended = [], 0, False
    try:
        while not ended:
            steps += 1
            token = (body["prompt"][-1] + len(said) + 1) % tokenizer.get_vocab_size()
            said.append(token)
            text = tokenizer.decode(said).rstrip("\ufffd")
            found = [(text.find(s), s) for s in body["stop"] if s in text] if len(said) >= body["min_tokens"] else []
            finish = "stop" if found else "length" if len(said) >= body["max_tokens"] else None
            if token == config["eos_token_id"] and not body["ignore_eos"]:
                finish = "stop"
            if found:
                text = text[: min(found)[0]]
            held = 0 if finish or not body["stop"] else max(map(len, body["stop"])) - 1  # as vLLM buffers
            new, sent = text[sent : len(text) - held], max(sent, len(text) - held)
            choice = {"index": 0, "text": new, "logprobs": None, "finish_reason": finish, "stop_reason": None}
            choice |= {"token_ids": [token]} if body.get("return_token_ids") else {}
            if found:
                choice["stop_reason"] = min(found)[1]
            if body["logprobs"] is not None:
                name, other = (tokenizer.decode([t], skip_special_tokens=False) for t in (token, 9))
                top = {name: -0.5, other: -1.5}
                choice["logprobs"] = {"text_offset": [0], "tokens": [name], "token_logprobs": [-0.5]}
                choice["logprobs"]["top_logprobs"] = [top if body["logprobs"] else {name: -0.5}]
            yield chunk([choice])
            ended = finish is not None
            await asyncio.sleep(0)
            if os.environ.get("FAKE_VLLM") == "slow":
                await asyncio.sleep(0.01)
            if body["seed"] == 666:
                yield chunk([], error={"message": "EngineCore encountered an issue", "code": 500})
                return
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(said)}
        yield chunk([], usage | {"total_tokens": 0, "prompt_tokens_details": {"cached_tokens": 2}})
        yield "data: [DONE]\n\n"
    finally:
        running -= 1
        note(said=len(said), whole=ended, priority=body["priority"], salt=body.get("cache_salt"))


if os.environ.get("FAKE_VLLM") == "dies":
    sys.exit(3)
note(pid=os.getpid(), argv=sys.argv[1:], offline=os.environ.get("HF_HUB_OFFLINE"))
routes = [Route("/health", health), Route("/v1/models", models), Route("/metrics", metrics)]
app = Starlette(routes=[*routes, Route("/v1/completions", completions, methods=["POST"])])
uvicorn.run(app, uds=arguments.uds, log_level="warning")
