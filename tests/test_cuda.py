"""The CUDA backend: ops against the oracle, estimators on it, fits that share launches, refusals.

On a GPU if there is one; else in numba's simulator, if NUMBA_ENABLE_CUDASIM=1 says so (``make
test`` does), which computes the same in Python, with tiles of a few elements.
"""

import inspect
import os
import pickle
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import sklearn
from hotloop.kernels import KINDS
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression

import hotloop
import oracle
import test_custom as custom
import test_device_arrays as device_arrays
import test_dropout as dropout
import test_heads as heads
import test_losses as more_losses
import test_muon as muon
import test_optimizers as optimizers
from bounds import assert_within
from hotloop import MLPClassifier, MLPRegressor, backends, fit_many, plan, spec
from stacks import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    Stack,
    build,
    evaluate,
    gradient_kinds,
    gradients,
    make_orders,
    make_scalars,
    open_training,
    oracle_gradients,
    oracle_predict,
    oracle_train,
    predict,
    train,
)
from state import state_of
from test_kernels import (
    assert_gradients_match,
    assert_parameters_match,
    assert_trained_match,
    assert_training_matches,
    corruptions,
)

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
REASON = backends.why_unavailable("cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(REASON is not None, reason=f"{REASON}; or NUMBA_ENABLE_CUDASIM=1"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
if REASON is None:
    numba_cuda = sys.modules[backends.engine_of("cuda").__module__]

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
#: Relative norm of the difference after 10 epochs, as the backends are to agree.
BOUNDS = {"float32": 1e-3, "float64": 1e-9}


@pytest.fixture(autouse=True, scope="module")
def simulated_threads_take_turns_often():
    """The simulator's threads wait for each other in Python."""
    before = sys.getswitchinterval()
    if SIMULATED:
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["block", "grid"])
def team(request, monkeypatch):
    """Who works on a model: a block with its weights in shared memory, or the whole grid."""
    monkeypatch.setattr(numba_cuda, "in_blocks", lambda *sizes: request.param == "block")
    return request.param


def stack_of(*args, **kwargs):
    return Stack(*args, **kwargs, backend="cuda")


# Ops against the oracle.


@more_losses.by_case
def test_losses_of_all_kinds(case):
    """Deltas and losses of rows, of elements and of whole rows."""
    more_losses.assert_kernel_matches(case, "float64", "cuda", n=9)


def test_launches_for_many_keep_their_losses_apart():
    """Plans that differ by a constant of their loss alone."""
    X, y = make_regression(20, 3, random_state=0)
    how = {"hidden_layer_sizes": 2, "max_iter": 2, "random_state": 0, "device": "cuda"}
    losses = [hotloop.Huber(delta=delta) for delta in (0.5, 50.0)]
    alone = [MLPRegressor(loss, **how).fit(X, y) for loss in losses]
    together = fit_many([MLPRegressor(loss, **how) for loss in losses], X, y)
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.coefs_[0], two.coefs_[0])


def test_ordered_outputs_and_raw_ones():
    """Predictions through the links that these losses have."""
    X, y = make_regression(20, 3, random_state=0)
    how = {"hidden_layer_sizes": 2, "max_iter": 2, "random_state": 0}
    for loss in (hotloop.Quantile(quantiles=[0.2, 0.8]), "huber"):
        one, two = (MLPRegressor(loss, device=d, **how).fit(X, y) for d in ("cpu", "cuda"))
        np.testing.assert_allclose(two.predict(X), one.predict(X), rtol=1e-9)
    for loss in ("hinge", hotloop.LogLoss(label_smoothing=0.2)):
        one, two = (MLPClassifier(loss=loss, device=d, **how) for d in ("cpu", "cuda"))
        for labels in (y > 0, np.digitize(y, [-50, 50])):
            raw = one.fit(X, labels).decision_function(X)
            np.testing.assert_allclose(two.fit(X, labels).decision_function(X), raw, rtol=1e-9)


def test_several_targets():
    """A softmax for each column of y: the loss by itself, and fits on dense and CSR input."""
    heads.assert_kernel_matches((3, 2), "float64", "cuda", n=9)
    X, y = heads.data(30)
    how = {"hidden_layer_sizes": 3, "max_iter": 2, "random_state": 0, "early_stopping": True}
    for rows in (X, scipy.sparse.csr_matrix(X)):
        one, two = (MLPClassifier(device=d, **how).fit(rows, y) for d in ("cpu", "cuda"))
        assert two.loss_ == pytest.approx(one.loss_, rel=1e-9)
        for ours, theirs in zip(two.predict_proba(rows), one.predict_proba(rows), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@both_dtypes
@dense_and_sparse
@pytest.mark.parametrize("widths", [(1, 1), (3, 2), (7, 5, 1), (9, 11, 4, 3)], ids=str)
def test_predictions_and_gradients_on_odd_shapes(widths, sparse, dtype, team):
    """Widths and rows around the tiles of the simulator."""
    for k, n in enumerate((1, 5, 14)):
        loss = ("squared_error", "binary_log_loss", "poisson")[k]
        hidden = tuple(ACTIVATIONS[3 - k - i] for i in range(len(widths) - 2))
        problem = build(stack_of(widths, hidden, loss, n, dtype, sparse, k % 2 == 0, seed=k + 7))
        assert_within(predict(problem), oracle_predict(problem), "prediction")
        assert_gradients_match(problem)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_every_loss(activation, loss):
    problem = build(stack_of((4, 5, 3), (activation,), loss, 9, "float32", weighted=True))
    assert_within(predict(problem), oracle_predict(problem), "prediction")
    assert_training_matches(problem, "adam", 5, n_epochs=1)


@pytest.mark.parametrize("name", spec.ACTIVATIONS[4:])
def test_activations_whose_slopes_are_kept(name):
    """As the CPU has them, in a step on dense rows and on CSR, and in predictions."""
    for sparse, dtype in ((False, "float32"), (True, "float64")):
        problem = build(stack_of((4, 5, 3), (name,), n=9, dtype=dtype, sparse=sparse))
        expected = build(replace(problem.stack, backend="compiled"))
        got, want = (train(p, "adam", 5, n_epochs=1)[0] for p in (problem, expected))
        tolerance = 1e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, want, tolerance, tolerance)
        np.testing.assert_allclose(predict(problem), predict(expected), tolerance, tolerance)


@both_dtypes
@pytest.mark.parametrize(
    ("sparse", "kept"), [(s, g) for s in (False, True) for g in gradient_kinds(s)]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_with_every_optimizer(optimizer, sparse, kept, dtype, team):
    """Two epochs in batches, the last one short: parameters, slots and losses."""
    stack = stack_of((6, 5, 3), ("tanh",), "log_loss", 13, dtype, sparse, weighted=True)
    assert_training_matches(build(stack), optimizer, 6, gradients=kept)


@pytest.mark.parametrize(
    ("rule", "dtype", "sparse"),
    [
        *(("sgd", "float64", False), ("adamw", "float32", True), ("amsgrad", "float32", False)),
        *(("nadam", "float64", True), ("rmsprop", "float32", False), ("lion", "float32", True)),
        ("adagrad", "float64", False),
    ],
)
def test_optimizers_step_as_the_oracle_does(rule, dtype, sparse, team):
    """Each rule with all that may be asked for besides, in pieces and by threads in turn."""
    stack = stack_of((7, 5, 2), ("tanh",), "squared_error", 9, dtype, sparse, weighted=True)
    besides = (optimizers.SPARSE if sparse else optimizers.BESIDES)["all"]
    optimizers.assert_as_oracle(build(stack), rule, besides, batch=4, n_epochs=1)


@pytest.mark.parametrize("widths", [(4, 7, 5, 3), (3, 2, 6, 1)], ids=str)
def test_muon_steps_as_the_oracle_does(widths, team):
    """Matrices of both shapes, in pieces and by threads in turn, with what may be beside them."""
    changes = dict(clip_value=0.01, clip_norm=0.3, max_norm=0.9, average_decay=0.7, l1_ratio=0.4)
    problem = muon.problem_of(widths, backend="cuda")
    muon.assert_as_oracle(problem, replace(muon.RECORD, **changes), batch=20, n_epochs=1)


def test_more_pieces_and_shards_than_one(monkeypatch, team):
    """Sums that are cut by the plan: squares of many weights, gradients of many rows."""
    runs = plan.backend_of("cuda")._replace(shard_rows=6)
    monkeypatch.setattr(plan, "backend_of", lambda name: runs)
    problem = build(stack_of((9, 8, 3), ("relu",), "squared_error", 31))
    compiled = plan.compile_training(
        problem.network, dtype=np.float64, batch_size=31, optimizer=OPTIMIZERS["adam"],
        backend="cuda",
    )  # fmt: skip
    assert (compiled.ops["shard_rows"] == 6).any()
    assert_training_matches(problem, "adam", 31, gradients=None)


@both_dtypes
@pytest.mark.parametrize("name", ["one layer", "logistic", "csr", "mixed numbers", "small"])
def test_dropout_noise_and_mixup(name, dtype, team):
    """The oracle's masks, noise and pairs, in a block and in a grid."""
    case = dropout.CASES[name]
    dropout.assert_trains_as_the_oracle(case, "cuda", dtype, first_step=2**32 - 2)


@both_dtypes
def test_masks_are_bit_for_bit_the_oracles(dtype, team):
    got = dropout.factors("cuda", dtype, n=8, units=9)
    np.testing.assert_array_equal(got, dropout.masks_of(0.3, got.shape, dtype))


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-11), ("float32", 2e-6)])
def test_noise_is_the_oracles(dtype, bound):
    z = dropout.noise("cuda", dtype, (6, 50))
    want = dropout.oracle.Random(dropout.SEED).noise(3, z.shape, 32 if dtype == "float64" else 23)
    assert (np.abs(z - want) <= bound * np.maximum(np.abs(want), 1e-3)).all()


def test_gradients_of_many_batches_add_up(monkeypatch, team):
    monkeypatch.setattr(plan, "GRADIENT_ROWS", 8)
    for sparse in (False, True):
        assert_gradients_match(build(stack_of((5, 4, 2), ("tanh",), n=19, sparse=sparse)))


@both_dtypes
@dense_and_sparse
def test_a_row_has_the_same_bits_alone_and_in_any_batch(sparse, dtype, team):
    problem = build(stack_of((7, 6, 3), ("tanh",), "log_loss", 11, dtype, sparse))
    X, whole = problem.streams["X"], predict(problem)
    for rows in ([0], [10], [3, 4], list(range(1, 11)), [5, 0, 5]):
        np.testing.assert_array_equal(predict(problem, X[rows]), whole[rows])
    assert predict(problem, X[:0]).shape == (0, 3)


@pytest.mark.parametrize(("of_X", "of_plan"), [("float32", "float64"), ("float64", "float32")])
def test_input_of_the_other_dtype_is_converted(of_X, of_plan):
    problem = build(stack_of((5, 4, 3), ("tanh",), n=11, dtype="float32"))
    X = problem.streams["X"]
    problem = build(replace(problem.stack, dtype=of_plan))
    problem.streams["X"] = X.astype(of_X)
    problem.X[:] = X
    assert_training_matches(problem, "adam", 6)


@pytest.mark.parametrize("lazy", [False, True], ids=["exact", "lazy"])
def test_features_that_a_batch_does_not_touch(lazy):
    """Exact: as dense X would have it; lazy: as the reference backend has it."""
    stack = Stack((8, 3, 2), ("relu",), n=9, sparse=True)
    problems, states = [build(replace(stack, backend="cuda")), build(stack)], []
    for problem in problems:
        runner, state = open_training(problem, "adam", 3, lazy=lazy)
        runner.run(make_orders(problem, 2), make_scalars("adam", 6))
        runner.read_state(state)
        states.append(state.parameters[0])
    np.testing.assert_allclose(states[0], states[1], rtol=1e-12)
    if not lazy:
        assert_training_matches(problems[0], "adam", 3)


def test_a_block_and_the_grid_compute_the_same_bits(monkeypatch):
    results = []
    for blocks in (True, False):
        monkeypatch.setattr(numba_cuda, "in_blocks", lambda *sizes, b=blocks: b)
        problem = build(stack_of((6, 5, 3), ("relu",), n=13, dtype="float32"))
        results.append(train(problem, "adam", 5))
    for one, two in zip(*results, strict=True):
        assert state_of(one) == state_of(two)


def test_cuda_has_a_function_for_every_op():
    """All kinds are told apart by its walk, but for those that others need or that it skips."""
    from hotloop.kernels import cuda_draws, cuda_muon, cuda_norm, cuda_ops

    told = inspect.getsource(cuda_ops.walker) + inspect.getsource(cuda_draws.augment)
    told += inspect.getsource(cuda_muon.muon_ops) + inspect.getsource(cuda_norm.norm_op)
    missing = [kind for kind in KINDS if f"WORDS.{kind}" not in told]
    assert missing == ["CSR_INDEX", "CSR_CATCH_UP", "ROUND", "GRADIENT_SQUARES"]


# The tests are tested.

MUTATED = Stack((5, 4, 3), ("tanh",), "log_loss", 11, weighted=True, backend="cuda")


@dense_and_sparse
def test_one_corrupted_weight_fails_every_comparison(sparse):
    """A weight a percent off, or lost: in predictions, gradients and after training."""
    problem = build(replace(MUTATED, sparse=sparse))
    expected = oracle_predict(problem), oracle_gradients(problem)[1]
    for wrong in list(corruptions(problem.parameters, problem))[::5]:
        with pytest.raises(AssertionError):
            assert_within(predict(problem, parameters=wrong), expected[0])
        found = gradients(problem, parameters=wrong)[1]
        with pytest.raises(AssertionError):
            assert_parameters_match(found, expected[1], problem, "gradient")
    parameters, _, _ = train(problem, "adam", 5)
    net, _, _ = oracle_train(problem, "adam", 5)
    for wrong in corruptions(parameters, problem):
        with pytest.raises(AssertionError):
            assert_trained_match(wrong, net, problem)


# The runner's protocol.


def test_epochs_in_one_call_or_in_many_and_where_it_stops():
    """Losses, steps and the stopping rule; a batch without weight is no step."""
    problem = build(stack_of((5, 4, 3), ("relu",), n=11, weighted=True))
    problem.streams["sample_weight"][4:8] = 0
    orders, scalars = make_orders(problem, 4), make_scalars("sgd", 12)
    orders[:] = np.arange(11)
    runner, state = open_training(problem, "sgd", 4)
    losses = runner.run(orders, scalars, stop=np.array([[-1.0, 0, 0, 2]]))
    assert losses.shape == (1, 3)  # the third in a row that is no better
    assert runner.steps == 6
    assert runner.losses == losses[0].tolist()
    runner.read_state(state)
    assert state.step == 6
    one_by_one, other = open_training(problem, "sgd", 4)
    for k in range(3):
        one_by_one.run(None, scalars[:, 2 * k : 2 * k + 3], n_epochs=1)
    one_by_one.read_state(other)
    np.testing.assert_array_equal(other.parameters, state.parameters)


def test_an_interrupt_leaves_whole_steps(monkeypatch):
    """Between launches: what was done counts, and a fit warns and keeps it."""
    X, y = load_iris(return_X_y=True)
    whole, launches = numba_cuda.launch, []

    def launch(*args):
        launches.append(1)
        if len(launches) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(numba_cuda, "launch", launch)
    model = MLPClassifier(3, max_iter=40, batch_size=15, random_state=0, device="cuda")
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X[::5], y[::5])
    assert 1 <= model._optimizer.step < 40
    assert model._optimizer.step // 2 - model.n_iter_ in (0, 1)  # whose end may not be noted yet


# Estimators.


def iris(dtype="float64", sparse=False):
    X, y = load_iris(return_X_y=True)
    X = (X[::5] - X.mean(axis=0)).astype(dtype)
    return (scipy.sparse.csr_array(X * (X > 0)) if sparse else X), y[::5]


@pytest.fixture
def launches(monkeypatch):
    """How many models each launch had, as they come."""
    jobs, whole = [], numba_cuda.launch

    def launch(table, memory, data, batch_of_jobs, *rest):
        jobs.append(len(batch_of_jobs))
        return whole(table, memory, data, batch_of_jobs, *rest)

    monkeypatch.setattr(numba_cuda, "launch", launch)
    return jobs


def assert_close_fits(one, two, dtype):
    for a, b in zip(one.coefs_ + one.intercepts_, two.coefs_ + two.intercepts_, strict=True):
        assert type(b) is np.ndarray
        assert a.dtype == b.dtype == dtype
        assert np.linalg.norm(a - b) <= BOUNDS[dtype] * np.linalg.norm(a)


def test_a_sparse_fit_of_one_row():
    """It has as many places of rows in a batch as rows."""
    row, y = scipy.sparse.csr_matrix([[0.8, 0.0, 0.3]]), np.arange(5.0)[np.newaxis]
    how = {"hidden_layer_sizes": (2,), "activation": "tanh", "max_iter": 2, "random_state": 0}
    one, other = (MLPRegressor(**how, device=device).fit(row, y) for device in ("cpu", "cuda"))
    for ours, theirs in zip(other.coefs_, one.coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@dense_and_sparse
@both_dtypes
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_ten_epochs_end_where_the_cpu_ends(solver, dtype, sparse, launches):
    X, y = iris(dtype, sparse)
    weight = np.linspace(0.5, 2, len(y))
    network = MLPClassifier((6, 4), solver=solver, max_iter=10, batch_size=16, random_state=0)
    network.set_params(learning_rate_init=0.05)
    one = clone(network).fit(X, y, weight)
    two = clone(network).set_params(device="cuda").fit(X, y, weight)
    assert (one.device_, two.device_) == ("cpu", "cuda")
    assert launches  # else it was the same code
    assert_close_fits(one, two, dtype)
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=BOUNDS[dtype])
    np.testing.assert_allclose(two.predict_proba(X), one.predict_proba(X), rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_lbfgs_takes_its_gradients_from_the_device(loss):
    X, y = make_regression(20, 3, random_state=0)
    y = np.abs(y) / 100
    network = MLPRegressor(loss, 3, solver="lbfgs", max_iter=8, random_state=0)
    one, two = clone(network).fit(X, y), clone(network).set_params(device="cuda").fit(X, y)
    assert two.loss_ == pytest.approx(one.loss_, rel=1e-6)


def test_early_stopping_partial_fit_and_lazy_updates_run_on_it():
    X, y = iris(sparse=True)
    settings = {"sparse_updates": "lazy", "early_stopping": True, "max_iter": 5, "random_state": 0}
    one, two = (MLPClassifier(4, device=name, **settings) for name in ("cpu", "cuda"))
    for model in (one, two):
        model.fit(X, y).set_params(early_stopping=False).partial_fit(X, y)
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=1e-9)
    assert_close_fits(one, two, "float64")


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@dense_and_sparse
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluations_within_bounds(loss, sparse, weighted, team):
    """Outputs and the mean loss of rows, in chunks of some."""
    stack = Stack((5, 7, 3), ("tanh",), loss, 13, "float64", sparse, weighted, backend="cuda")
    problem = build(stack)
    out, value = evaluate(problem, chunk_rows=5)
    assert_within(out, oracle_predict(problem))
    assert_within(value, oracle.loss(problem.net, problem.X, problem.Y, problem.sample_weight))


@dense_and_sparse
def test_validation_rows_are_watched_on_the_device(sparse):
    """The curves of the CPU, the best weights, and a budget."""
    X, y = load_iris(return_X_y=True)
    X, how = (X - X.mean(axis=0))[::5], {"max_iter": 3, "random_state": 0, "scoring": "loss"}
    X, y = (scipy.sparse.csr_array(X) if sparse else X), y[::5]
    one, two = (
        MLPClassifier(4, early_stopping=True, device=device, max_time_s=1e3, **how).fit(
            X, y, X_val=X[:10], y_val=y[:10], sample_weight_val=np.arange(10.0)
        )
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(two.validation_loss_curve_, one.validation_loss_curve_, rtol=1e-9)
    assert two.best_validation_score_ == -min(two.validation_loss_curve_)


def test_a_model_of_one_backend_opens_and_predicts_on_every_other():
    X, y = iris()
    ways = [{"device": "cuda"}, {"backend": "numba"}, {"backend": "compiled"}]
    ways = [w for w in ways if w == ways[0] or backends.why_unavailable(w["backend"]) is None]
    for way in ways:
        model = MLPClassifier(4, max_iter=3, batch_size=16, random_state=0, **way).fit(X, y)
        expected = model.predict_proba(X)
        for other in ways:
            opened = pickle.loads(pickle.dumps(model))
            opened.set_params(**{"device": "cpu", "backend": "auto", **other})
            np.testing.assert_allclose(opened.predict_proba(X), expected, rtol=1e-12)
            np.testing.assert_allclose(opened.predict_proba(X[:1]), expected[:1], rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*has no derivative:UserWarning")
@both_dtypes
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_functions_of_the_user_are_those_of_the_cpu(dtype, sparse, team):
    """An activation and a loss; with a derivative and without; for one output and for two."""
    X, y = make_regression(20, 3, random_state=0)
    y = y / np.abs(y).max()
    X = scipy.sparse.csr_matrix(X.astype(dtype)) if sparse else X.astype(dtype)
    how = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0}
    for activation, loss, target in (
        ((custom.silu, custom.silu_slope), (custom.huber, custom.huber_slope), y),
        (custom.gelu, custom.log_cosh, np.stack([y, -y], axis=1)),
    ):
        one, two = (
            MLPRegressor(activation=activation, loss=loss, device=device, **how).fit(X, target)
            for device in ("cpu", "cuda")
        )
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            assert np.linalg.norm(a - b) <= BOUNDS[dtype] * np.linalg.norm(a)
        np.testing.assert_allclose(one.loss_, two.loss_, rtol=BOUNDS[dtype])
        np.testing.assert_allclose(one.predict(X), two.predict(X), rtol=BOUNDS[dtype], atol=1e-6)


def test_the_same_fit_has_the_same_bits():
    X, y = iris("float32")
    fits = [MLPClassifier(4, max_iter=3, random_state=0, device="cuda").fit(X, y) for _ in range(2)]
    assert state_of(fits[0].coefs_) == state_of(fits[1].coefs_)


def test_a_network_that_diverges_is_refused_and_changes_nothing():
    X, y = make_regression(20, 3, random_state=0)
    model = MLPRegressor(hidden_layer_sizes=3, max_iter=2, random_state=0, device="cuda").fit(X, y)
    before = state_of(vars(model))
    model.set_params(solver="sgd", learning_rate_init=1e200, max_iter=5)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(X, y)
    model.set_params(solver="adam", learning_rate_init=0.001, max_iter=2)
    assert state_of(vars(model)) == before


# Many at once.


def several():
    """Alike but for what a shared launch may differ in; the last has another network."""
    alike = dict(hidden_layer_sizes=4, batch_size=16, device="cuda")
    return [
        MLPClassifier(**alike, max_iter=4, random_state=0),
        MLPClassifier(**alike, max_iter=7, random_state=1, learning_rate_init=0.01, alpha=1.0),
        MLPClassifier(**alike, max_iter=5, random_state=2, early_stopping=True),
        MLPClassifier(**alike, max_iter=9, random_state=3, tol=10.0, n_iter_no_change=2),
        MLPClassifier(3, max_iter=3, random_state=4, device="cuda"),
    ]


@pytest.mark.parametrize("with_folds", [False, True])
def test_fits_at_once_are_fits_one_by_one(with_folds, launches):
    """Bit for bit, whoever stops when; and they did share launches."""
    X, y = iris("float32")
    rng = np.random.default_rng(0)
    folds = [np.sort(rng.permutation(len(y))[:20]) for _ in several()] if with_folds else None
    together = fit_many(several(), X, y, folds=folds)
    assert max(launches) == 4  # the last has a network of its own
    for k, (one, many) in enumerate(zip(several(), together, strict=True)):
        rows = folds[k] if with_folds else slice(None)
        assert state_of(vars(one.fit(X[rows], y[rows]))) == state_of(vars(many))


def test_a_fit_that_fails_leaves_the_others_alone():
    X, y = iris()
    models = several()[:3]
    models[1].set_params(alpha=-1)
    with pytest.raises(ValueError, match="alpha"):
        fit_many(models, X, y)
    assert models[0].n_iter_ == 4
    assert models[2].n_iter_ == 5
    assert not hasattr(models[1], "coefs_")


def test_what_cannot_be_fitted_side_by_side_is_refused():
    X, y = iris()
    model = several()[0]
    with pytest.raises(ValueError, match="there twice"):
        fit_many([model, model], X, y)
    with pytest.raises(ValueError, match="got 1 for 2 estimators"):
        fit_many(several()[:2], X, y, folds=[np.arange(5)])
    rng = np.random.RandomState(0)
    with pytest.raises(ValueError, match="share a RandomState"):
        fit_many([m.set_params(random_state=rng) for m in several()[:2]], X, y)


def test_no_thread_is_left_behind():
    X, y = iris()
    before = threading.active_count()
    fit_many([m.set_params(max_iter=1) for m in several()[:2]], X, y)
    assert threading.active_count() == before


def test_many_on_the_cpu_are_fitted_one_after_another():
    X, y = iris()
    models = [MLPClassifier(4, max_iter=3, random_state=k) for k in range(3)]
    for k, model in enumerate(fit_many(models, X, y)):
        alone = MLPClassifier(4, max_iter=3, random_state=k).fit(X, y)
        assert state_of(alone.coefs_) == state_of(model.coefs_)


# Arrays of the user that lie on the device.


def of_numba(array):
    return numba_cuda.cuda.to_device(np.ascontiguousarray(array))


def interface_of(array):
    """Of numba's; those of the simulator have the host's."""
    return array._ary.__array_interface__ if SIMULATED else array.__cuda_array_interface__


def by_interface(array):
    """As CuPy and torch hand them in."""
    array = of_numba(array)
    return device_arrays.ByInterface(array, interface_of(array))


def by_dlpack(array):
    """As a library hands them in that knows nothing else."""
    if not SIMULATED:
        pytest.skip("numba's arrays have no DLPack, and the tests need no other library")
    return device_arrays.ByDLPack(of_numba(array)._ary)


both_ways = pytest.mark.parametrize("way", [of_numba, by_interface, by_dlpack])


@pytest.fixture
def read(monkeypatch):
    """Addresses of X in the launches, as they come."""
    addresses, whole = set(), numba_cuda.launch

    def launch(table, memory, data, *rest):
        addresses.add(interface_of(data.X)["data"][0])
        return whole(table, memory, data, *rest)

    monkeypatch.setattr(numba_cuda, "launch", launch)
    return addresses


@both_ways
@both_dtypes
def test_arrays_of_the_device_are_read_in_place_with_the_same_bits(way, dtype, read):
    """X is never copied; y and weights may be anywhere."""
    X, y = iris(dtype)
    weight = np.linspace(0.5, 2, len(y))
    network = MLPClassifier(4, max_iter=3, batch_size=16, random_state=0, device="cuda")
    expected = clone(network).fit(X, y, weight)
    there = way(X)
    read.clear()
    model = clone(network).fit(there, way(y), way(weight))
    assert state_of(vars(model)) == state_of(vars(expected))
    model.predict_proba(there)
    matrix = backends.device_matrix(there)
    assert read == {matrix.__cuda_array_interface__["data"][0]}
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(model, method)(there)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, getattr(expected, method)(X))
    model.partial_fit(there, y)
    assert state_of(model.coefs_) == state_of(expected.partial_fit(X, y).coefs_)


@pytest.mark.parametrize("of_X", ["float32", "float64"])
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "float32", "early_stopping": True},
        {"precision": "float64", "early_stopping": True},
        {"solver": "lbfgs"},
        {"solver": "sgd", "shuffle": False},
    ],
    ids=str,
)
def test_what_is_computed_in_another_dtype_or_of_some_rows_has_the_same_bits(settings, of_X):
    """X is converted, and rows are set aside, on the device."""
    X, y = make_regression(30, 3, n_targets=2, random_state=0)
    X, y = X.astype(of_X), y / 100
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0, device="cuda")
    model.set_params(**settings)
    expected, there = clone(model).fit(X, y), of_numba(X)
    assert state_of(vars(model.fit(there, of_numba(y)))) == state_of(vars(expected))
    wide = of_numba(X.astype("float64"))  # predicted with what X and the weights are, both
    np.testing.assert_array_equal(model.predict(wide), expected.predict(X.astype("float64")))
    np.testing.assert_array_equal(model.predict(there[5:9]), expected.predict(X[5:9]))


@pytest.mark.parametrize("with_folds", [False, True])
def test_many_fits_share_an_array_of_the_device(with_folds, launches, read):
    """Uploaded never; folds are gathered on the device."""
    X, y = iris("float32")
    folds = [np.arange(len(y)) % 5 != k for k in range(5)] if with_folds else None
    there = of_numba(X)
    together = fit_many(several(), there, of_numba(y), folds=folds)
    assert max(launches) == 4
    if not with_folds:
        assert interface_of(there)["data"][0] in read
        assert len(read) == 2  # and the rows that early stopping sets aside
    for one, many in zip(fit_many(several(), X, y, folds=folds), together, strict=True):
        assert state_of(vars(one)) == state_of(vars(many))


class OfALibrary(device_arrays.ByInterface):
    """An array of a library with an array namespace, which makes its arrays of NumPy's."""

    __name__, device = "a library", "the device of X"

    def __array_namespace__(self, api_version=None):
        return self

    def asarray(self, array, device):
        return self, array, device


def test_predictions_come_back_as_scikit_learn_is_set_to(monkeypatch):
    """With array_api_dispatch: numbers in the library of X, or in numba's; strings in NumPy's."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    X, y = iris("float32")
    there = of_numba(X)
    how = {"max_iter": 2, "random_state": 0, "device": "cuda"}
    model = MLPClassifier(3, **how)
    methods = "predict", "predict_proba", "predict_log_proba", "decision_function"
    with sklearn.config_context(array_api_dispatch=True):
        model.fit(there, of_numba(y), of_numba(np.ones(len(y))))
        assert type(model.coefs_[0]) is type(model.classes_) is np.ndarray
        for method in methods:
            expected = getattr(model, method)(X)
            assert type(expected) is np.ndarray
            for X_there in (there, by_interface(X)):
                found = getattr(model, method)(X_there)
                assert type(found) is type(there)
                np.testing.assert_array_equal(found.copy_to_host(), expected)
            library = OfALibrary(there, interface_of(there))
            found_by, found, device = getattr(model, method)(library)
            np.testing.assert_array_equal(found, expected)
            assert found_by is library
            assert device == "the device of X"
        named = MLPClassifier(3, **how).fit(there, np.array(["a", "b", "c"])[y])
        assert type(named.predict(there)) is np.ndarray
        assert type(named.predict_proba(there)) is type(there)
        sparse = MLPClassifier(3, **how).fit(there, scipy.sparse.csr_array(np.eye(3, dtype=int)[y]))
        assert scipy.sparse.issparse(sparse.predict(there))
        numbers = MLPRegressor(hidden_layer_sizes=3, **how).fit(there, y)
        assert type(numbers.predict(there)) is type(there)
        assert numbers.predict(there).shape == (len(y),)


def with_value(value, dtype="float64"):
    X = iris(dtype)[0]
    X[17, 2] = value
    return X


WRONG = {
    "NaN": (lambda X: of_numba(with_value(np.nan)), "Input X contains NaN"),
    "infinity": (lambda X: of_numba(with_value(-np.inf)), "Input X contains infinity"),
    "NaN in float32": (lambda X: by_interface(with_value(np.nan, "float32")), "contains NaN"),
    "of int": (
        lambda X: of_numba(X.astype(int)),
        r"float32 or float64.*got shape \(30, 4\), int64",
    ),
    "of float16": (lambda X: of_numba(X.astype("float16")), "float16, C-contiguous.*copy it to"),
    "a vector": (lambda X: of_numba(X[:, 0]), r"two dimensions.*got shape \(30,\)"),
    "a cube": (lambda X: of_numba(X[None]), r"two dimensions.*got shape \(1, 30, 4\)"),
    "by columns": (lambda X: of_numba(X)[:, 1:], "float64, not C-contiguous"),
    "without rows": (lambda X: of_numba(X)[:0], r"0 sample\(s\) \(shape=\(0, 4\)\)"),
    "too short": (lambda X: of_numba(X[:29]), r"inconsistent numbers of samples: \[29, 30\]"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_validation_refuses_on_the_host_it_refuses_on_the_device(kind):
    """And the estimator is left as it was."""
    X, y = iris()
    model = MLPClassifier(3, max_iter=2, random_state=0, device="cuda").fit(X, y)
    make, match = WRONG[kind]
    unchanged(model, make(X), y, ValueError, match)
    if kind != "too short":
        with pytest.raises(ValueError, match=match):
            model.predict(make(X))
        with pytest.raises(ValueError, match=r"X has 3 features, but MLPClassifier is expecting 4"):
            model.predict(of_numba(X[:, :3]))


def test_values_and_targets_on_the_device_are_judged_as_on_the_host():
    X, y = iris()
    model = MLPClassifier(3, max_iter=2, random_state=0, device="cuda").fit(X, y)
    unchanged(model, of_numba(X), of_numba(y + np.nan), ValueError, "Input y contains NaN")
    unchanged(model, of_numba(X), of_numba(y + 0.5), ValueError, "Unknown label type")
    model.set_params(precision="float32")
    unchanged(model, of_numba(with_value(1e39)), y, ValueError, r"too large for dtype\('float32'\)")
    with pytest.raises(ValueError, match="must not be negative"):
        model.fit(of_numba(X), y, of_numba(-np.ones(len(y))))
    model.set_params(precision="auto").fit(of_numba(with_value(1e39)), y)
    with sklearn.config_context(assume_finite=True):
        assert np.isnan(model.predict_proba(of_numba(with_value(np.nan)))).any()


def test_interfaces_that_cannot_be_read_are_refused():
    """Masked, backwards, or of a library that does not hand it out."""
    X, y = iris()
    model, there = MLPClassifier(3, device="cuda"), of_numba(X)

    class Sparse(device_arrays.ByDLPack):
        def __dlpack__(self, stream=None):
            raise BufferError("it is sparse")

    interface = interface_of(there)
    masked = device_arrays.ByInterface(there, {**interface, "mask": there})
    backwards = device_arrays.ByInterface(there, {**interface, "strides": (-32, 8)})
    unchanged(model, masked, y, ValueError, "a masked array .* cannot be read")
    unchanged(model, backwards, y, ValueError, "negative strides; make it C-contiguous")
    unchanged(model, Sparse(X), y, ValueError, r"Sparse lies on a CUDA device, but.*it is sparse")


@pytest.mark.parametrize(
    ("failed", "device", "where"), [(1, -1, "no memory of CUDA"), (0, 7, "memory of CUDA device 7")]
)
def test_memory_that_kernels_cannot_read_is_refused(failed, device, where, monkeypatch):
    """By what the driver says of its address: to read it would end the context, and the process."""
    cuda_memory = sys.modules[numba_cuda.DeviceMatrix.__module__]
    there = by_interface(iris()[0])

    class Driver:
        def cuPointerGetAttribute(self, answer, attribute, pointer):
            assert (attribute, pointer.value) == (9, there.__cuda_array_interface__["data"][0])
            answer._obj.value = device
            return failed

    monkeypatch.setattr(cuda_memory, "SIMULATED", False)
    monkeypatch.setattr(cuda_memory.ctypes, "CDLL", lambda name: Driver())
    here = SimpleNamespace(device=SimpleNamespace(id=0))
    monkeypatch.setattr(cuda_memory.cuda, "current_context", lambda: here)
    with pytest.raises(ValueError, match=f"it is {where}, and kernels run on device 0"):
        cuda_memory.device_matrix(there)


def test_a_matrix_of_the_device_is_what_numpy_has():
    """Extremes wherever they are, rows by any index, one row with any stride."""
    X = np.arange(35, dtype="float32").reshape(7, 5)
    for value in (-1, 99, np.nan, -np.inf):
        for k in range(35):
            changed = X.copy()
            changed.flat[k] = value
            found = backends.device_matrix(of_numba(changed))
            np.testing.assert_array_equal(
                [found.min(), found.max()], [changed.min(), changed.max()]
            )
    matrix = backends.device_matrix(of_numba(X))
    for rows in ([], [3], [6, 0, 6], [-1], np.arange(7) % 2 == 0, slice(2, 5)):
        np.testing.assert_array_equal(matrix[rows].array.copy_to_host(), X[rows])
    with pytest.raises(IndexError):
        matrix[[7]]
    np.testing.assert_array_equal(matrix.astype("float64").array.copy_to_host(), X)
    assert matrix.astype("float32") is matrix is backends.device_matrix(matrix)
    interface = {**interface_of(matrix.array), "shape": (1, 5), "strides": (4, 4)}
    one_row = backends.device_matrix(device_arrays.ByInterface(matrix, interface))
    assert one_row.carray
    np.testing.assert_array_equal(one_row.array.copy_to_host(), X[:1])


# Refusals.


def unchanged(model, X, y, error, match):
    before = state_of(vars(model))
    with pytest.raises(error, match=match):
        model.fit(X, y)
    assert state_of(vars(model)) == before


@pytest.mark.parametrize("backend", ["compiled", "numba"])
def test_a_backend_of_the_cpu_is_refused_beside_a_gpu(backend):
    X, y = iris()
    model = MLPClassifier(3, device="cuda", backend=backend)
    unchanged(model, X, y, ValueError, rf"backend='{backend}' computes on the CPU.*backend='auto'")


def test_bfloat16_is_refused_with_the_reason():
    X, y = iris("float32")
    model = MLPClassifier(3, device="cuda", precision="bfloat16_emulated")
    unchanged(model, X, y, ValueError, "device='cuda' computes in float32 and float64")


def test_an_unknown_device_is_refused():
    X, y = iris()
    unchanged(MLPClassifier(device="gpu"), X, y, ValueError, "'device' parameter of MLPClassifier")


def test_a_device_without_room_is_a_memory_error(monkeypatch):
    """Whatever is allocated first or last: it says how much was wanted, and nothing is changed."""
    X, y = iris()
    model = MLPClassifier(3, max_iter=2, random_state=0, device="cuda").fit(X, y)

    class Full(Exception):
        code = 2

    def full(*args, **kwargs):
        raise Full("CUDA_ERROR_OUT_OF_MEMORY")

    for name in ("device_array", "to_device"):
        with monkeypatch.context() as patched:
            patched.setattr(numba_cuda.cuda, name, full)
            unchanged(model, X, y, MemoryError, "CUDA device has no room for .* MiB more")
    assert model.fit(X, y).n_iter_ == 2


@pytest.mark.parametrize("reason", ["no CUDA driver is installed here"])
def test_without_a_gpu_it_is_refused_and_auto_is_the_cpu(reason, monkeypatch):
    X, y = iris()
    model = MLPClassifier(3, max_iter=2, batch_size=16, random_state=0, device="cuda").fit(X, y)
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    monkeypatch.setattr(backends, "why_no_gpu", lambda: reason)
    unchanged(model, X, y, ValueError, f"device='cuda' cannot be used: {reason}.*device='cpu'")
    with pytest.raises(ValueError, match=reason):
        model.predict(X[:1])
    assert backends.config()["backends"]["cuda"].startswith(f"absent: {reason}")
    model.set_params(device="auto").fit(X, y)
    assert model.device_ == "cpu"


def test_auto_goes_by_the_work_of_a_step(monkeypatch):
    """As if there were a GPU: large steps and predictions there, small ones on the CPU."""
    monkeypatch.setattr(backends, "why_no_gpu", lambda: None)
    X, y = iris()
    small = MLPClassifier(3, max_iter=1, random_state=0, device="auto").fit(X, y)
    assert small.device_ == "cpu"
    monkeypatch.setattr(backends, "GPU_FROM_FLOPS", 100)
    assert clone(small).fit(X, y).device_ == "cuda"
    assert clone(small).set_params(backend=backends.CPU_BACKENDS[1]).fit(X, y).device_ == "cpu"
    network = spec.Network((10,), (spec.Dense(20), spec.Dense(3)), spec.LOSSES["log_loss"])
    assert backends.work_of(network, 7) == 6 * 7 * (200 + 60)
    assert backends.work_of(network, 7, row_entries=2) == 6 * 7 * (40 + 60)


def test_numba_missing_is_said_with_the_remedy(monkeypatch):
    reason = "numba is not installed; pip install 'hotloop[cuda]'"
    X, y = iris()
    monkeypatch.setattr(backends, "ENGINES", {**backends.ENGINES, "cuda": reason})
    unchanged(MLPClassifier(device="cuda"), X, y, ValueError, r"pip install 'hotloop\[cuda\]'")


def test_every_estimator_has_the_parameter():
    for estimator in (MLPClassifier, MLPRegressor):
        assert estimator().device == "cpu"
    assert "fit_many" in hotloop.__all__
