"""Names of assets for the shell's TAB: read straight from the embedded ledger, for speed."""

from pathlib import Path

import click

QUERY = """SELECT kind || ':' || name FROM names
UNION SELECT kind || ':' || name || '@' || alias FROM aliases ORDER BY 1"""


def refs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Refs that begin with what was typed; none when the ledger is elsewhere, or absent."""
    start = Path(ctx.find_root().params.get("project") or ".").absolute()
    for folder in (start, *start.parents):
        ledger = folder / ".longrein" / "ledger.db"
        if ledger.is_file():
            return [ref for ref in _names(ledger) if ref.startswith(incomplete)]
    return []


def _names(ledger: Path) -> list[str]:
    import sqlite3

    try:
        connection = sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=0.2)
        try:
            return [row[0] for row in connection.execute(QUERY).fetchmany(1000)]
        finally:
            connection.close()
    except sqlite3.Error:  # TAB must never complain
        return []
