"""The same training run, written for each of the libraries that are compared.

Every one starts from the same weights, sees the same batches in the same order, and takes
Adam steps on the mean log-loss with scikit-learn's L2 term: they must end at the same loss.
"""

from __future__ import annotations

import importlib.util
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from cases import Case

SEED = 0
# scikit-learn's defaults
ALPHA = 1e-4
BETA_2 = 0.999
EPSILON = 1e-8


def why_absent(peer: str) -> str | None:
    """Say why a peer cannot take part, or None if it can."""
    package = {"hotloop": "hotloop", "sklearn": "sklearn", "torch": "torch"}[peer]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return None


def train(peer: str, case: Case, X: np.ndarray, y: np.ndarray, epochs: int) -> tuple[float, float]:
    """Train from the start for so many epochs.

    Parameters
    ----------
    peer : {"hotloop", "sklearn", "torch"}
    X : ndarray of shape (n, d), float32 or float64
    y : ndarray of shape (n,), class indices

    Returns
    -------
    seconds : float
        Time of the whole call, preparations included.
    loss : float
        Mean loss of the last epoch, L2 term included.
    """
    if peer == "torch":
        return _train_torch(case, X, y, epochs)
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


def _train_torch(case: Case, X: np.ndarray, y: np.ndarray, epochs: int) -> tuple[float, float]:
    """Train with PyTorch as one would: eager, a Sequential, and the fused Adam."""
    import torch

    start = time.perf_counter()
    rng = np.random.RandomState(SEED)
    modules: list[torch.nn.Module] = []
    for weight, bias in _initial_weights(case, rng, X.dtype):
        linear = torch.nn.utils.skip_init(
            torch.nn.Linear, *weight.shape, dtype=torch.from_numpy(weight).dtype
        )
        linear.weight.data.copy_(torch.from_numpy(weight.T))
        linear.bias.data.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*modules[:-1])
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
    for _ in range(epochs):
        rng.shuffle(order)
        shuffled = torch.from_numpy(order)
        total = torch.zeros(())
        for begin in range(0, case.n, case.batch):
            rows = shuffled[begin : begin + case.batch]
            optimizer.zero_grad(set_to_none=True)
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
