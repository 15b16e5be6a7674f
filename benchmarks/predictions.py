"""Times predictions beside scikit-learn, PyTorch and ONNX Runtime: equal weights, one thread.

    python benchmarks/predictions.py [--processes 5] [--json out.jsonl]

Many rows (P11), as percent of the core's peak, and one row at a time (P12), as the median and the
99th percentile over calls. The peers take turns within a process; a figure is the median over fresh
processes. Where their probabilities differ the case is void, and says so.
"""

from __future__ import annotations

import os
import statistics
import sys
import warnings
from itertools import pairwise

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import peak
import peers
import processes
from records import (
    append,
    new_parser,
    new_record,
    table_line,
    three_digits,
    why_probabilities_differ,
)

PEERS = ("hotloop", "sklearn", "torch", "torchscript", "onnxruntime")
#: Rows, widths, dtype and what is aimed at, by the number of the aim.
CASES = {
    "P11": (10_000, (128, 256, 256, 10), "float32", "85 % of the peak"),
    "P12": (1, (64, 128, 128, 10), "float32", "3 us, 99th percentile 6 us"),
    "P12 float64": (1, (64, 128, 128, 10), "float64", "5 us"),
    "few 5": (5, (784, 1024, 1024, 10), "float32", "no peer is sooner"),
    "few 32": (32, (784, 1024, 1024, 10), "float32", "no peer is sooner"),
    "few 256": (256, (784, 512, 512, 10), "float32", "no peer is sooner"),
}


def measure(request: dict) -> dict:
    """Time one case with every peer, in turns; the work of a fresh process."""
    n, widths, dtype, _ = CASES[request["case"]]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(max(n, 100), widths[0])).astype(dtype)
    model = peers.classifier("hotloop")(widths[1:-1], max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, np.arange(len(X)) % widths[-1])
    X = X[:n].copy()
    predict = {peer: peers.predictor(peer, model) for peer in request["peers"]}
    times, differ = peers.time_predictions(predict, X)
    return {
        "us": {peer: float(np.median(values)) for peer, values in times.items()},
        "p99": {peer: float(np.percentile(values, 99)) for peer, values in times.items()},
        "differ": differ,
        "peak": peak.measure(request["instruction_set"])[dtype],
    }


def summarise(name: str, answers: list[dict]) -> list[dict]:
    """Make a record for each peer, and for one row another for the 99th percentile."""
    n, widths, dtype, _ = CASES[name]
    void = why_probabilities_differ(answers)
    case = f"predict {name.split()[0]} {n} x {'-'.join(map(str, widths))} {dtype}"
    flops = 2.0 * n * sum(i * o for i, o in pairwise(widths))
    records = []
    for peer in answers[0]["us"]:
        percents = [flops / a["us"][peer] / 10 / a["peak"] for a in answers]
        more = {"percent_of_peak": statistics.median(percents)}
        values = [answer["us"][peer] for answer in answers]
        records.append(new_record(case, peer, "us", values, void, **more))
        if n == 1:
            late = [answer["p99"][peer] for answer in answers]
            records.append(new_record(f"{case} 99th percentile", peer, "us", late, void))
    return records


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    arguments = parser.parse_args()
    present = peers.present(arguments.peers)
    instruction_set = os.environ.get("HOTLOOP_ISA") or peak.widest()
    print(table_line(["predict_proba, us", *present, "aim"]))
    print("|---" * (len(present) + 2) + "|")
    voids = 0
    for name in arguments.cases:
        request = {"case": name, "peers": present, "instruction_set": instruction_set}
        answers = processes.answers(__file__, request, arguments.processes)
        records = summarise(name, answers)
        append(arguments.json, records)
        voids += records[0]["void"] is not None
        for case in dict.fromkeys(record["case"] for record in records):
            found = [record for record in records if record["case"] == case]
            cells = [three_digits(r["value"]) if r["value"] else r["void"] for r in found]
            if found[0]["implementation"] == "hotloop" and case.startswith("predict P11"):
                cells[0] += f" ({found[0]['percent_of_peak']:.0f} %)"
            aim = CASES[name][-1]
            print(table_line([case.removeprefix("predict "), *cells, aim]))
    return 1 if voids else 0


if __name__ == "__main__":
    sys.exit(main())
