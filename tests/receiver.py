"""Real receivers of messages: a web server that keeps what it is sent and answers as told, and a mail server."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """answer: (status, headers, body) of each request; it may block or raise, which cuts the connection off."""

    url: str
    answer: Callable[[Got], tuple[int, dict[str, str], bytes]]
    got: list[Got] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int, timeout_s: float = 20.0) -> list[Got]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.got) >= count, timeout_s), f"{len(self.got)} of {count} came"
        return self.got


@contextlib.contextmanager
def receiver(body: bytes = b"ok", status: int = 200) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got = Got(self.path, dict(self.headers), data)
            with made.arrived:
                made.got.append(got)
                made.arrived.notify_all()
            code, headers, answer = made.answer(got)
            self.send_response(code)
            for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    made = Receiver(f"http://127.0.0.1:{server.server_port}", lambda got: (status, {}, body))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def mailbox(refuse: str = "") -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(port, mails) of a server that speaks as much SMTP as it takes. refuse: what it answers to RCPT."""
    mails: list[dict[str, Any]] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 test ESMTP")
            mail: dict[str, Any] = {"to": []}
            for line in self.rfile:
                verb, _, rest = line.decode().strip().partition(" ")
                if verb.upper() == "EHLO":
                    self.say("250-test")
                    self.say("250-AUTH PLAIN")
                    self.say("250 SMTPUTF8")
                elif verb.upper() == "AUTH":
                    mail["auth"] = rest
                    self.say("235 ok")
                elif verb.upper() == "MAIL":
                    mail["from"] = rest
                    self.say("250 ok")
                elif verb.upper() == "RCPT" and refuse:
                    self.say(refuse)
                elif verb.upper() == "RCPT":
                    mail["to"].append(rest)
                    self.say("250 ok")
                elif verb.upper() == "DATA":
                    self.say("354 go on")
                    mail["data"] = b"".join(iter(self.rfile.readline, b".\r\n"))
                    mails.append(mail)
                    self.say("250 taken")
                else:
                    self.say("221 bye" if verb.upper() == "QUIT" else "250 ok")

        def say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], mails
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
