"""Rules and dashboards before the real thing: Prometheus, Alertmanager, promtool and amtool, over a real gateway."""

import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import yaml
from world import World

from longrein.cli.main import main
from longrein.core.objective import Config
from longrein.ops.monitor import dashboards, prometheus
from longrein.ops.monitor.catalogue import ENGINE, GATEWAY, MACHINE, TRAFFIC, gauge_name
from longrein.ops.monitor.panels import ROWS

EVERY = {
    "availability": 0.999, "throttled": 0.2, "latency": {"below_s": 1.5, "share": 0.9}, "ttft": 0.5, "tpot": 1e-5,
    "refusals": 0.05, "guard": 0.01, "feedback": {"helpful": 0.8}, "usd_per_day": 12.0,
}  # fmt: skip
NAMES = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")


def config(**values: Any) -> Config:
    return msgspec.convert(values, Config)


@pytest.fixture(scope="session")
def tools(debian: Callable[..., bool]) -> None:
    """Debian's packages of Prometheus and its Alertmanager."""
    if not debian(NAMES, "prometheus", "prometheus-alertmanager"):
        pytest.skip("they are not installed and could not be: apt-get install prometheus prometheus-alertmanager")


def write(folder: Path, promised: dict[str, Config], **options: Any) -> Path:
    for name, text in dashboards.files("shop", promised, **options).items():
        (folder / name).write_text(text, "utf-8")
    return folder


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- what is written


def test_the_rules_fire_when_all_is_bad_and_only_then(tools: None, tmp_path: Path) -> None:
    odd = {"b": config(latency=512, ttft=1e-9), 'a"\\': config(availability=0.5)}
    write(tmp_path, {"支持": config(**EVERY), **odd}, webhook="http://127.0.0.1:1/hook")
    run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)
    run("promtool", "test", "rules", prometheus.TESTS, cwd=tmp_path)
    run("amtool", "check-config", "alertmanager.yml", cwd=tmp_path)
    rules = yaml.safe_load((tmp_path / prometheus.RULES).read_text("utf-8"))["groups"]
    alerts = [r for g in rules for r in g["rules"] if r.get("labels", {}).get("objective") and "alert" in r]
    assert {a["labels"]["objective"] for a in alerts} == {
        "availability", "throttled", "latency", "ttft", "tpot", "refusals", "guard", "feedback.helpful", "cost",
    }  # fmt: skip


@pytest.mark.parametrize("promised", [{}, {"支持": config(availability=0.9)}])
def test_a_small_project_in_chinese(tools: None, tmp_path: Path, promised: dict[str, Config]) -> None:
    write(tmp_path, promised, lang="zh")
    run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)
    run("promtool", "test", "rules", prometheus.TESTS, cwd=tmp_path)
    run("amtool", "check-config", "alertmanager.yml", cwd=tmp_path)
    assert ("错误预算" in (tmp_path / prometheus.RULES).read_text("utf-8")) == bool(promised)


@pytest.mark.parametrize("limit, around", [(1.5, ("1", "2")), (2, ("2", "2")), (1e-9, ("0.0009765625",) * 2)])
def test_between_which_buckets_a_time_lies(limit: float, around: tuple[str, str]) -> None:
    assert prometheus.between(limit, -10, 9) == around


def test_a_time_past_the_last_bucket_is_left_to_longrein() -> None:
    promised = {"a": config(latency=600, ttft=512, guard=0.1)}
    assert [i.objective.name for i in prometheus.indicators(promised)] == ["guard", "ttft"]
    own = [
        r for g in prometheus.rules(promised, "en")["groups"] for r in g["rules"] if r.get("alert") == "LongreinAlert"
    ]
    assert len(own) == 3 and all("guard_spike" in r["expr"] and "slo_burning" not in r["expr"] for r in own)


def test_the_verb_writes_the_same_bytes_again(tmp_path: Path) -> None:
    (tmp_path / "longrein.yaml").write_text(
        "project: shop\nendpoints:\n  support:\n    upstream: {urls: ['http://127.0.0.1:9/v1'], model: m}\n"
        "    approval: manual\n    objectives: {availability: 0.99, usd_per_day: 5}\n"
    )
    told = [tmp_path / "a", tmp_path / "b"]
    for folder in told:
        options = ["--lang", "zh", "--target", "10.0.0.7:80", "--target", "10.0.0.8:80", "--interval", "5s"]
        with pytest.raises(SystemExit) as ended:
            main(["-C", str(tmp_path), "dashboards", str(folder), *options])
        assert ended.value.code == 0
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in told)
    assert first == second and set(first) == {
        "prometheus.yml", "longrein.rules.yml", "longrein.rules.test.yml", "alertmanager.yml", "longrein.json",
    }  # fmt: skip
    scraped = yaml.safe_load(first["prometheus.yml"])
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["10.0.0.7:80", "10.0.0.8:80"]
    board = json.loads(first["longrein.json"])
    assert "流量" in {p["title"] for p in board["panels"]} and {"endpoint", "release"} < {
        v["name"] for v in board["templating"]["list"]
    }


def test_the_dashboard_is_laid_out_and_asks_for_what_there_is() -> None:
    board = json.loads(dashboards.files("shop", {})["longrein.json"])
    places = [(p["gridPos"]["x"] + x, p["gridPos"]["y"] + y) for p in board["panels"]
              for x in range(p["gridPos"]["w"]) for y in range(p["gridPos"]["h"])]  # fmt: skip
    assert len(places) == len(set(places)) and max(x for x, _ in places) < 24
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
    assert all(panel.title != panel.chinese for row in ROWS for panel in row.panels)
    known = {m.family for m in TRAFFIC} | {m.name for m in TRAFFIC} | set(GATEWAY)
    known |= {gauge_name(key, "engine") for key in ENGINE} | {gauge_name(key, "machine") for key in MACHINE}
    asked = {name for expr in queries(board) for name in re.findall(r"\blongrein_\w+", expr)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known


def queries(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


# -- before a real Prometheus


class Hook:
    """Who Alertmanager tells."""

    def __init__(self) -> None:
        hook = self
        self.told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Scraped:
    """A gateway, a Prometheus that scrapes it every second, and an Alertmanager that tells a hook."""

    def __init__(self, client: openai.OpenAI, url: str, hook: Hook, world: World) -> None:
        self.client, self.url, self.hook, self.world = client, url, hook, world

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expr: str) -> list[Any]:
        return list(self.get("query", query=expr)["result"])

    def ask(self, text: str, model: str = "support") -> None:
        stream = self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], stream=True
        )
        for _ in stream:
            pass


@pytest.fixture(scope="module")
def scraped(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    world = World(folder / "project") if (folder / "project").mkdir() is None else None
    assert world
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    world.promote(world.release("support", "v1", context=50), price=price)
    world.want("gone", fallback=[])
    hook, ports = Hook(), [free_port(), free_port()]
    alertmanager = f"127.0.0.1:{ports[1]}"
    world.ledger.alerts.fire("drifted", "endpoint:support", "input", summary="不一样了", actor="test")
    streams = [{"group": "input", "key": "a", "evidence": 10.0, "needed": 20_000.0}]
    for host in ("h1", "h2"):
        world.ledger.drift.put("support", host, {"streams": streams})
    children = []
    with world.serve() as gateway:
        target = gateway.url.removeprefix("http://")
        promised = {"support": config(**{**EVERY, "availability": 0.99})}
        write(folder, promised, targets=[target], alertmanager=alertmanager, interval="1s", webhook=hook.url)
        quick = yaml.safe_load((folder / "alertmanager.yml").read_text("utf-8"))
        quick["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(quick))
        for command in (
            [NAMES[0], "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{ports[0]}"],
            [NAMES[2], "--config.file=alertmanager.yml", f"--web.listen-address={alertmanager}",
             "--cluster.listen-address="],
        ):  # fmt: skip
            data = f"--storage.{'tsdb.' if command[0] == 'prometheus' else ''}path={folder / command[0]}-data"
            log = (folder / f"{command[0]}.log").open("wb")
            children.append(subprocess.Popen([*command, data], cwd=folder, stdout=log, stderr=log))
        try:
            one = Scraped(world.client(gateway), f"http://127.0.0.1:{ports[0]}", hook, world)
            until(lambda: reached(lambda: one.query('up{job="longrein"} == 1')), children)
            yield one
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(20)
            hook.server.shutdown()
    world.ledger.close()


def test_every_query_is_answered(scraped: Scraped) -> None:
    """Panels that are not quiet show something while there is traffic; none is refused."""
    board = json.loads(dashboards.files("shop", {})["longrein.json"])
    texts = [text.replace("$__rate_interval", "15s").replace("$endpoint", ".*").replace("$release", ".*")
             for text in queries(board)]  # fmt: skip
    quiet = [panel.quiet for row in ROWS for panel in row.panels for _ in panel.queries]
    wanted = [text for text, calm in zip(texts, quiet, strict=True) if not calm]

    def shown() -> bool:
        scraped.ask("tell me more of it")
        return all(any(r["value"][1] != "NaN" for r in scraped.query(text)) for text in wanted)

    until(shown)
    for text in texts:
        scraped.query(text)
    (firing,) = scraped.query("longrein_alerts_firing")
    assert (firing["metric"]["kind"], firing["metric"]["subject"]) == ("drifted", "endpoint:support")
    assert scraped.query("longrein_drift_evidence")[0]["value"][1] == "20"
    groups = scraped.get("rules")["groups"]
    assert len(groups) == 3 and not [r for g in groups for r in g["rules"] if r["health"] != "ok"]
    variable = scraped.get("label/endpoint/values")
    assert "support" in variable


def test_errors_become_an_alert_that_is_delivered(scraped: Scraped) -> None:
    """Gateway → Prometheus → Alertmanager → webhook; so does an alert of Longrein's own."""
    own = until(lambda: [a for a in alerts(scraped.hook) if a["labels"].get("kind") == "drifted"])
    assert own[0]["labels"]["alertname"] == "LongreinAlert" and "endpoint:support" in own[0]["annotations"]["summary"]
    burning = 'ALERTS{alertname="LongreinSloBurning",objective="availability"}'
    assert not scraped.query(burning)

    def failed() -> bool:
        with pytest.raises(openai.InternalServerError):
            scraped.ask("die")
        until(lambda: reached(lambda: scraped.ask("again") or True))
        return bool(scraped.query(burning))

    until(failed)
    found = until(lambda: [a for a in alerts(scraped.hook) if a["labels"].get("objective") == "availability"])
    assert found[0]["labels"]["endpoint"] == "support" and found[0]["labels"]["severity"] == "critical"
    assert "error budget" in found[0]["annotations"]["summary"] and found[0]["status"] == "firing"
    scraped.world.ledger.alerts.resolve("drifted", "endpoint:support", "input", actor="test")
    until(
        lambda: [a for a in alerts(scraped.hook) if a["labels"].get("kind") == "drifted" and a["status"] == "resolved"]
    )


def alerts(hook: Hook) -> list[dict[str, Any]]:
    return [alert for told in hook.told for alert in told["alerts"]]


def reached(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except (OSError, openai.APIError):
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], children: Any = ()) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        assert all(child.poll() is None for child in children), "a server ended"
        time.sleep(0.1)  # waits for other processes, not for a duration
    return value
