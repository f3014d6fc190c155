"""The simple thing to beat: TF-IDF and a linear SVM on the same rows. `python baseline.py`, after prepare.py.

Needs scikit-learn. Prints the exact match on the test split with its 95 % interval (Wilson), and the CPU time.
"""

import json
import time
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from longrein.models.score import proportion


def main() -> None:
    with (Path(__file__).parent / "data" / "clinc150.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    train, test = ([r for r in rows if r["split"] == split] for split in ("train", "test"))
    start = time.process_time()
    model = make_pipeline(TfidfVectorizer(), LinearSVC())
    model.fit([r["text"] for r in train], [r["intent"] for r in train])
    said = model.predict([r["text"] for r in test])
    right = sum(a == r["intent"] for a, r in zip(said, test, strict=True))
    value, low, high = proportion(right, len(test))
    print(f"TF-IDF + LinearSVC: exact match {value:.4f} ({low:.4f} … {high:.4f}), n {len(test)}", end=", ")
    print(f"{time.process_time() - start:.1f} CPU-s")


if __name__ == "__main__":
    main()
