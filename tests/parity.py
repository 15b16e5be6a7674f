"""Random configurations, and the rule by which hotloop and scikit-learn are compared on them.

The contract (api.md, section 1): after 10 epochs each fitted array and ``loss_curve_`` satisfy
``norm(a - b) <= tol * norm(b)``, tol 1e-9 in float64 and 1e-4 in float32. A configuration
counts when scikit-learn agrees with its own run under a reversed summation order to tol / 100.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import scipy.sparse
import sklearn.neural_network
import sklearn.neural_network._multilayer_perceptron as sklearn_mlp

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
EPOCHS = 10


@dataclass(frozen=True)
class Configuration:
    """One random case: an estimator's parameters and the calls made on it."""

    seed: int
    name: str  # "MLPClassifier" or "MLPRegressor"
    parameters: dict
    X: object
    y: np.ndarray
    sample_weight: np.ndarray | None
    calls: tuple = ("fit",)
    labels: tuple = field(default=())  # for the report

    @property
    def dtype(self):
        return self.X.dtype.name

    def __str__(self):
        return f"#{self.seed} {self.name}({self.parameters}) {' '.join(self.labels)}"


def configuration(seed):
    """Draw the configuration of a seed."""
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    name = pick("MLPClassifier", "MLPRegressor")
    solver = pick("adam", "adam", "sgd", "sgd", "lbfgs")
    dtype = np.dtype("float64" if solver == "lbfgs" else pick("float64", "float64", "float32"))
    n, d = int(rng.integers(20, 160)), int(rng.integers(1, 25))
    X = rng.normal(size=(n, d)).astype(dtype)
    parameters = {
        "solver": solver,
        "activation": pick("identity", "relu", "logistic", "tanh"),
        "hidden_layer_sizes": pick((), (100,), (int(rng.integers(1, 40)),), (13, 7), (8, 8, 5)),
        "alpha": pick(0.0, 1e-4, 1e-2, 1.0),
        "batch_size": pick("auto", 1, 7, 32, n),
        "random_state": int(rng.integers(1000)),
        "max_iter": EPOCHS,
        "shuffle": bool(rng.integers(4)),
        "tol": pick(1e-4, 1e-4, 0.0, 1e-2),
        "n_iter_no_change": pick(10, 2),
    }
    if solver == "sgd":
        parameters |= {
            "learning_rate": pick("constant", "invscaling", "adaptive"),
            "learning_rate_init": pick(1e-3, 1e-2),
            "momentum": pick(0.0, 0.5, 0.9),
            "nesterovs_momentum": bool(rng.integers(2)),
            "power_t": pick(0.5, 0.25),
        }
    elif solver == "adam":
        parameters |= {
            "learning_rate_init": pick(1e-3, 1e-2),
            "beta_1": pick(0.9, 0.8),
            "beta_2": pick(0.999, 0.99),
        }
    labels = [dtype.name]
    y, kind = _targets(name, pick, rng, X, parameters)
    labels.append(kind)
    calls = ("fit",)
    if solver != "lbfgs":
        calls = pick(("fit",), ("fit",), ("fit",), ("partial_fit",) * 4, ("fit", "partial_fit"))
    if calls == ("fit",) and rng.random() < 0.2:
        parameters["warm_start"] = True
        calls = ("fit", "fit")
    # Not together with warm_start: scikit-learn then trains on in the arrays it has kept as the
    # best ones, and "restores" what it trained last; test_training.py shows what is done here.
    if solver != "lbfgs" and calls in (("fit",), ("fit", "partial_fit")) and rng.random() < 0.35:
        parameters |= {"early_stopping": True, "validation_fraction": pick(0.1, 0.3)}
    sample_weight = None
    if rng.random() < 0.35:
        sample_weight = rng.uniform(0.1, 2, n)
        labels.append("weighted")
    if rng.random() < 0.3:
        X = X * (rng.random(X.shape) < 0.4)
        X = pick(scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.csc_matrix)(X)
        labels.append(type(X).__name__)
    labels.extend(calls)
    return Configuration(seed, name, parameters, X, y, sample_weight, calls, tuple(labels))


def _targets(name, pick, rng, X, parameters):
    """Targets that depend on X, and what they are called; may set the loss."""
    n = X.shape[0]
    signal = X @ rng.normal(size=(X.shape[1], 4)) + rng.normal(size=(n, 4))
    if name == "MLPRegressor":
        kind = pick("one output", "one output", "several outputs", "poisson")
        if kind == "poisson":
            parameters["loss"] = "poisson"
            return rng.poisson(np.exp(np.clip(signal[:, 0], -2, 2))).astype(X.dtype), kind
        columns = 0 if kind == "one output" else slice(3)
        return signal[:, columns].astype(X.dtype), kind
    kind = pick("binary", "multiclass", "multiclass", "multilabel", "strings")
    if kind == "binary":
        return (signal[:, 0] > 0).astype(int), kind
    if kind == "multilabel":
        return (signal[:, :3] > 0.5).astype(int), kind
    codes = signal[:, :3].argmax(axis=1)
    codes[:9] = np.tile(np.arange(3), 3)  # every class often enough to be stratified
    return (np.array(["a", "bb", "ccc"])[codes] if kind == "strings" else codes * 2 - 1), kind


def run(cls, config):
    """Make the calls of a configuration on a new estimator of the class.

    Returns the estimator, or the ValueError a call ended with (a diverged fit). Every
    partial_fit gets other rows than the one before.
    """
    estimator = cls(**config.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, call in enumerate(config.calls):
            rows = slice(k % 3 if call == "partial_fit" else 0, None)
            w = config.sample_weight
            extra = {} if w is None else {"sample_weight": w[rows]}
            if k == 0 and call == "partial_fit" and config.name == "MLPClassifier":
                columns = config.y.shape[1] if config.y.ndim == 2 else None
                extra["classes"] = np.arange(columns) if columns else np.unique(config.y)
            try:
                getattr(estimator, call)(config.X[rows], config.y[rows], **extra)
            except ValueError as error:
                return error
    return estimator


def sklearn_class(config):
    return getattr(sklearn.neural_network, config.name)


@contextmanager
def reversed_summation():
    """scikit-learn's MLP with every sum it takes run the other way round.

    Products sum over inputs, hidden units or rows (``safe_sparse_dot``), intercept gradients
    and losses over rows.
    """
    dot, losses = sklearn_mlp.safe_sparse_dot, sklearn_mlp.LOSS_FUNCTIONS

    def reversed_dot(a, b, **kwargs):
        return dot(a[:, ::-1], b[::-1], **kwargs)

    def reversed_loss(loss):
        def call(y, p, weight=None):
            return loss(y[::-1], p[::-1], weight if weight is None else weight[::-1])

        return call

    def layer_gradient(self, layer, sw_sum, activations, deltas, coef_grads, intercept_grads):
        coef_grads[layer] = reversed_dot(activations[layer].T, deltas[layer])
        coef_grads[layer] += self.alpha * self.coefs_[layer]
        coef_grads[layer] /= sw_sum
        intercept_grads[layer] = np.sum(deltas[layer][::-1], axis=0) / sw_sum

    with (
        mock.patch.object(sklearn_mlp, "safe_sparse_dot", reversed_dot),
        mock.patch.dict(losses, {name: reversed_loss(loss) for name, loss in losses.items()}),
        mock.patch.object(
            sklearn_mlp.BaseMultilayerPerceptron, "_compute_loss_grad", layer_gradient
        ),
    ):
        yield


def fitted_arrays(estimator):
    """Every fitted number of an estimator as named arrays, predictions apart."""
    arrays = {f"coefs_[{k}]": c for k, c in enumerate(estimator.coefs_)}
    arrays |= {f"intercepts_[{k}]": b for k, b in enumerate(estimator.intercepts_)}
    arrays["loss_"] = estimator.loss_
    for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        value = getattr(estimator, name, None)
        if value is not None:
            arrays[name] = value
    return {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}


def distance(a, b):
    """The largest ``norm(a - b) / norm(b)`` over fitted arrays; infinite if they differ in kind.

    Two runs that ended with the same error are equal.
    """
    if isinstance(a, Exception) or isinstance(b, Exception):
        return 0.0 if (type(a), str(a)) == (type(b), str(b)) else np.inf
    one, two = fitted_arrays(a), fitted_arrays(b)
    if one.keys() != two.keys() or any(one[k].shape != two[k].shape for k in one):
        return np.inf
    worst = 0.0
    for name in one:
        norm = np.linalg.norm(np.atleast_1d(two[name]))
        gap = np.linalg.norm(np.atleast_1d(one[name] - two[name]))
        worst = max(worst, gap / norm if norm else (np.inf if gap else 0.0))
    return worst


def decisions_are_close(estimator, margin=1e-5):
    """Whether a stopping decision of the run was within ``margin`` (relative) of the other way."""
    if isinstance(estimator, Exception) or estimator.solver == "lbfgs":
        return False
    scores = getattr(estimator, "validation_scores_", None)
    sign, values = (1, scores) if scores is not None else (-1, estimator.loss_curve_)
    best = -np.inf
    for value in sign * np.asarray(values):
        threshold = best + estimator.tol
        if np.isfinite(threshold) and abs(value - threshold) <= margin * max(abs(value), 1):
            return True
        best = max(best, value)
    return False
