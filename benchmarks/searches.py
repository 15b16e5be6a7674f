"""Times searches over hotloop's estimators where both, search and estimator, may use threads.

    python benchmarks/searches.py [--rows 0 3] [--processes 5] [--json out.jsonl]

GridSearchCV(cv=3, refit=False) over values of alpha, on the shapes of the other benchmarks in
float32. Two questions: is a search of two processes over estimators that take all threads they can
(n_jobs=-1) as fast as the best setting found by hand, and how does one of two threads (joblib's
threading backend) over estimators of one thread scale? All settings take turns in a process; the
times are medians over fresh processes. Where a mean score differs the row is void, and says so.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import NamedTuple

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import cases
import peers
import processes
from records import append, new_parser, new_record, table_line, three_digits


class Setting(NamedTuple):
    """joblib's backend, and n_jobs of the search and of the estimators."""

    backend: str
    search: int
    estimator: int

    def __str__(self) -> str:
        return f"{self.backend}, n_jobs={self.search} over n_jobs={self.estimator}"


BY_HAND = [Setting("loky", search, estimator) for search in (1, 2) for estimator in (1, 2)]
SERIAL = BY_HAND[0]
NESTED = Setting("loky", 2, -1)
THREADING = Setting("threading", 2, 1)
SETTINGS = (*BY_HAND, NESTED, THREADING)
#: The nested search may take so many times the best, and threading must be so many times sooner.
MOST_NESTED, LEAST_SCALING = 1.1, 1.8


def measure(request: dict) -> dict:
    """Time one case in every setting, in turns; the work of a fresh process."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    case = cases.CASES[request["row"]]
    X, y = cases.make_data(case, "float32")
    grid = {"alpha": np.geomspace(1e-5, 1e-2, request["candidates"]).tolist()}
    answer: dict[str, dict] = {"seconds": {}, "scores": {}}
    for epochs in (1, case.epochs):  # the first time to start joblib's processes
        for setting in SETTINGS:
            model = peers.new_estimator("hotloop", case, epochs, n_jobs=setting.estimator)
            search = GridSearchCV(model, grid, cv=3, refit=False, n_jobs=setting.search)
            with joblib.parallel_config(setting.backend):
                start = time.perf_counter()
                search.fit(X, y)
            answer["seconds"][str(setting)] = time.perf_counter() - start
            answer["scores"][str(setting)] = search.cv_results_["mean_test_score"].tolist()
    return answer


def summarise(row: int, answers: list[dict]) -> dict[Setting, dict]:
    """Make a record for each setting out of the answers of the processes."""
    scores = [score for answer in answers for score in answer["scores"].values()]
    void = None if all(score == scores[0] for score in scores) else "scores differ"
    records = {}
    for setting in SETTINGS:
        case = f"search {cases.CASES[row].name} {setting}"
        values = [answer["seconds"][str(setting)] for answer in answers]
        records[setting] = new_record(case, "hotloop", "s", values, void)
    return records


def table(name: str, records: dict[Setting, dict]) -> str:
    """Format one case as a Markdown table, and the two ratios that are aimed at."""
    if void := records[SERIAL]["void"]:
        return f"{name}: VOID: {void}"
    seconds = {setting: record["value"] for setting, record in records.items()}
    best = min(BY_HAND, key=seconds.__getitem__)
    lines = [f"| {name} | s |\n|---|---|"]
    lines += [table_line([setting, three_digits(value)]) for setting, value in seconds.items()]
    nested, scaling = seconds[NESTED] / seconds[best], seconds[SERIAL] / seconds[THREADING]
    lines.append(f"\n{NESTED}: {nested:.2f} times {best}, target at most {MOST_NESTED}")
    lines.append(f"{THREADING}: {scaling:.2f}x, target at least {LEAST_SCALING}x\n")
    return "\n".join(lines)


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    cases.add_rows(parser, default=(0, 3))
    parser.add_argument("--candidates", type=int, default=8, help="values of alpha (8)")
    arguments = parser.parse_args()
    print(f"{joblib.cpu_count()} processors\n")
    voids = 0
    for row in arguments.rows:
        request = {"row": row, "candidates": arguments.candidates}
        answers = processes.answers(__file__, request, arguments.processes, pinned=False)
        records = summarise(row, answers)
        voids += records[SERIAL]["void"] is not None
        append(arguments.json, list(records.values()))
        print(table(cases.CASES[row].name, records), flush=True)
    return 1 if voids else 0


if __name__ == "__main__":
    sys.exit(main())
