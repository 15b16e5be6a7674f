"""Times `import hotloop` beside `import sklearn.neural_network`.

    python benchmarks/import_time.py [--processes 15] [--json out.jsonl]

Each import in a fresh process of one thread, in turns; the times are medians over the processes,
without a first one of each that warms the disk's cache.
"""

from __future__ import annotations

import importlib
import sys
import time

from processes import in_fresh_process, serve
from records import append, new_parser, new_record, table_line

MODULES = {"sklearn": "sklearn.neural_network", "hotloop": "hotloop"}
#: Milliseconds that hotloop may take beyond scikit-learn.
MOST = 50


def measure(request: dict) -> dict:
    """Time one import; the work of a fresh process."""
    start = time.perf_counter()
    importlib.import_module(request["module"])
    return {"ms": 1e3 * (time.perf_counter() - start)}


def main() -> int:
    serve(measure)
    arguments = new_parser(__doc__, processes=15).parse_args()
    times: dict[str, list[float]] = {name: [] for name in MODULES}
    for _ in range(1 + arguments.processes):
        for name, module in MODULES.items():
            times[name].append(in_fresh_process(__file__, {"module": module})["ms"])
    records = [new_record("import", name, "ms", values[1:], None) for name, values in times.items()]
    append(arguments.json, records)
    sklearn, hotloop = (record["value"] for record in records)
    print("| import | ms |\n|---|---|")
    for module, value in zip(MODULES.values(), (sklearn, hotloop), strict=True):
        print(table_line([module, f"{value:.0f}"]))
    print(f"\nhotloop beyond scikit-learn: {hotloop - sklearn:.1f} ms, target at most {MOST} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
