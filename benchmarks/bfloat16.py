"""Compares precision="bfloat16" with "float32": time, loss curve, and accuracy on real data.

    python benchmarks/bfloat16.py                              time and loss curves, 5 processes
    python benchmarks/bfloat16.py --data DIR [--sets a b ...]  scores over 10 seeds

Time: what more epochs add to a fit on one thread, divided by their steps; all precisions take turns
within a process, and the probe of the peak runs in it. A row whose loss curve is off by more than
1 % is void. Scores: mean and standard deviation over seeds of accuracy or R2 on a third of the rows
that were set aside; a set fails where the means differ by more than that deviation of float32's.
DIR is a folder as `make demo ARGS="--data DIR"` reads it.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

import cases
import peak
import peers
import processes
from hotloop import MLPClassifier, MLPRegressor, config
from records import append, new_parser, new_record, table_line, three_digits

CASES = (
    cases.Case(8192, 512, (512, 512), 10, 256, epochs=4),
    *(cases.CASES[row] for row in (6, 2, 4)),
)
#: How many times sooner than float32 the first are to be, where the peak is twice as high.
TARGETS = (1.5, 1.8)
PEER = "torch bfloat16"
LOSS_TOLERANCE = 0.01
SETS = ("adult", "letter", "mfeat_factors", "spambase", "bike_sharing", "california_housing")
#: Rows that are read of each set.
MOST_ROWS = 10_000

HEADER = """
| n x d (hidden) classes, batch | precision | us/step | of its peak | times float32 \
| loss off by | PyTorch's autocast takes |
|---|---|---|---|---|---|---|"""


def available() -> dict[str, str]:
    """Map each precision that this processor has to what multiplies for it."""
    names = ("float32", "bfloat16", "bfloat16_emulated")
    products = {name: config()["products"][name] for name in names}
    return {name: by for name, by in products.items() if not by.startswith("absent")}


def measure(request: dict) -> dict:
    """Time one case in all precisions, in turns; the work of a fresh process."""
    case = CASES[request["row"]]
    X, y = cases.make_data(case, "float32")
    runs = {
        name: partial(peers.fit, "hotloop", case, X, y, precision=name, n_jobs=1)
        for name in available()
    }
    rates = {by: peak.measure(by) or {} for by in set(available().values())}
    theirs = {p: partial(peers.train, p, case, X, y) for p in (PEER,) if not peers.why_absent(p)}
    ms, models = peers.time_epochs(runs | theirs, case.epochs, request["rounds"])
    loss = {name: models.pop(name) for name in theirs}
    plain = np.array(models["float32"].loss_curve_)
    return {
        "us": {name: 1e3 * value / case.steps for name, value in ms.items()},
        "off": {
            name: float(np.abs(model.loss_curve_ / plain - 1).max())
            for name, model in models.items()
        }
        | {name: float(abs(value / plain[-1] - 1)) for name, value in loss.items()},
        "peak": {
            name: rates[by]["bfloat16" if name == "bfloat16" else "float32"]
            for name, by in available().items()
        },
    }


def time_steps(arguments) -> bool:
    """Print a row for each case and precision; whether all loss curves agree."""
    print(HEADER)
    fine = True
    for row in arguments.rows:
        case = CASES[row]
        request = {"row": row, "rounds": arguments.rounds}
        answers = processes.answers(__file__, request, arguments.processes)
        records, off = {}, {}
        for name in answers[0]["us"]:
            off[name] = max(answer["off"][name] for answer in answers)
            void = f"loss off by {off[name]:.2%}" if off[name] > LOSS_TOLERANCE else None
            who, what = (PEER, "") if name == PEER else ("hotloop", f" {name}")
            values = [answer["us"][name] for answer in answers]
            records[name] = new_record(f"bfloat16 {case.name}{what}", who, "us/step", values, void)
        us = {name: statistics.median(record["values"]) for name, record in records.items()}
        for name in available():
            fine &= records[name]["void"] is None
            gflops = case.flops / case.steps / us[name] / 1e3
            limit = statistics.median(answer["peak"][name] for answer in answers)
            theirs = f"{us[PEER] / us[name]:.2f} times as long" if PEER in us else "-"
            cells = [
                case.name,
                name,
                three_digits(us[name]),
                f"{100 * gflops / limit:.0f} % of {limit:.0f} GFLOP/s",
                f"{us['float32'] / us[name]:.2f}x",
                f"{off[name]:.2%}",
                theirs,
            ]
            print(table_line(cells), flush=True)
        append(arguments.json, list(records.values()))
    aims = ", ".join(f"{aim}x" for aim in TARGETS)
    print(f"\nTargets where the peak of bfloat16 is twice that of float32: {aims}.")
    return fine


def compare_scores(arguments) -> bool:
    """Print a row for each set; whether all differences are within the spread of seeds."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
    import datasets

    warnings.simplefilter("ignore", ConvergenceWarning)
    sources = datasets.from_folder(arguments.data, MOST_ROWS)
    rounded = "bfloat16" if "bfloat16" in available() else "bfloat16_emulated"
    print(f"{rounded} beside float32, {arguments.seeds} seeds\n")
    print("| set | float32 | bfloat16 | difference | spread |\n|---|---|---|---|---|")
    fine = True
    for name in arguments.sets:
        data = sources[name]()
        parts = train_test_split(data.X, data.y, test_size=1 / 3, random_state=0)
        X, X_test = data.transformer.fit_transform(parts[0]), data.transformer.transform(parts[1])
        make = MLPRegressor if data.regression else MLPClassifier
        scores = {
            precision: [
                make(
                    hidden_layer_sizes=(100, 100), max_iter=30, precision=precision, random_state=k
                )
                .fit(X, parts[2])
                .score(X_test, parts[3])
                for k in range(arguments.seeds)
            ]
            for precision in ("float32", rounded)
        }
        plain, other = (statistics.mean(values) for values in scores.values())
        spread = statistics.stdev(scores["float32"])
        fine &= abs(other - plain) <= spread
        append(
            arguments.json,
            [
                new_record(f"score {name} {precision}", "hotloop", data.measure, values, None)
                for precision, values in scores.items()
            ],
        )
        cells = [f"{plain:.4f}", f"{other:.4f}", f"{other - plain:+.4f}", f"{spread:.4f}"]
        print(table_line([f"{name} ({data.measure})", *cells]), flush=True)
    return fine


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    rows = range(len(CASES))
    parser.add_argument("--rows", type=int, nargs="+", choices=rows, default=rows)
    parser.add_argument("--rounds", type=int, default=2, help="turns within a process (2)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="compare scores on its sets")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10, help="seeds for each set (10)")
    arguments = parser.parse_args()
    fine = compare_scores(arguments) if arguments.data else time_steps(arguments)
    print("All within bounds." if fine else "NOT within bounds.")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
