"""Writes CLINC150's in-scope requests as data/clinc150.jsonl: text, intent, split.

    python prepare.py [data_full.json]

The file is clinc/oos-eval's data/data_full.json (CC BY 3.0). Without an argument it is looked for in the folder that
LONGREIN_DATA names, or in ../shared/data beside the repository.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("LONGREIN_DATA", HERE.parents[2] / "shared" / "data"))
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def prepare(source: Path, target: Path) -> int:
    """Write the rows; returns how many."""
    parts = json.loads(source.read_text("utf-8"))
    rows = [
        {"text": text, "intent": intent.replace("_", " "), "split": split}
        for part, split in SPLITS.items()
        for text, intent in parts[part]
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "clinc150" / "data_full.json"
    if not source.is_file():
        sys.exit(f"there is no {source}\nhint: fetch data/data_full.json of clinc/oos-eval and give its path")
    print(prepare(source, HERE / "data" / "clinc150.jsonl"), "rows in data/clinc150.jsonl")
