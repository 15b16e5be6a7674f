"""Times steps of Muon beside those of AdamW, and what its products are reckoned to take.

    python benchmarks/muon.py                          all, 5 processes, one thread
    python benchmarks/muon.py --dtype float64 --json out.jsonl

Three m x m layers between hidden units, and a first one. Both sides take turns in one process. The
reckoning is that arithmetic takes as long here as in a step of AdamW: 5 m / B of the products of a
layer more, with full products of the symmetric matrices, of which the kernels compute half.
"""

from __future__ import annotations

import statistics
import sys

from cases import Step
from hotloop import spec
from processes import answers, serve
from records import append, new_parser, new_record, table_line
from steps import TURN_SECONDS, TURNS, Training

#: What a step may take, in reckoned steps; m and B.
AIM, SHAPES, LAYERS = 1.3, ((64, 256), (256, 256), (512, 256)), 3


def step_of(m: int, batch: int, dtype: str) -> Step:
    """The step that is timed."""
    return Step(batch, (*(m,) * (2 + LAYERS), 10), (0, 0), dtype)


def measure(request: dict) -> dict:
    """Time one pair; the work of a fresh process."""
    step = step_of(*request["shape"], request["dtype"])
    records = spec.Adam(adds_to_corrected=True), spec.Muon()
    sides = [Training(step, request["threads"], optimizer=record) for record in records]
    epochs = [max(1, int(TURN_SECONDS / (side.seconds(1) * side.steps))) for side in sides]
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for k, side in enumerate(sides):
            times[k].append(side.seconds(epochs[k]))
    return {"us": [1e6 * min(seconds) for seconds in times]}


def main() -> int:
    serve(measure)
    parser = new_parser(__doc__)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(f"| m, B, {arguments.dtype} | AdamW, us | Muon, us | reckoned, us | ratio |")
    print(f"|---|---|---|---|---| (at most {AIM})")
    for m, batch in SHAPES:
        step = step_of(m, batch, arguments.dtype)
        request = {"shape": (m, batch), "dtype": arguments.dtype, "threads": arguments.threads}
        found = answers(__file__, request, arguments.processes)
        more = 1 + LAYERS * 5 * 6.0 * m**3 / step.flops
        case = f"muon {m} x {m} b{batch} {arguments.dtype} {arguments.threads}"
        values = [[answer["us"][side] for answer in found] for side in (0, 1)]
        for implementation, times in zip(("AdamW", "Muon"), values, strict=True):
            append(arguments.json, [new_record(case, implementation, "us/step", times, None)])
        reckoned = [more * seconds for seconds in values[0]]
        ratio = statistics.median(b / a for a, b in zip(reckoned, values[1], strict=True))
        medians = [statistics.median(v) for v in (*values, reckoned)]
        cells = [f"{m}, {batch}", *(f"{median:.0f}" for median in medians), f"{ratio:.2f}"]
        print(table_line(cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
