"""What a fit costs beside its epochs: time before and after them, and memory.

    python benchmarks/fixed_costs.py [--processes 5] [--json out.jsonl]

The time is that of one epoch over 100 rows (P19); hotloop and scikit-learn take turns in fresh
processes of one thread. Memory is what a fit takes at its peak beyond its input, in copies of the
weights without what its batches need (P22), and beside them copies of X. The import is that of
`import_time.py`.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import processes
from peers import classifier, present
from records import append, new_parser, new_record, table_line, three_digits

PEERS = ("hotloop", "sklearn")
FITS = 200
#: Microseconds and copies of the weights that hotloop may take.
MOST_US, MOST_COPIES = 500, 7
HIDDEN, FEATURES, CLASSES, BATCH = (1000, 1000), 500, 10, 200


def measure(request: dict) -> dict:
    """Time small fits with every peer, in turns, and trace larger ones."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 20)).astype(np.float32)
    y = rng.integers(5, size=100)
    times: dict[str, list[float]] = {peer: [] for peer in request["peers"]}
    for k in range(FITS):
        for peer in request["peers"]:
            model = classifier(peer)(max_iter=1, random_state=k % 10)
            start = time.perf_counter()
            model.fit(X, y)
            times[peer].append(1e6 * (time.perf_counter() - start))
    answer = {"us": {peer: statistics.median(values[10:]) for peer, values in times.items()}}
    return answer | {"memory": {peer: _copies(peer, rng) for peer in request["peers"]}}


def _copies(peer: str, rng: np.random.Generator) -> dict[str, float]:
    """Copies of the weights and of X that fits take at their peak."""
    rows, y = rng.normal(size=(400, FEATURES)).astype(np.float32), rng.integers(CLASSES, size=400)
    widths = (FEATURES, *HIDDEN, CLASSES)
    weights = sum(i * o for i, o in pairwise(widths))
    batches = 4 * BATCH * (2 * sum(widths[1:]) + FEATURES)
    peak = _traced(classifier(peer)(HIDDEN, batch_size=BATCH, max_iter=2), rows, y)
    X, labels = rng.normal(size=(20_000, FEATURES)), rng.integers(CLASSES, size=20_000)
    X = X.astype(np.float32)
    large = _traced(classifier(peer)((5,), max_iter=1), X, labels)
    return {"W": (peak - batches) / (4 * weights), "X": large / X.nbytes}


def _traced(model, X: np.ndarray, y: np.ndarray) -> float:
    """Bytes at the peak of a fit."""
    tracemalloc.start()
    model.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> int:
    processes.serve(measure)
    arguments = new_parser(__doc__).parse_args()
    request = {"peers": present(PEERS)}
    answers = processes.answers(__file__, request, arguments.processes)
    print(table_line(["", *request["peers"], "at most"]))
    print("|---" * (len(request["peers"]) + 2) + "|")
    rows = {
        ("fixed P19 fit of one epoch, 100 rows", "us"): (lambda a: a["us"], MOST_US),
        ("fixed P22 peak of a fit", "copies of W"): (
            lambda a: {peer: took["W"] for peer, took in a["memory"].items()},
            MOST_COPIES,
        ),
        ("fixed P22 peak of a fit of many rows", "copies of X"): (
            lambda a: {peer: took["X"] for peer, took in a["memory"].items()},
            "less than 1",
        ),
    }
    for (case, unit), (of, most) in rows.items():
        found = [
            new_record(case, peer, unit, [of(answer)[peer] for answer in answers], None)
            for peer in request["peers"]
        ]
        append(arguments.json, found)
        cells = [three_digits(record["value"]) for record in found]
        name = f"{case.removeprefix('fixed ')}, {unit}"
        print(table_line([name, *cells, most]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
