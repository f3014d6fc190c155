"""Notices that there may be something to do: the lifecycle file, a source or the ledger moved."""

import time
from pathlib import Path
from typing import Any

from longrein.control import nouns
from longrein.core.errors import Error
from longrein.core.ledger import Ledger
from longrein.data import source

REMOTE_S = 60.0  # what is remote is asked this often


class Watch:
    """Cheap enough to ask every second: stats of files and one row of the ledger."""

    def __init__(self, ledger: Ledger, file: Path) -> None:
        self.ledger, self.file = ledger, file
        self._seen: Any = None

    def moved(self) -> bool:
        """Whether anything did since it was last asked; the first time, yes."""
        before, self._seen = self._seen, self._look()
        return bool(before != self._seen)

    def _look(self) -> Any:
        try:
            spec = nouns.read(self.file)
            files: dict[str, Any] = {
                file.name: source.stat(file.path)
                for dataset in spec.datasets.values()
                for file in source.find([s for s in dataset.sources if not source.plugin_of(s)], self.file.parent)
            }
            if any(source.plugin_of(s) for dataset in spec.datasets.values() for s in dataset.sources):
                files["remote"] = int(time.monotonic() // REMOTE_S)
        except (Error, OSError) as error:  # being edited: what is wrong with it is itself something to tell once
            return str(error)
        return spec, files, self.ledger.events.head()
