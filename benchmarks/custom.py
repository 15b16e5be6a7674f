"""Times training with functions of the user beside the built-in ones that they compute.

    python benchmarks/custom.py                        all, 5 processes, one thread
    python benchmarks/custom.py --dtype float64 --json out.jsonl

Steps of P1's widths. Both sides take turns in one process, from equal weights on equal rows; their
losses must agree.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace

from cases import STEPS
from hotloop import spec
from processes import answers, serve
from records import append, new_parser, new_record, table_line, why_losses_differ
from steps import TURN_SECONDS, TURNS, Training

#: What an epoch with a function may take, in epochs with the built-in one.
AIM = 1.5
BUILT_IN = ("relu", "logistic", "tanh", "squared_error")


def functions() -> dict:
    """Function and derivative, by the name of the built-in one."""
    from hotloop.elementwise import exp, tanh

    def relu(z):
        return max(z, 0.0)

    def relu_slope(z):
        return 1.0 if z > 0 else 0.0

    def logistic(z):
        return 1 / (1 + exp(-z))

    def logistic_slope(z):
        p = 1 / (1 + exp(-z))
        return p * (1 - p)

    def tangent(z):
        return tanh(z)

    def tangent_slope(z):
        return 1 - tanh(z) ** 2

    def squared_error(y, z):
        return 0.5 * (y - z) ** 2

    def squared_error_slope(y, z):
        return z - y

    return {
        "relu": (relu, relu_slope),
        "logistic": (logistic, logistic_slope),
        "tanh": (tangent, tangent_slope),
        "squared_error": (squared_error, squared_error_slope),
    }


def measure(request: dict) -> dict:
    """Time one pair; the work of a fresh process."""
    name, step = request["name"], replace(STEPS["P1"], dtype=request["dtype"])
    function = functions()[name]
    if name == "squared_error":
        custom = spec.custom_loss(spec.Function("loss", *function), "identity")
        sides = [Training(step, loss=loss) for loss in (spec.LOSSES[name], custom)]
    else:
        custom = spec.Function("activation", *function)
        sides = [Training(step, activation=activation) for activation in (name, custom)]
    epochs = max(1, int(TURN_SECONDS / (sides[0].seconds(1) * sides[0].steps)))
    sides[1].seconds(1)
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for side, seconds in zip(sides, times, strict=True):
            seconds.append(side.seconds(epochs))
    outputs = step.widths[-1] if name == "squared_error" else 1  # it reports their mean
    losses = sides[0].last_loss * outputs, sides[1].last_loss
    return {
        "us": [1e6 * min(seconds) for seconds in times],
        "loss": dict(zip(("built in", "custom"), losses, strict=True)),
    }


def main() -> int:
    serve(measure)
    parser = new_parser(__doc__)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    arguments = parser.parse_args()
    print(f"| (256, 128-128-128-10), {arguments.dtype} | built in, us | custom, us | ratio |")
    print(f"|---|---|---|---| (at most {AIM})")
    for name in BUILT_IN:
        request = {"name": name, "dtype": arguments.dtype}
        found = answers(__file__, request, arguments.processes)
        case, void = f"custom {name} {arguments.dtype}", why_losses_differ(found)
        values = [[answer["us"][side] for answer in found] for side in (0, 1)]
        for implementation, times in zip(("built in", "custom"), values, strict=True):
            append(arguments.json, [new_record(case, implementation, "us/step", times, void)])
        ratio = statistics.median(b / a for a, b in zip(*values, strict=True))
        cells = [name, *(f"{statistics.median(v):.1f}" for v in values), f"{ratio:.2f}"]
        print(table_line(cells if void is None else [name, "void", void, ""]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
