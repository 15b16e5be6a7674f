"""Muon: orthogonal steps between hidden layers, AdamW elsewhere, against the oracle.

PyTorch rounds its products to bfloat16, so its own steps agree to that; the oracle is a port of its
formulas in double precision.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hotloop.kernels import DEFAULT_BACKEND, KINDS
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import hotloop
import oracle
from hotloop import MLPClassifier, MLPRegressor, Muon, backends, plan, spec
from stacks import Stack, build, make_orders, steps_per_epoch

pytestmark = pytest.mark.filterwarnings("ignore:.*Maximum iterations")

LR, ALPHA = 0.01, 0.2
RECORD = spec.Muon(beta_2=0.99, epsilon=1e-3, adamw_rate=0.5)
TOLERANCE = {"float32": 1e-3, "float64": 1e-10}
#: Units of every kind: one, few, primes, parts of vectors and of tiles, more rows or more columns.
WIDTHS = [
    (9, 7, 5, 3),
    (4, 40, 40, 40, 2),
    (3, 1, 9, 1, 4, 2),
    (5, 130, 61, 1),
    (5, 50, 211, 97, 3),
    (3, 2, 300, 3, 1),
]

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def scalars_of(record, n_steps):
    """What the steps take, of shape (1, n_steps, groups, kinds)."""
    scalars = np.zeros((1, n_steps, len(plan.GROUPS), len(plan.SCALARS)))
    steps = np.arange(1.0, n_steps + 1)
    found = record.scalars(np.full(n_steps, LR), np.full(n_steps, 0.9), steps)
    for name, values in found.items():
        scalars[0, :, :, plan.SCALARS.index(name)] = values[:, None]
    scalars[0, :, 0, plan.SCALARS.index("decay")] = ALPHA
    scalars[0, :, 1, plan.SCALARS.index("shrink")] = 1
    return scalars


def run(problem, record=RECORD, *, batch=10, n_epochs=2, n_jobs=1):
    """The state and the losses after some epochs on hotloop."""
    stack = problem.stack
    compiled = plan.compile_training(
        problem.network,
        dtype=stack.operands or stack.dtype,
        batch_size=batch,
        optimizer=record,
        sparse=stack.sparse,
        backend=stack.backend,
    )
    state = plan.new_state(problem.parameters.copy(), record)
    runner = backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs)
    n_steps = n_epochs * steps_per_epoch(stack.n, batch)
    losses = runner.run(make_orders(problem, n_epochs), scalars_of(record, n_steps))[0]
    runner.read_state(state)
    runner.close()
    return state, losses


def run_oracle(problem, record=RECORD, *, batch=10, n_epochs=2):
    names = ("beta_1", "beta_2", "epsilon", "nesterov", "adamw_rate", "adjust_lr_fn")
    names += ("l1_ratio", "clip_value", "clip_norm", "max_norm")
    how = {name: getattr(record, name) for name in names}
    how |= {"lr": LR, "alpha": ALPHA, "momentum": 0.9, "decay": record.weight_decay}
    how["average"] = record.average_decay or 0.0
    net = problem.net.with_parameters([p.value for p in problem.net.parameters])
    data = (problem.X, problem.Y, problem.sample_weight)
    orders = make_orders(problem, n_epochs)[0]
    return oracle.train_with(net, record.moments, data, orders, batch, oracle.muon, how)


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def assert_close(got, expected, tolerance):
    assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


def assert_as_oracle(problem, record=RECORD, **how):
    """Parameters, slots and losses of hotloop are the oracle's."""
    tolerance = TOLERANCE[problem.stack.dtype]
    state, losses = run(problem, record, **how)
    net, slots, expected = run_oracle(problem, record, **how)
    start = problem.parameters.astype(np.float64)
    assert_close(state.parameters[0] - start, flat(net.parameters) - start, tolerance)
    assert set(state.slots) == set(slots)
    for name, arrays in slots.items():
        assert_close(state.slots[name][0], flat(arrays), tolerance)
    np.testing.assert_allclose(losses, expected, rtol=tolerance)


def problem_of(widths, dtype="float64", **how):
    hidden = ("tanh",) * (len(widths) - 2)
    return build(Stack(widths, hidden, "squared_error", 40, dtype, **how))


# Steps.


@both_dtypes
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_twenty_steps_are_those_of_the_oracle(widths, dtype):
    """Of all shapes; steps of other weights beside them."""
    n_epochs = 5 if dtype == "float64" else 1  # float32 leaves an unstable path sooner
    assert_as_oracle(problem_of(widths, dtype, weighted=True), n_epochs=n_epochs)


@pytest.mark.parametrize(
    "changes",
    [
        {"nesterov": False},
        {"adjust_lr_fn": "original", "weight_decay": 0.3},
        {"l1_ratio": 0.7},
        {"clip_value": 0.002},
        {"clip_norm": 0.1},
        {"max_norm": 0.8},
        {"average_decay": 0.8},
        dict(weight_decay=0.2, l1_ratio=0.4, clip_norm=0.3, max_norm=0.9, average_decay=0.7),
    ],
    ids=str,
)
def test_whatever_is_beside_it(changes):
    """What other optimizers may be asked for besides their rule."""
    problem = problem_of((6, 30, 20, 37, 2))
    assert_as_oracle(problem, replace(RECORD, **changes))


# Other backends.


@pytest.mark.parametrize("widths", [(4, 7, 5, 3), (4, 3, 6, 6, 1)], ids=str)
def test_numba_steps_as_the_oracle(widths):
    """Also where it is not the default."""
    pytest.importorskip("numba")
    changes = dict(l1_ratio=0.4, clip_value=0.01, clip_norm=0.3, average_decay=0.7)
    for record in (RECORD, replace(RECORD, adjust_lr_fn="original", nesterov=False, **changes)):
        assert_as_oracle(problem_of(widths, backend="numba"), record)
