"""Times cross_val_score(cv=5) of MLPClassifier(max_iter=200) on three small sets, over 5 seeds.

    python benchmarks/cross_val.py [--scale] [--processes 5] [--json out.jsonl]

hotloop and scikit-learn take turns in fresh processes of one thread; the printed times are
medians over the processes, each the sum over the seeds. Scores are means over the seeds.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings

from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import processes
from peers import classifier, present
from records import append, new_parser, new_record, table_line

LOADERS = {"iris": load_iris, "breast_cancer": load_breast_cancer, "digits": load_digits}
PEERS = ("hotloop", "sklearn")


def measure(request: dict) -> dict:
    """Time every set with every peer and seed, in turns; the work of a fresh process."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    answer = {
        name: {p: {"seconds": 0.0, "scores": []} for p in request["peers"]} for name in LOADERS
    }
    for name, load in LOADERS.items():
        X, y = load(return_X_y=True)
        for seed in range(request["seeds"]):
            for peer in request["peers"]:
                model = classifier(peer)(max_iter=200, random_state=seed)
                if request["scale"]:
                    model = make_pipeline(StandardScaler(), model)
                start = time.perf_counter()
                scores = cross_val_score(model, X, y, cv=5)
                answer[name][peer]["seconds"] += time.perf_counter() - start
                answer[name][peer]["scores"].append(scores.mean())
    return answer


def summarise(answers: list[dict], scaled: bool) -> list[dict]:
    """Make one record for each set and peer, and for the sum of the sets."""
    records = []
    for name in (*LOADERS, "sum"):
        for peer in answers[0]["iris"]:
            sets = LOADERS if name == "sum" else [name]
            values = [sum(answer[s][peer]["seconds"] for s in sets) for answer in answers]
            scores = [score for s in sets for score in answers[0][s][peer]["scores"]]
            case = f"cross_val {name}{' scaled' if scaled else ''}"
            score = statistics.mean(scores)
            records.append(new_record(case, peer, "s", values, None, score=score))
    return records


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    parser.add_argument("--scale", action="store_true", help="a StandardScaler in a pipeline")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    request = {
        "peers": present(PEERS),
        "seeds": arguments.seeds,
        "scale": arguments.scale,
    }
    answers = processes.answers(__file__, request, arguments.processes)
    records = summarise(answers, arguments.scale)
    print("| cross_val_score(cv=5) | seconds, score | | times |\n|---|---|---|---|")
    for name in dict.fromkeys(record["case"] for record in records):
        found = [record for record in records if record["case"] == name]
        cells = [f"{r['implementation']} {r['value']:.3g} s, {r['score']:.4f}" for r in found]
        if len(found) == 2:
            cells.append(f"{found[1]['value'] / found[0]['value']:.1f}x")
        print(table_line([name, *cells]))
    append(arguments.json, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
