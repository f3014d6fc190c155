"""Mail: smtp://user:${PASSWORD}@host:587, which goes on in TLS, or smtps://host:465."""

import smtplib
import ssl
import time
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.ports import Message

VERSION = 1
TIMEOUT_S = 10.0
PORTS = {"smtp": 587, "smtps": 465}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    sender: str  # longrein@example.com
    to: Annotated[list[str], Meta(min_length=1)]
    starttls: bool = True  # False: smtp:// stays in the clear, password and all


class Email:
    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.options = msgspec.convert(dict(options), Options)
        try:
            self.server, self.port = urlsplit(url), urlsplit(url).port
        except ValueError:
            self.server = urlsplit("")
        if self.server.scheme not in PORTS or not self.server.hostname:
            raise Error("invalid", "the url of the channel is no smtp:// or smtps:// address", "smtp://host:587")

    def send(self, message: Message) -> None:
        try:
            mail = self._mail(message)
            with self._connected() as server:
                server.send_message(mail)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            told = " ".join(str(error).split())[:200]
            raise Error("unavailable", f"the mail was not taken: {told or type(error).__name__}") from error

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, self.options.sender, ", ".join(self.options.to)
        mail["Date"] = formatdate(time.time())
        # the same for a message that is sent twice: mail programs show it once
        mail["Message-ID"] = f"<{message.id}@longrein.{self.options.sender.rpartition('@')[2]}>"
        mail.set_content("\n".join(message.lines) + "\n")
        return mail

    def _connected(self) -> smtplib.SMTP:
        host, port = str(self.server.hostname), self.port or PORTS[self.server.scheme]
        context = ssl.create_default_context()
        if self.server.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        try:
            if self.server.scheme == "smtp" and self.options.starttls:
                server.starttls(context=context)
            if self.server.username:
                server.login(unquote(self.server.username), unquote(self.server.password or ""))
        except BaseException:
            server.close()
            raise
        return server


plugin = Email
