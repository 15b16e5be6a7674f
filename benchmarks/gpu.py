"""Times training steps on a GPU: hotloop, PyTorch eager, PyTorch with CUDA graphs, and the CPU.

    python benchmarks/gpu.py                                  hidden 32..1024 x batch 64..65536
    python benchmarks/gpu.py --hidden 64 --batch 256 --many 128 --json out.jsonl

Two hidden layers of equal width between 64 features and 10 classes, float32 without TF32, Adam, the
data on the device before the clock starts, rows in the natural order. All train the same steps from
the same weights first, and a figure is void if their losses differ. The clock stops when the loss
has come from the device, so what was launched is over. Last come many small models: whole fits by
`hotloop.fit_many`, and by PyTorch as many runs of one graph, captured and uploaded beforehand.

PyTorch is left out where it has no CUDA. NUMBA_ENABLE_CUDASIM=1 shows that all else runs, on tiny
data, and times nothing of worth.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from records import append, new_parser, new_record, why_losses_differ

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
FEATURES, CLASSES = (6, 3) if SIMULATED else (64, 10)
RATE = 1e-3
HIDDEN, BATCHES = (32, 128, 512, 1024), (64, 1024, 8192, 65536)
#: Steps of an epoch, seconds that a turn takes, and turns.
STEPS, TURN_SECONDS, TURNS = 8, 0.0 if SIMULATED else 0.2, 2 if SIMULATED else 5
#: Of many models at once: units, rows of a batch, epochs.
SMALL = (4, 4, 2) if SIMULATED else (64, 512, 20)

#: A way to train: it runs so many epochs and returns the mean loss of the last.
Trainer = Callable[[int], float]


def why_no_torch() -> str | None:
    """Say why PyTorch cannot take part, or None if it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def problem(widths: tuple[int, ...], batch: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A network, its initial parameters, and data for an epoch."""
    from hotloop import spec, vectors

    layers = (*(spec.Dense(units, "relu") for units in widths), spec.Dense(CLASSES))
    network = spec.Network((FEATURES,), layers, spec.LOSSES["log_loss"])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(STEPS * batch, FEATURES)).astype(np.float32)
    y = rng.permutation(np.arange(len(X)) % CLASSES).astype(np.int32)
    start = vectors.init_parameters(network, np.random.RandomState(0), np.float32)
    return network, start, X, y


def hotloop_trainer(backend: str, network: Any, start: np.ndarray, X: Any, y: Any) -> Trainer:
    """Hotloop's runner on a backend."""
    from hotloop import backends, plan, spec, vectors

    optimizer = spec.Adam()
    compiled = plan.compile_training(
        network, dtype=np.float32, batch_size=len(X) // STEPS, optimizer=optimizer, backend=backend
    )
    state = vectors.new_state(start.copy(), optimizer)
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


def torch_trainer(
    graph: bool, network: Any, start: np.ndarray, X: Any, y: Any, device: str = "cuda"
) -> Trainer:
    """PyTorch's loop, each step launched op by op or the whole step replayed as a graph."""
    import torch

    from hotloop import vectors

    torch.set_float32_matmul_precision("highest")  # no TF32
    modules: list[Any] = []
    for weight, bias in zip(*vectors.weight_views(network, start), strict=True):
        linear = torch.nn.Linear(*weight.shape)
        linear.weight.data.copy_(torch.from_numpy(weight.T.copy()))
        linear.bias.data.copy_(torch.from_numpy(bias.copy()))
        modules += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1]).to(device)
    of_device = {"capturable": graph, "fused": True} if device == "cuda" else {}
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, **of_device)
    batches = torch.from_numpy(X).to(device).split(len(X) // STEPS)
    codes = torch.from_numpy(y.astype(np.int64)).to(device).split(len(X) // STEPS)
    total = torch.zeros((), device=device)

    def step(rows: Any, target: Any) -> None:
        # To None: backward writes gradients then, in a graph to its own memory, and adds nothing.
        optimizer.zero_grad(set_to_none=True)
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
        return float(total) / STEPS  # waits for all of it

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

    replay.reads = model, optimizer  # memory of theirs, which a graph does not keep alive
    return replay


def seconds(train: Trainer, epochs: int) -> float:
    """What a step takes."""
    start = time.perf_counter()
    train(epochs)
    return (time.perf_counter() - start) / (epochs * STEPS)


def compare(hidden: int, batch: int, *, with_torch: bool) -> list[dict]:
    """All ways to train one case: the same losses first, then times in turns."""
    made = problem((hidden, hidden), batch)
    trainers = {
        "hotloop cuda": hotloop_trainer("cuda", *made),
        "hotloop cpu": hotloop_trainer("compiled", *made),
    }
    if with_torch:
        trainers["torch"] = torch_trainer(False, *made)
        trainers["torch graph"] = torch_trainer(True, *made)
    void = why_losses_differ([{"loss": {name: train(3) for name, train in trainers.items()}}])
    times: dict[str, list[float]] = {name: [] for name in trainers}
    epochs = {n: max(1, int(TURN_SECONDS / (seconds(t, 1) * STEPS))) for n, t in trainers.items()}
    for _ in range(TURNS):
        for name, train in trainers.items():
            times[name].append(1e6 * seconds(train, epochs[name]))
    case = f"hidden {hidden} batch {batch}"
    return [new_record(case, name, "us/step", values, void) for name, values in times.items()]


def many_ways(n: int, *, with_torch: bool) -> dict[str, Callable[[], list[float]]]:
    """Ways to train many small models; each returns losses, of which those of all ways are equal.

    PyTorch's are those of its first call, and of one model: the others take the same time.
    """
    from hotloop import MLPClassifier, fit_many

    units, batch, epochs = SMALL
    made = problem((units,), batch)
    never = {"alpha": 0.0, "tol": 0.0, "n_iter_no_change": epochs, "shuffle": False}
    how = {"hidden_layer_sizes": units, "batch_size": batch, "max_iter": epochs, **never}

    def fits(device: str) -> list[float]:
        models = [MLPClassifier(**how, device=device, random_state=k) for k in range(n)]
        return [model.loss_ for model in fit_many(models, *made[2:])]

    ways = {"hotloop cuda": lambda: fits("cuda"), "hotloop cpu": lambda: fits("cpu")}
    if with_torch:
        train = torch_trainer(True, *made)
        ways["torch graph"] = lambda: [train(epochs) for _ in range(n)][:1]
    return ways


def compare_many(n: int, *, with_torch: bool) -> list[dict]:
    """Many small models: the same losses first, which compiles, then times in turns."""
    ways = many_ways(n, with_torch=with_torch)
    losses = {name: way() for name, way in ways.items()}
    answers = [
        {"loss": {name: of_way[k] for name, of_way in losses.items() if k < len(of_way)}}
        for k in range(n)
    ]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    void = why_losses_differ(answers)
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
    without = why_no_torch()
    if without is not None:
        print(f"without torch: {without}")
    how = {"with_torch": without is None}
    cases = [(hidden, batch) for hidden in options.hidden for batch in options.batch]
    records = [record for case in cases for record in compare(*case, **how)]
    records += compare_many(options.many, **how) if options.many else []
    for one in records:
        value = f"void: {one['void']}" if one["void"] else f"{one['value']:.4g} {one['unit']}"
        print(f"{one['case']:<28}{one['implementation']:<16}{value}")
    if options.json:
        append(options.json, records)
    return int(any(one["void"] for one in records))


if __name__ == "__main__":
    sys.exit(main())
