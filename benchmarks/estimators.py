"""Times training beside scikit-learn, PyTorch and JAX: equal threads, equal work, equal final loss.

    python benchmarks/estimators.py                          all rows, both dtypes, 5 processes
    python benchmarks/estimators.py --rows 0 5 --dtype float32 --json out.jsonl
    python benchmarks/estimators.py --threads all            nobody sets a number of threads
    python benchmarks/estimators.py --peers hotloop sklearn torch "torch compiled" jax

The time of an epoch is what more epochs add to a fit, so the preparations of `fit` are not in
it. The libraries take turns within a process; a figure is the median over fresh processes. Where
the final losses differ by more than 1e-3 the row is void, and says so.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import cases
import peak
import peers
import processes
from records import append, new_parser, new_record, table_line, three_digits, why_losses_differ

#: What each is called at the head of a column.
PEERS = {
    "hotloop": "hotloop, ms/epoch (of peak)",
    "sklearn": "scikit-learn (times)",
    "torch": "PyTorch, fused Adam (times)",
    "torch compiled": "PyTorch, compiled (times)",
    "jax": "JAX (times)",
    "prototype": "prototype (hotloop is)",
}
DTYPES = ("float32", "float64")

PROTOTYPE_FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math"]
PROTOTYPE_LINE = re.compile(r"n=(\d+) d=(\d+) bs=(\d+) L=(\d+): +([\d.]+) ms/epoch")


def measure_case(request: dict) -> dict:
    """Time one case in this process, in turns; the work of a fresh process.

    Parameters
    ----------
    request : dict
        ``row``, ``dtype``, ``peers``, ``rounds``, ``instruction_set`` and ``prototype`` (the path
        of a compiled program, or None).

    Returns
    -------
    dict
        ``peak``: the probe's answer. ``ms`` and ``loss``: for each peer. ``prototype``: ms or None.
    """
    case = cases.CASES[request["row"]]
    X, y = cases.make_data(case, request["dtype"])
    runs = {peer: partial(peers.train, peer, case, X, y) for peer in request["peers"]}
    ms, loss = peers.time_epochs(runs, case.epochs, request["rounds"])
    return {
        "peak": peak.measure(request["instruction_set"]),
        "ms": ms,
        "loss": loss,
        "prototype": prototype_ms(request["prototype"], case),
    }


def prototype_ms(program: str | None, case: cases.Case) -> float | None:
    """Run the prototype and take its time for this case, None where it has no such line."""
    if program is None:
        return None
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    shape = (case.n, case.d, case.batch, len(case.hidden) + 1)
    for line in PROTOTYPE_LINE.finditer(output):
        if tuple(map(int, line.groups()[:4])) == shape:
            return float(line[5])
    return None


def summarise(
    row: int, dtype: str, threads: str, instruction_set: str, answers: list[dict]
) -> list[dict]:
    """Make one record for each peer out of the answers of the processes."""
    case = cases.CASES[row]
    name = f"train {case.name} {dtype}" + (" all threads" if threads == "all" else "")
    void = why_losses_differ(answers)
    times = {peer: [answer["ms"][peer] for answer in answers] for peer in answers[0]["ms"]}
    if answers[0]["prototype"] is not None:
        times["prototype"] = [answer["prototype"] for answer in answers]
    limit = statistics.median(answer["peak"][dtype] for answer in answers)
    records = []
    for peer, values in times.items():
        gflops = case.flops / statistics.median(values) / 1e6
        more = {
            "loss": answers[0]["loss"].get(peer),
            "gflops": gflops,
            "peak_gflops": limit,
            "percent_of_peak": 100 * gflops / limit,
            "instruction_set": instruction_set,
        }
        records.append(new_record(name, peer, "ms/epoch", values, void, **more))
    return records


def table_row(columns: list[str], records: list[dict]) -> str:
    """Format one case as a line of a Markdown table."""
    found = {record["implementation"]: record for record in records}
    cells = [records[0]["case"].removeprefix("train ")]
    ours = found.get("hotloop")
    if records[0]["void"]:
        return table_line([*cells, f"VOID: {records[0]['void']}"])
    cells.append(
        f"{three_digits(ours['value'])} ({ours['percent_of_peak']:.0f} %)" if ours else "absent"
    )
    for peer in columns[1:]:
        if peer not in found:
            cells.append("absent")
            continue
        value = found[peer]["value"]
        cells.append(three_digits(value))
        if ours:
            times = value / ours["value"]
            cells[-1] += f" ({times:.0%})" if peer == "prototype" else f" ({times:.1f}x)"
    return table_line(cells)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    cases.add_rows(parser)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    trained = [peer for peer in PEERS if peer != "prototype"]
    parser.add_argument("--peers", nargs="+", choices=trained, default=trained[:3])
    parser.add_argument("--threads", choices=("one", "all"), default="one")
    parser.add_argument("--rounds", type=int, default=2, help="turns within a process (2)")
    parser.add_argument("--prototype", type=Path, metavar="FILE.c", help="a C program to run along")
    return parser.parse_args()


def main() -> int:
    processes.serve(measure_case)
    arguments = parse_arguments()
    present = peers.present(arguments.peers)
    program = None
    if arguments.prototype is not None:
        program = str(peak.compile_c(arguments.prototype, PROTOTYPE_FLAGS))
    instruction_set = os.environ.get("HOTLOOP_ISA") or peak.widest()
    threads = {"one": "one thread", "all": "all threads"}[arguments.threads]
    print(f"{threads}; percent of one core's {instruction_set} peak, probed in the same process")
    columns = ["hotloop", *(p for p in PEERS if p in arguments.peers and p != "hotloop")]
    if program is not None:
        columns.append("prototype")
    heads = ["n x d (hidden) classes, batch, dtype", *(PEERS[p] for p in columns)]
    print("\n" + table_line(heads))
    print("|---" * len(heads) + "|")
    voids = 0
    for row in arguments.rows:
        for dtype in arguments.dtype:
            request = {
                "row": row,
                "dtype": dtype,
                "peers": [p for p in present if (p, dtype) != ("jax", "float64")],
                "rounds": arguments.rounds,
                "instruction_set": instruction_set,
                "prototype": program if dtype == "float32" else None,
            }
            pinned = arguments.threads == "one"
            answers = processes.answers(__file__, request, arguments.processes, pinned=pinned)
            records = summarise(row, dtype, arguments.threads, instruction_set, answers)
            voids += records[0]["void"] is not None
            print(table_row(columns, records), flush=True)
            append(arguments.json, records)
    return 1 if voids else 0


if __name__ == "__main__":
    sys.exit(main())
