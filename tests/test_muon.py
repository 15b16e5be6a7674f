"""Muon: orthogonal steps between hidden layers, AdamW elsewhere, against the oracle.

PyTorch rounds products to bfloat16. With that one cast taken out, its own steps are compared with,
in double precision. The oracle is a port of its formulas.
"""

import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hotloop.kernels import DEFAULT_BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import oracle
from hotloop import MLPClassifier, MLPRegressor, Muon, backends, plan, spec, vectors
from stacks import ALPHA, LR, Stack, build, make_orders, scalars_of, stepped

pytestmark = pytest.mark.filterwarnings("ignore:.*Maximum iterations")

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


def run(problem, record=RECORD, **how):
    """The state and the losses after some epochs on hotloop."""
    return stepped(problem, record, 0.9, **how)


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


@both_dtypes
def test_sparse_input(dtype):
    """The first weight is AdamW's, on rows of CSR, too."""
    problem = problem_of((60, 20, 30, 2), dtype, sparse=True)
    problem.X[:] *= np.random.default_rng(5).random(problem.X.shape) < 0.1
    problem.streams["X"] = sp.csr_matrix(problem.X.astype(dtype))
    assert_as_oracle(problem)


def test_without_two_hidden_layers_it_is_adamw():
    """To the bit, and gradients go the way of its gradients."""
    adamw = spec.Adam(beta_2=0.99, epsilon=1e-3, adds_to_corrected=True, weight_decay=0.1)
    muon = replace(RECORD, weight_decay=0.1, adamw_rate=1.0)
    problem = problem_of((6, 30, 2))
    (one, losses), (two, others) = run(problem, adamw), run(problem, muon)
    np.testing.assert_array_equal(losses, others)
    np.testing.assert_array_equal(one.parameters, two.parameters)


@both_dtypes
@pytest.mark.parametrize("widths", [(20, 100, 300, 130, 5), (9, 1100, 1100, 2)], ids=str)
def test_bits_do_not_depend_on_threads(widths, dtype):
    """Products are cut by rows; reductions longer than a block, panels of every width."""
    problem = problem_of(widths, dtype)
    (one, losses), (two, others) = (run(problem, n_epochs=1, n_jobs=n) for n in (1, 2))
    np.testing.assert_array_equal(losses, others)
    np.testing.assert_array_equal(one.parameters, two.parameters)
    np.testing.assert_array_equal(one.slots["first_moment"], two.slots["first_moment"])


def test_reductions_longer_than_a_block_are_those_of_the_oracle():
    """More columns than a panel of a product is packed for at a time."""
    assert_as_oracle(problem_of((3, 1050, 1060, 2)), batch=40, n_epochs=1)


@pytest.mark.compiled
def test_bfloat16_operands_are_made_of_the_stepped_weights():
    """Products of the network are rounded, those of the iteration are not."""
    exact = problem_of((9, 40, 33, 20, 2), "float32")
    rounded = build(replace(exact.stack, operands="bfloat16_emulated"))
    (one, _), (two, _) = (run(problem, n_epochs=1) for problem in (exact, rounded))
    moved = one.parameters - exact.parameters
    assert_close(two.parameters - rounded.parameters, moved, 0.2)
    _, losses = run(rounded, n_epochs=8)
    assert losses[0] > losses[-1]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["float32", "float64"]))
def test_a_step_has_the_singular_vectors_of_the_momentum(n_in, n_out, dtype):
    """And singular values of about one, but for those that begin near nothing."""
    record = replace(RECORD, weight_decay=0.0, adjust_lr_fn="original")
    problem = problem_of((5, n_in, n_out, 3), dtype)
    state, _ = run(problem, record, batch=40, n_epochs=1)
    weights, old = (
        vectors.weight_views(problem.network, p)[0][1].astype(np.float64)
        for p in (state.parameters[0], problem.parameters)
    )
    made = (old - weights) / (LR * record.scale(n_in, n_out))
    net = problem.net.with_parameters([p.value for p in problem.net.parameters])
    gradient = oracle.gradients(net, problem.X, problem.Y, None, ALPHA)[1][1]
    left, values, right = np.linalg.svd(gradient, full_matrices=False)
    core = left.T @ made @ right.T
    found, tolerance = np.diag(core), 2e-3 if dtype == "float32" else 1e-7
    assert np.abs(core - np.diag(found)).max() < tolerance
    assert found.max() < 1.3
    assert found[values > 0.02 * np.linalg.norm(values)].min() > 0.6


def test_a_gradient_of_nothing_moves_nothing():
    """Its norm is zero; and NaN comes through."""
    problem = problem_of((4, 9, 8, 2))
    problem.parameters[:] = 0
    state, losses = run(problem)
    assert np.isfinite(losses).all()
    weights, _ = vectors.weight_views(problem.network, state.parameters[0])
    assert not weights[1].any()
    problem.streams["X"][0, 0] = np.nan
    state, losses = run(problem)
    assert np.isnan(losses).all()
    assert all(
        np.isnan(w).all() for w in vectors.weight_views(problem.network, state.parameters[0])[0]
    )


def test_gradients_of_matrices_have_to_be_kept():
    """An iteration needs all of one."""
    network, how = problem_of((4, 9, 8, 2)).network, {"dtype": "f8", "batch_size": 8}
    for kind in ("sharded", "fused"):
        with pytest.raises(ValueError, match='gradients="kept"'):
            plan.compile_training(network, optimizer=RECORD, gradients=kind, **how)


def test_an_interrupt_leaves_whole_steps():
    """A step may be given up while its iteration runs: nothing that is kept has changed yet."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    problem = problem_of((5, 300, 300, 2), "float32")

    def opened():
        compiled = plan.compile_training(
            problem.network, dtype="f4", batch_size=10, optimizer=RECORD, backend=DEFAULT_BACKEND
        )
        state = vectors.new_state(problem.parameters.copy(), RECORD)
        return backends.open_runner(compiled, state, problem.streams), state

    runner, state = opened()
    runner.run(None, scalars_of(RECORD, 0.9, 4), n_epochs=1)
    killer = threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT))
    killer.start()
    scalars = scalars_of(RECORD, 0.9, 40_000)
    with pytest.raises(KeyboardInterrupt):
        runner.run(None, scalars, n_epochs=10_000)
    n_steps = runner.steps - 4
    runner.read_state(state)
    other, expected = opened()
    other.run(None, scalars_of(RECORD, 0.9, 4), n_epochs=1)
    n_epochs, rest = divmod(n_steps, 4)
    if n_epochs:
        other.run(None, scalars[:, : 4 * n_epochs], n_epochs=n_epochs)
    if rest:
        order = np.arange(10 * rest)[None, None].astype(np.intp)
        other.run(order, scalars[:, 4 * n_epochs : n_steps])
    other.read_state(expected)
    np.testing.assert_array_equal(state.parameters, expected.parameters)
    for name in state.slots:
        np.testing.assert_array_equal(state.slots[name], expected.slots[name])


# PyTorch.


@pytest.mark.parametrize(
    "solver",
    [
        Muon(),
        Muon(momentum=0.8, nesterov=False, weight_decay=0.3, adamw_rate=0.5),
        Muon(adjust_lr_fn="original", beta_1=0.8, beta_2=0.9, epsilon=1e-4),
    ],
    ids=str,
)
def test_twenty_steps_are_pytorchs(solver, monkeypatch):
    """From equal weights, in double precision; its Muon between hidden layers, else its AdamW."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    rng = np.random.RandomState(0)
    X, y = rng.randn(60, 6), rng.randn(60)
    regr = MLPRegressor(hidden_layer_sizes=(9, 14, 5), solver=solver, max_iter=4, tol=0, alpha=0)
    regr.set_params(
        activation="tanh", learning_rate_init=0.01, batch_size=12, shuffle=False, random_state=1
    )
    started = clone(regr).set_params(max_iter=1, learning_rate_init=1e-300, solver="sgd").fit(X, y)
    regr.fit(X, y)
    weights = [torch.tensor(w, requires_grad=True) for w in started.coefs_]
    biases = [torch.tensor(b, requires_grad=True) for b in started.intercepts_]
    transposed = [torch.tensor(w.T, requires_grad=True) for w in started.coefs_[1:-1]]  # (O, I)
    how = {"adjust_lr_fn": solver.adjust_lr_fn, "nesterov": solver.nesterov}
    decay = solver.weight_decay
    muon = torch.optim.Muon(transposed, 0.01, decay, solver.momentum, **how)
    groups = [
        {"params": [weights[0], weights[-1]], "weight_decay": decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    betas = solver.beta_1, solver.beta_2
    adamw = torch.optim.AdamW(groups, 0.01 * solver.adamw_rate, betas, solver.epsilon)
    for step in range(20):
        rows = slice(step % 5 * 12, step % 5 * 12 + 12)
        h = torch.tensor(X[rows])
        used = [weights[0], *(w.T for w in transposed), weights[-1]]
        for k, (w, b) in enumerate(zip(used, biases, strict=True)):
            h = h @ w + b
            h = torch.tanh(h) if k < 3 else h
        loss = 0.5 * ((h.ravel() - torch.tensor(y[rows])) ** 2).mean()
        for optimizer in (muon, adamw):
            optimizer.zero_grad()
        loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
    for got, expected in zip([*regr.coefs_, *regr.intercepts_], [*used, *biases], strict=True):
        expected = expected.detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


# Estimators.


def data():
    rng = np.random.RandomState(0)
    X = rng.randn(120, 6)
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def classifier(**params):
    return MLPClassifier((20, 20, 20), max_iter=5, random_state=0, batch_size=30).set_params(
        **params
    )


def test_a_name_is_its_object_with_its_defaults():
    X, y = data()
    one, two = classifier(solver="muon").fit(X, y), classifier(solver=Muon()).fit(X, y)
    for got, expected in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_it_learns():
    X, y = data()
    clf = classifier(solver="muon", max_iter=30, learning_rate_init=0.01).fit(X, y)
    assert clf.loss_ < 0.3 * clf.loss_curve_[0]


def test_partial_fits_are_one_longer_fit():
    """The momentum of matrices goes on."""
    X, y = data()
    whole = classifier(solver="muon", shuffle=False, tol=0).fit(X, y)
    parts = classifier(solver="muon", shuffle=False)
    for _ in range(5):
        parts.partial_fit(X, y, classes=[0, 1])
    for got, expected in zip(parts.coefs_, whole.coefs_, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_grid_search_over_its_fields():
    X, y = data()
    grid = {"solver__momentum": [0.8, 0.95], "solver__adjust_lr_fn": ["original"]}
    search = GridSearchCV(classifier(solver=Muon()), grid, cv=2).fit(X, y)
    assert search.best_params_["solver__momentum"] in (0.8, 0.95)
    assert clone(search.best_estimator_).solver.adjust_lr_fn == "original"


def test_frozen_matrices_stay():
    """Others between hidden layers step on."""
    X, y = data()
    start = classifier(solver="muon", max_iter=1).fit(X, y)
    clf = classifier(solver="muon", frozen_layers=[1], max_iter=1).fit(X, y)
    free = classifier(solver="muon", max_iter=1, learning_rate_init=1e-300).fit(X, y)
    np.testing.assert_array_equal(clf.coefs_[1], free.coefs_[1])
    assert not (clf.coefs_[2] == free.coefs_[2]).any()
    assert not (clf.coefs_[1] == start.coefs_[1]).any()


@pytest.mark.parametrize(
    ("solver", "params", "message"),
    [
        (Muon(momentum=1.0), {}, "'momentum' parameter of Muon"),
        (Muon(adjust_lr_fn="else"), {}, "'adjust_lr_fn' parameter of Muon"),
        (Muon(), {"momentum": 0.5}, "momentum=0.5 beside solver="),
        ("muon", {"momentum": 0.5}, r"Give solver=Muon\(momentum=0.5\)"),
    ],
)
def test_what_is_refused(solver, params, message):
    """Fields that cannot be, and second ways to say a thing."""
    with pytest.raises(ValueError, match=message):
        classifier(solver=solver, **params).fit(*data())


# Other backends.


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalized_layers_step_alike_on_numba(normalization):
    """Whose biases are not their products'; nothing else is there to compare with."""
    pytest.importorskip("numba")
    how = {"normalization": normalization, "solver": "muon", "tol": 0}
    one, two = (classifier(backend=b, **how).fit(*data()) for b in ("auto", "numba"))
    fitted = zip([*one.coefs_, *one.intercepts_], [*two.coefs_, *two.intercepts_], strict=True)
    for got, expected in fitted:
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("widths", [(4, 7, 5, 3), (4, 3, 6, 6, 1)], ids=str)
def test_numba_steps_as_the_oracle(widths):
    """Also where it is not the default."""
    pytest.importorskip("numba")
    changes = dict(l1_ratio=0.4, clip_value=0.01, clip_norm=0.3, average_decay=0.7)
    for record in (RECORD, replace(RECORD, adjust_lr_fn="original", nesterov=False, **changes)):
        assert_as_oracle(problem_of(widths, backend="numba"), record)
