"""What happened in the demo: the facts from the ledger, and a short story of them in English or Chinese."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrein.workspace import Workspace

TEMPLATE = Path(__file__).parent / "project" / "longrein.yaml"
MARK = "# Longrein's demo"  # how a folder is known to be one
QUESTIONS = {"en": "hi, my parcel has not moved for a week, where is it?", "zh": "包裹一周没动静了，怎么还没到？"}

# What a reason for dropping a row is called in Chinese.
REASONS = {
    "duplicate": "重复", "noise": "噪声", "conflicting_label": "标注冲突", "malformed": "格式损坏", "blank": "空白",
    "bad_encoding": "编码错误", "wrong_columns": "列数不对", "missing_output": "缺答案", "missing_input": "缺请求",
    "too_short": "太短", "too_long": "太长", "nul_byte": "空字节", "not_object": "不是对象",
}  # fmt: skip

ENGLISH = """\
What happened

 1 data      {rows_in:,} raw rows came in, {rows:,} are kept ({languages}); dropped: {dropped}.
             Personal data masked: {pii}. Every dropped row is kept aside with its reason: {dataset}.
 2 training  {parameters:,} parameters from scratch in {train_took}: {model}.
             Its loss is {loss:.3f}, on rows it did not see {validation_loss:.3f}.
 3 score     exact match {score:.1%} on {tested:,} test rows, 95 % interval {low:.1%} to {high:.1%}.
 4 gate      {gate}: {verdict}
 5 release   {release} (digest {digest}) binds model, tokenizer, prompt and engine; endpoint "support" serves it.
 6 answer    “{question}”
             → {answer}   ({total_ms:.0f} ms, over HTTP, request {id})
 7 why       that answer ← {release} ← {model} ← {dataset}. The training rows most like the question:
{neighbours}
 8 cost      {cost} for all of it, at $0.10 an hour ({wall} of computing).

Try next
  {go}
  longrein up                                           serve it, and apply what changes; Ctrl-C stops
  longrein why {id}
  longrein lineage release:support --svg lineage.svg    the way here as a picture
  longrein audit verify                                 the trail of who did what, unbroken
  change `epochs` or a word of the prompt in longrein.yaml, then: longrein plan"""

CHINESE = """\
发生了什么

 1 数据  读入 {rows_in:,} 行原始数据，保留 {rows:,} 行（{languages}）；剔除：{dropped}。
         个人信息已遮蔽：{pii}。每一行被剔除的数据都留底并注明原因：{dataset}。
 2 训练  从零训练 {parameters:,} 个参数，用时 {train_took}：损失 {loss:.3f}，未见数据 {validation_loss:.3f}：{model}。
 3 评测  {tested:,} 行测试数据，完全匹配 {score:.1%}，95% 置信区间 {low:.1%} 到 {high:.1%}。
 4 门禁  {gate}：{verdict}
 5 发布  {release}（摘要 {digest}）把模型、分词器、提示词和引擎绑在一起；端点 support 正在使用它。
 6 回答  “{question}”
         → {answer}   （{total_ms:.0f} 毫秒，经 HTTP，请求 {id}）
 7 溯源  这个回答 ← {release} ← {model} ← {dataset}。与问题最相近的训练数据：
{neighbours}
 8 成本  全程 {cost}，按每小时 $0.10 计（计算用时 {wall}）。

接下来可以试试
  {go}
  longrein up                                           持续提供服务，改了什么就应用什么；Ctrl-C 停止
  longrein why {id}
  longrein lineage release:support --svg lineage.svg    把来龙去脉画成图
  longrein audit verify                                 校验审计记录没有被改过
  改一改 longrein.yaml 里的 epochs 或提示词，然后：longrein plan"""


def facts(workspace: "Workspace", request_id: str) -> dict[str, Any]:
    """All that the story tells, as plain data, from the ledger alone."""
    ledger = workspace.ledger
    why = workspace.why(request_id, rows=3)
    release = workspace.asset(why["release"]["ref"])
    model = ledger.assets.get(release.meta["model"]["ref"])
    run = ledger.runs.get(model.run_id)
    dataset = next(a for _, a in ledger.assets.of_run(model.run_id) if a.kind == "dataset")
    report = workspace.asset("report:support")
    verdict = ledger.aliases.verdicts(release.digest)[0]
    runs = [r for r in ledger.runs.recent(limit=1000) if r.wall_s is not None]
    return {
        "folder": str(workspace.root),
        "dataset": {"ref": dataset.ref} | {k: dataset.meta[k] for k in ("rows", "rows_in", "dropped", "languages")},
        "pii": {k: v for k, v in dataset.meta["transforms"].get("pii", {}).items() if k != "changed"},
        "model": {"ref": model.ref, "parameters": model.meta["parameters"], "wall_s": run.wall_s},
        "metrics": ledger.runs.metrics(run.id),
        "score": report.meta["metrics"]["exact_match"] | {"n": report.meta["n"]},
        "gate": {"name": verdict.gate, "passed": verdict.passed, "reasons": verdict.reasons},
        "release": {"ref": release.ref, "digest": release.digest},
        "request": why["request"],
        "rows": why["rows"],
        "cost_usd": sum(r.cost_usd or 0 for r in runs),
        "wall_s": sum(r.wall_s or 0 for r in runs),
    }


def tell(f: dict[str, Any], language: str) -> str:
    """The story; `language`: "zh", else English."""
    chinese = language == "zh"
    comma = "，" if chinese else ", "
    names = REASONS if chinese else {}
    request, data, score = f["request"], f["dataset"], f["score"]
    pad = " " * (9 if chinese else 13)
    return (CHINESE if chinese else ENGLISH).format(
        rows_in=data["rows_in"], rows=data["rows"], dataset=data["ref"],
        languages=comma.join(f"{n:,} {name}" for name, n in data["languages"].items()),
        dropped=comma.join(f"{n:,} {names.get(r, r.replace('_', ' '))}" for r, n in data["dropped"].items()),
        pii=comma.join(f"{n} {kind}" for kind, n in f["pii"].items()) or "–",
        parameters=f["model"]["parameters"], model=f["model"]["ref"], train_took=_took(f["model"]["wall_s"]),
        loss=f["metrics"].get("loss", float("nan")), validation_loss=f["metrics"].get("validation_loss", float("nan")),
        tested=score["n"], score=score["value"], low=score["low"], high=score["high"],
        gate=f["gate"]["name"], verdict="; ".join(f["gate"]["reasons"]),
        release=f["release"]["ref"], digest=f["release"]["digest"][:12],
        question=request["input"], answer=request["output"], total_ms=request["total_ms"], id=request["id"],
        neighbours="\n".join(f"{pad}{r['source']}:{r['line']}  {r['input'][:60]} ⇒ {r['output']}" for r in f["rows"]),
        cost=f"${f['cost_usd']:.4f}", wall=_took(f["wall_s"]), go=_go(f["folder"]),
    )  # fmt: skip


def _go(folder: str) -> str:
    """How to stand where the commands work: the folder, and the program on the PATH."""
    here = shlex.quote(os.path.relpath(folder))
    program = Path(sys.argv[0]).absolute().parent
    found = shutil.which("longrein")
    return f"cd {here}" if found else f"export PATH={shlex.quote(str(program))}:$PATH; cd {here}"


def _took(seconds: float | None) -> str:
    return f"{seconds or 0:.0f} s"
