"""The contract of the port "channel", over every plugin, before real servers: what arrives, and what is said when it
does not."""

import base64
import email
import email.policy
import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from receiver import Receiver, mailbox, receiver

from longrein.core import plugins
from longrein.core.errors import Error
from longrein.core.ledger import Alert
from longrein.core.ports import Channel, Message
from longrein.ops.monitor.channel import Config, connect
from longrein.ops.monitor.message import message

SERVICES = [name for name in plugins.names("channel") if name != "email"]
GOOD = {  # what each service answers when it has taken a message
    "slack": b"ok",
    "dingtalk": b'{"errcode":0,"errmsg":"ok"}',
    "wecom": b'{"errcode":0,"errmsg":"ok"}',
    "feishu": b'{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}',
    "webhook": b"",
}
REFUSED = {
    "slack": b"invalid_token",
    "dingtalk": b'{"errcode":310000,"errmsg":"keywords not in content"}',
    "wecom": b'{"errcode":93000,"errmsg":"invalid webhook url"}',
    "feishu": b'{"code":19021,"msg":"sign match fail or timestamp is not within one hour from current time"}',
}
BUSY = {
    "dingtalk": b'{"errcode":130101,"errmsg":"send too fast"}',
    "wecom": b'{"errcode":45009,"errmsg":"api freq out of limit"}',
    "feishu": b'{"code":11232,"msg":"frequency limited"}',
}
SECRET = "SEC0a1b2c3"


def alert(**changes: Any) -> Alert:
    values = {
        "id": 7, "kind": "slo_burning", "subject": "endpoint:客服", "name": "latency", "severity": "critical",
        "summary": "慢了 <@all> [x](http://evil) & <!channel>", "evidence": {"requests": ["req-1"]},
        "since_ms": 1_800_000_000_000, "fired_ms": 1_800_000_060_000, "updated_ms": 1_800_000_060_000,
        "resolved_ms": None,
    }  # fmt: skip
    return Alert(**{**values, **changes})


FIRING = message("7.0-7.0-1", [alert()], "zh", 1_800_000_060_000)
OVER = message("7.1-7.1-1", [alert(resolved_ms=1_800_000_120_000)], "en", 1_800_000_120_000)
HUGE = message("x", [alert(id=i, name=f"目标{i}", summary="很" * 5000) for i in range(500)], "zh", 1_800_000_060_000)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def made(name: str, url: str, **options: Any) -> Channel:
    channel: Channel = plugins.load("channel", name)(url, options)
    return channel


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("sent", [FIRING, OVER, HUGE], ids=["firing", "over", "huge"])
def test_a_message_arrives(name: str, sent: Message, server: Receiver) -> None:
    server.answer = lambda got: (200, {}, GOOD[name])
    made(name, f"{server.url}/hook?key=1").send(sent)
    (got,) = server.got
    assert got.path.startswith("/hook?key=1") and got.headers["Content-Type"].startswith("application/json")
    assert isinstance(got.json, dict)
    assert name == "webhook" or len(got.body) <= 20_000  # what the strictest of the services take


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_no_success_is_an_error(name: str, server: Receiver) -> None:
    channel = made(name, server.url)
    for status, headers, body, code in [
        (500, {}, b"<html>\xff oops", "unavailable"),
        (404, {}, b"", "bad_gateway"),
        (302, {"Location": f"{server.url}/secret"}, b"", "bad_gateway"),
        (429, {"Retry-After": "17"}, b"slow down", "overloaded"),
    ]:
        server.got.clear()
        server.answer = lambda got, status=status, headers=headers, body=body: (status, headers, body)
        with pytest.raises(Error) as caught:
            channel.send(FIRING)
        assert caught.value.code == code and len(server.got) == 1  # no redirect is followed
        assert caught.value.details["retry_after_s"] == (17 if status == 429 else 0)
    server.answer = lambda got: 1 / 0  # the connection is cut
    with pytest.raises(Error, match="does not answer"):
        channel.send(FIRING)
    if name in REFUSED:
        for body in (REFUSED[name], b"\xff\x00 garbage", b"[]", b'{"errcode": "x"}'):
            server.answer = lambda got, body=body: (200, {}, body)
            with pytest.raises(Error) as caught:
                channel.send(FIRING)
            assert caught.value.code == "bad_gateway"
    if name in BUSY:
        server.answer = lambda got: (200, {}, BUSY[name])
        with pytest.raises(Error) as caught:
            channel.send(FIRING)
        assert caught.value.code == "overloaded" and caught.value.details["retry_after_s"] > 0


@pytest.mark.parametrize("name", plugins.names("channel"))
def test_bad_addresses_and_options(name: str) -> None:
    options = {"sender": "a@b.c", "to": ["x@y.z"]} if name == "email" else {}
    for url in ("", "ftp://host/x", "file:///etc/passwd", "http:///x", "http://[::1", "http://a b/", "smtp://"):
        with pytest.raises(Error, match="address"):
            made(name, url, **options)
    with pytest.raises(msgspec.ValidationError):
        made(name, "http://127.0.0.1:9/", **options, colour="red")
    with pytest.raises(Error) as caught:
        made(name, "smtp://127.0.0.1:9" if name == "email" else "http://127.0.0.1:9/", **options).send(FIRING)
    assert caught.value.code == "unavailable"


def test_dingtalk(server: Receiver) -> None:
    """https://open.dingtalk.com/document/robots/custom-robot-access"""
    server.answer = lambda got: (200, {}, GOOD["dingtalk"])
    before = time.time_ns() // 1_000_000
    made("dingtalk", f"{server.url}/robot/send?access_token=t", secret=SECRET, mention=["13800000000"]).send(FIRING)
    (got,) = server.got
    query = {name: values[0] for name, values in parse_qs(urlsplit(got.path).query).items()}
    assert query["access_token"] == "t" and before <= int(query["timestamp"]) <= time.time_ns() // 1_000_000
    text = f"{query['timestamp']}\n{SECRET}"
    assert base64.b64decode(query["sign"]) == hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    body = got.json
    assert body["msgtype"] == "markdown" and body["markdown"]["title"] == FIRING.title
    assert body["markdown"]["text"].startswith(f"#### {FIRING.title}\n\n严重 endpoint:客服 latency: 慢了 ＜@all>")
    assert body["markdown"]["text"].endswith("@13800000000") and "](" not in body["markdown"]["text"]
    assert body["at"] == {"atMobiles": ["13800000000"], "isAtAll": False}
    made("dingtalk", server.url, mention=["all"]).send(OVER)
    assert server.got[1].path == "/" and server.got[1].json["at"]["isAtAll"] is False  # nobody is called at the end


def test_feishu(server: Receiver) -> None:
    """https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot"""
    server.answer = lambda got: (200, {}, GOOD["feishu"])
    made("feishu", server.url, secret=SECRET, mention=["all"]).send(FIRING)
    body = server.got[0].json
    key = f"{body['timestamp']}\n{SECRET}".encode()
    assert base64.b64decode(body["sign"]) == hmac.new(key, b"", hashlib.sha256).digest()
    assert abs(int(body["timestamp"]) - time.time()) < 60
    header, (first, second) = body["card"]["header"], body["card"]["elements"]
    assert body["msg_type"] == "interactive" and header["template"] == "red"
    assert header["title"] == {"tag": "plain_text", "content": FIRING.title}
    assert first == {"tag": "div", "text": {"tag": "plain_text", "content": "\n".join(FIRING.lines)}}
    assert second["text"] == {"tag": "lark_md", "content": "<at id=all></at>"}
    server.answer = lambda got: (200, {}, b'{"StatusCode":0,"StatusMessage":"success"}')  # as older robots answer
    made("feishu", server.url).send(OVER)
    assert server.got[1].json["card"]["header"]["template"] == "green" and "sign" not in server.got[1].json


def test_wecom(server: Receiver) -> None:
    """https://developer.work.weixin.qq.com/document/path/91770"""
    server.answer = lambda got: (200, {}, GOOD["wecom"])
    channel = made("wecom", server.url, mention=["wang"])
    channel.send(FIRING)
    channel.send(HUGE)
    first, huge = (got.json["markdown"]["content"] for got in server.got)
    assert server.got[0].json["msgtype"] == "markdown"
    assert first.startswith(f'<font color="warning">{FIRING.title}</font>\n> 严重') and first.endswith("\n<@wang>")
    assert "<@all>" not in first
    assert len(huge.encode()) <= 4096 and huge.endswith("…\n<@wang>")


def test_slack(server: Receiver) -> None:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    channel = made("slack", server.url, mention=["<!channel>"])
    channel.send(FIRING)
    channel.send(HUGE)
    (attachment,) = server.got[0].json["attachments"]
    header, section = attachment["blocks"]
    assert header == {"type": "header", "text": {"type": "plain_text", "text": FIRING.title}}
    assert section["type"] == "section" and section["text"]["type"] == "mrkdwn"
    assert section["text"]["text"].startswith("<!channel>\n严重 endpoint:客服 latency: 慢了 &lt;@all&gt;")
    assert "&amp; &lt;!channel&gt;" in section["text"]["text"] and attachment["color"] == "#d32f2f"
    header, section = server.got[1].json["attachments"][0]["blocks"]
    assert len(header["text"]["text"]) <= 150 and len(section["text"]["text"]) <= 3000


def test_webhook(server: Receiver) -> None:
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""
    channel = made("webhook", server.url, secret=SECRET, headers={"Authorization": "Bearer t"})
    channel.send(FIRING)
    channel.send(OVER)
    got, over = server.got
    assert got.headers["Authorization"] == "Bearer t" and got.headers["Idempotency-Key"] == FIRING.id
    signature = hmac.new(SECRET.encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["X-Longrein-Signature"] == f"sha256={signature}"
    assert (got.json["version"], got.json["status"], over.json["status"]) == ("4", "firing", "resolved")
    (told,), (ended,) = got.json["alerts"], over.json["alerts"]
    assert told["labels"] == {
        "alertname": "slo_burning", "subject": "endpoint:客服", "name": "latency", "severity": "critical"
    }  # fmt: skip
    assert (told["status"], told["startsAt"], told["endsAt"]) == (
        "firing", "2027-01-15T08:00:00.000Z", "0001-01-01T00:00:00Z"
    )  # fmt: skip
    assert told["evidence"] == {"requests": ["req-1"]} and told["annotations"]["summary"] == alert().summary
    assert ended["fingerprint"] == told["fingerprint"] and ended["endsAt"] == "2027-01-15T08:02:00.000Z"


def test_email() -> None:
    with mailbox() as (port, mails):
        options = {"sender": "Longrein <lr@例.example>", "to": ["王 <a@b.example>", "c@d.example"], "starttls": False}
        made("email", f"smtp://me:p%40ss@127.0.0.1:{port}", **options).send(FIRING)
    (got,) = mails
    mail = email.message_from_bytes(got["data"], policy=email.policy.default)
    assert mail["Subject"] == FIRING.title and FIRING.id in mail["Message-ID"]
    assert "慢了 <@all>" in mail.get_content() and len(got["to"]) == 2
    assert base64.b64decode(got["auth"].split()[1]) == b"\0me\0p@ss"


def test_email_that_is_refused_or_cannot_be_encrypted() -> None:
    options = {"sender": "a@b.example", "to": ["c@d.example"]}
    with mailbox() as (port, mails), pytest.raises(Error, match="STARTTLS"):
        made("email", f"smtp://127.0.0.1:{port}", **options).send(FIRING)
    with mailbox(refuse="550 no such user") as (port, more), pytest.raises(Error, match="no such user"):
        made("email", f"smtp://127.0.0.1:{port}", starttls=False, **options).send(FIRING)
    assert mails == more == []


def test_secrets_come_from_the_environment_and_stand_in_no_error(
    server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (
        {"channel": "feishu", "url": "https://open.feishu.cn/open-apis/bot/v2/hook/abc"},
        {"channel": "webhook", "url": "https://me:pass@host/"},
        {"channel": "dingtalk", "url": "${DING}", "options": {"secret": "SECabc"}},
    ):
        with pytest.raises(msgspec.ValidationError, match=r"\$\{NAME\}|longrein.yaml|password"):
            msgspec.convert(wrong, Config)
    monkeypatch.setenv("HOOK", server.url + "/very-secret")
    server.answer = lambda got: (403, {}, f"what is {server.url}/very-secret?".encode())
    channel, secrets = connect(Config(channel="slack", url="${HOOK}"))
    with pytest.raises(Error) as caught:
        channel.send(FIRING)
    assert server.got[0].path == "/very-secret" and "/very-secret" in caught.value.message
    assert secrets.hide(caught.value.message) == "the receiver answered 403: what is ${HOOK}?"
    with pytest.raises(Error, match="NOT_SET"):
        connect(Config(channel="slack", url="${NOT_SET}"))
