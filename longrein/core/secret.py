"""Values from the environment in configured text: `${NAME}`. What they were stands in no message."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from longrein.core.errors import Error

VARIABLE = re.compile(r"\$\{(\w+)\}")
LEAST = 3  # shorter values are taken for words, and not hidden
_named = re.compile(r"secret|password|passwd|token|authorization|cookie|api.?key|account.?key|credential", re.I)


class Secrets:
    """Fills in variables, and hides what it filled in."""

    def __init__(self) -> None:
        self._hidden: dict[str, str] = {}

    def fill(self, value: Any) -> Any:
        """Text, or what lists and objects hold, with its variables filled in. Errors: `invalid` for one not set."""
        if isinstance(value, str):
            return VARIABLE.sub(self._value, value)
        if isinstance(value, Mapping):
            return {name: self.fill(one) for name, one in value.items()}
        return [self.fill(one) for one in value] if isinstance(value, list) else value

    def hide(self, text: str) -> str:
        for value in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(value, self._hidden[value])
        return text

    def add(self, value: str, shown: str = "***") -> None:
        """One more text to hide."""
        for form in (value, quote(value, safe=""), quote_plus(value)):
            if len(form) >= LEAST:
                self._hidden.setdefault(form, shown)

    def _value(self, found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise Error("invalid", f"the file needs the variable {found[1]}, which is not set", f"export {found[1]}=…")
        self.add(value, found[0])
        return value


def refuse_literal(value: Any, name: str = "") -> None:
    """Errors: `invalid` where a password or the like stands in a configuration, which the ledger would keep."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            refuse_literal(one, str(key))
    elif isinstance(value, str) and value and _named.search(name) and not VARIABLE.search(value):
        hint = f'write {name}: "${{NAME}}", and export NAME'
        raise Error("invalid", f"the value of {name} stands in longrein.yaml, which is kept and shown", hint)


def refuse_password(url: str) -> None:
    """Errors: `invalid` where a URL holds one."""
    try:
        password = urlsplit(url).password
    except ValueError as error:
        raise Error("invalid", f"a URL is none: {error}", "scheme://host/path") from error
    if password and not VARIABLE.search(password):
        raise Error(
            "invalid",
            "a password stands in a URL, and the ledger would keep it",
            "write scheme://${NAME}:${PASSWORD}@host/…, and export both",
        )
