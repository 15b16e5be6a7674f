"""Times training over a grid of widths and batches beside its peers, on one thread and on two.

    python benchmarks/grid.py --json grid.jsonl --png grid.png       the whole grid, 3 processes
    python benchmarks/grid.py --widths 64 256 --batches 32 --threads 1

A cell trains h-h-h-10 in float32, h from 32 to 1024, in batches of 32 to 4096. Its number is the
time of the best peer over hotloop's: above 1 hotloop is the faster. "torch compiled" and "jax"
compile before they are timed; a peer that is not installed is left out, with its reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import peers
import processes
from cases import Case, make_data
from records import append, new_parser, new_record, table_line, why_losses_differ

PEERS = ("hotloop", "sklearn", "torch", "torch compiled", "jax")
WIDTHS = (32, 64, 128, 256, 512, 1024)
BATCHES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
#: Multiply-adds that a timed run of a cell has about, for each of its epochs and rounds.
RUN_WORK, ROUNDS = 2e9, 4


def case_of(width: int, batch: int) -> Case:
    """A cell: at least two whole batches, and epochs enough to be timed."""
    n = batch * max(2, 2048 // batch)
    epochs = max(1, int(RUN_WORK / (6 * n * (2 * width**2 + 10 * width))))
    return Case(n, width, (width, width), 10, batch, min(epochs, 40))


def measure(request: dict) -> dict:
    """Time one cell with every peer, in turns; the work of a fresh process."""
    if request["threads"] == 2 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-2:])
    case = case_of(request["width"], request["batch"])
    X, y = make_data(case, "float32")
    runs = {peer: partial(peers.train, peer, case, X, y) for peer in request["peers"]}
    ms, loss = peers.time_epochs(runs, case.epochs, ROUNDS)
    return {"us": {peer: 1e3 * value / case.steps for peer, value in ms.items()}, "loss": loss}


def summarise(request: dict, answers: list[dict]) -> list[dict]:
    """Make a record for each peer; void where losses differ."""
    void = why_losses_differ(answers)
    if any(us <= 0 for answer in answers for us in answer["us"].values()):
        void = "more epochs took no longer: something else had the processors"
    cell = {key: request[key] for key in ("width", "batch", "threads")}
    name = "grid " + " ".join(f"{key}={value}" for key, value in cell.items())
    times = {peer: [answer["us"][peer] for answer in answers] for peer in answers[0]["us"]}
    return [
        new_record(name, peer, "us/step", values, void, **cell) for peer, values in times.items()
    ]


def ratio(records: list[dict]) -> float:
    """Time of the best peer over that of hotloop; NaN for a void cell."""
    found = {record["implementation"]: record["value"] for record in records}
    ours = found.pop("hotloop")
    return min(found.values()) / ours if ours and found else float("nan")


def draw(file: Path, cells: dict[tuple[int, int, int], float]) -> None:
    """Draw the ratios as one heat map for each number of threads."""
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    threads, widths, batches = (sorted({cell[k] for cell in cells}) for k in range(3))
    size = (2 + 1.1 * len(batches), 1.5 + 0.7 * len(widths))
    figure = Figure(figsize=(size[0] * len(threads), size[1]), layout="tight")
    axes = figure.subplots(1, len(threads), squeeze=False)
    for axis, n in zip(axes[0], threads, strict=True):
        values = np.array([[cells.get((n, h, b), np.nan) for b in batches] for h in widths])
        image = axis.imshow(values, cmap="RdYlGn", norm=LogNorm(0.25, 4), aspect="auto")
        for row, col in np.ndindex(values.shape):
            axis.text(col, row, f"{values[row, col]:.1f}", ha="center", va="center")
        axis.set_xticks(range(len(batches)), batches)
        axis.set_yticks(range(len(widths)), widths)
        axis.set(xlabel="rows of a batch", ylabel="width h of h-h-h-10")
        axis.set_title(f"times faster than the best peer, {n} thread{'s' * (n > 1)}")
        figure.colorbar(image, ax=axis)
    figure.savefig(file, dpi=120)
    print(f"drawn: {file}")


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, processes=3)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--png", type=Path, metavar="FILE", help="a heat map (needs matplotlib)")
    return parser.parse_args()


def main() -> int:
    processes.serve(measure)
    arguments = parse_arguments()
    present = peers.present(arguments.peers)
    print(table_line(["threads, h, batch", *present, "best peer / hotloop"]))
    print("|---" * (len(present) + 2) + "|")
    cells: dict[tuple[int, int, int], float] = {}
    for threads in arguments.threads:
        for width in arguments.widths:
            for batch in arguments.batches:
                cell = {"width": width, "batch": batch, "threads": threads, "peers": present}
                answers = processes.answers(
                    __file__, cell, arguments.processes, pinned=threads == 1
                )
                records = summarise(cell, answers)
                append(arguments.json, records)
                cells[threads, width, batch] = ratio(records)
                row = [f"{r['value']:.4g}" if r["value"] else "VOID" for r in records]
                name = f"{threads}, {width}, {batch}"
                print(table_line([name, *row, f"{ratio(records):.2f}x"]), flush=True)
    if arguments.png is not None:
        draw(arguments.png, cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
