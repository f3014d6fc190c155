"""Where else to send what was answered: a sink in longrein.yaml."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from longrein.core.errors import Error
from longrein.core.secret import refuse_literal, refuse_password


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sink in longrein.yaml. ${NAME} in the url and the headers is a variable of the environment."""

    sink: str = "otlp"  # plugin of the port "sink"
    url: str  # http://host:4318
    headers: dict[str, str] = {}
    traces: Annotated[float, Meta(ge=0, le=1)] = 0.1  # the share of requests that are sent, where clients do not decide
    metrics: bool = True
    personal: bool = False  # send the user, the session and, of endpoints with log_text, the texts as well
    every_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0  # between two looks at the metrics
    options: dict[str, Any] = {}  # the plugin's

    def __post_init__(self) -> None:
        try:
            refuse_password(self.url)
            refuse_literal(self.headers)
        except Error as error:  # says more of sources
            raise ValueError("A secret would stand in longrein.yaml, which is kept and shown: write ${NAME}") from error
