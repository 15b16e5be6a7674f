"""Times single training steps of hotloop on one thread, as percent of the core's peak.

    python benchmarks/steps.py                          all cases, 5 processes
    python benchmarks/steps.py --cases P1 P9 --json out.jsonl

Everything that a step does is in its time: gathering random rows, the loss, Adam. The peak is
probed in the same process, before and after; a figure is the median over fresh processes.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

import numpy as np

import peak
import processes
from cases import STEPS, Step
from records import append, new_parser, new_record, table_line, three_digits

#: Seconds that a turn takes, and turns.
TURN_SECONDS, TURNS = 0.1, 5


def measure(request: dict) -> dict:
    """Time one case; the work of a fresh process."""
    step = STEPS[request["case"]]
    if step.instruction_set:
        os.environ["HOTLOOP_ISA"] = step.instruction_set  # before hotloop is imported
    training = Training(step)
    epochs = max(1, int(TURN_SECONDS / (training.seconds(1) * training.steps)))
    peaks, seconds = [], []
    for _ in range(TURNS):
        peaks.append(peak.measure(request["instruction_set"])[step.dtype])
        seconds.append(training.seconds(epochs))
    return {"us": 1e6 * min(seconds), "peak": max(peaks)}


class Training:
    """A network that is trained by such steps, on random rows in random order.

    Parameters
    ----------
    step : Step
    n_jobs : int, default=1
    activation : str or spec.Function, default="relu"
    loss : spec.Loss, optional
        By default that of a classifier.
    optimizer : spec.Optimizer, optional
        By default Adam.

    Attributes
    ----------
    steps : int
        Steps of an epoch.
    last_loss : float
        Of the last epoch.
    """

    def __init__(
        self,
        step: Step,
        n_jobs: int = 1,
        *,
        activation: Any = "relu",
        loss: Any = None,
        optimizer: Any = None,
    ) -> None:
        from hotloop import backends, plan, spec, vectors

        self.steps = max(2, 4096 // step.batch)
        *hidden, outputs = step.widths[1:]
        layers = (*(spec.Dense(units, activation) for units in hidden), spec.Dense(outputs))
        if loss is None:
            loss = spec.LOSSES["log_loss" if outputs > 1 else "binary_log_loss"]
        network, optimizer = spec.Network((step.widths[0],), layers, loss), optimizer or spec.Adam()
        n = self.steps * step.batch
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, step.widths[0])).astype(step.dtype)
        codes = rng.integers(max(outputs, 2), size=n).astype(np.int32)
        y = codes if loss.targets == "codes" else rng.integers(2, size=(n, outputs))
        streams = {"X": X, "y": y}
        self._order = rng.permutation(n).astype(np.intp)
        compiled = plan.compile_training(
            network, dtype=step.dtype, batch_size=step.batch, optimizer=optimizer
        )
        start = vectors.init_parameters(network, np.random.RandomState(0), np.dtype(step.dtype))
        self._state = vectors.new_state(start, optimizer)
        self._runner = backends.open_runner(compiled, self._state, streams, n_jobs=n_jobs)
        scalars = {"rate": 1e-4, "momentum": 0.9, "shrink": 1.0, "correction": 1.0}
        scalars |= {"matrix_rate": 1e-4, "matrix_momentum": 0.9, "matrix_shrink": 1.0}
        self._scalars = np.array(
            [[scalars.get(name, 0.0) for name in plan.SCALARS]] * len(plan.GROUPS)
        )

    def seconds(self, epochs: int) -> float:
        """Train for so many epochs; what a step took."""
        scalars = np.tile(self._scalars, (1, epochs * self.steps, 1, 1))
        orders = np.broadcast_to(self._order, (1, epochs, len(self._order)))
        start = time.perf_counter()
        losses = self._runner.run(orders, scalars)
        seconds = time.perf_counter() - start
        assert np.isfinite(losses).all()
        self.last_loss = float(losses[0, -1])
        return seconds / (epochs * self.steps)

    def weights(self) -> bytes:
        """All parameters as they are now."""
        self._runner.read_state(self._state)
        return self._state.parameters.tobytes()


def main() -> int:
    processes.serve(measure)
    parser = new_parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=STEPS, default=list(STEPS))
    arguments = parser.parse_args()
    widest = os.environ.get("HOTLOOP_ISA") or peak.widest()
    print("| step: batch, widths | us | of the peak | must, reach for |\n|---|---|---|---|")
    for name in arguments.cases:
        step = STEPS[name]
        instruction_set = step.instruction_set or widest
        if peak.measure(instruction_set) is None:
            absent = f"absent: this processor has no {instruction_set}"
            print(table_line([name, absent, "", ""]))
            continue
        request = {"case": name, "instruction_set": instruction_set}
        answers = processes.answers(__file__, request, arguments.processes)
        percents = [step.flops / answer["us"] / 10 / answer["peak"] for answer in answers]
        more = {
            "percent_of_peak": statistics.median(percents),
            "peak_gflops": statistics.median(answer["peak"] for answer in answers),
            "instruction_set": instruction_set,
        }
        values = [answer["us"] for answer in answers]
        record = new_record(f"step {name} {step}", "hotloop", "us/step", values, None, **more)
        append(arguments.json, [record])
        aim = ", ".join(f"{share} %" for share in step.aim)
        share = f"{record['percent_of_peak']:.0f} %"
        cells = [f"{name} {step}", three_digits(record["value"]), share, aim]
        print(table_line(cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
