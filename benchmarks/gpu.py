"""Times training steps on a GPU: hotloop, PyTorch eager, PyTorch with CUDA graphs, and the CPU.

    python benchmarks/gpu.py                                  hidden 32..1024 x batch 64..65536
    python benchmarks/gpu.py --hidden 64 --batch 256 --many 128 --json out.jsonl

Two hidden layers of equal width between 64 features and 10 classes, float32 without TF32, Adam, the
data on the device before the clock starts, rows in the natural order. All train the same steps from
the same weights first, and a figure is void if their losses differ. Last come many small models:
by `hotloop.fit_many`, and by PyTorch one after another. NUMBA_ENABLE_CUDASIM=1 shows that it runs,
and times nothing of worth.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from records import LOSS_TOLERANCE, append, new_parser, new_record

FEATURES, CLASSES, RATE = 64, 10, 1e-3
HIDDEN, BATCHES = (32, 128, 512, 1024), (64, 1024, 8192, 65536)
#: Steps of an epoch, seconds that a turn takes, and turns.
STEPS, TURN_SECONDS, TURNS = 8, 0.2, 5
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

#: A way to train: it runs so many epochs and returns the mean loss of the last.
Trainer = Callable[[int], float]


def problem(hidden: int, batch: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A network, its initial parameters, and data for an epoch."""
    from hotloop import plan, spec

    layers = (spec.Dense(hidden, "relu"), spec.Dense(hidden, "relu"), spec.Dense(CLASSES))
    network = spec.Network((FEATURES,), layers, spec.LOSSES["log_loss"])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(STEPS * batch, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=len(X)).astype(np.int32)
    start = plan.init_parameters(network, np.random.RandomState(0), np.float32)
    return network, start, X, y


def hotloop_trainer(backend: str, network: Any, start: np.ndarray, X: Any, y: Any) -> Trainer:
    """Hotloop's runner on a backend."""
    from hotloop import backends, plan, spec

    optimizer = spec.Adam()
    compiled = plan.compile_training(
        network, dtype=np.float32, batch_size=len(X) // STEPS, optimizer=optimizer, backend=backend
    )
    state = plan.new_state(start.copy(), optimizer)
    runner = backends.open_runner(compiled, state, {"X": X, "y": y}, n_jobs=-1)
    steps = 0

    def train(epochs: int) -> float:
        nonlocal steps
        t = steps + 1.0 + np.arange(epochs * STEPS)
        steps += epochs * STEPS
        scalars = np.zeros((1, len(t), len(plan.GROUPS), len(plan.SCALARS)))
        rates = RATE * np.sqrt(1 - optimizer.beta_2**t) / (1 - 0.9**t)
        scalars[..., plan.SCALARS.index("rate")] = rates[:, None]
        scalars[..., plan.SCALARS.index("momentum")] = 0.9
        return float(runner.run(None, scalars, n_epochs=epochs)[0, -1])

    return train


def torch_trainer(graph: bool, network: Any, start: np.ndarray, X: Any, y: Any) -> Trainer:
    """PyTorch's loop, each step launched op by op or the whole step replayed as a graph."""
    import torch

    from hotloop import plan

    device = "cpu" if SIMULATED else "cuda"
    modules: list[Any] = []
    for weight, bias in zip(*plan.weight_views(network, start), strict=True):
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data.copy_(torch.from_numpy(weight.T.copy()))
        linear.bias.data.copy_(torch.from_numpy(bias.copy()))
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, capturable=graph, fused=not SIMULATED)
    batches = torch.from_numpy(X).to(device).split(len(X) // STEPS)
    codes = torch.from_numpy(y.astype(np.int64)).to(device).split(len(X) // STEPS)
    total = torch.zeros((), device=device)

    def step(rows: Any, target: Any) -> None:
        optimizer.zero_grad(set_to_none=not graph)
        loss = torch.nn.functional.cross_entropy(model(rows), target)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    replay = _captured(step, model, optimizer, batches[0], codes[0]) if graph else step

    def train(epochs: int) -> float:
        for _ in range(epochs):
            total.zero_()
            for rows, target in zip(batches, codes, strict=True):
                replay(rows, target)
        return float(total) / STEPS

    return train


def _captured(step: Any, model: Any, optimizer: Any, rows: Any, target: Any) -> Any:
    """A step as a CUDA graph over buffers of its own; the model is left as it was."""
    import torch

    before = [p.detach().clone() for p in model.parameters()]
    rows, target = rows.clone(), target.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(rows, target)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(rows, target)
    with torch.no_grad():
        for p, kept in zip(model.parameters(), before, strict=True):
            p.copy_(kept)
            for moment in optimizer.state[p].values():
                moment.zero_()

    def replay(new_rows: Any, new_target: Any) -> None:
        rows.copy_(new_rows)
        target.copy_(new_target)
        graph.replay()

    return replay


def seconds(train: Trainer, epochs: int) -> float:
    """What a step takes."""
    start = time.perf_counter()
    train(epochs)
    return (time.perf_counter() - start) / (epochs * STEPS)


def compare(hidden: int, batch: int) -> list[dict]:
    """All ways to train one case: the same losses first, then times in turns."""
    made = problem(hidden, batch)
    trainers = {
        "hotloop cuda": hotloop_trainer("cuda", *made),
        "hotloop cpu": hotloop_trainer("compiled", *made),
        "torch": torch_trainer(False, *made),
    }
    if not SIMULATED:
        trainers["torch graph"] = torch_trainer(True, *made)
    losses = {name: train(3) for name, train in trainers.items()}
    least = min(losses.values())
    void = None
    if not max(losses.values()) - least <= LOSS_TOLERANCE * abs(least):
        void = f"losses differ: {losses}"
    times: dict[str, list[float]] = {name: [] for name in trainers}
    epochs = {n: max(1, int(TURN_SECONDS / (seconds(t, 1) * STEPS))) for n, t in trainers.items()}
    for _ in range(TURNS):
        for name, train in trainers.items():
            times[name].append(1e6 * seconds(train, epochs[name]))
    case = f"hidden {hidden} batch {batch}"
    return [new_record(case, name, "us/step", values, void) for name, values in times.items()]


def compare_many(n: int) -> list[dict]:
    """Many small models: one call of `fit_many`, and PyTorch's graph for one, so many times."""
    from hotloop import MLPClassifier, fit_many

    rows, epochs = (64, 2) if SIMULATED else (4096, 20)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=rows)
    how = dict(
        hidden_layer_sizes=4 if SIMULATED else 64, batch_size=rows // 8, max_iter=epochs, tol=0.0
    )
    times: dict[str, list[float]] = {"hotloop cuda": [], "hotloop cpu": []}
    models: dict[str, list[Any]] = {}
    for _ in range(2):  # the first compiles
        for name in times:
            models[name] = [
                MLPClassifier(
                    **how, device=name.split()[1], random_state=k, n_iter_no_change=epochs
                )
                for k in range(n)
            ]
            start = time.perf_counter()
            fit_many(models[name], X, y)
            times[name] = [time.perf_counter() - start]
    pairs = zip(*(m for m in models.values()), strict=True)
    worst = max(abs(a.loss_ - b.loss_) / abs(b.loss_) for a, b in pairs)
    void = None if worst <= LOSS_TOLERANCE else f"losses differ by {worst:.2g} of themselves"
    return [new_record(f"{n} models", name, "s", values, void) for name, values in times.items()]


def main() -> int:
    """Run what the command line asks for; 1 if a case is void."""
    import warnings

    from hotloop import backends

    parser = new_parser(__doc__ or "")
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN)
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--many", type=int, default=128, help="models at once (128; 0: none)")
    options = parser.parse_args()
    reason = backends.why_unavailable("cuda")
    if reason is not None:
        parser.error(reason)
    warnings.simplefilter("ignore")
    if SIMULATED:
        sys.setswitchinterval(1e-5)  # its threads wait for each other in Python
    cases = [(hidden, batch) for hidden in options.hidden for batch in options.batch]
    records = [record for case in cases for record in compare(*case)]
    records += compare_many(options.many) if options.many else []
    for one in records:
        value = f"void: {one['void']}" if one["void"] else f"{one['value']:.4g} {one['unit']}"
        print(f"{one['case']:<28}{one['implementation']:<16}{value}")
    if options.json:
        append(options.json, records)
    return int(any(one["void"] for one in records))


if __name__ == "__main__":
    sys.exit(main())
