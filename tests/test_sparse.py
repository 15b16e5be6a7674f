"""CSR input: steps that touch few features, and what happens to the others."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hotloop.kernels import engine

import oracle
from bounds import Bounded
from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors
from stacks import (
    OPTIMIZERS,
    Stack,
    build,
    make_orders,
    make_scalars,
    open_training,
    steps_per_epoch,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*Maximum iterations")

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
alphas = pytest.mark.parametrize("alpha", [0.0, 0.1])
either_way = pytest.mark.parametrize("gradients", ["fused", "kept"])
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
#: Wide enough that dense input has its lanes along the outputs, too, in every instruction set.
STACK = Stack((400, 40, 5), ("tanh",), n=90, sparse=True)
BATCH = 8


def rare(stack, density=0.01):
    """A problem whose features come up now and then, some never, in dense and in CSR."""
    rng = np.random.default_rng(3)
    problem = replace(build(replace(stack, sparse=True)), stack=stack)  # one target for both
    X = rng.normal(size=problem.X.shape) * (rng.random(problem.X.shape) < density)
    X[:, :7] = 0
    X[: BATCH + 1, 9] = 0.5  # in all rows of a batch
    X[13] = 0  # a row of nothing
    X = X.astype(stack.dtype)
    problem.X[:] = X
    problem.streams["X"] = sp.csr_matrix(X) if stack.sparse else X
    return problem


def opened(problem, optimizer="adam", **how):
    """A runner and its state."""
    return open_training(problem, optimizer, BATCH, **how)


def inputs(problem, optimizer, alpha, n_epochs):
    n_steps = n_epochs * steps_per_epoch(problem.stack.n, BATCH)
    return make_orders(problem, n_epochs), make_scalars(optimizer, n_steps, alpha=alpha)


def trained(problem, optimizer="adam", *, alpha=0.0, n_epochs=12, **how):
    """Parameters, slots in one row each, and losses."""
    runner, state = opened(problem, optimizer, **how)
    losses = runner.run(*inputs(problem, optimizer, alpha, n_epochs))[0]
    runner.read_state(state)
    runner.close()
    return np.concatenate([state.parameters, *state.slots.values()]), losses


def assert_alike(got, expected, dtype):
    for one, other in zip(got[0], expected[0], strict=True):
        assert np.linalg.norm(one - other) <= TOLERANCE[dtype] * np.linalg.norm(other)
    np.testing.assert_allclose(got[1], expected[1], rtol=TOLERANCE[dtype])


# ---- exact -------------------------------------------------------------------------------


@both_dtypes
@every_optimizer
@alphas
@either_way
def test_exact_updates_are_those_of_dense_input(gradients, alpha, optimizer, dtype):
    """Parameters, moments and losses; bit for bit where the steps are replayed one by one."""
    stack = replace(STACK, dtype=dtype)
    got = trained(rare(stack), optimizer, alpha=alpha, gradients=gradients)
    expected = trained(
        rare(replace(stack, sparse=False)), optimizer, alpha=alpha, gradients=gradients
    )
    assert_alike(got, expected, dtype)
    if alpha:
        np.testing.assert_array_equal(got[0], expected[0])


@both_dtypes
@pytest.mark.parametrize(
    "betas", [(0.9, 0.999), (0.5, 0.9999), (0.9, 0.9), (0.0, 0.999), (0.9, 0.0)]
)
@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_missed_steps_of_adam_by_any_betas(epsilon, betas, dtype, monkeypatch):
    """In closed form where it converges, otherwise one by one: as with dense input."""
    monkeypatch.setitem(OPTIMIZERS, "adam", spec.Adam(betas[1], epsilon))
    results = []
    for sparse in (True, False):
        problem = rare(replace(STACK, dtype=dtype, sparse=sparse))
        runner, state = opened(problem)
        orders, scalars = inputs(problem, "adam", 0.0, 12)
        scalars[..., plan.SCALARS.index("momentum")] = betas[0]
        losses = runner.run(orders, scalars)[0]
        runner.read_state(state)
        results.append((np.concatenate([state.parameters, *state.slots.values()]), losses))
    assert_alike(*results, dtype)


@both_dtypes
@every_optimizer
@alphas
def test_long_histories_are_settled_on_the_way(alpha, optimizer, dtype):
    """More steps than a history counts, in one epoch and in several."""
    stack = replace(STACK, n=700, widths=(60, 20, 3), dtype=dtype)
    got = trained(rare(stack), optimizer, alpha=alpha, n_epochs=50 if alpha == 0 else 2)
    dense = rare(replace(stack, sparse=False))
    expected = trained(dense, optimizer, alpha=alpha, n_epochs=50 if alpha == 0 else 2)
    for one, other in zip(got[0], expected[0], strict=True):
        assert np.linalg.norm(one - other) <= 50 * TOLERANCE[dtype] * np.linalg.norm(other)
    np.testing.assert_allclose(got[1], expected[1], rtol=50 * TOLERANCE[dtype])


@every_optimizer
def test_decay_that_comes_and_goes(optimizer):
    """Steps with and without a penalty in turns, within an epoch."""
    results = []
    for sparse in (True, False):
        problem = rare(replace(STACK, sparse=sparse))
        runner, state = opened(problem, optimizer)
        orders, scalars = inputs(problem, optimizer, 0.1, 3)
        scalars[:, 5:17, 0, plan.SCALARS.index("decay")] = 0
        losses = runner.run(orders, scalars)[0]
        runner.read_state(state)
        results.append((np.concatenate([state.parameters, *state.slots.values()]), losses))
    assert_alike(*results, "float64")


@alphas
def test_looking_changes_no_bit(alpha):
    """To read the state between the calls, or not: what follows is the same."""
    problem = rare(STACK)
    orders, scalars = inputs(problem, "adam", alpha, 4)
    watched, state = opened(problem)
    unwatched, last = opened(problem)
    half = steps_per_epoch(STACK.n, BATCH) * 2
    for runner in (watched, unwatched):
        runner.run(orders[:, :2], scalars[:, :half])
        if runner is watched:
            runner.read_state(state)
        runner.run(orders[:, 2:], scalars[:, half:])
    seen = state.parameters.copy()
    watched.read_state(state)
    unwatched.read_state(last)
    assert not np.array_equal(seen, last.parameters)
    np.testing.assert_array_equal(state.parameters, last.parameters)


def test_what_is_read_is_what_predicts():
    """Predictions by the runner know the steps that features have missed."""
    problem = rare(STACK)
    runner, state = opened(problem)
    runner.run(*inputs(problem, "adam", 0.0, 2))
    runner.read_state(state)
    X = sp.csr_matrix(np.eye(400)[:50])
    out = runner.predict(X, np.empty((50, 5)))
    inference = plan.compile_inference(problem.network, dtype=np.float64, sparse=True)
    views = vectors.weight_views(problem.network, state.parameters[0])
    np.testing.assert_allclose(out, backends.predict(inference, *views, X), rtol=1e-13)


@alphas
@pytest.mark.parametrize("lazy", [False, True], ids=["exact", "lazy"])
def test_any_number_of_threads_gives_the_same_bits(lazy, alpha, monkeypatch):
    """Losses, too, though the shares of features in them are counted by whoever has them."""
    monkeypatch.setattr(plan, "SMALL_SECONDS", 0.0)
    monkeypatch.setattr(plan, "LARGE_SECONDS", 0.0)
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "4")
    problem = rare(replace(STACK, widths=(3000, 24, 5)), density=0.05)
    expected = trained(problem, alpha=alpha, n_epochs=3, lazy=lazy)
    for n_jobs in (2, 3, 4):
        got = trained(problem, alpha=alpha, n_epochs=3, lazy=lazy, n_jobs=n_jobs)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="it takes a timer that interrupts")
@alphas
def test_an_interrupted_step_is_dropped_whole(alpha):
    """The state is that of the whole steps before it, wherever a step is left."""
    problem = rare(replace(STACK, widths=(3000, 24, 5), n=96), density=0.05)
    per_epoch = steps_per_epoch(problem.stack.n, BATCH)
    orders, scalars = inputs(problem, "adam", alpha, 3000)
    runner, _ = opened(problem)
    start = time.process_time()
    runner.run(orders[:, :2], scalars[:, : 2 * per_epoch])
    some_epochs = max(0.04, time.process_time() - start)  # emulated processors take longer
    for turn in range(3):
        runner, state = opened(problem)
        before = signal.signal(signal.SIGPROF, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_PROF, (1 + 0.2 * turn) * some_epochs)  # of its own time
            with pytest.raises(KeyboardInterrupt):
                runner.run(orders, scalars)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        n_epochs, n_steps = divmod(runner.steps, per_epoch)
        assert 0 < n_epochs < 3000
        runner.read_state(state)
        # The same steps in peace: whole epochs, then one whose other batches have no weight.
        again, expected = opened(problem)
        again.run(orders[:, :n_epochs], scalars[:, : n_epochs * per_epoch])
        again.read_state(expected)
        weight = np.zeros(problem.stack.n)
        weight[orders[0, n_epochs, : n_steps * BATCH]] = 1
        rest = replace(problem, streams={**problem.streams, "sample_weight": weight})
        last, _ = opened(rest)
        last.write_state(expected)
        begin = n_epochs * per_epoch
        last.run(orders[:, n_epochs : n_epochs + 1], scalars[:, begin : begin + per_epoch])
        last.read_state(expected)
        assert state.step == expected.step
        for one, other in zip(
            [state.parameters, *state.slots.values()],
            [expected.parameters, *expected.slots.values()],
            strict=True,
        ):
            assert np.linalg.norm(one - other) <= 1e-9 * np.linalg.norm(other)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="it takes a timer that interrupts")
@every_optimizer
def test_an_interrupted_epoch_leaves_nothing_to_the_next(optimizer):
    """Run, interrupt, run again: losses and weights as by a runner that starts from there. The
    squares of weights that the steps before counted are not in that epoch's loss."""
    problem = rare(replace(STACK, widths=(3000, 24, 5), n=48 * BATCH), density=0.05)
    orders, scalars = inputs(problem, optimizer, 0.1, 1000)
    per_epoch = steps_per_epoch(problem.stack.n, BATCH)
    n_steps, turn = 0, 0
    while n_steps == 0:  # but in the middle of an epoch
        runner, state = opened(problem, optimizer)
        before = signal.signal(signal.SIGPROF, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_PROF, 0.04 + 0.007 * turn)
            with pytest.raises(KeyboardInterrupt):
                runner.run(orders, scalars)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        n_steps, turn = runner.steps % per_epoch, turn + 1
    runner.read_state(state)
    fresh, expected = opened(problem, optimizer)
    fresh.write_state(state)
    losses = [one.run(orders[:, :2], scalars[:, : 2 * per_epoch]) for one in (runner, fresh)]
    np.testing.assert_allclose(*losses, rtol=1e-12)
    runner.read_state(state)
    fresh.read_state(expected)
    np.testing.assert_array_equal(state.parameters, expected.parameters)


@alphas
@every_optimizer
@pytest.mark.parametrize("lazy", [False, True], ids=["exact", "lazy"])
def test_the_last_read_has_the_bits_of_any_other(lazy, optimizer, alpha, monkeypatch):
    """Features catch up in place and in threads, not on a copy."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "2")
    problem = rare(replace(STACK, widths=(3000, 24, 5), n=93))
    runner, state = opened(problem, optimizer, lazy=lazy, n_jobs=2)
    runner.run(*inputs(problem, optimizer, alpha, 1))
    runner.read_state(state)
    seen = [array.copy() for array in (state.parameters, *state.slots.values())]
    runner.read_state(state, last=True)
    for one, other in zip(seen, (state.parameters, *state.slots.values()), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- predictions -------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_weights_that_lie_with_the_user_predict_as_packed_ones(activation, dtype):
    """For rows of any width, without a look at what lies around them."""
    for width in (*range(1, 41), 63, 100, 129, 257):
        problem = rare(Stack((50, width, 3), (activation,), n=20, dtype=dtype, sparse=True), 0.2)
        problem.X[::2, -1] = 1  # the last row of the weight is read
        X = sp.csr_matrix(problem.X)
        packed = opened(problem)[0].predict(X, np.empty((20, 3), dtype))
        inference = plan.compile_inference(problem.network, dtype=np.dtype(dtype), sparse=True)
        weights, biases = vectors.weight_views(problem.network, problem.parameters)
        around = np.full(50 * width + 128, np.nan, dtype)
        around[64:-64] = weights[0].ravel()
        lying = around[64:-64].reshape(50, width)
        for first in (lying, np.asfortranarray(lying)):
            for n in (1, 20):
                out = backends.predict(inference, [first, *weights[1:]], biases, X[:n])
                np.testing.assert_array_equal(out, packed[:n], err_msg=f"{width} {n}")


def test_sixty_four_threads_predict_on_one_estimator():
    """Each gets its own rows, and edits of the weights are seen."""
    X = sp.random(60, 500, 0.1, "csr", random_state=0)
    model = MLPClassifier((21,), max_iter=2, random_state=0).fit(X, np.arange(60) % 3)
    expected, start = model.predict_proba(X), threading.Barrier(64)

    def look(k):
        start.wait()
        return all(
            np.array_equal(model.predict_proba(X[row : row + 1]), expected[row : row + 1])
            for row in range(k % 7, 60, 3)
        )

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(look, range(64)))
    model.coefs_[0][:] *= 2
    assert (model.predict_proba(X) != expected).any()


# ---- lazy --------------------------------------------------------------------------------


@both_dtypes
@every_optimizer
@alphas
@either_way
def test_lazy_updates_leave_what_a_batch_does_not_touch(gradients, alpha, optimizer, dtype):
    """Weights and moments step in batches that have the feature; the loss has all weights."""
    stack = replace(STACK, dtype=dtype)
    problem = rare(stack)
    runner, state = opened(problem, optimizer, gradients=gradients, lazy=True)
    orders, scalars = inputs(problem, optimizer, alpha, 2)
    losses = runner.run(orders, scalars)[0]
    runner.read_state(state)

    batches = [
        order[start : start + BATCH] for order in orders[0] for start in range(0, stack.n, BATCH)
    ]
    touched = iter([(problem.X[rows] != 0).any(axis=0) for rows in batches])

    def step(parameters, slots, grads, rates, momenta):
        rows = next(touched)
        if optimizer == "adam":
            adam = OPTIMIZERS["adam"]
            new, moved = oracle.adam_step(
                parameters, slots, grads, rates, momenta, adam.beta_2, adam.epsilon
            )
        else:
            new, moved = oracle.sgd_step(
                parameters, slots, grads, rates, momenta, optimizer == "nesterov"
            )
        for after, first in [(new, parameters), *((moved[k], slots[k]) for k in slots)]:
            after[0][~rows] = first[0][~rows]
        return new, moved

    zeros = [np.zeros(p.shape) for p in plain(problem.net).parameters]
    net, slots, expected = oracle.train(
        plain(problem.net),
        {name: list(zeros) for name in OPTIMIZERS[optimizer].slots},
        (problem.X, problem.Y, problem.sample_weight),
        orders[0],
        scalars[0],
        BATCH,
        step,
    )
    got = np.concatenate([state.parameters, *state.slots.values()])
    flat = [
        np.concatenate([p.ravel() for p in arrays]) for arrays in (net.parameters, *slots.values())
    ]
    assert_alike((got, losses), (flat, expected), dtype)
    exact = trained(problem, optimizer, alpha=alpha, n_epochs=2)[0][0]
    if alpha or optimizer != "sgd":
        assert np.linalg.norm(exact - flat[0]) > 1e-4 * np.linalg.norm(exact)


def plain(net):
    """The oracle's network without error bounds."""
    values = [p.value if isinstance(p, Bounded) else p for p in net.parameters]
    return net.with_parameters([np.array(v, dtype=np.float64) for v in values])


# ---- estimators --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("container", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_every_format_is_accepted(kind, container, make):
    """SciPy's matrices and arrays of any format train and predict like dense input."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(60, 30)) * (rng.random((60, 30)) < 0.2)
    y = np.arange(60) % 3
    X = getattr(sp, f"{container}_{kind}")(dense)
    how = {"hidden_layer_sizes": (20,), "max_iter": 5, "random_state": 0}
    expected = make(**how).fit(dense, y)
    got = make(**how).fit(X, y)
    for one, other in zip(got.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.predict(X), expected.predict(dense), rtol=1e-9)


def test_sparse_updates_is_looked_at():
    """It says what is allowed; on dense input it changes nothing, on sparse input it does."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(200, 80)) * (rng.random((200, 80)) < 0.05)
    y = np.arange(200) % 3
    with pytest.raises(ValueError, match=r"'sparse_updates' parameter.*'exact'"):
        MLPClassifier(sparse_updates="never").fit(dense, y)

    def fit(X, sparse_updates):
        how = {"max_iter": 5, "batch_size": 20, "random_state": 0}
        return MLPClassifier(sparse_updates=sparse_updates, **how).fit(X, y).coefs_[0]

    np.testing.assert_array_equal(fit(dense, "lazy"), fit(dense, "exact"))
    X = sp.csr_matrix(dense)
    assert not np.allclose(fit(X, "lazy"), fit(X, "exact"), rtol=1e-6)


def test_most_entries_bound_any_batch():
    """Room for a batch is that of the rows with the most entries."""
    indptr = np.cumsum([0, 3, 0, 7, 2, 7])
    assert [engine.most_entries(indptr, k) for k in (1, 2, 3, 5, 9)] == [7, 14, 17, 19, 19]
