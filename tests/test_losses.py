"""Losses beyond scikit-learn's, label smoothing, several quantiles and weights of classes."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hotloop.kernels import DEFAULT_BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_classification
from sklearn.metrics import (
    d2_pinball_score,
    hinge_loss,
    mean_absolute_error,
    mean_gamma_deviance,
    mean_pinball_loss,
    mean_tweedie_deviance,
)
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight

import oracle
from hotloop import (
    Focal,
    Huber,
    LogLoss,
    MLPClassifier,
    MLPRegressor,
    Quantile,
    Tweedie,
    backends,
    plan,
    spec,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: Every loss with constants: name, constants, outputs.
CASES = [
    *[(name, (), o) for name in ("absolute_error", "log_cosh", "gamma") for o in (1, 3)],
    *[("huber", (0.75,), o) for o in (1, 19)],
    *[("quantile", (0.2,), o) for o in (1, 3)],
    *[("tweedie", (power,), o) for power, o in ((1.5, 1), (1.5, 3), (3.0, 2), (0.0, 2), (-1.0, 1))],
    *[("binary_focal", constants, o) for constants, o in (((2.0, 1, 1), 1), ((0.5, 0.3, 0.7), 5))],
    *[(name, (), o) for name in ("binary_hinge", "binary_squared_hinge") for o in (1, 3)],
    *[("smooth_log_loss", (0.2,), o) for o in (3, 21)],
    *[("focal", (gamma,), o) for gamma, o in ((2.0, 3), (0.5, 21), (0.0, 4))],
    *[(name, (), o) for name in ("hinge", "squared_hinge") for o in (3, 21)],
    ("ordered_quantiles", (0.1, 0.5, 0.9), 3),
    ("ordered_quantiles", tuple(np.linspace(0.04, 0.96, 23).tolist()), 23),
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}{c[1][:2]}x{c[2]}")
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


def points(case, n=37, seed=0):
    """Outputs Z and dense targets Y (n, O), in float32's grid, with kinks and far ends."""
    name, constants, n_outputs = case
    rng = np.random.default_rng(seed)
    exponential = spec.LOSSES[name].output_activation == "exp"
    Z = rng.normal(size=(n, n_outputs)) * (1.5 if exponential else 3)
    if spec.LOSSES[name].targets == "codes":
        Y = oracle.one_hot(rng.integers(n_outputs, size=n), n_outputs)
    elif name.startswith("binary"):
        Y = rng.integers(2, size=Z.shape).astype(float)
    else:
        Y = rng.gamma(1.0, 2.0, size=Z.shape) + 0.1 if exponential else rng.normal(size=Z.shape) * 3
    if name == "ordered_quantiles":
        Y[:] = Y[:, :1]
    if name == "tweedie" and 1 < constants[0] < 2:
        Y[::3] = 0
    Z, Y = Z.astype(np.float32), Y.astype(np.float32)
    if n > 8 and not exponential:
        Z[0] = Y[0]  # no slope, or one of two
        Z[1], Z[2] = 1, -1
        Z[3] *= 10
        Z[4], Z[5] = 30 * (2 * Y[4] - 1), -30 * (2 * Y[5] - 1)
        Z[6] = 0
    return Z.astype(float), Y.astype(float)


def of_kernel(case, Z, Y, dtype, backend=DEFAULT_BACKEND, weight=None):
    """Mean loss and deltas (n, O) of a kernel: those of a layer that turns row r into Z[r]."""
    name, constants, n_outputs = case
    n = len(Z)
    loss = spec.loss_with(name, *constants)
    network = spec.Network((n,), (spec.Dense(n_outputs),), loss)
    y = Y.argmax(axis=1).astype(np.int32) if loss.targets == "codes" else Y.astype(dtype)
    streams = {"X": np.eye(n, dtype=dtype), "y": y}
    if weight is not None:
        streams["sample_weight"] = weight
    compiled = plan.compile_gradients(network, dtype=np.dtype(dtype), backend=backend)
    runner = backends.open_runner(compiled, None, streams)
    parameters = np.concatenate([Z.ravel(), np.zeros(n_outputs)]).astype(dtype)
    gradient = np.empty_like(parameters)
    value = runner.gradients(parameters, gradient, decay=0.0)
    runner.close()
    total = n if weight is None else weight.sum()
    return value, gradient[: Z.size].reshape(Z.shape).astype(float) * total


def assert_kernel_matches(case, dtype, backend=DEFAULT_BACKEND, n=37):
    """Deltas of all rows, the losses of each by itself, and the weighted mean."""
    Z, Y = points(case, n)
    losses, deltas = oracle.LOSSES_OF_Z[case[0]](Z, Y, *case[1])
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    weight = np.random.default_rng(1).uniform(0.5, 2, n)
    value, found = of_kernel(case, Z, Y, dtype, backend, weight)
    np.testing.assert_allclose(found, deltas * weight[:, None], **close)
    np.testing.assert_allclose(value, np.average(losses, weights=weight), **close)
    for r in range(0, n, 1 if backend != "cuda" else 5):
        value, found = of_kernel(case, Z[r : r + 1], Y[r : r + 1], dtype, backend)
        np.testing.assert_allclose(value, losses[r], **close)
        np.testing.assert_allclose(found[0], deltas[r], **close)


# The oracle's formulas, and the kernels against them.


@by_case
def test_the_oracles_deltas_are_slopes_of_its_losses(case):
    """Central differences, away from kinks."""
    Z, Y = points(case, n=8, seed=3)
    loss = oracle.LOSSES_OF_Z[case[0]]
    _, deltas = loss(Z, Y, *case[1])
    for o in range(Z.shape[1]):
        step = np.zeros_like(Z)
        step[:, o] = 1e-6
        slope = (loss(Z + step, Y, *case[1])[0] - loss(Z - step, Y, *case[1])[0]) / 2e-6
        np.testing.assert_allclose(deltas[:, o], slope, rtol=1e-5, atol=1e-7)


@both_dtypes
@by_case
def test_kernels_agree_with_the_oracle(case, dtype):
    """One row or many, one output or more than a vector has lanes."""
    assert_kernel_matches(case, dtype)


@pytest.mark.skipif(backends.why_unavailable("numba") is not None, reason="numba is not installed")
@by_case
def test_numba_agrees_with_the_oracle(case):
    assert_kernel_matches(case, "float64", "numba")


@both_dtypes
@pytest.mark.parametrize("name", ["log_cosh", "gamma"])
def test_small_losses_keep_their_digits(name, dtype):
    """Near the target a loss is a square: nothing of it is lost to larger terms."""
    y = 1.0 if name == "gamma" else 0.0
    for d in (1e-3, 2.0**-20):
        value, _ = of_kernel((name, (), 1), np.array([[d]]), np.array([[y]]), dtype)
        expected = d * d / 2 - (d**3 / 6 if name == "gamma" else 0)
        assert value == pytest.approx(expected, rel=1e-5)


@both_dtypes
def test_a_small_focal_loss_keeps_its_digits(dtype):
    """Of a class that is all but certain the entropy is about the rest, far below 1."""
    for margin in (6.0, 12.0):
        value, _ = of_kernel(("focal", (1.0,), 3), np.array([[margin, 0, 0]]), np.eye(3)[:1], dtype)
        rest = 2 * np.exp(-margin) / (1 + 2 * np.exp(-margin))
        assert value == pytest.approx(-rest * np.log1p(-rest), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["compiled", "numba"])
@pytest.mark.parametrize("power", [-1.0, 0.0, 1.1, 1.5, 1.9])
def test_tweedie_is_finite_where_a_target_of_zero_meets_an_infinite_power(power, backend, dtype):
    """A mean that is as good as 0 is right for it: no slope, no loss."""
    if backends.why_unavailable(backend) is not None:
        pytest.skip(backends.why_unavailable(backend))
    far = -180.0 if dtype == "float32" else -1500.0
    X, y = np.array([[far], [1.0]], dtype), np.array([0.0, np.e])
    how = {"init": ([[[1.0]]], [[0.0]]), "learning_rate_init": 1e-9, "backend": backend}
    regr = MLPRegressor(Tweedie(power=power), (), max_iter=1, alpha=0.0, **how).fit(X, y)
    assert regr.loss_ == pytest.approx(0, abs=1e-6)
    assert regr.coefs_[0] == pytest.approx(1)


def test_focal_of_gamma_zero_is_the_log_loss():
    """And label smoothing of zero is no smoothing, to the bit."""
    X, y = load_iris(return_X_y=True)
    how = {"hidden_layer_sizes": 5, "max_iter": 5, "random_state": 0}
    for keep in (slice(None), y < 2):
        plain = MLPClassifier(**how).fit(X[keep], y[keep])
        focal = MLPClassifier(loss=Focal(gamma=0), **how).fit(X[keep], y[keep])
        same = MLPClassifier(loss=LogLoss(label_smoothing=0), **how).fit(X[keep], y[keep])
        np.testing.assert_allclose(focal.loss_curve_, plain.loss_curve_, rtol=1e-10)
        np.testing.assert_array_equal(same.coefs_[0], plain.coefs_[0])


def test_several_quantiles_never_cross():
    """Whatever the outputs before the activation are, in both precisions."""

    @settings(max_examples=60)
    @given(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9),
        st.sampled_from(["float32", "float64"]),
    )
    def check(z, dtype):
        network = spec.Network((1,), (spec.Dense(len(z)),), spec.LOSSES["ordered_quantiles"])
        compiled = plan.compile_inference(network, dtype=np.dtype(dtype))
        weight, bias = np.zeros((1, len(z)), dtype), np.array(z, dtype)
        out = backends.predict(compiled, [weight], [bias], np.ones((3, 1), dtype))
        assert (np.diff(out, axis=1) >= 0).all()
        np.testing.assert_allclose(out[:1], oracle.ordered(bias[None].astype(float)), rtol=1e-5)

    check()


# Estimators against PyTorch's own losses.


def _regression_losses(torch):
    F = torch.nn.functional

    def pinball(y, p, q):
        return torch.maximum(q * (y - p), (q - 1) * (y - p))

    def quantiles(z, y):
        p = torch.cumsum(torch.cat([z[:, :1], F.softplus(z[:, 1:])], dim=1), dim=1)
        return pinball(y, p, torch.tensor([0.1, 0.5, 0.9], dtype=z.dtype)).sum()

    def tweedie(z, y):
        return (-y * torch.exp(-0.5 * z) / -0.5 + torch.exp(0.5 * z) / 0.5).sum()

    return {
        "absolute_error": torch.nn.L1Loss(reduction="sum"),
        Huber(delta=0.6): torch.nn.HuberLoss(reduction="sum", delta=0.6),
        "log_cosh": lambda z, y: torch.log(torch.cosh(z - y)).sum(),
        Quantile(quantiles=0.3): lambda z, y: pinball(y, z, 0.3).sum(),
        Quantile(quantiles=[0.1, 0.5, 0.9]): quantiles,
        "poisson": torch.nn.PoissonNLLLoss(log_input=True, reduction="sum"),
        "gamma": lambda z, y: (z + y * torch.exp(-z)).sum(),
        "tweedie": tweedie,
    }


def _classification_losses(torch):
    F = torch.nn.functional

    def sigmoid_focal(z, y):
        p = torch.sigmoid(z)
        p_t, alpha_t = p * y + (1 - p) * (1 - y), 0.25 * y + 0.75 * (1 - y)
        entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        return (alpha_t * (1 - p_t) ** 2 * entropy).sum()

    def softmax_focal(z, y):
        entropy = F.cross_entropy(z, y, reduction="none")
        return ((1 - torch.exp(-entropy)) ** 2 * entropy).sum()

    def crammer_singer(z, y):
        own = z.gather(1, y[:, None])
        others = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -np.inf)
        return torch.relu(1 + others.max(1, keepdim=True)[0] - own)

    def bce(z, y):
        return F.binary_cross_entropy_with_logits(z, y, reduction="sum")

    return {
        "binary": {
            "log_loss": bce,
            LogLoss(label_smoothing=0.2): lambda z, y: bce(z, 0.8 * y + 0.1),
            Focal(alpha=0.25): sigmoid_focal,
            "hinge": lambda z, y: F.relu(1 - (2 * y - 1) * z).sum(),
            "squared_hinge": lambda z, y: (F.relu(1 - (2 * y - 1) * z) ** 2).sum(),
        },
        "multiclass": {
            LogLoss(label_smoothing=0.2): lambda z, y: F.cross_entropy(
                z, y, reduction="sum", label_smoothing=0.2
            ),
            "focal": softmax_focal,
            "hinge": lambda z, y: crammer_singer(z, y).sum(),
            "squared_hinge": lambda z, y: (crammer_singer(z, y) ** 2).sum(),
        },
    }


def assert_20_steps_agree(torch, estimator, X, y, target, loss):
    """Gradient descent over all rows from the weights that one step left."""
    rate, start = 0.05, clone(estimator).set_params(learning_rate_init=1e-12).fit(X, y)
    layers = [torch.tensor(a, requires_grad=True) for a in (*start.coefs_, *start.intercepts_)]
    descent = torch.optim.SGD(layers, lr=rate)
    for _ in range(20):
        descent.zero_grad()
        h = torch.tanh(torch.tensor(X) @ layers[0] + layers[2])
        (loss(h @ layers[1] + layers[3], target) / len(X)).backward()
        descent.step()
    start.set_params(warm_start=True, learning_rate_init=rate, max_iter=20).fit(X, y)
    for ours, theirs in zip((*start.coefs_, *start.intercepts_), layers, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-6, atol=1e-9)


PLAIN_DESCENT = {
    **{"hidden_layer_sizes": 7, "activation": "tanh", "solver": "sgd", "momentum": 0.0},
    **{"alpha": 0.0, "batch_size": 1000, "shuffle": False, "max_iter": 1, "random_state": 0},
    **{"n_iter_no_change": 1000},
}
clipped_batches = pytest.mark.filterwarnings("ignore:Got `batch_size`")


@clipped_batches
def test_20_steps_of_regression_are_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), rng.gamma(2.0, 1.0, 40)
    for loss, theirs in _regression_losses(torch).items():
        estimator = MLPRegressor(loss=loss, **PLAIN_DESCENT)
        assert_20_steps_agree(torch, estimator, X, y, torch.tensor(y)[:, None], theirs)


@clipped_batches
def test_20_steps_of_classification_are_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X, both = rng.normal(size=(40, 4)), _classification_losses(torch)
    for kind, losses in both.items():
        y = rng.integers(2 if kind == "binary" else 4, size=40)
        target = torch.tensor(y)[:, None].double() if kind == "binary" else torch.tensor(y)
        for loss, theirs in losses.items():
            estimator = MLPClassifier(loss=loss, **PLAIN_DESCENT)
            assert_20_steps_agree(torch, estimator, X, y, target, theirs)
    Y = rng.integers(2, size=(40, 3))
    for loss, theirs in both["binary"].items():
        estimator = MLPClassifier(loss=loss, **PLAIN_DESCENT)
        assert_20_steps_agree(torch, estimator, X, Y, torch.tensor(Y).double(), theirs)


# Estimators against scikit-learn's metrics.

REGRESSION = {
    "absolute_error": mean_absolute_error,
    "gamma": lambda y, p: mean_gamma_deviance(y, p) / 2,
    "tweedie": lambda y, p: mean_tweedie_deviance(y, p, power=1.5) / 2,
    Tweedie(power=3): lambda y, p: mean_tweedie_deviance(y, p, power=3) / 2,
    Tweedie(power=1): lambda y, p: mean_tweedie_deviance(y, p, power=1) / 2,
    Tweedie(power=0): lambda y, p: mean_tweedie_deviance(y, p, power=0) / 2,
    Tweedie(power=-1.5): lambda y, p: mean_tweedie_deviance(y, p, power=-1.5) / 2,
    Quantile(quantiles=0.8): lambda y, p: mean_pinball_loss(y, p, alpha=0.8),
    Quantile(quantiles=[0.2, 0.7]): lambda y, p: sum(
        mean_pinball_loss(y, p[:, k], alpha=q) for k, q in enumerate((0.2, 0.7))
    ),
    "huber": lambda y, p: np.where(abs(y - p) < 1, (y - p) ** 2 / 2, abs(y - p) - 0.5).mean(),
    "log_cosh": lambda y, p: np.log(np.cosh(y - p)).mean(),
}


@pytest.mark.parametrize("loss", REGRESSION, ids=str)
def test_the_loss_of_a_regressor_is_scikit_learns_metric(loss):
    """Of its predictions, and it is much less than at the start."""
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X), y / 100
    how = {"solver": "lbfgs", "alpha": 0, "random_state": 0, "hidden_layer_sizes": 4}
    first, last = (MLPRegressor(loss=loss, max_iter=n, **how).fit(X, y) for n in (1, 60))
    assert last.loss_ == pytest.approx(REGRESSION[loss](y, last.predict(X)), rel=1e-9)
    assert last.loss_ < 0.8 * first.loss_


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_loss_of_a_classifier_is_scikit_learns_metric(n_classes):
    """hinge_loss, and what is written out where it has none."""
    X, y = load_iris(return_X_y=True)
    X, y = scale(X[y < n_classes]), y[y < n_classes]
    how = {"solver": "lbfgs", "alpha": 0, "random_state": 0, "max_iter": 4}
    clf = MLPClassifier(3, loss="hinge", **how).fit(X, y)
    raw = clf.decision_function(X)
    assert clf.loss_ == pytest.approx(hinge_loss(y, raw), rel=1e-9)
    expected = raw.argmax(1) if n_classes > 2 else (raw > 0).astype(int)
    np.testing.assert_array_equal(clf.predict(X), expected)
    clf = MLPClassifier(3, loss=LogLoss(label_smoothing=0.1), **how).fit(X, y)
    raw = clf.decision_function(X).reshape(len(X), -1)
    log_p = log_softmax(raw if n_classes > 2 else np.hstack([0 * raw, raw]), axis=1)
    smooth = 0.9 * np.eye(n_classes)[y] + 0.1 / n_classes
    assert clf.loss_ == pytest.approx(-(smooth * log_p).sum(axis=1).mean(), rel=1e-9)


# What an estimator does with a loss.

CLASSIFIER_LOSSES = ("log_loss", "focal", "hinge", "squared_hinge", LogLoss(label_smoothing=0.1))
REGRESSOR_LOSSES = (
    *("squared_error", "absolute_error", "huber", "log_cosh", "quantile", "poisson", "gamma"),
    *("tweedie", Quantile(quantiles=[0.3, 0.6])),
)
EVERY = [(MLPClassifier, loss) for loss in CLASSIFIER_LOSSES]
EVERY += [(MLPRegressor, loss) for loss in REGRESSOR_LOSSES]
every_loss = pytest.mark.parametrize(
    ("Estimator", "loss"), EVERY, ids=lambda v: str(v) if not isinstance(v, type) else v.__name__
)
rng = np.random.default_rng(0)
X = rng.normal(size=(30, 4))
TARGETS = {
    "binary": (X[:, 0] > 0.2).astype(int),
    "multiclass": rng.integers(3, size=30),
    "multilabel": rng.integers(2, size=(30, 3)),
    "numbers": rng.gamma(2.0, 1.0, 30),
}


def targets_for(Estimator):
    kinds = ("numbers",) if Estimator is MLPRegressor else ("binary", "multiclass", "multilabel")
    return [TARGETS[kind] for kind in kinds]


@clipped_batches
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@every_loss
def test_a_weight_of_two_is_a_row_twice_and_of_zero_none(Estimator, loss, solver):
    """To rounding, under every loss and solver."""
    weight = np.random.default_rng(2).integers(3, size=len(X)).astype(float)
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    how = {"solver": solver, "max_iter": 6, "shuffle": False, "batch_size": 1000, "random_state": 0}
    for y in targets_for(Estimator):
        one = Estimator(loss=loss, hidden_layer_sizes=3, **how).fit(X, y, weight)
        two = Estimator(loss=loss, hidden_layer_sizes=3, **how).fit(X[rows], y[rows])
        assert one.loss_ == pytest.approx(two.loss_, rel=1e-7)
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@every_loss
def test_sparse_threads_and_rounded_operands(Estimator, loss, always_shared):
    """CSR input ends where dense does, threads change no bit, bfloat16 trains nearby."""
    some = np.tile(np.where(np.abs(X) < 0.5, 0, X), (40, 1))
    for y in targets_for(Estimator):
        y = np.concatenate([y] * 40)
        how = {"loss": loss, "max_iter": 2, "random_state": 0, "batch_size": 500}
        dense, sparse, threads, rounded = (
            Estimator(hidden_layer_sizes=(33, 5), **how, **more)
            for more in ({"n_jobs": 1}, {}, {"n_jobs": 2}, {"precision": "bfloat16_emulated"})
        )
        dense.fit(some, y)
        sparse.fit(scipy.sparse.csr_matrix(some), y)
        threads.fit(some, y)
        assert always_shared[-1] == (2 if DEFAULT_BACKEND == "compiled" else 1)
        np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-9)
        np.testing.assert_array_equal(threads.coefs_[0], dense.coefs_[0])
        if backends.why_no_operands("bfloat16_emulated", DEFAULT_BACKEND) is None:
            rounded.fit(some, y)
            np.testing.assert_allclose(rounded.loss_curve_, dense.loss_curve_, rtol=0.02)


@every_loss
def test_rows_go_through_pickles_clones_and_few_row_predictions(Estimator, loss):
    """And have the same bits in any company."""
    for y in targets_for(Estimator):
        for dtype in (np.float32, np.float64):
            est = Estimator(loss=loss, hidden_layer_sizes=9, max_iter=2, random_state=0)
            est.fit(X.astype(dtype), y)
            whole = est.predict(X.astype(dtype))
            np.testing.assert_array_equal(est.predict(X[3:5].astype(dtype)), whole[3:5])
            again = pickle.loads(pickle.dumps(est))
            np.testing.assert_array_equal(again.predict(X.astype(dtype)), whole)
            other = clone(est).fit(X.astype(dtype), y)
            np.testing.assert_array_equal(other.coefs_[0], est.coefs_[0])


@every_loss
def test_early_stopping_partial_fit_and_warm_starts(Estimator, loss):
    """All go on, a warm start to another loss through the same link included."""
    for y in targets_for(Estimator):
        how = {"hidden_layer_sizes": 4, "max_iter": 5, "random_state": 0, "loss": loss}
        stopped = Estimator(early_stopping=True, validation_fraction=0.3, **how).fit(X, y)
        assert np.isfinite(stopped.validation_scores_).all()
        est = Estimator(**how).fit(X, y)
        before = est.coefs_[0].copy()
        est.partial_fit(X, y)
        assert (est.coefs_[0] != before).any()
        est.set_params(warm_start=True).fit(X, y)


def test_warm_start_to_another_loss_of_the_same_link():
    """Another number of outputs or another link is an error that says so."""
    y = TARGETS["numbers"]
    regr = MLPRegressor("absolute_error", 3, max_iter=3, warm_start=True).fit(X, y)
    regr.set_params(loss="quantile").fit(X, y)
    assert list(regr.quantiles_) == [0.5]
    regr.set_params(loss="huber").fit(X, y)
    assert not hasattr(regr, "quantiles_")
    with pytest.raises(ValueError, match="out_activation_"):
        regr.set_params(loss=Quantile(quantiles=[0.1, 0.9])).fit(X, y)
    regr.set_params(warm_start=False).fit(X, y)
    with pytest.raises(ValueError, match="units"):
        regr.set_params(warm_start=True, loss=Quantile(quantiles=[0.1, 0.5, 0.9])).fit(X, y)
    clf = MLPClassifier(3, loss="hinge", max_iter=3, warm_start=True).fit(X, TARGETS["binary"])
    clf.set_params(loss="squared_hinge").fit(X, TARGETS["binary"])
    with pytest.raises(ValueError, match="out_activation_"):
        clf.set_params(loss="focal").fit(X, TARGETS["binary"])


def test_a_hinge_has_no_probabilities():
    """Before a fit and after; its other methods are there, and calibration works."""
    for kind in ("binary", "multiclass", "multilabel"):
        clf = MLPClassifier(3, loss="hinge", max_iter=30, random_state=0)
        for each in (clf, clf.fit(X, TARGETS[kind])):
            assert not hasattr(each, "predict_proba")
            assert not hasattr(each, "predict_log_proba")
            with pytest.raises(AttributeError, match="predict_proba"):
                each.predict_proba(X)
        raw = clf.decision_function(X)
        assert clf.out_activation_ == "identity"
        if kind == "multilabel":
            np.testing.assert_array_equal(clf.predict(X), raw > 0)
            sparse = clone(clf).fit(X, scipy.sparse.csr_matrix(TARGETS[kind]))
            np.testing.assert_array_equal(sparse.predict(X).toarray(), raw > 0)
    assert hasattr(clf.set_params(loss="log_loss").fit(X, TARGETS["binary"]), "predict_proba")


def test_several_quantiles_of_an_estimator():
    """Shape, order, coverage, and the score is D2."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(600, 1))
    y = x.ravel() + (1.2 + x.ravel()) * rng.uniform(size=600)
    levels = [0.1, 0.5, 0.9]
    regr = MLPRegressor(Quantile(quantiles=levels), 8, solver="lbfgs", random_state=0)
    found = regr.fit(x, y).predict(x)
    assert found.shape == (600, 3)
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose((y[:, None] <= found).mean(axis=0), levels, atol=0.03)
    d2 = [d2_pinball_score(y, found[:, k], alpha=q) for k, q in enumerate(levels)]
    assert regr.score(x, y) == pytest.approx(np.mean(d2))
    np.testing.assert_array_equal(regr.quantiles_, levels)
    one = MLPRegressor(Quantile(quantiles=[0.9]), 8, solver="lbfgs", random_state=0).fit(x, y)
    assert one.predict(x).shape == (600,)
    two = MLPRegressor("quantile", 8, max_iter=3, random_state=0).fit(x, np.c_[y, -y])
    assert two.predict(x).shape == (600, 2)
    assert np.isfinite(two.score(x, np.c_[y, -y]))


def test_grid_search_over_a_field_of_a_loss():
    """Once an object is given; the error says so where a name was."""
    grid = GridSearchCV(
        MLPRegressor(Huber(), 3, solver="lbfgs", max_iter=20), {"loss__delta": [0.1, 1.0]}, cv=2
    ).fit(X, TARGETS["numbers"])
    assert grid.best_estimator_.loss.delta in (0.1, 1.0)
    with pytest.raises(ValueError, match="no parameters of its own"):
        MLPRegressor("huber").set_params(loss__delta=1.0)


@pytest.mark.parametrize(
    ("estimator", "y", "said"),
    [
        (MLPRegressor(Huber(delta=0)), "numbers", "delta"),
        (MLPRegressor(Quantile(quantiles=[0.5, 0.1])), "numbers", "each above the one before"),
        (MLPRegressor(Quantile(quantiles=[0.5, 1.0])), "numbers", "between 0 and 1"),
        (MLPRegressor(Quantile(quantiles=[])), "numbers", "between 0 and 1"),
        (MLPRegressor(Quantile(quantiles=["a"])), "numbers", "between 0 and 1"),
        (MLPRegressor(Quantile(quantiles=1.5)), "numbers", "quantiles"),
        (MLPRegressor(Quantile(quantiles=[0.1, 0.9])), "multilabel", "one target"),
        (MLPRegressor(Tweedie(power=0.5)), "numbers", "power"),
        (MLPRegressor("gamma"), "multiclass", "y > 0"),
        (MLPRegressor(Tweedie(power=2.5)), "multiclass", "y > 0"),
        (MLPRegressor(Focal()), "numbers", "loss"),
        (MLPRegressor("hinge"), "numbers", "loss"),
        (MLPClassifier(loss=Huber()), "binary", "loss"),
        (MLPClassifier(loss=LogLoss(label_smoothing=1)), "multiclass", "label_smoothing"),
        (MLPClassifier(loss=Focal(gamma=-1)), "binary", "gamma"),
        (MLPClassifier(loss=Focal(alpha=0.25)), "multiclass", "class_weight"),
        (MLPClassifier(class_weight="even"), "binary", "class_weight"),
        (MLPClassifier(class_weight=[{0: 1}]), "binary", "one label a sample"),
        (MLPClassifier(class_weight={0: 1}), "multilabel", "a list of"),
        (MLPClassifier(class_weight=[{0: 1}]), "multilabel", "a list of"),
        (MLPClassifier(class_weight={0: -1}), "binary", "negative"),
        (MLPClassifier(class_weight={0: np.nan}), "binary", "finite numbers"),
        (MLPClassifier(class_weight={0: "a"}), "binary", "class_weight={0: 'a'} cannot be used"),
        (MLPClassifier(class_weight={0: 1, 7: 2}), "binary", r"of labels that y has not, \[7\]"),
        (MLPClassifier(loss=Focal), "multiclass", "got the class Focal"),
        (MLPClassifier(class_weight={0: 0, 1: 0}), "binary", "no sample any weight"),
        (MLPClassifier(class_weight={"a": 1}), "binary", "class_weight"),
    ],
    ids=lambda v: str(v)[:60],
)
def test_what_cannot_be_is_refused(estimator, y, said):
    """With what came and what to do; nothing is fitted."""
    with pytest.raises(ValueError, match=said):
        estimator.fit(X, TARGETS[y])
    assert not hasattr(estimator, "coefs_")


def test_negative_targets_by_power():
    """Tweedie's tags and refusals."""
    y = X[:, 0]
    for power, positive in ((-1, False), (0, False), (1, True), (1.5, True), (2, True), (3, True)):
        regr = MLPRegressor(Tweedie(power=power), 2, max_iter=1)
        assert regr.__sklearn_tags__().target_tags.positive_only == positive
        if positive:
            with pytest.raises(ValueError, match="requires y"):
                regr.fit(X, y)
        else:
            regr.fit(X, y)


# Weights of classes.


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_class_weights_are_sample_weights(kind):
    """Those of compute_sample_weight, to the bit, times those that are given."""
    y, how = TARGETS[kind], {"hidden_layer_sizes": 3, "max_iter": 4, "random_state": 0}
    cases = ["balanced", {0: 2.0, 1: 0.5}]
    if kind == "multilabel":
        cases = ["balanced", [{0: 2.0}, {1: 0.5, 0: 1}, {1: 3}]]
    for class_weight in cases:
        weight = compute_sample_weight(class_weight, y)
        one = MLPClassifier(class_weight=class_weight, **how).fit(X, y)
        two = MLPClassifier(**how).fit(X, y, weight)
        np.testing.assert_allclose(one.coefs_[0], two.coefs_[0], rtol=1e-12)
        given = np.linspace(1, 2, len(X))
        if class_weight != "balanced":
            one, two = one.fit(X, y, given), two.fit(X, y, given * weight)
            np.testing.assert_allclose(one.coefs_[0], two.coefs_[0], rtol=1e-12)


def test_balanced_counts_weights_so_that_a_weight_of_two_is_a_row_twice():
    """And one of zero no row; of a class that has no weight nothing is divided by zero."""
    y = TARGETS["multiclass"]
    weight = np.random.default_rng(3).integers(3, size=len(X)).astype(float)
    weight[y == 2] = 0
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    how = {"class_weight": "balanced", "solver": "lbfgs", "max_iter": 5, "random_state": 0}
    one = MLPClassifier(3, **how).fit(X, y, weight)
    assert np.isfinite(one.loss_)
    weight[y == 2] = 1
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    one, two = MLPClassifier(3, **how).fit(X, y, weight), MLPClassifier(3, **how)
    two.fit(X[rows], y[rows])
    np.testing.assert_allclose(one.coefs_[0], two.coefs_[0], rtol=1e-6)


def test_class_weights_in_partial_fit():
    """A dict, also where a part has not all classes; 'balanced' is refused."""
    y = np.array(["a", "b", "c"])[TARGETS["multiclass"]]
    clf = MLPClassifier(3, class_weight={"a": 3.0}, random_state=0)
    other = MLPClassifier(3, random_state=0)
    for part in (y == "b", y != "b"):
        clf.partial_fit(X[part], y[part], classes=["a", "b", "c"])
        weight = np.where(y[part] == "a", 3.0, 1.0)
        other.partial_fit(X[part], y[part], weight, classes=["a", "b", "c"])
    np.testing.assert_array_equal(clf.coefs_[0], other.coefs_[0])
    with pytest.raises(ValueError, match="not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=["a", "b", "c"])


def test_class_weights_help_a_rare_class_and_count_in_validation():
    """A rare class is found more often."""
    A, y = make_classification(600, weights=[0.95], flip_y=0.02, class_sep=0.5, random_state=0)
    how = {"solver": "lbfgs", "max_iter": 30, "random_state": 0, "alpha": 10.0}
    found = [
        MLPClassifier(4, class_weight=w, **how).fit(A, y).predict(A)[y == 1].mean()
        for w in (None, "balanced")
    ]
    assert found[1] > found[0] + 0.2
    how = {"early_stopping": True, "max_iter": 3, "random_state": 0}
    one = MLPClassifier(4, class_weight={0: 1, 1: 19}, **how).fit(A, y)
    two = MLPClassifier(4, **how).fit(A, y, np.where(y == 1, 19.0, 1.0))
    assert one.validation_scores_ == two.validation_scores_


def test_the_score_of_quantiles_takes_targets_as_they_are():
    """Neither another number of rows nor of columns is made to fit."""
    X, y = np.linspace(-1, 1, 30).reshape(-1, 1), np.linspace(0, 1, 30)
    two = np.column_stack([y, -y])
    regr = MLPRegressor("quantile", (4,), max_iter=2, random_state=0).fit(X, two)
    assert np.isfinite(regr.score(X, two))
    for wrong in (two.T, two.ravel(), y):
        with pytest.raises(ValueError, match=r"inconsistent numbers|1 targets, but 2"):
            regr.score(X, wrong)


def test_weights_of_classes_that_are_not_named_are_one():
    """And labels that are not there may have one, if all that are there do."""
    X, y = np.linspace(-1, 1, 30).reshape(-1, 1), np.arange(30) % 3
    how = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}
    named = MLPClassifier(class_weight={0: 2.0}, **how).fit(X, y)
    all_of_them = MLPClassifier(class_weight={0: 2.0, 1: 1, 2: 1, 9: 5}, **how).fit(X, y)
    np.testing.assert_array_equal(named.coefs_[0], all_of_them.coefs_[0])
