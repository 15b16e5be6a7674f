"""The runner's protocol: epochs, resuming, stopping, skipping, threads, refusals."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hotloop import backends, plan, vectors
from stacks import (
    OPTIMIZERS,
    Stack,
    build,
    gradient_kinds,
    make_orders,
    make_scalars,
    open_training,
    predict,
    steps_per_epoch,
)

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
input_and_gradients = pytest.mark.parametrize(
    ("sparse", "gradients"), [(s, g) for s in (False, True) for g in gradient_kinds(s)]
)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
BATCH = 10
STACK = Stack((17, 21, 5), ("relu",), n=37, weighted=True)


def problem_and_inputs(n_epochs, optimizer="adam", **changes):
    problem = build(Stack(**{**vars(STACK), **changes}))
    n_steps = n_epochs * steps_per_epoch(problem.stack.n, BATCH)
    return problem, make_orders(problem, n_epochs), make_scalars(optimizer, n_steps)


def assert_same_state(one, two):
    np.testing.assert_array_equal(one.parameters, two.parameters)
    assert one.step == two.step
    for name in one.slots:
        np.testing.assert_array_equal(one.slots[name], two.slots[name])


def run(problem, optimizer, orders, scalars, **kwargs):
    """One run from the start: the state after it, and the losses."""
    runner, state = open_training(problem, optimizer, BATCH, **kwargs)
    losses = runner.run(orders, scalars)
    runner.read_state(state)
    runner.close()
    return state, losses


@both_dtypes
@dense_and_sparse
@every_optimizer
def test_many_epochs_a_call_are_the_same_as_one_a_call(optimizer, sparse, dtype):
    """Four epochs at once, one by one, or resumed in a new runner: the same bits."""
    problem, orders, scalars = problem_and_inputs(4, optimizer, sparse=sparse, dtype=dtype)
    at_once, losses = run(problem, optimizer, orders, scalars)
    n_steps = scalars.shape[1] // 4

    runner, state = open_training(problem, optimizer, BATCH)
    kept = [
        runner.run(orders[:, e : e + 1], scalars[:, e * n_steps : (e + 1) * n_steps])[0, 0]
        for e in range(4)
    ]
    runner.read_state(state)
    runner.close()
    np.testing.assert_array_equal(losses[0], kept)
    assert_same_state(state, at_once)

    resumed, _ = run(problem, optimizer, orders[:, :2], scalars[:, : 2 * n_steps])
    runner, _ = open_training(problem, optimizer, BATCH, state=resumed)
    runner.run(orders[:, 2:], scalars[:, 2 * n_steps :])
    runner.read_state(resumed)
    runner.close()
    assert_same_state(resumed, at_once)


@both_dtypes
@dense_and_sparse
def test_no_orders_means_the_natural_order(sparse, dtype):
    """orders=None with n_epochs is the identity order, bit for bit."""
    problem, orders, scalars = problem_and_inputs(3, sparse=sparse, dtype=dtype)
    orders[:] = np.arange(problem.stack.n)
    explicit, losses = run(problem, "adam", orders, scalars)
    runner, state = open_training(problem, "adam", BATCH)
    np.testing.assert_array_equal(runner.run(None, scalars, n_epochs=3), losses)
    runner.read_state(state)
    runner.close()
    assert_same_state(state, explicit)


@both_dtypes
@every_optimizer
def test_the_same_run_gives_the_same_bits(optimizer, dtype):
    """Twice, and in four threads at once."""
    problem, orders, scalars = problem_and_inputs(5, optimizer, dtype=dtype)
    first, losses = run(problem, optimizer, orders, scalars)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(run, problem, optimizer, orders, scalars) for _ in range(8)]
    for state, again in (future.result() for future in others):
        assert_same_state(state, first)
        np.testing.assert_array_equal(again, losses)


def test_steps_and_losses_say_how_far_a_run_came():
    """runner.steps counts steps since open, runner.losses the epochs of the last call."""
    problem, orders, scalars = problem_and_inputs(3)
    runner, state = open_training(problem, "adam", BATCH)
    assert runner.steps == 0
    losses = runner.run(orders, scalars)
    assert losses.shape == (1, 3)
    assert runner.steps == 3 * 4
    np.testing.assert_array_equal(np.ravel(runner.losses), losses[0])
    runner.read_state(state)
    assert state.step == 3 * 4
    runner.run(orders[:, :1], scalars[:, :4])
    assert runner.steps == 4 * 4
    runner.close()


def sklearn_stopping_rule(losses, stop):
    """Epochs that run, and [best, tol, count, patience] after them."""
    best, tol, count, patience = stop
    for n_epochs, value in enumerate(losses, start=1):
        count = count + 1 if value > best - tol else 0
        best = min(best, value)
        if count > patience:
            return n_epochs, [best, tol, count, patience]
    return len(losses), [best, tol, count, patience]


@pytest.mark.parametrize("tol", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("patience", [0, 2, 5, np.inf])
def test_the_compiled_loop_stops_by_sklearns_rule(patience, tol):
    """It stops after the same epoch, with the same count and best loss."""
    problem, orders, scalars = problem_and_inputs(12, "sgd")
    scalars[:, :, :, 0] *= 100
    _, losses = run(problem, "sgd", orders, scalars)
    start = [np.inf, tol, 0.0, patience]
    epochs, expected = sklearn_stopping_rule(losses[0], start)
    runner, state = open_training(problem, "sgd", BATCH)
    stop = np.array([start])
    got = runner.run(orders, scalars, stop)
    np.testing.assert_array_equal(got, losses[:, :epochs])
    np.testing.assert_array_equal(stop, [expected])
    runner.read_state(state)
    runner.close()
    assert state.step == 4 * epochs


@both_dtypes
@every_optimizer
@input_and_gradients
def test_a_batch_of_zero_weight_is_skipped_whole(gradients, optimizer, sparse, dtype):
    """No step, no loss, no scalars used up: the state is that of the other batches."""
    problem, orders, scalars = problem_and_inputs(1, optimizer, sparse=sparse, dtype=dtype)
    weights = problem.streams["sample_weight"]
    orders = np.arange(37)[None, None].astype(np.intp)
    weights[:] = 1
    weights[10:20] = 0
    runner, state = open_training(problem, optimizer, BATCH, gradients=gradients)
    losses = runner.run(orders, scalars)
    assert runner.steps == 3
    runner.read_state(state)
    runner.close()

    rows = np.r_[0:10, 20:37]
    problem.streams.update({name: stream[rows] for name, stream in problem.streams.items()})
    runner, expected = open_training(problem, optimizer, BATCH, gradients=gradients)
    alone = runner.run(np.arange(27)[None, None].astype(np.intp), scalars[:, :3])
    runner.read_state(expected)
    runner.close()
    assert_same_state(state, expected)
    np.testing.assert_allclose(losses * 37, alone * 27, rtol=1e-6)


@both_dtypes
def test_all_weights_zero_changes_nothing(dtype):
    """An epoch of nothing: no step, zero loss."""
    problem, orders, scalars = problem_and_inputs(1, dtype=dtype)
    problem.streams["sample_weight"][:] = 0
    state, losses = run(problem, "adam", orders, scalars)
    assert state.step == 0
    assert losses[0, 0] == 0
    np.testing.assert_array_equal(state.parameters[0], problem.parameters)


@both_dtypes
@dense_and_sparse
def test_inputs_may_be_read_only_and_stay_as_they_were(sparse, dtype):
    """Streams, orders and scalars are read, never written; so is the state until it is asked."""
    problem, orders, scalars = problem_and_inputs(2, sparse=sparse, dtype=dtype)
    X = problem.streams["X"]
    arrays = [orders, scalars, problem.streams["y"], problem.streams["sample_weight"]]
    arrays += [X.data, X.indices, X.indptr] if sparse else [X]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    runner, state = open_training(problem, "adam", BATCH)
    runner.run(orders, scalars)
    np.testing.assert_array_equal(state.parameters[0], problem.parameters)
    runner.close()
    predict(problem)
    for a, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, kept)


@both_dtypes
@every_optimizer
def test_a_written_state_is_read_back_bit_for_bit(optimizer, dtype):
    """Packing into panels and back loses nothing, on widths with tails."""
    for widths in ((1, 1), (17, 21, 5), (33, 2, 40, 1), (8, 64, 16)):
        problem = build(Stack(widths, ("tanh",) * (len(widths) - 2), "squared_error", dtype=dtype))
        runner, state = open_training(problem, optimizer, BATCH)
        rng = np.random.default_rng(0)
        for array in (state.parameters, *state.slots.values()):
            array[:] = rng.random(array.shape)
        runner.write_state(state)
        back = vectors.new_state(np.zeros_like(problem.parameters), OPTIMIZERS[optimizer])
        runner.read_state(back)
        runner.close()
        np.testing.assert_array_equal(back.parameters, state.parameters)
        for name, slot in state.slots.items():
            np.testing.assert_array_equal(back.slots[name], slot)


@both_dtypes
def test_a_runners_prediction_is_that_of_its_current_weights(dtype):
    """Between epochs, predict sees the trained weights; bits as from inference afterwards."""
    problem, orders, scalars = problem_and_inputs(1, dtype=dtype)
    runner, state = open_training(problem, "adam", BATCH)
    out = np.empty((37, 5), dtype)
    assert runner.predict(problem.streams["X"], out) is out
    np.testing.assert_array_equal(out, predict(problem))
    runner.run(orders, scalars)
    runner.predict(problem.streams["X"], out)
    runner.read_state(state)
    runner.close()
    np.testing.assert_array_equal(out, predict(problem, parameters=state.parameters[0]))


@both_dtypes
@dense_and_sparse
def test_predict_is_thread_safe(sparse, dtype):
    """Many threads over one plan and one set of weights, small and large inputs mixed."""
    problem = build(Stack((30, 50, 4), ("relu",), n=400, dtype=dtype, sparse=sparse))
    X = problem.streams["X"]
    expected = predict(problem)

    def check(k):
        rows = np.arange(k % 390, 400 - k % 7)
        np.testing.assert_array_equal(predict(problem, X[rows]), expected[rows])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(400)))


# Instruction sets and refusals.


def in_a_child(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def usable_instruction_sets():
    return backends.config()["usable_instruction_sets"]


@pytest.mark.parametrize("name", usable_instruction_sets())
def test_each_usable_instruction_set_can_be_forced(name):
    """HOTLOOP_ISA=name makes it the active one."""
    code = "from hotloop import backends; print(backends.config()['instruction_set'])"
    child = in_a_child(code, HOTLOOP_ISA=name)
    assert child.stdout.strip() == name, child.stderr


def test_an_unusable_instruction_set_is_refused_at_import():
    """The error names what came and every usable set."""
    child = in_a_child("import hotloop", HOTLOOP_ISA="nonsense")
    assert child.returncode != 0
    last = child.stderr.strip().splitlines()[-1]
    for name in ("nonsense", *usable_instruction_sets()):
        assert name in last


def test_show_config_prints_what_config_returns(capsys):
    """Instruction set and each absent backend's reason are there to be read."""
    backends.show_config()
    assert backends.config()["instruction_set"] in capsys.readouterr().out


def test_an_unknown_backend_is_refused_by_name():
    """Nothing is swapped silently: the message says what came and what there is."""
    how = {"dtype": np.float64, "batch_size": 8, "optimizer": OPTIMIZERS["sgd"]}
    with pytest.raises(ValueError, match="'abacus' is not known; it must be one of"):
        plan.compile_training(build(STACK).network, **how, backend="abacus")
    with pytest.raises(ValueError, match="'abacus' is not known"):
        backends.why_unavailable("abacus")
