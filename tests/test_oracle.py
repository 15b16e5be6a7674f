"""The oracle and the comparison helper are checked here, against calculus and scikit-learn."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

import oracle
from bounds import Bounded, assert_within

LOSSES = tuple(oracle.OUTPUT_ACTIVATION)
HIDDEN = ("identity", "relu", "logistic", "tanh")


def make_case(loss, activation, *, n=7, widths=(4, 5, 3), weighted=True, seed=0):
    """A net with parameters of order one, X, dense targets and weights."""
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(widths))
    net = oracle.Net(
        tuple(rng.normal(size=s) / np.sqrt(s[0]) for s in pairs),
        tuple(rng.normal(size=s[1]) for s in pairs),
        (activation,) * (len(pairs) - 1),
        loss,
    )
    Y = {
        "log_loss": lambda: oracle.one_hot(rng.integers(widths[-1], size=n), widths[-1]),
        "binary_log_loss": lambda: rng.integers(2, size=(n, widths[-1])).astype(float),
        "squared_error": lambda: rng.normal(size=(n, widths[-1])),
        "poisson": lambda: rng.poisson(2.0, size=(n, widths[-1])).astype(float),
    }[loss]()
    weights = rng.uniform(0.1, 2, n) if weighted else None
    return net, rng.normal(size=(n, widths[0])), Y, weights


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_the_slopes_of_the_objective(loss, activation, weighted):
    """Every gradient agrees with central differences to the differences' own accuracy."""
    net, X, Y, w = make_case(loss, activation, weighted=weighted)
    _, grads = oracle.gradients(net, X, Y, w, decay=0.3)
    numerical = oracle.numerical_gradients(net, X, Y, w, decay=0.3)
    for got, expected in zip(grads, numerical, strict=True):
        assert np.linalg.norm(got - expected) <= 1e-8 * np.linalg.norm(expected)


def sklearn_twin(net, loss, **parameters):
    """scikit-learn's estimator with the net's parameters, and its targets' form."""
    cls = MLPRegressor if loss in ("squared_error", "poisson") else MLPClassifier
    if cls is MLPRegressor:
        parameters["loss"] = loss
    return cls(
        hidden_layer_sizes=tuple(len(b) for b in net.biases[:-1]),
        activation=net.activations[0],
        shuffle=False,
        max_iter=2,
        **parameters,
    )


RATE = 0.02
SOLVERS = {
    "sgd": dict(solver="sgd", momentum=0.0, learning_rate_init=RATE),
    "momentum": dict(solver="sgd", nesterovs_momentum=False, learning_rate_init=RATE),
    "nesterov": dict(solver="sgd", learning_rate_init=RATE),
    "adam": dict(solver="adam", learning_rate_init=RATE),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("loss", LOSSES)
def test_two_epochs_agree_with_sklearn(loss, activation, solver):
    """The oracle's training, batches with a short last one, is scikit-learn's in float64."""
    net, X, Y, w = make_case(loss, activation, n=11)
    if loss == "log_loss":
        Y[:3] = np.eye(3)  # every class occurs
        y = Y.argmax(axis=1)
    else:
        y = Y
    twin = sklearn_twin(net, loss, alpha=0.2, batch_size=4, random_state=0, **SOLVERS[solver])

    def start(y, layer_units, dtype, initialize=twin._initialize):
        initialize(y, layer_units, dtype)
        twin.coefs_ = [W.copy() for W in net.weights]
        twin.intercepts_ = [b.copy() for b in net.biases]

    twin._initialize = start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        twin.fit(X, y, sample_weight=w)

    trained, losses = train_with_oracle(net, (X, Y, w), twin)
    np.testing.assert_allclose(losses, twin.loss_curve_, rtol=1e-12)
    for got, expected in zip(trained.parameters, twin.coefs_ + twin.intercepts_, strict=True):
        assert np.linalg.norm(got - expected) <= 1e-12 * np.linalg.norm(expected)


def train_with_oracle(net, data, twin):
    adam = twin.solver == "adam"
    steps = range(1, 2 * 3 + 1)
    rates = [oracle.adam_rate(RATE, t) if adam else RATE for t in steps]
    momentum = twin.beta_1 if adam else twin.momentum
    scalars = [[(rate, momentum, twin.alpha), (rate, momentum, 0.0)] for rate in rates]

    def step(parameters, slots, grads, rates, momenta):
        if adam:
            return oracle.adam_step(parameters, slots, grads, rates, momenta, 0.999, 1e-8)
        return oracle.sgd_step(parameters, slots, grads, rates, momenta, twin.nesterovs_momentum)

    zeros = [np.zeros_like(p) for p in net.parameters]
    names = ("first_moment", "second_moment") if adam else ("velocity",)
    slots = dict.fromkeys(names, zeros)
    order = np.tile(np.arange(len(data[0])), (2, 1))
    net, _, losses = oracle.train(net, slots, data, order, scalars, 4, step)
    return net, losses


def test_probabilities_are_clipped_as_sklearn_does():
    """A certain and wrong prediction costs -log(eps) of the dtype, not infinity."""
    value = oracle.data_loss("log_loss", np.eye(2)[[1]], np.array([[1.0, 0.0]]), None, 1e-7)
    assert value == pytest.approx(-np.log(1e-7))


def test_a_batch_of_zero_weight_is_skipped_whole():
    """No step, no loss: training goes on as if the batch were absent."""
    net, X, Y, _ = make_case("squared_error", "tanh", n=4)
    w = np.array([0.0, 0.0, 1.0, 2.0])
    scalars = np.full((2, 2, 3), 0.1)

    def step(parameters, slots, grads, rates, momenta):
        return oracle.sgd_step(parameters, slots, grads, rates, momenta, False)

    slots = {"velocity": [np.zeros_like(p) for p in net.parameters]}
    got, _, losses = oracle.train(net, slots, (X, Y, w), [np.arange(4)], scalars, 2, step)
    alone, _, loss_alone = oracle.train(
        net, slots, (X[2:], Y[2:], w[2:]), [np.arange(2)], scalars, 2, step
    )
    assert losses[0] == loss_alone[0] / 2
    for a, b in zip(got.parameters, alone.parameters, strict=True):
        np.testing.assert_array_equal(a, b)


# The error bounds and the comparison helper.


def bounded_case(loss, activation, dtype, **kwargs):
    net, X, Y, w = make_case(loss, activation, **kwargs)
    cast = [np.asarray(p, dtype=dtype) for p in net.parameters]
    exact = net.with_parameters([Bounded.rounded(p, dtype) for p in cast])
    return net.with_parameters(cast), exact, X.astype(dtype), Y.astype(dtype), w


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("loss", LOSSES)
def test_numpy_in_either_dtype_keeps_the_bounds(loss, activation, dtype):
    """Running the same formulas in the dtype itself stays within the bounds, which are small."""
    plain, exact, X, Y, w = bounded_case(loss, activation, dtype, widths=(60, 40, 3), n=50)
    _, got = oracle.gradients(plain, X, Y, w.astype(dtype), 0.25)
    value, expected = oracle.gradients(exact, X, Y, w, 0.25)
    assert got[0].dtype == dtype
    for g, e in zip(got, expected, strict=True):
        assert_within(g, e, "gradient")
    assert value.error < 200 * 50 * np.finfo(dtype).eps * value.value


@pytest.mark.parametrize("loss", LOSSES)
def test_bounded_values_are_those_of_the_plain_oracle(loss):
    """Carrying bounds along does not change the reference."""
    net, X, Y, w = make_case(loss, "tanh")
    exact = net.with_parameters([Bounded.rounded(p, np.float64) for p in net.parameters])
    plain_loss, plain = oracle.gradients(net, X, Y, w, 0.1)
    value, bounded = oracle.gradients(exact, X, Y, w, 0.1)
    assert value.value == pytest.approx(plain_loss, rel=1e-14)
    for p, b in zip(plain, bounded, strict=True):
        np.testing.assert_allclose(b.value, p, rtol=1e-12, atol=1e-15)


def reference(dtype=np.float32):
    _, exact, X, _, _ = bounded_case("squared_error", "tanh", dtype, n=9)
    return oracle.forward(exact, X)[-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "damage",
    {
        "zeros": lambda a: np.zeros_like(a),
        "ones": lambda a: np.ones_like(a),
        "nan": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 4, np.nan, a),
        "last row lost": lambda a: np.vstack([a[:-1], np.zeros_like(a[-1:])]),
        "rows swapped": lambda a: a[::-1],
        "columns swapped": lambda a: a[:, ::-1],
        "transposed": lambda a: a.T,
        "one row short": lambda a: a[:-1],
        "one element off": lambda a: a + 1e-4 * (np.arange(a.size).reshape(a.shape) == 3),
    }.items(),
    ids=lambda item: item[0],
)
def test_helper_rejects_a_damaged_result(damage, dtype):
    """Each way of being wrong fails; the undamaged values pass."""
    expected = reference(dtype)
    assert_within(expected.value.astype(dtype), expected)
    with pytest.raises(AssertionError):
        assert_within(damage[1](expected.value.astype(dtype)), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_helper_rejects_every_single_corrupted_weight(dtype):
    """Changing any one weight by a percent moves the prediction out of its bounds."""
    plain, exact, X, _, _ = bounded_case("squared_error", "tanh", dtype, n=9)
    expected = oracle.forward(exact, X)[-1]
    for k, parameter in enumerate(plain.parameters):
        for index in np.ndindex(parameter.shape):
            parameters = [p.copy() for p in plain.parameters]
            parameters[k][index] *= 1.01
            got = oracle.forward(plain.with_parameters(parameters), X)[-1]
            with pytest.raises(AssertionError):
                assert_within(got, expected)


def test_helper_rejects_a_reference_that_says_nothing():
    """Where the bound is as large as the values, zeros would pass: that is an error."""
    empty = Bounded(np.full(3, 1e-9), 1e-9, np.float32)
    with pytest.raises(AssertionError, match="says nothing"):
        assert_within(np.zeros(3, np.float32), empty)
