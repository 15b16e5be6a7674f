"""Times training steps of hotloop on two threads against one, and checks that the bits are equal.

    python benchmarks/threads.py                       all rows in float32, 5 processes
    python benchmarks/threads.py --rows 1 5 --dtype float64 --json out.jsonl

Both numbers of threads take short turns within a process, of which the best count: a virtual
machine may have its second core for some tenths of a second, and not for the next. A figure is the
median over fresh processes, a ratio that of medians. Where a bit of the weights differs the row is
void, and says so.
"""

from __future__ import annotations

import sys
import time

import joblib

import cases
import processes
from records import append, new_parser, new_record, table_line, three_digits
from steps import Training

#: Classes of steps, the longest first: a name, the least microseconds on one thread, and how many
#: times sooner two threads are to be.
TARGETS = (("over 150 us", 150.0, 1.8), ("around 20 us", 15.0, 1.4))

#: Seconds that a turn takes.
TURN_SECONDS = 0.02

HEADER = """
| n x d (hidden) classes, batch, dtype | one thread, us/step | two threads, us/step | times |
|---|---|---|---|"""


def measure(request: dict) -> dict:
    """Time one case with one thread and with two, in turns; the work of a fresh process."""
    case = cases.CASES[request["row"]]
    step = cases.Step(case.batch, case.widths, (0, 0), request["dtype"])
    trainings = {str(n): Training(step, n_jobs=n) for n in (1, 2)}
    for training in trainings.values():
        seconds = training.seconds(1)  # first touches, and the threads
    epochs = max(1, int(TURN_SECONDS / (seconds * training.steps)))
    times: dict[str, list[float]] = {n: [] for n in trainings}
    end = time.perf_counter() + request["seconds"]
    while time.perf_counter() < end or len(times["2"]) < 2:
        for n, training in trainings.items():
            times[n].append(training.seconds(epochs))
    one, two = (training.weights() for training in trainings.values())
    return {"us": {n: 1e6 * min(times[n]) for n in times}, "same_bits": one == two}


def summarise(row: int, dtype: str, answers: list[dict]) -> list[dict]:
    """Make a record for one thread and one for two out of the answers of the processes."""
    void = None if all(answer["same_bits"] for answer in answers) else "weights differ"
    records = []
    for n in answers[0]["us"]:
        case = f"threads, a step of {cases.CASES[row].name} {dtype} n_jobs={n}"
        values = [answer["us"][n] for answer in answers]
        records.append(new_record(case, "hotloop", "us/step", values, void))
    return records


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    cases.add_rows(parser)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=5.0, help="of turns in a process (5)")
    arguments = parser.parse_args()
    print(f"{joblib.cpu_count()} processors\n{HEADER}")
    voids = 0
    found: dict[str, list[float]] = {name: [] for name, _, _ in TARGETS}
    for row in arguments.rows:
        request = {"row": row, "dtype": arguments.dtype, "seconds": arguments.seconds}
        answers = processes.answers(__file__, request, arguments.processes, pinned=False)
        records = summarise(row, arguments.dtype, answers)
        append(arguments.json, records)
        name = f"{cases.CASES[row].name} {arguments.dtype}"
        if void := records[0]["void"]:
            voids += 1
            print(table_line([name, f"VOID: {void}"]), flush=True)
            continue
        one, two = (record["value"] for record in records)
        cells = [three_digits(one), three_digits(two), f"{one / two:.2f}x"]
        print(table_line([name, *cells]), flush=True)
        if (kind := next((name for name, least, _ in TARGETS if one >= least), None)) is not None:
            found[kind].append(one / two)
    print("\nSome weights differ." if voids else "\nAll weights have the same bits.")
    for kind, _, aim in TARGETS:
        if times := found[kind]:
            print(f"Steps {kind}: {min(times):.2f}x to {max(times):.2f}x, target {aim}x.")
    return 1 if voids else 0


if __name__ == "__main__":
    sys.exit(main())
