"""Cuts CLINC150 in two: what the first model learns from, and what its users ask.

    python prepare.py [folder with data_full.json and domains.json]

Writes data/known.jsonl, the requests of eight domains (text, intent, split), and data/users.json, the requests that the
users of `run.py` send, of those eight domains and of the two that nobody thought of; the model has seen none of them.
The data are clinc/oos-eval's (CC BY 3.0). Without an argument they are looked for in the folder that LONGREIN_DATA
names, or in ../shared/data beside the repository.
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("LONGREIN_DATA", HERE.parents[2] / "shared" / "data"))
NEW = ("travel", "kitchen_and_dining")  # the domains that come as a surprise


def prepare(
    source: Path,
    target: Path,
    *,
    known: Sequence[str] = (),
    new: Sequence[str] = NEW,
    intents: int = 15,
    rows: int = 100,
) -> None:
    """known: domains, all but the new ones where not given. intents: of each. rows: of an intent, to learn first."""
    parts = json.loads((source / "data_full.json").read_text("utf-8"))
    domains = json.loads((source / "domains.json").read_text("utf-8"))
    known = known or [name for name in domains if name not in new]
    old, coming = ({intent for name in names for intent in domains[name][:intents]} for names in (known, new))
    learnt, asked, count = [], [], dict.fromkeys(old, 0)
    for text, intent in (row for row in parts["train"] if row[1] in old):
        count[intent] += 1
        if count[intent] <= rows:
            learnt.append({"text": text, "intent": words(intent), "split": "train"})
        else:
            asked.append([text, words(intent)])
    checks = [{"text": t, "intent": words(i), "split": "validation"} for t, i in parts["val"] if i in old]
    learnt += checks[: len(learnt) // 5]
    tests = random.Random(0).sample(rest := [(t, words(i)) for t, i in parts["test"] if i in old], len(rest))
    learnt += [{"text": t, "intent": i, "split": "test"} for t, i in tests[: len(tests) // 3]]
    asked += [[text, intent] for text, intent in tests[len(tests) // 3 :]]
    users = {
        "known": random.Random(0).sample(asked, len(asked)),
        "new": [[t, words(i)] for part in ("train", "test") for t, i in parts[part] if i in coming],
    }
    (target / "data").mkdir(parents=True, exist_ok=True)
    with (target / "data" / "known.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in learnt)
    (target / "data" / "users.json").write_text(json.dumps(users), "utf-8")
    print(f"{len(learnt)} rows of {len(known)} domains to learn from; users ask about {len(known) + len(new)}")


def words(intent: str) -> str:
    return intent.replace("_", " ")


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "clinc150"
    if not (source / "data_full.json").is_file():
        sys.exit(f"there is no {source}/data_full.json\nhint: fetch clinc/oos-eval and give the folder")
    prepare(source, HERE)
