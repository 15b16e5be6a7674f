"""Batch and layer normalisation: every backend against the oracle, estimators, PyTorch."""

import sys

import numpy as np
import pytest
import scipy.sparse

import normalized
import oracle
from hotloop import backends, plan, spec
from stacks import OPTIMIZERS, make_scalars

RECORDS = {0: spec.BatchNorm(), 1: spec.LayerNorm()}
both_kinds = pytest.mark.parametrize("axis", [0, 1], ids=["batch", "layer"])
every_backend = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                backends.why_unavailable(name) is not None,
                reason=str(backends.why_unavailable(name)),
            ),
        )
        for name in backends.ENGINES
    ],
)
DECAY = 0.05


@pytest.fixture(autouse=True, scope="module")
def simulated_threads_take_turns_often():
    """The threads of a simulated CUDA device wait for each other in Python."""
    before = sys.getswitchinterval()
    if backends.why_unavailable("cuda") is None:
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def network_of(net, record=None):
    """The spec of an oracle's net."""
    norm = record or (
        spec.BatchNorm(net.momentum, net.epsilon) if net.axis == 0 else spec.LayerNorm(net.epsilon)
    )
    hidden = [
        spec.Dense(len(b), a, norm) for b, a in zip(net.biases[:-1], net.activations, strict=True)
    ]
    layers = (*hidden, spec.Dense(len(net.biases[-1])))
    return spec.Network((net.weights[0].shape[0],), layers, spec.LOSSES[net.loss])


def problem(widths, activations, axis, *, loss="squared_error", n=13, seed=0, sparse=False):
    """An oracle's net, and rows, targets and weights for it."""
    rng = np.random.default_rng(seed)
    net = normalized.make(rng, widths, activations, loss, axis)
    X = rng.normal(size=(n, widths[0]))
    if sparse:
        X[rng.random(X.shape) < 0.5] = 0
    if loss == "log_loss":
        Y = oracle.one_hot(rng.integers(widths[-1], size=n), widths[-1])
    else:
        Y = rng.normal(size=(n, widths[-1]))
    return net, (X, Y, rng.uniform(0.5, 2, n))


def streams_of(net, data, dtype, *, sparse=False):
    X, Y, weight = data
    y = Y.argmax(1).astype(np.int32) if net.loss == "log_loss" else Y.astype(dtype)
    X = X.astype(dtype)
    return {"X": scipy.sparse.csr_matrix(X) if sparse else X, "y": y, "sample_weight": weight}


def hotloop_train(net, data, orders, how):
    """Whole epochs on hotloop: the flat vector, its slots, and losses."""
    batch_size, optimizer, dtype = how["batch_size"], how["optimizer"], np.dtype(how["dtype"])
    compiled = plan.compile_training(
        network_of(net),
        dtype=dtype,
        batch_size=batch_size,
        optimizer=OPTIMIZERS[optimizer],
        sparse=how.get("sparse", False),
        gradients=how.get("gradients", "fused"),
        backend=how["backend"],
    )
    state = plan.new_state(net.flat.astype(dtype), OPTIMIZERS[optimizer])
    streams = streams_of(net, data, dtype, sparse=how.get("sparse", False))
    n_steps = len(orders) * -(-len(orders[0]) // batch_size)
    scalars = make_scalars(optimizer, n_steps, alpha=DECAY)
    runner = backends.open_runner(compiled, state, streams, n_jobs=how.get("n_jobs", 1))
    losses = runner.run(np.asarray(orders, np.intp)[None], scalars)[0]
    runner.read_state(state)
    runner.close()
    return state.parameters[0], {k: v[0] for k, v in state.slots.items()}, losses


def oracle_train(net, data, orders, batch_size, optimizer):
    """The same on the oracle."""
    n_steps = len(orders) * -(-len(orders[0]) // batch_size)
    scalars = iter(make_scalars(optimizer, n_steps, alpha=DECAY)[0, :, 0])
    slots = {
        name: [np.zeros_like(p) for p in net.parameters] for name in OPTIMIZERS[optimizer].slots
    }

    def step(parameters, grads):
        nonlocal slots
        rate, momentum, _ = next(scalars)
        rates, momenta = [rate] * len(grads), [momentum] * len(grads)
        if optimizer == "adam":
            adam = OPTIMIZERS["adam"]
            rules = adam.beta_2, adam.epsilon
            new, slots = oracle.adam_step(parameters, slots, grads, rates, momenta, *rules)
        else:
            nesterov = optimizer == "nesterov"
            new, slots = oracle.sgd_step(parameters, slots, grads, rates, momenta, nesterov)
        return new

    net, losses = normalized.train(net, data, orders, batch_size, step, DECAY)
    return net, slots, losses


def orders_of(n, n_epochs=2, seed=5):
    rng = np.random.default_rng(seed)
    return [rng.permutation(n) for _ in range(n_epochs)]


def assert_close(got, expected, tolerance, what):
    """Each array of a list apart, by its norm."""
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        error = np.linalg.norm(a - b)
        assert error <= tolerance * (np.linalg.norm(b) + 1e-3), f"{what} {k}: off by {error:.3g}"


def assert_trained_alike(net, data, how):
    orders = orders_of(len(data[0]))
    flat, slots, losses = hotloop_train(net, data, orders, how)
    expected, expected_slots, expected_losses = oracle_train(
        net, data, orders, how["batch_size"], how["optimizer"]
    )
    tolerance = 1e-11 if how["dtype"] == "float64" else 2e-4
    start = normalized.split(net, net.flat)
    change = [a - b for a, b in zip(normalized.split(net, flat), start, strict=True)]
    wanted = [a - b for a, b in zip(normalized.split(net, expected.flat), start, strict=True)]
    assert_close(change, wanted, tolerance, "change of array")
    for name, slot in slots.items():
        parts = normalized.split(net, slot)
        n = len(expected_slots[name])
        assert_close(parts[:n], expected_slots[name], tolerance, name)
        assert not any(part.any() for part in parts[n:])  # statistics have no moments
    np.testing.assert_allclose(losses, expected_losses, rtol=max(tolerance / 10, 1e-11))


# The oracle itself.


@both_kinds
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_the_oracles_gradients_are_differences(loss, axis):
    """Of every parameter, weighted rows and a penalty included."""
    net, data = problem(
        (4, 5, 6, 1 if loss == "squared_error" else 3), ("tanh", "logistic"), axis, loss=loss
    )
    got = normalized.gradients(net, *data, DECAY)
    assert_close(got, normalized.numerical_gradients(net, *data, DECAY), 1e-7, "gradient")


# Kernels.

SHAPES = (
    ((1, 1, 1), ("identity",)),
    ((5, 7, 3), ("relu",)),
    ((17, 31, 13, 3), ("tanh", "relu")),
    ((6, 2, 40, 2), ("logistic", "identity")),
    ((30, 130, 65, 4), ("relu", "relu")),
)


@every_backend
@both_kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("widths", "activations"), SHAPES, ids=str)
def test_training_is_the_oracles(widths, activations, dtype, axis, backend):
    """Weights, biases, scales, running statistics, moments and losses, over all kinds of widths."""
    if backend == "cuda" and widths[0] > 6:
        pytest.skip("takes long in the simulator")
    net, data = problem(widths, activations, axis, n=6 if backend == "cuda" else 13)
    how = {"batch_size": 5, "optimizer": "adam", "dtype": dtype, "backend": backend}
    assert_trained_alike(net, data, how)
