"""Times an epoch with dropout, normalisation, class weights, AdamW and cosine, beside a plain one.

    python benchmarks/together.py [--processes 5] [--json out.jsonl]

A network of 784-128-128-10 in float32, batches of 256 rows, one thread; fits take turns in a
process, and the printed ratios are medians over the processes. All of them together may take 1.25
times as long.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import processes
from records import append, new_parser, new_record, table_line

#: What may be on, and all of it.
PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "batch normalisation": {"normalization": "batch"},
    "class weights": {"class_weight": "balanced"},
    "AdamW, cosine": {"solver": "adamw", "learning_rate": "cosine"},
}
PARTS["all"] = {name: value for part in PARTS.values() for name, value in part.items()}
EPOCHS, TURNS, ROWS = 3, 5, 256 * 40
MOST = 1.25


def measure(request: dict) -> dict:
    """Seconds of an epoch with each part on; the work of a fresh process."""
    import hotloop

    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 784)).astype(np.float32)
    y = rng.integers(0, 10, ROWS)
    how = {"batch_size": 256, "max_iter": EPOCHS, "n_iter_no_change": np.inf, "random_state": 0}
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(TURNS):
        for name, part in PARTS.items():
            model = hotloop.MLPClassifier((128, 128), n_jobs=1, **how, **part)
            start = time.perf_counter()
            model.fit(X, y)
            seconds[name].append((time.perf_counter() - start) / EPOCHS)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> int:
    """Print a line for each part."""
    processes.serve(measure)
    arguments = new_parser(__doc__).parse_args()
    answers = processes.answers(__file__, {}, arguments.processes)
    print("| on | ms an epoch | times the plain one |\n|---|---|---|")
    records = []
    for name in PARTS:
        values = [1e3 * answer[name] for answer in answers]
        ratio = statistics.median(answer[name] / answer["plain"] for answer in answers)
        print(table_line([name, f"{statistics.median(values):.1f}", f"{ratio:.2f}"]))
        records.append(new_record(f"together {name}", "hotloop", "ms/epoch", values, None))
    append(arguments.json, records)
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
