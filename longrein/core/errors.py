"""The one error type: a stable code, one sentence, and a hint that names the next step."""

import difflib
from collections.abc import Iterable
from typing import Any

# code -> (HTTP status, exit code). The code is the contract; the numbers follow from it.
CODES: dict[str, tuple[int, int]] = {
    "failed": (500, 1),
    "invalid": (400, 2),
    "not_found": (404, 3),
    "conflict": (409, 4),
    "blocked": (409, 5),
    "unauthorized": (401, 6),
    "forbidden": (403, 6),
    "missing_package": (501, 7),
    "unavailable": (503, 8),
    "overloaded": (429, 8),
    "too_large": (413, 2),
    "timeout": (504, 8),
    "bad_gateway": (502, 8),
    "corrupt": (500, 9),
    "no_space": (507, 10),
    "interrupted": (499, 130),
}


class Error(Exception):
    """An error that a person is meant to read. Caught at the edges only: CLI, gateway, loop.

    code: a key of CODES. message: what is wrong, one sentence. hint: the next command or change.
    details: small JSON for programs (never secrets).
    """

    def __init__(self, code: str, message: str, hint: str = "", **details: Any) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code, self.message, self.hint, self.details = code, message, hint, details

    @property
    def http_status(self) -> int:
        return CODES[self.code][0]

    @property
    def exit_code(self) -> int:
        return CODES[self.code][1]

    def as_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.details}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Error":
        rest = dict(value)
        return cls(rest.pop("code"), rest.pop("message"), rest.pop("hint", ""), **rest)

    def __reduce__(self) -> Any:
        return (Error.from_dict, (self.as_dict(),))


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid ones, or all of them when few, or the first ten."""
    options = sorted(set(valid))
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    if not options:
        return "there are none yet"
    shown = ", ".join(options[:10])
    return f"valid: {shown}" + (", …" if len(options) > 10 else "")
