"""Times CSR input: steps of hotloop by themselves; epochs and predictions beside scikit-learn.

    python benchmarks/sparse.py                               steps and synthetic data, 5 processes
    python benchmarks/sparse.py --cases synthetic --dtype float32 --json out.jsonl
    python benchmarks/sparse.py --data DIR                    TF-IDF of its texts, too (*.csv.gz)

Steps: rows of 100 entries anywhere among the features, 64 hidden units, batches of 256, Adam,
float32. `touched` is what the weights, moments and nothing else of the features in a batch take:
a step has to read and write it at least once. Epochs: what more of them add to a fit.
scikit-learn knows no lazy updates, and its time does not depend on alpha: all are compared with
its own at the default alpha. Where the losses of the second epoch there differ by more than 1e-3
the row is void, and says so. Predictions: as many features as a small corpus has words, 100 hidden
units; void where the probabilities differ.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse

import peers
import processes
from cases import Case
from records import (
    append,
    new_parser,
    new_record,
    table_line,
    three_digits,
    why_probabilities_differ,
)

ROW_ENTRIES = 100
#: Features, alpha and sparse_updates of the steps that are timed.
STEPS = (
    (100_000, 0.0, "exact"),
    (1_000_000, 0.0, "exact"),
    (100_000, 1e-4, "exact"),
    (100_000, 0.0, "lazy"),
    (100_000, 1e-4, "lazy"),
    (1_000_000, 0.0, "lazy"),
)
SETTINGS = ((1e-4, "exact"), (0.0, "exact"), (1e-4, "lazy"), (0.0, "lazy"))
SYNTHETIC = Case(10_000, 50_000, (100,), 2, 200, epochs=8)
TEXTS = ("ag_news", "sms_spam", "movie_polarity")
LOSS_TOLERANCE = 1e-3
#: Features of the rows that are predicted, and how many of these at a time.
WORDS, ROWS = 21_861, (1, 1000)
DEFAULT = "0.0001 exact"


def random_rows(n: int, d: int, dtype: str) -> scipy.sparse.csr_matrix:
    """Rows of about `ROW_ENTRIES` normal entries each, anywhere."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal(n * ROW_ENTRIES).astype(dtype)
    columns = rng.integers(d, size=(n, ROW_ENTRIES)).astype(np.int32)
    indptr = np.arange(0, data.size + 1, ROW_ENTRIES)
    X = scipy.sparse.csr_matrix((data, columns.ravel(), indptr), (n, d))
    X.sum_duplicates()
    return X


def measure_step(request: dict) -> dict:
    """Time steps by the runner; the work of a fresh process."""
    from hotloop import backends, plan, spec, vectors

    d, alpha, updates = request["step"]
    n, batch, hidden, dtype = 5120, 256, 64, np.float32
    X = random_rows(n, d, "float32")
    rng = np.random.default_rng(1)
    network = spec.Network(
        (d,), (spec.Dense(hidden, "relu"), spec.Dense(10)), spec.LOSSES["log_loss"]
    )
    optimizer = spec.Adam()
    compiled = plan.compile_training(
        network,
        dtype=dtype,
        batch_size=batch,
        optimizer=optimizer,
        sparse=plan.CSRInput(updates == "lazy", ROW_ENTRIES),
    )
    parameters = vectors.init_parameters(network, np.random.RandomState(0), dtype)
    y = rng.integers(10, size=n).astype(np.int32)
    streams = {"X": X, "y": y}
    runner = backends.open_runner(compiled, vectors.new_state(parameters, optimizer), streams)
    steps = n // batch
    scalars = np.zeros((1, steps, len(plan.GROUPS), len(plan.SCALARS)))
    scalars[..., plan.SCALARS.index("rate")] = 1e-3
    scalars[..., plan.SCALARS.index("momentum")] = 0.9
    scalars[:, :, 0, plan.SCALARS.index("decay")] = alpha
    seconds = []
    for _ in range(2 + request["epochs"]):
        order = rng.permutation(n)[np.newaxis, np.newaxis].astype(np.intp)
        start = time.perf_counter()
        runner.run(order, scalars)
        seconds.append((time.perf_counter() - start) / steps)
    touched = len(np.unique(X[order[0, 0, :batch]].indices)) * hidden * 3 * 4
    return {"ms": 1e3 * float(np.median(seconds[2:])), "touched_mb": touched / 1e6}


def texts(name: str, folder: str, dtype: str) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """TF-IDF of a data set of texts, as scikit-learn makes it."""
    import pandas as pd
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = pd.read_csv(Path(folder, f"{name}.csv.gz"))
    X = TfidfVectorizer(dtype=np.dtype(dtype).type).fit_transform(table["text"].astype(str))
    return X, np.unique(table["label"], return_inverse=True)[1]


def measure_training(request: dict) -> dict:
    """Time epochs of both libraries, in turns; the work of a fresh process."""
    if request["name"] == "synthetic":
        case = SYNTHETIC
        X = random_rows(case.n, case.d, request["dtype"])
        y = np.random.default_rng(1).integers(case.classes, size=case.n)
    else:
        X, y = texts(request["name"], request["data"], request["dtype"])
        case = Case(*X.shape, (100,), int(y.max()) + 1, 200, epochs=8)
    runs = {
        f"hotloop {alpha:g} {updates}": partial(
            peers.fit, "hotloop", case, X, y, n_jobs=1, alpha=alpha, sparse_updates=updates
        )
        for alpha, updates in SETTINGS
    }
    theirs = {f"sklearn {DEFAULT}": partial(peers.fit, "sklearn", case, X, y)}
    ms, models = peers.time_epochs(runs, case.epochs, request["rounds"])
    slow, their_models = peers.time_epochs(theirs, 1, 1)  # an epoch of its takes seconds
    ms, models = ms | slow, models | their_models
    entries = X.nnz / X.shape[0]
    name = f"{case.name} {entries:.0f} entries a row {request['dtype']}"
    return {
        "name": name if request["name"] == "synthetic" else f"{request['name']} {name}",
        "ms": ms,
        "loss": {run: model.loss_curve_[1] for run, model in models.items()},
    }


def measure_prediction(request: dict) -> dict:
    """Time predict_proba of both libraries, in turns; the work of a fresh process."""
    X = random_rows(max(ROWS), WORDS, request["dtype"])
    case = Case(*X.shape, (100,), 2, 200, epochs=1)
    _, model = peers.fit("hotloop", case, X, np.arange(case.n) % case.classes, 1, n_jobs=1)
    predict = {peer: peers.predictor(peer, model) for peer in ("hotloop", "sklearn")}
    ms: dict[str, float] = {}
    differences = []
    for n in ROWS:
        us, differ = peers.time_predictions(predict, X[:n])
        ms |= {f"{n} {peer}": float(np.median(times)) / 1e3 for peer, times in us.items()}
        differences.append(differ)
    return {"ms": ms, "differ": float(np.max(differences))}


def measure(request: dict) -> dict:
    if request.get("name") == "predict":
        return measure_prediction(request)
    return measure_step(request) if "step" in request else measure_training(request)


def time_steps(arguments) -> None:
    """Print and record what a step takes."""
    print("\n| features | alpha | updates | ms/step | touched, MB |\n|---|---|---|---|---|")
    found = {}
    for step in STEPS:
        request = {"step": step, "epochs": arguments.epochs}
        answers = processes.answers(__file__, request, arguments.processes)
        d, alpha, updates = step
        name = f"csr step {d} features alpha={alpha:g} {updates}"
        touched = answers[0]["touched_mb"]
        values = [answer["ms"] for answer in answers]
        record = new_record(name, "hotloop", "ms/step", values, None, touched_mb=touched)
        append(arguments.json, [record])
        found[step] = record["value"]
        took = three_digits(record["value"])
        cells = [f"{d:,}", f"{alpha:g}", updates, took, f"{touched:.1f}"]
        print(table_line(cells), flush=True)
    first, wide, decayed = (found[step] for step in STEPS[:3])
    print(f"1,000,000 features: {wide / first:.2f} times 100,000, target 1.25.")
    print(f"alpha > 0 adds {decayed - first:.2f} ms.")


def time_training(request: dict, arguments) -> bool:
    """Print and record what an epoch takes; whether the losses agree."""
    answers = processes.answers(__file__, request, arguments.processes)
    loss, name = answers[0]["loss"], answers[0]["name"]
    void, cells = None, [name]
    ours, theirs = (loss[f"{peer} {DEFAULT}"] for peer in ("hotloop", "sklearn"))
    if not abs(ours - theirs) <= LOSS_TOLERANCE * theirs:
        void = f"losses differ: {ours} {theirs}"
    records = []
    for run in answers[0]["ms"]:
        peer, alpha, updates = run.split()
        values = [answer["ms"][run] for answer in answers]
        case = f"csr train {name} alpha={alpha} {updates}"
        records.append(new_record(case, peer, "ms/epoch", values, void, loss=loss[run]))
    append(arguments.json, records)
    if void:
        print(table_line([name, f"VOID: {void}"]), flush=True)
        return False
    value = dict(zip(answers[0]["ms"], (record["value"] for record in records), strict=True))
    for alpha, updates in SETTINGS:
        ours, theirs = value[f"hotloop {alpha:g} {updates}"], value[f"sklearn {DEFAULT}"]
        cells.append(f"{three_digits(ours)} ({theirs / ours:.1f}x)")
    print(table_line(cells), flush=True)
    return True


def time_predictions(arguments) -> bool:
    """Print and record what a prediction takes; whether the probabilities agree."""
    print("\n| rows, dtype | hotloop, ms | scikit-learn, ms |\n|---|---|---|")
    agree = True
    for dtype in arguments.dtype:
        request = {"name": "predict", "dtype": dtype}
        answers = processes.answers(__file__, request, arguments.processes)
        void = why_probabilities_differ(answers)
        agree &= void is None
        for n in ROWS:
            case, records = f"csr predict {n} x {WORDS}-100-1 {dtype}", []
            for peer in ("hotloop", "sklearn"):
                values = [answer["ms"][f"{n} {peer}"] for answer in answers]
                records.append(new_record(case, peer, "ms", values, void))
            append(arguments.json, records)
            cells = [f"VOID: {void}"] if void else [three_digits(r["value"]) for r in records]
            print(table_line([f"{n} {dtype}", *cells]), flush=True)
    return agree


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    cases = ("step", "predict", "synthetic", *TEXTS)
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--dtype", nargs="+", default=("float32", "float64"))
    parser.add_argument("--data", metavar="DIR", help="a folder with " + ", ".join(TEXTS))
    parser.add_argument("--epochs", type=int, default=5, help="of a step's timing (5)")
    parser.add_argument("--rounds", type=int, default=1, help="turns within a process (1)")
    arguments = parser.parse_args()
    agree = True
    if "step" in arguments.cases:
        time_steps(arguments)
    if "predict" in arguments.cases:
        agree &= time_predictions(arguments)
    trained = [
        name
        for name in arguments.cases
        if name == "synthetic" or (name in TEXTS and arguments.data)
    ]
    if not trained:
        return 0 if agree else 1
    settings = (f"alpha={alpha:g} {updates}, ms/epoch (times)" for alpha, updates in SETTINGS)
    print("\n" + table_line(["data, dtype", *settings]) + "\n|---|---|---|---|---|")
    for name in trained:
        for dtype in arguments.dtype:
            request = {"name": name, "dtype": dtype, "rounds": arguments.rounds}
            agree &= time_training({**request, "data": arguments.data}, arguments)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
