"""The CUDA kernels race nowhere and compute the same bits in any order of threads and blocks.

In numba's simulator only (``NUMBA_ENABLE_CUDASIM=1``, as ``make test`` has it).
"""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_iris, make_regression

import test_custom as custom
import test_muon as muon
from hotloop import MLPClassifier, MLPRegressor, backends, fit_many, plan
from races import Grid, Race, launcher
from stacks import (
    Stack,
    build,
    gradient_kinds,
    gradients,
    make_orders,
    make_scalars,
    open_training,
    predict,
    train,
)
from state import state_of

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and not backends.why_unavailable("cuda")
pytestmark = [
    pytest.mark.skipif(not SIMULATED, reason="needs numba and NUMBA_ENABLE_CUDASIM=1"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
if SIMULATED:
    numba_cuda = sys.modules[backends.engine_of("cuda").__module__]
    from hotloop.kernels import cuda_ops

#: By whom and in which order: teams, blocks of a grid, whether the last go first.
WAYS = [("grid", 1, False), ("grid", 3, False), ("grid", 2, True), ("block", 1, True)]
STACK = Stack((6, 5, 3), ("tanh",), "log_loss", 13, "float32", weighted=True, backend="cuda")


@pytest.fixture
def each_way(monkeypatch):
    """Calls a function in each way; all must return the same bits."""
    monkeypatch.setattr(numba_cuda, "next_most", lambda most, seconds, limit: 1 + 2 * (most == 1))

    def call(function):
        results = []
        for team, blocks, backwards in WAYS:
            launch = launcher(numba_cuda, cuda_ops, backwards=backwards, blocks=blocks)
            monkeypatch.setattr(numba_cuda, "launch", launch)
            monkeypatch.setattr(numba_cuda, "in_blocks", lambda *sizes, t=team: t == "block")
            results.append(state_of(function()))
        assert all(result == results[0] for result in results)

    return call


@pytest.mark.parametrize(
    ("sparse", "kept"), [(s, g) for s in (False, True) for g in gradient_kinds(s)]
)
def test_training(sparse, kept, each_way):
    """Launches begin and end anywhere in an epoch."""
    problem = build(replace(STACK, sparse=sparse, n=17))
    for optimizer in ("adam", "nesterov"):
        each_way(lambda o=optimizer: train(problem, o, 7, gradients=kept, n_epochs=3))


def test_more_pieces_tiles_and_layers(each_way):
    problem = build(replace(STACK, widths=(9, 8, 11, 2), activations=("relu", "logistic")))
    each_way(lambda: train(problem, "adam", 13))


def test_matrices_of_muon(each_way):
    """Two layers, whose products take turns."""
    problem = muon.problem_of((3, 6, 5, 9, 1), "float32", backend="cuda")
    each_way(lambda: muon.run(problem, batch=20, n_epochs=1)[0])


def test_lazy_features(each_way):
    problem = build(replace(STACK, sparse=True, weighted=False))

    def trained():
        runner, state = open_training(problem, "sgd", 4, lazy=True)
        runner.run(make_orders(problem, 2), make_scalars("sgd", 8))
        runner.read_state(state)
        return state.parameters

    each_way(trained)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_gradients_and_predictions_of_many_batches(sparse, each_way, monkeypatch):
    monkeypatch.setattr(plan, "GRADIENT_ROWS", 8)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 1)
    problem = build(replace(STACK, sparse=sparse, n=101))
    each_way(lambda: (gradients(problem), predict(problem)))


def test_where_training_stops(each_way):
    """Whoever is late must not see that it stops before the others do."""
    problem = build(replace(STACK, n=5))

    def trained(patience):
        runner, _ = open_training(problem, "sgd", 5)
        stop = np.array([[-1.0, 0, 0, patience]])
        losses = runner.run(None, make_scalars("sgd", 6), stop=stop, n_epochs=6)
        assert losses.shape == (1, patience + 1)
        return losses

    for patience in (1, 2):  # first in a launch, and last in one
        each_way(lambda p=patience: trained(p))


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_normalisation(normalization, each_way):
    """More columns, and more rows, than threads share."""
    X, y = load_iris(return_X_y=True)
    model = MLPClassifier((5, 3), normalization=normalization, batch_size=7, device="cuda")
    model.set_params(max_iter=2, random_state=0)
    each_way(lambda: model.fit(X[::9], y[::9]).predict_proba(X[::15]))


def test_functions_of_the_user(each_way):
    X, y = make_regression(9, 3, random_state=0)
    model = MLPRegressor(
        activation=(custom.silu, custom.silu_slope),
        loss=(custom.huber, custom.huber_slope),
        hidden_layer_sizes=5,
        max_iter=2,
        random_state=0,
        device="cuda",
    )
    each_way(lambda: model.fit(X, y).coefs_)


def test_what_is_drawn(each_way):
    """Dropout, noise, and mixup with its two losses of a row."""
    X, y = load_iris(return_X_y=True)
    X, y = X[::10], y[::10]
    drawn = {"dropout": 0.3, "input_dropout": 0.1, "input_noise": 0.2, "mixup": 0.4}
    model = MLPClassifier((5, 4), max_iter=2, batch_size=8, device="cuda", random_state=0, **drawn)
    each_way(lambda: model.fit(X, y).coefs_)


def test_many_models(each_way):
    """Blocks that never meet share nothing that one of them writes."""
    X, y = load_iris(return_X_y=True)
    X, y = X[::10], y[::10]

    def fitted():
        models = [
            MLPClassifier(3, max_iter=2 + k, batch_size=8, random_state=k, device="cuda")
            for k in range(3)
        ]
        return [model.coefs_ for model in fit_many(models, X, y)]

    each_way(fitted)


# The detector is tested.


def without_meeting(number):
    """Tables in which all go on after one op that they met after."""
    made = numba_cuda.table_of

    def table_of(ops, of_plan, store_size):
        table, constants = made(ops, of_plan, store_size)
        places = np.flatnonzero(table[:, cuda_ops.AT.meet])
        if len(ops) == len(of_plan.ops) and number < len(places):
            table[places[number], cuda_ops.AT.meet] = 0
        return table, constants

    return table_of


@pytest.mark.parametrize("kept", ["fused", "kept"])
def test_every_meeting_of_a_step_is_needed(kept, monkeypatch):
    """Leave one out, and there is a race."""
    monkeypatch.setattr(numba_cuda, "launch", launcher(numba_cuda, cuda_ops))
    monkeypatch.setattr(numba_cuda, "in_blocks", lambda *sizes: False)
    problem, ops = build(STACK), []
    made = numba_cuda.table_of
    monkeypatch.setattr(
        numba_cuda, "table_of", lambda *args: ops.append(made(*args)[0]) or made(*args)
    )
    train(problem, "adam", 13, gradients=kept)
    n_meetings = int(ops[0][:, cuda_ops.AT.meet].sum())
    assert n_meetings == (5 if kept == "fused" else 6)
    for number in range(n_meetings):
        monkeypatch.setattr(numba_cuda, "table_of", made)
        monkeypatch.setattr(numba_cuda, "table_of", without_meeting(number))
        with pytest.raises(Race, match="since the last barrier"):
            train(problem, "adam", 13, gradients=kept)


def run_toy(kernel, *, blocks=2, threads=2):
    grid = Grid(blocks, threads)
    values = np.arange(8.0)
    grid.run(kernel, (grid.cuda, grid.watched("values", values)))
    return values


def place(cuda):
    return cuda.blockIdx.x * 2 + cuda.threadIdx.x


def test_a_barrier_of_the_right_kind_ends_a_race():
    def neighbours(barrier, apart):
        def kernel(cuda, values):
            value = values[(place(cuda) + apart) % 4]
            barrier(cuda)
            values[place(cuda)] = value

        return kernel

    assert run_toy(neighbours(lambda c: c.cg.this_grid().sync(), 1))[:4].tolist() == [1, 2, 3, 0]
    assert run_toy(neighbours(lambda c: c.syncthreads(), 0))[:4].tolist() == [0, 1, 2, 3]
    for barrier in (lambda c: None, lambda c: c.syncthreads()):
        with pytest.raises(Race, match="values"):
            run_toy(neighbours(barrier, 1))


def test_barriers_that_not_all_reach_are_found():
    def leaves(cuda, values):
        if cuda.threadIdx.x:
            cuda.syncthreads()

    def at_two_lines(cuda, values):
        if cuda.threadIdx.x:
            cuda.syncthreads()
        else:
            cuda.syncthreads()

    def one_block(cuda, values):
        if cuda.blockIdx.x:
            cuda.cg.this_grid().sync()

    for kernel in (leaves, at_two_lines, one_block):
        with pytest.raises(Race, match="wait at"):
            run_toy(kernel)


def test_an_index_before_an_array_is_found():
    def kernel(cuda, values):
        values[-1 - place(cuda)] = 0

    with pytest.raises(IndexError, match="of values"):
        run_toy(kernel)
