"""The same training run, written for each of the libraries that are compared.

Every one starts from the same weights, sees the same batches in the same order, and takes
Adam steps on the mean log-loss with scikit-learn's L2 term: they must end at the same loss.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from cases import Case

#: What each peer needs.
PACKAGES = {
    "hotloop": ["hotloop"],
    "sklearn": ["sklearn"],
    "torch": ["torch"],
    "torch compiled": ["torch"],
    "torch bfloat16": ["torch"],
    "torchscript": ["torch"],
    "jax": ["jax"],
    "onnxruntime": ["onnx", "onnxruntime"],
}
SEED = 0
# scikit-learn's defaults
ALPHA = 1e-4
BETA_2 = 0.999
EPSILON = 1e-8
#: Turns of timing predictions; one takes about so long, in so many calls at least.
PREDICTION_TURNS, TURN_SECONDS, LEAST_CALLS = 5, 0.05, 3
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")


def why_absent(peer: str) -> str | None:
    """Say why a peer cannot take part, or None if it can."""
    for package in PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return None


def present(peers: Sequence[str]) -> list[str]:
    """Those that can take part; why the others cannot is printed."""
    for peer in peers:
        if (reason := why_absent(peer)) is not None:
            print(f"without {peer}: {reason}")
    return [peer for peer in peers if why_absent(peer) is None]


def train(peer: str, case: Case, X: np.ndarray, y: np.ndarray, epochs: int) -> tuple[float, float]:
    """Train from the start for so many epochs.

    Parameters
    ----------
    peer : {"hotloop", "sklearn", "torch", "torch compiled", "torch bfloat16", "jax"}
    X : ndarray of shape (n, d), float32 or float64
    y : ndarray of shape (n,), class indices

    Returns
    -------
    seconds : float
        Time of the whole call, preparations included.
    loss : float
        Mean loss of the last epoch, L2 term included.
    """
    if peer.startswith("torch"):
        return _train_torch(case, X, y, epochs, kind=peer.removeprefix("torch").strip())
    if peer == "jax":
        return _train_jax(case, X, y, epochs)
    seconds, estimator = fit(peer, case, X, y, epochs)
    return seconds, estimator.loss_curve_[-1]


def classifier(peer: str) -> Callable:
    """Import the MLPClassifier of hotloop or of scikit-learn."""
    if peer == "hotloop":
        from hotloop import MLPClassifier
    else:
        from sklearn.neural_network import MLPClassifier
    return MLPClassifier


def new_estimator(peer: str, case: Case, epochs: int, **parameters: Any) -> Any:
    """Make an estimator that trains for so many epochs and does not stop before."""
    return classifier(peer)(
        case.hidden,
        alpha=parameters.pop("alpha", ALPHA),
        batch_size=case.batch,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=epochs + 1,
        random_state=SEED,
        **parameters,
    )


def fit(
    peer: str, case: Case, X: np.ndarray, y: np.ndarray, epochs: int, **parameters: Any
) -> tuple[float, Any]:
    """Fit an estimator of hotloop or of scikit-learn; returns the seconds it took, and itself."""
    estimator = new_estimator(peer, case, epochs, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        start = time.perf_counter()
        estimator.fit(X, y)
        return time.perf_counter() - start, estimator


def time_epochs(
    runs: dict[str, Callable[[int], tuple[float, Any]]], epochs: int, rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Time what more epochs add to a run, in turns.

    Parameters
    ----------
    runs : dict of str to callable
        Given a number of epochs, each trains so long and returns the seconds it took, and anything.
    epochs, rounds : int
        Epochs beyond the first, and turns, of which the best counts.

    Returns
    -------
    ms : dict of str to float
        Milliseconds an epoch.
    outcomes : dict of str to Any
        What each run returned last, beside its time.
    """
    for run in runs.values():
        run(1)  # imports, thread pools, first touches
    short: dict[str, list[float]] = {name: [] for name in runs}
    long: dict[str, list[float]] = {name: [] for name in runs}
    outcomes = {}
    for _ in range(rounds):
        for name, run in runs.items():
            short[name].append(run(1)[0])
            seconds, outcomes[name] = run(1 + epochs)
            long[name].append(seconds)
    return {name: 1e3 * (min(long[name]) - min(short[name])) / epochs for name in runs}, outcomes


def _initial_weights(
    case: Case, rng: np.random.RandomState, dtype: np.dtype
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw the weights and biases of each layer as scikit-learn does from the same seed."""
    layers = []
    for fan_in, fan_out in zip(case.widths[:-1], case.widths[1:], strict=True):
        bound = np.sqrt(6.0 / (fan_in + fan_out))
        weight = rng.uniform(-bound, bound, (fan_in, fan_out))
        bias = rng.uniform(-bound, bound, fan_out)
        layers.append((weight.astype(dtype), bias.astype(dtype)))
    return layers


def _torch_network(layers: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Make a Sequential of linear layers with these weights, and ReLU between them."""
    import torch

    modules: list[torch.nn.Module] = []
    for weight, bias in layers:
        linear = torch.nn.utils.skip_init(
            torch.nn.Linear, *weight.shape, dtype=torch.from_numpy(weight).dtype
        )
        linear.weight.data.copy_(torch.from_numpy(weight.T))
        linear.bias.data.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


@cache
def _compiled_network(case: Case, dtype: np.dtype) -> Any:
    """One network a case, so that it is compiled once."""
    import torch

    return torch.compile(_torch_network(_initial_weights(case, np.random.RandomState(SEED), dtype)))


def _train_torch(
    case: Case, X: np.ndarray, y: np.ndarray, epochs: int, *, kind: str
) -> tuple[float, float]:
    """Train with PyTorch as one would: a Sequential, and the fused Adam; `kind` is "", "compiled"
    or "bfloat16", which is by autocast.
    """
    import torch

    start = time.perf_counter()
    rng = np.random.RandomState(SEED)
    fresh = _torch_network(_initial_weights(case, rng, X.dtype))
    network = fresh
    if kind == "compiled":
        network = _compiled_network(case, X.dtype)
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), fresh.parameters(), strict=True):
                parameter.copy_(value)
    weights = [p for p in network.parameters() if p.ndim == 2]
    biases = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.Adam(
        [{"params": weights}, {"params": biases}], lr=1e-3, betas=(0.9, BETA_2), fused=True
    )
    inputs = torch.from_numpy(X)
    if case.classes == 2:
        log_loss, targets = (
            torch.nn.BCEWithLogitsLoss(),
            torch.from_numpy(y[:, None].astype(X.dtype)),
        )
    else:
        log_loss, targets = torch.nn.CrossEntropyLoss(), torch.from_numpy(y)

    order = np.arange(case.n)
    step = 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16")
    for _ in range(epochs):
        rng.shuffle(order)
        shuffled = torch.from_numpy(order)
        total = torch.zeros(())
        for begin in range(0, case.n, case.batch):
            rows = shuffled[begin : begin + case.batch]
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = log_loss(network(inputs[rows]), targets[rows])
            loss.backward()
            step += 1
            for group in optimizer.param_groups:
                # scikit-learn adds epsilon before the bias correction, PyTorch after it.
                group["eps"] = EPSILON / math.sqrt(1.0 - BETA_2**step)
            optimizer.param_groups[0]["weight_decay"] = ALPHA / len(rows)
            optimizer.step()
            total += loss.detach() * len(rows)
    mean = total.item() / case.n
    seconds = time.perf_counter() - start
    penalty = sum(float((w.detach().double() ** 2).sum()) for w in weights)
    return seconds, mean + 0.5 * ALPHA * penalty / case.batch


@cache
def _jax_epoch(case: Case) -> Callable:
    """An epoch as one compiled program: a scan over its batches, and a last one that is smaller."""
    import jax
    import jax.numpy as jnp

    def mean_loss(layers: list, x: Any, y: Any) -> Any:
        for weight, bias in layers[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        z = x @ layers[-1][0] + layers[-1][1]
        if case.classes == 2:
            return (jax.nn.softplus(z[:, 0]) - y * z[:, 0]).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()

    def step(X: Any, y: Any, carry: tuple, rows: Any) -> tuple:
        layers, first, second, t = carry
        loss, gradient = jax.value_and_grad(mean_loss)(layers, X[rows], y[rows])
        gradient = [
            (g + ALPHA * w / len(rows), c) for (g, c), (w, _) in zip(gradient, layers, strict=True)
        ]
        t = t + 1
        rate = 1e-3 * jnp.sqrt(1 - BETA_2**t) / (1 - 0.9**t)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, second, gradient)
        layers = jax.tree.map(
            lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), layers, first, second
        )
        return (layers, first, second, t), loss

    def epoch(X: Any, y: Any, carry: tuple, order: Any) -> tuple:
        whole = case.n // case.batch * case.batch
        batches = order[:whole].reshape(-1, case.batch)
        carry, losses = jax.lax.scan(lambda state, rows: step(X, y, state, rows), carry, batches)
        total = losses.sum() * case.batch
        if whole < case.n:
            carry, loss = step(X, y, carry, order[whole:])
            total += loss * (case.n - whole)
        return carry, total / case.n

    return jax.jit(epoch)


def _train_jax(case: Case, X: np.ndarray, y: np.ndarray, epochs: int) -> tuple[float, float]:
    """Train with JAX: whole epochs compiled, float32 only."""
    import jax
    import jax.numpy as jnp

    if X.dtype != np.float32:
        raise ValueError(f"JAX takes float32 here, got {X.dtype}")
    start = time.perf_counter()
    rng = np.random.RandomState(SEED)
    layers = [tuple(map(jnp.asarray, pair)) for pair in _initial_weights(case, rng, X.dtype)]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    carry, data = (layers, zeros, zeros, jnp.zeros((), X.dtype)), (jnp.asarray(X), jnp.asarray(y))
    order = np.arange(case.n)
    for _ in range(epochs):
        rng.shuffle(order)
        carry, loss = _jax_epoch(case)(*data, carry, jnp.asarray(order))
    mean = float(loss)
    seconds = time.perf_counter() - start
    penalty = sum(float((np.asarray(weight, float) ** 2).sum()) for weight, _ in carry[0])
    return seconds, mean + 0.5 * ALPHA * penalty / case.batch


def predictor(peer: str, estimator: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function from rows to probabilities, with the weights of one of hotloop's classifiers.

    Parameters
    ----------
    peer : {"hotloop", "sklearn", "torch", "torchscript", "onnxruntime"}
    estimator : hotloop.MLPClassifier
        Fitted, with ReLU and a softmax.
    """
    if peer == "hotloop":
        return estimator.predict_proba
    layers = list(zip(estimator.coefs_, estimator.intercepts_, strict=True))
    if peer == "sklearn":
        return _sklearn_predictor(estimator)
    if peer == "onnxruntime":
        return _onnx_predictor(layers)
    import torch

    network = torch.nn.Sequential(_torch_network(layers), torch.nn.Softmax(dim=1)).eval()
    if peer == "torchscript":
        example = torch.zeros((1, layers[0][0].shape[0]), dtype=next(network.parameters()).dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.freeze(torch.jit.trace(network, example))

    def predict(X: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(X)).numpy()

    return predict


def time_predictions(predict: dict[str, Callable], X: Any) -> tuple[dict[str, list[float]], float]:
    """Time predictors on the same rows, in turns that take about as long.

    Returns
    -------
    us : dict of str to list of float
        Microseconds of each call.
    differ : float
        How much a probability differs from that of the first predictor, at most.
    """
    outputs = [function(X) for function in predict.values()]
    us: dict[str, list[float]] = {name: [] for name in predict}
    for _ in range(PREDICTION_TURNS):
        for name, function in predict.items():
            us[name] += _calls(function, X)
    return us, float(np.max([np.abs(output - outputs[0]).max() for output in outputs]))


def _calls(function: Callable, X: Any) -> list[float]:
    """Microseconds of each call of a turn."""
    clock, times = time.perf_counter_ns, []
    function(X)
    start = clock()
    function(X)
    n_calls = max(LEAST_CALLS, int(TURN_SECONDS * 1e9 / (clock() - start)))
    for _ in range(n_calls // 10):
        function(X)
    for _ in range(n_calls):
        start = clock()
        function(X)
        times.append((clock() - start) / 1e3)
    return times


def _sklearn_predictor(estimator: Any) -> Callable:
    from sklearn.neural_network import MLPClassifier

    classes, features = estimator.classes_, estimator.n_features_in_
    X = np.zeros((len(classes), features), estimator.coefs_[0].dtype)
    twin = MLPClassifier(estimator.hidden_layer_sizes, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        twin.fit(X, classes)
    twin.coefs_, twin.intercepts_ = estimator.coefs_, estimator.intercepts_
    return twin.predict_proba


def _onnx_predictor(layers: list) -> Callable:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    nodes, weights, name = [], [], "X"
    for k, pair in enumerate(layers):
        weights += [numpy_helper.from_array(a, f"{n}{k}") for a, n in zip(pair, "Wb", strict=True)]
        nodes.append(helper.make_node("Gemm", [name, f"W{k}", f"b{k}"], [f"z{k}"]))
        last = k == len(layers) - 1
        name = "P" if last else f"h{k}"
        kind, more = ("Softmax", {"axis": 1}) if last else ("Relu", {})
        nodes.append(helper.make_node(kind, [f"z{k}"], [name], **more))
    element = helper.np_dtype_to_tensor_dtype(layers[0][0].dtype)
    ends = [
        helper.make_tensor_value_info(end, element, ["n", width])
        for end, width in (("X", layers[0][0].shape[0]), ("P", len(layers[-1][1])))
    ]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else 0
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda X: session.run(None, {"X": X})[0]
