"""MLflow's search grammar, parsed to clauses: "metrics.loss < 0.3 AND tags.`team` ILIKE 'nlp%'". Knows no database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from longrein.core.errors import Error, nearest

NUMERIC = frozenset({">", ">=", "!=", "=", "<", "<="})
TEXT = frozenset({"!=", "=", "LIKE", "ILIKE"})
LIST = frozenset({"IN", "NOT IN"})
MOST, MOST_LISTED = 100, 10_000  # far beyond what people write, and within what databases take in one statement
NULL = frozenset({"IS NULL", "IS NOT NULL"})

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<name>(?:`[^`]+`|[^\W\d]\w*)(?:\.(?:`[^`]+`|"[^"]+"|\w+(?:\.\w+)*))?)
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
    | (?P<text>'(?:''|[^'])*'|"[^"]*")
    | (?P<sign><=|>=|!=|=|<|>|[(),])
    )""",
    re.VERBOSE,
)


class Clause(NamedTuple):
    entity: str  # "attribute", "metric", "param", "tag" or "dataset"
    key: str
    op: str  # upper case
    value: str | float | tuple[str, ...] | None  # None with IS [NOT] NULL


class Order(NamedTuple):
    entity: str
    key: str
    ascending: bool


class Token(NamedTuple):
    kind: str  # "name", "number", "text", "sign" or "end"
    text: str


@dataclass(frozen=True)
class Scope:
    """What may be named when searching one kind of thing."""

    texts: frozenset[str]  # attributes compared as text
    numbers: frozenset[str]  # attributes compared as numbers
    lists: frozenset[str]  # attributes that IN and NOT IN may follow
    orders: frozenset[str]  # attributes to order by
    entities: dict[str, str]  # the words a name may start with → entity
    nullable: frozenset[str] = frozenset()  # entities that IS [NOT] NULL may follow
    listed: frozenset[str] = frozenset({"dataset"})  # further entities that IN and NOT IN may follow
    aliases: dict[str, str] = field(default_factory=dict)  # other spellings of an attribute


_TAGGED = {"attribute": "attribute", "tag": "tag", "tags": "tag"}

RUNS = Scope(
    texts=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"}),
    numbers=frozenset({"start_time", "end_time"}),
    lists=frozenset({"run_id"}),
    orders=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri", "start_time", "end_time"}),
    entities={
        **dict.fromkeys(("metric", "metrics"), "metric"),
        **dict.fromkeys(("parameter", "parameters", "param", "params"), "param"),
        **dict.fromkeys(("tag", "tags"), "tag"),
        **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
        **dict.fromkeys(("dataset", "datasets"), "dataset"),
    },
    nullable=frozenset({"param", "tag"}),
    aliases={
        **dict.fromkeys(("created", "Created"), "start_time"),
        **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
    },
)
EXPERIMENTS = Scope(
    texts=frozenset({"name", "experiment_id"}),
    numbers=frozenset({"creation_time", "last_update_time"}),
    lists=frozenset({"experiment_id"}),
    orders=frozenset({"name", "experiment_id", "creation_time", "last_update_time"}),
    entities=_TAGGED,
    nullable=frozenset({"tag"}),
)
MODELS = Scope(
    texts=frozenset({"name"}),
    numbers=frozenset(),
    lists=frozenset({"name"}),
    orders=frozenset({"name", "creation_timestamp", "last_updated_timestamp"}),
    entities=_TAGGED,
    aliases={"timestamp": "last_updated_timestamp"},
)
VERSIONS = Scope(
    texts=frozenset({"name", "run_id", "source_path"}),
    numbers=frozenset({"version_number"}),
    lists=frozenset({"name", "run_id"}),
    orders=frozenset({"name", "version_number", "creation_timestamp", "last_updated_timestamp"}),
    entities=_TAGGED,
)
_LOGGED_TEXTS = frozenset({"name", "model_id", "model_type", "status", "source_run_id", "experiment_id"})
_LOGGED_NUMBERS = frozenset({"creation_timestamp", "last_updated_timestamp"})
LOGGED = Scope(
    texts=_LOGGED_TEXTS,
    numbers=_LOGGED_NUMBERS,
    lists=_LOGGED_TEXTS,
    orders=_LOGGED_TEXTS | _LOGGED_NUMBERS,
    entities={"attributes": "attribute", "metrics": "metric", "params": "param", "tags": "tag"},
    listed=frozenset({"param", "tag"}),
    aliases={"creation_time": "creation_timestamp", "last_updated_time": "last_updated_timestamp"},
)


def parse_filter(text: str, scope: Scope) -> list[Clause]:
    """The clauses of a filter, joined by AND; none when it is blank. Errors: `invalid`, naming what stands wrong."""
    tokens = _Tokens(text, f"Invalid clause(s) in filter string {text!r}")
    if tokens.peek().kind == "end":
        return []
    clauses = [_clause(tokens, scope)]
    while tokens.word("AND"):
        clauses.append(_clause(tokens, scope))
    if tokens.peek().kind != "end":
        raise tokens.error("expected AND or the end")
    if len(clauses) > MOST or any(isinstance(c.value, tuple) and len(c.value) > MOST_LISTED for c in clauses):
        raise Error("invalid", f"a filter may have at most {MOST} clauses, and lists of {MOST_LISTED} values")
    return clauses


def parse_order(items: Sequence[str], scope: Scope) -> list[Order]:
    """Order-by items: "metrics.loss DESC", ascending unless said. Errors: `invalid`, also for a field named twice."""
    orders: list[Order] = []
    for text in items:
        tokens = _Tokens(text, f"Invalid order_by clause {text!r}")
        entity, key = _identifier(tokens, scope, scope.orders)
        ascending = not tokens.word("DESC")
        if ascending:
            tokens.word("ASC")
        if tokens.peek().kind != "end":
            raise tokens.error("expected ASC, DESC or the end")
        if any((o.entity, o.key) == (entity, key) for o in orders):
            raise Error("invalid", f"`order_by` contains duplicate fields: {items}")
        orders.append(Order(entity, key, ascending))
    return orders


class _Tokens:
    """The tokens of a text, read from left to right."""

    def __init__(self, text: str, complaint: str) -> None:
        self.complaint, self.at, end = complaint, 0, 0
        self.items: list[Token] = []
        while text[end:].strip():
            found = _TOKEN.match(text, end)
            if found is None:
                raise self.error(f"cannot read {text[end:].strip()[:40]!r}")
            self.items.append(Token(str(found.lastgroup), found[str(found.lastgroup)]))
            end = found.end()

    def peek(self) -> Token:
        return self.items[self.at] if self.at < len(self.items) else Token("end", "")

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def word(self, *words: str) -> bool:
        """Take these words if they come next, in any case."""
        ahead = self.items[self.at : self.at + len(words)]
        if [t.text.upper() for t in ahead if t.kind == "name"] != list(words):
            return False
        self.at += len(words)
        return True

    def error(self, why: str) -> Error:
        return Error("invalid", f"{self.complaint}: {why}", "see MLflow's search syntax")


def _clause(tokens: _Tokens, scope: Scope) -> Clause:
    entity, key = _identifier(tokens, scope, scope.texts | scope.numbers)
    op = _operator(tokens)
    allowed = _allowed(entity, key, scope)
    if op not in allowed:
        raise Error("invalid", f"Invalid comparator {op!r} for {entity} {key!r}, not one of {sorted(allowed)}")
    if op in NULL:
        return Clause(entity, key, op, None)
    if op in LIST:
        return Clause(entity, key, op, _list(tokens))
    token = tokens.take()
    if entity == "metric" or (entity == "attribute" and key in scope.numbers):
        if token.kind != "number":
            raise Error("invalid", f"Expected numeric value type for {entity} {key!r}, found {token.text!r}")
        return Clause(entity, key, op, float(token.text))
    return Clause(entity, key, op, _text(token, f"{entity} {key!r}"))


def _allowed(entity: str, key: str, scope: Scope) -> frozenset[str]:
    if entity == "metric" or (entity == "attribute" and key in scope.numbers):
        return NUMERIC
    lists = key in scope.lists if entity == "attribute" else entity in scope.listed
    return TEXT | (LIST if lists else frozenset()) | (NULL if entity in scope.nullable else frozenset())


def _identifier(tokens: _Tokens, scope: Scope, attributes: frozenset[str]) -> tuple[str, str]:
    token = tokens.take()
    if token.kind != "name":
        raise tokens.error(f"expected an identifier, found {token.text!r}")
    head, key = re.fullmatch(r"(`[^`]+`|[^.]+)(?:\.(.+))?", token.text, re.DOTALL).groups()  # type: ignore[union-attr]
    if key is None:
        entity, key = "attribute", head
    elif (word := head.strip("`")) in scope.entities:
        entity = scope.entities[word]
    else:
        raise Error("invalid", f"Invalid entity type {word!r}", nearest(word, scope.entities))
    key = key[1:-1] if key[0] in '`"' else key
    if entity == "attribute":
        key = scope.aliases.get(key, key)
        if key not in attributes:
            raise Error("invalid", f"Invalid attribute key {key!r} specified", nearest(key, attributes))
    if entity == "dataset" and key not in ("name", "digest", "context"):
        raise Error("invalid", f"Invalid dataset key {key!r} specified", "valid: name, digest, context")
    return entity, key


def _operator(tokens: _Tokens) -> str:
    for words in (("NOT", "IN"), ("IN",), ("IS", "NOT", "NULL"), ("IS", "NULL"), ("LIKE",), ("ILIKE",)):
        if tokens.word(*words):
            return " ".join(words)
    token = tokens.take()
    if token.kind != "sign" or token.text in "(),":
        raise tokens.error(f"expected a comparator, found {token.text!r}")
    return token.text


def _list(tokens: _Tokens) -> tuple[str, ...]:
    if tokens.take().text != "(":
        raise tokens.error("expected a list of quoted values in parentheses")
    values = [_text(tokens.take(), "a list")]
    while (mark := tokens.take()).text == ",":
        if tokens.peek().text != ")":
            values.append(_text(tokens.take(), "a list"))
    if mark.text != ")":
        raise tokens.error("expected a list of quoted values in parentheses")
    return tuple(values)


def _text(token: Token, where: str) -> str:
    if token.kind != "text":
        raise Error("invalid", f"Expected a quoted string value for {where}, found {token.text!r}", "write 'value'")
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)
