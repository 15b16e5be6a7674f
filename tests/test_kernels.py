"""Every kernel against the float64 oracle: predictions, gradients, training, row by row.

Bounds come from running error analysis (:mod:`bounds`), about K eps for a reduction of length
K. Run once per instruction set with HOTLOOP_ISA set.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracle
from bounds import assert_within
from hotloop import backends, spec
from stacks import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    Stack,
    build,
    gradient_kinds,
    gradients,
    oracle_gradients,
    oracle_predict,
    oracle_train,
    predict,
    train,
)

DTYPES = ("float32", "float64")
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
input_and_gradients = pytest.mark.parametrize(
    ("sparse", "gradients"), [(s, g) for s in (False, True) for g in gradient_kinds(s)]
)

#: Widths around the vector lengths and tiles: ones, odd tails, primes.
SHAPES = (
    (1, 1),
    (1, 1, 1),
    (3, 2),
    (7, 5, 1),
    (17, 31, 13, 3),
    (64, 100, 10),
    (5, 130, 37, 2),
    (130, 8, 33),
    (2, 64, 32, 16, 8),
    (101, 47, 19, 9),
)
BATCHES = (1, 2, 13, 64, 97)


def test_the_forced_instruction_set_is_the_active_one():
    """What HOTLOOP_ISA asks for is what these tests run on."""
    active = backends.config()["instruction_set"]
    assert active == os.environ.get("HOTLOOP_ISA", active)


def hidden(widths, first=0):
    """Activations for the hidden layers, each in turn."""
    return tuple(ACTIVATIONS[(first + i) % 4] for i in range(1, len(widths) - 1))


def assert_gradients_match(problem):
    value, flat = gradients(problem)
    assert flat.dtype == problem.stack.dtype
    expected_loss, expected = oracle_gradients(problem)
    assert_within(value, expected_loss, "loss")
    assert_parameters_match(flat, expected, problem, "gradient")


def assert_parameters_match(flat, expected, problem, what):
    parts = oracle.split(flat, problem.stack.widths)
    for k, (got, reference) in enumerate(zip(parts, expected, strict=True)):
        n = len(parts) // 2
        assert_within(got, reference, f"{what} of {'weight' if k < n else 'bias'} {k % n}")


def changes(net, problem):
    """What training should change each parameter by: its bound must be small beside that."""
    pairs = zip(net.parameters, problem.net.parameters, strict=True)
    return [new.change_from(old.value) for new, old in pairs]


def assert_trained_match(parameters, net, problem):
    change = parameters - problem.parameters.astype(np.float64)
    assert_parameters_match(change, changes(net, problem), problem, "change")


def assert_training_matches(problem, optimizer, batch_size, **how):
    parameters, slots, losses = train(problem, optimizer, batch_size, **how)
    assert parameters.dtype == problem.stack.dtype
    how.pop("gradients", None)
    net, expected_slots, expected_losses = oracle_train(problem, optimizer, batch_size, **how)
    assert_trained_match(parameters, net, problem)
    for name, flat in slots.items():
        assert_parameters_match(flat, expected_slots[name], problem, name)
    assert len(losses) == len(expected_losses)
    for got, reference in zip(losses, expected_losses, strict=True):
        assert_within(got, reference, "loss of an epoch")


# Predictions and gradients.


@both_dtypes
@dense_and_sparse
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_predictions_and_gradients_on_every_shape(widths, sparse, dtype):
    """Widths of all kinds, outputs from 1 up, rows from 1 up."""
    for k, n in enumerate((1, 5, 16, 67)):
        loss = LOSSES[(k + len(widths)) % 4]
        stack = Stack(widths, hidden(widths, k), loss, n, dtype, sparse, k % 2 == 0, seed=k + 7)
        problem = build(stack)
        if loss == "log_loss" and widths[-1] == 1:
            continue  # the softmax of one output is always 1
        assert_within(predict(problem), oracle_predict(problem), f"prediction of {stack}")
        assert_gradients_match(problem)


@both_dtypes
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_predictions_and_gradients_of_every_pair(activation, loss, weighted, dtype):
    """Every hidden activation with every loss, weighted or not."""
    stack = Stack((6, 9, 8, 3), (activation, activation), loss, 21, dtype, weighted=weighted)
    problem = build(stack)
    assert_within(predict(problem), oracle_predict(problem), "prediction")
    assert_gradients_match(problem)


@both_dtypes
@dense_and_sparse
def test_every_width_from_1_to_40(sparse, dtype):
    """No tail of a vector or of a tile is wrong: inputs, hidden units and outputs alike."""
    for width in range(1, 41):
        for widths in ((width, 5, 3), (4, width, 3), (4, 6, width)):
            loss = "binary_log_loss" if width == 1 else LOSSES[width % 4]
            stack = Stack(widths, ("tanh",), loss, 1 + width % 19, dtype, sparse, seed=width)
            problem = build(stack)
            assert_within(predict(problem), oracle_predict(problem), f"{stack}")
            assert_gradients_match(problem)


@both_dtypes
@dense_and_sparse
def test_no_rows_give_no_predictions(sparse, dtype):
    """Zero rows in, zero rows out."""
    got = predict(build(Stack(n=0, dtype=dtype, sparse=sparse)))
    assert got.shape == (0, 3)
    assert got.dtype == dtype


#: Reductions, batches and widths longer than the blocks that kernels cut them into.
LARGE = (
    ((1030, 70, 3), 40),
    ((40, 700, 5), 130),
    ((600, 2), 70),
    ((1100, 1), 33),
    ((20, 9, 4), 2100),
    ((30, 2), 1300),
    ((530, 20, 18), 560),
)


@both_dtypes
@dense_and_sparse
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("widths", "n"), LARGE, ids=str)
def test_long_reductions_and_large_batches(widths, n, activation, sparse, dtype):
    """Nothing is lost or added twice where a sum over inputs, units or rows is cut in blocks."""
    hidden_layers = (activation,) * (len(widths) - 2)
    problem = build(Stack(widths, hidden_layers, "squared_error", n, dtype, sparse))
    assert_within(predict(problem), oracle_predict(problem), "prediction")
    if activation == "relu" and dtype == "float32":
        return  # units at the kink widen the bounds of gradients too far
    assert_gradients_match(problem)
    for kind in gradient_kinds(problem.stack.sparse):
        assert_training_matches(problem, "sgd", n, gradients=kind, n_epochs=1)


@pytest.mark.parametrize(("of_X", "of_plan"), [DTYPES, DTYPES[::-1]])
def test_dense_input_of_the_other_dtype_is_converted_on_the_way(of_X, of_plan):
    """The stream X may be float32 under a float64 plan, and the other way round."""
    problem = build(Stack((9, 8, 3), ("tanh",), n=50, dtype="float32"))
    network, X = problem.network, problem.streams["X"]
    problem = build(replace(problem.stack, dtype=of_plan))
    problem.streams["X"] = X.astype(of_X)
    problem.X[:] = X
    assert problem.network == network
    assert_gradients_match(problem)
    assert_training_matches(problem, "adam", 20)


# Training.


@both_dtypes
@input_and_gradients
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_with_every_optimizer(loss, optimizer, gradients, sparse, dtype):
    """Two epochs in batches, the last one short: parameters, slots and losses."""
    stack = Stack((6, 9, 5, 3), ("relu", "tanh"), loss, 23, dtype, sparse, weighted=True)
    assert_training_matches(build(stack), optimizer, 10, gradients=gradients)


@both_dtypes
@pytest.mark.parametrize("gradients", gradient_kinds(sparse=False))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("widths", SHAPES[3:], ids=str)
def test_training_on_every_shape(widths, optimizer, gradients, dtype):
    """The update reaches every weight of every shape, in registers or not."""
    stack = Stack(widths, hidden(widths), "binary_log_loss", 41, dtype)
    stack = replace(stack, sparse=widths[0] % 2 == 0 and gradients != "sharded")
    assert_training_matches(build(stack), optimizer, 16, gradients=gradients)


@both_dtypes
@dense_and_sparse
@pytest.mark.parametrize("batch_size", BATCHES)
def test_training_with_every_batch_size(batch_size, sparse, dtype):
    """Batches from one row to all of them."""
    stack = Stack((9, 11, 4), ("logistic",), "log_loss", 97, dtype, sparse, weighted=True)
    assert_training_matches(build(stack), "nesterov", batch_size, n_epochs=1)


@both_dtypes
@pytest.mark.parametrize("gradients", gradient_kinds(sparse=False))
def test_adams_constants_are_rounded_once(gradients, dtype, monkeypatch):
    """After one step v / m^2 is (1 - beta_2) / (1 - beta_1)^2 to a few roundings.

    1 - beta_2 formed in float32 would be off by 6e-5 at 0.999, which no bound on the gradient
    could show.
    """
    monkeypatch.setitem(OPTIMIZERS, "adam", spec.Adam())
    problem = build(Stack((6, 9, 3), ("tanh",), n=20, dtype=dtype))
    _, slots, _ = train(problem, "adam", 20, n_epochs=1, gradients=gradients)
    m, v = (slots[name].astype(np.float64) for name in ("first_moment", "second_moment"))
    assert (np.abs(m) > 1e-6).mean() > 0.9
    np.testing.assert_allclose(
        v, m**2 * ((1 - 0.999) / (1 - 0.9) ** 2), rtol=8 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_adam_with_its_usual_epsilon(loss, monkeypatch):
    """epsilon = 1e-8 in float64, where small gradients do not drown the comparison."""
    monkeypatch.setitem(OPTIMIZERS, "adam", spec.Adam())
    problem = build(Stack((6, 9, 3), ("tanh",), loss, 20))
    assert_training_matches(problem, "adam", 10, n_epochs=1)


@both_dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_of_every_pair(loss, activation, dtype):
    """Every hidden activation with every loss."""
    stack = Stack((5, 12, 7, 3), (activation, activation), loss, 20, dtype)
    assert_training_matches(build(stack), "adam", 8)


# Random stacks.


@st.composite
def stacks(draw, *, largest=24):
    """Any stack with up to three hidden layers."""
    depth = draw(st.integers(0, 3))
    loss = draw(st.sampled_from(LOSSES))
    units = st.integers(1, largest)
    widths = [draw(units) for _ in range(depth + 1)]
    widths.append(draw(st.integers(2 if loss == "log_loss" else 1, 12)))
    return Stack(
        tuple(widths),
        tuple(draw(st.sampled_from(ACTIVATIONS)) for _ in range(depth)),
        loss,
        draw(st.integers(1, 40)),
        draw(st.sampled_from(DTYPES)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 2**16)),
    )


@settings(max_examples=150)
@given(stacks(), st.sampled_from(list(OPTIMIZERS)), st.integers(1, 40), st.data())
def test_random_stacks_train_as_the_oracle_does(stack, optimizer, batch_size, data):
    """Whatever the stack: prediction and one epoch agree with the oracle."""
    problem = build(stack)
    gradients = data.draw(st.sampled_from(gradient_kinds(stack.sparse)))
    net, slots, _ = oracle_train(problem, optimizer, batch_size, n_epochs=1)
    parts = [*changes(net, problem), *(p for slot in slots.values() for p in slot)]
    assume(all(p.conclusive for p in [*parts, oracle_predict(problem)]))
    assert_within(predict(problem), oracle_predict(problem), "prediction")
    assert_training_matches(problem, optimizer, batch_size, gradients=gradients, n_epochs=1)


def assert_gradient_is_the_slope(stack):
    """The float64 gradient of one stack against central differences of the oracle."""
    problem = build(replace(stack, dtype="float64"))
    plain = problem.net.with_parameters([p.value for p in problem.net.parameters])
    near_a_kink = any(
        name == "relu" and (np.abs(h @ W + b) < 1e-3).any()
        for h, W, b, name in zip(
            oracle.forward(plain, problem.X),
            plain.weights,
            plain.biases,
            stack.activations,
            strict=False,
        )
    )
    assume(not near_a_kink)
    if stack.loss == "binary_log_loss":  # log(1 - p) of the oracle keeps too few digits there
        assume((oracle.forward(plain, problem.X)[-1] < 1 - 1e-4).all())
    data = problem.X, problem.Y, problem.sample_weight
    if stack.loss == "binary_log_loss":  # differences of log(1 - p) show the rounding of p
        assume((1 - oracle.forward(plain, problem.X)[-1])[problem.Y == 0].min(initial=1) > 1e-3)
    slopes = oracle.numerical_gradients(plain, *data, decay=0.1)
    expected = np.concatenate([s.ravel() for s in slopes])
    assume(np.linalg.norm(expected) > 1e-3)
    _, got = gradients(problem)
    assert np.linalg.norm(got - expected) <= 1e-7 * np.linalg.norm(expected)


@settings(max_examples=500)
@given(stacks(largest=9))
def test_gradients_are_slopes_on_500_random_stacks(stack):
    """500 random stacks in float64 against finite differences of the oracle."""
    assert_gradient_is_the_slope(stack)


# A row's bits.


def parts_of(X, rng):
    """Row selections of every kind: each row alone, odd slices, a permutation, repetitions."""
    n = X.shape[0]
    yield from ([i] for i in range(n))
    for start, stop in ((0, 2), (1, 4), (3, 16), (5, 38), (n - 9, n), (0, n - 1)):
        yield list(range(start, stop))
    yield rng.permutation(n)
    yield rng.integers(n, size=3 * n)


@both_dtypes
@dense_and_sparse
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(activation, loss, sparse, dtype):
    """A row's prediction depends on the row alone: not on the batch, its size or the place."""
    rng = np.random.default_rng(0)
    for widths in ((13, 37, 21, 3), (64, 100, 17), (5, 8, 1), (3, 40), (130, 33, 9)):
        stack = Stack(widths, (activation,) * (len(widths) - 2), loss, 67, dtype, sparse)
        problem = build(stack)
        X = problem.streams["X"]
        whole = predict(problem)
        for rows in parts_of(X, rng):
            np.testing.assert_array_equal(predict(problem, X[rows]), whole[rows])


@both_dtypes
@dense_and_sparse
def test_a_row_has_the_same_bits_in_a_batch_of_thousands(sparse, dtype):
    """Also where reductions and rows are cut into blocks."""
    for widths in ((1030, 40, 3), (600, 1), (600, 20), (30, 600, 2)):
        stack = Stack(widths, ("relu",) * (len(widths) - 2), "squared_error", 2100, dtype, sparse)
        problem = build(stack)
        X = problem.streams["X"]
        whole = predict(problem)
        for rows in ([0], [1], [1023], [2099], range(3, 8), range(500, 1029), range(1, 2100)):
            np.testing.assert_array_equal(predict(problem, X[list(rows)]), whole[list(rows)])


@both_dtypes
def test_a_csr_row_has_the_same_bits_however_its_columns_are_ordered_and_stored(dtype):
    """Sorted or not, with 32- or 64-bit indices: what the matrix holds decides, within bounds."""
    problem = build(Stack((31, 9, 3), ("tanh",), n=20, dtype=dtype, sparse=True))
    X = problem.streams["X"]
    wide = X.copy()
    wide.indices, wide.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    np.testing.assert_array_equal(predict(problem, wide), predict(problem))
    shuffled = X.copy()
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        shuffled.indices[start:stop] = X.indices[start:stop][::-1]
        shuffled.data[start:stop] = X.data[start:stop][::-1]
    shuffled.has_sorted_indices = False
    assert_within(predict(problem, shuffled), oracle_predict(problem), "prediction")


# Values at the edges.


@both_dtypes
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_saturated_units_do_not_overflow(activation, loss, dtype):
    """Hidden units far out, and probabilities of 0 and 1, give the limits and the clipped loss."""
    problem = build(Stack((3, 8, 2), (activation,), loss, 9, dtype, seed=3))
    net = problem.net
    probabilities = loss in ("log_loss", "binary_log_loss")
    scaled = [net.weights[0] * 1000.0, net.weights[1] * (300.0 if probabilities else 3.0)]
    scaled += net.biases
    flat = np.concatenate([p.value.ravel() for p in scaled]).astype(dtype)
    plain = net.with_parameters(oracle.split(flat.astype(float), (3, 8, 2)))
    got = predict(problem, parameters=flat)
    assert np.isfinite(got).all()
    assert not probabilities or ((got < net.clip) & (problem.Y == 1)).any()
    tolerance = 1e5 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, oracle.forward(plain, problem.X)[-1], tolerance, tolerance)
    value, gradient = gradients(problem, parameters=flat, alpha=0.0)
    assert np.isfinite(gradient).all()
    expected = oracle.loss(plain, problem.X, problem.Y)
    np.testing.assert_allclose(value, expected, 2000 * np.finfo(dtype).eps)


@both_dtypes
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_not_swallowed(activation, loss, dtype):
    """A NaN weight makes NaN of every output it reaches, as in NumPy; so divergence is seen."""
    problem = build(Stack((4, 6, 3), (activation,), loss, 5, dtype))
    flat = problem.parameters.copy()
    flat[0] = np.nan
    assert np.isnan(predict(problem, parameters=flat)).all()
    value, _ = gradients(problem, parameters=flat)
    assert np.isnan(value)


# The tests are tested: one corrupted weight must be noticed.


def corruptions(flat, problem):
    """Copies of a flat vector with one element off by a percent of its array, or lost."""
    at = 0
    for part in oracle.split(flat, problem.stack.widths):
        percent = 0.01 * np.sqrt(np.mean(part**2))
        for k in {at, at + part.size // 2, at + part.size - 1}:
            for value in (flat[k] + percent, 0.0):
                wrong = flat.copy()
                wrong[k] = value
                if abs(wrong[k] - flat[k]) > percent / 2:
                    yield wrong
        at += part.size


MUTATED = Stack((6, 9, 5, 3), ("tanh", "logistic"), "log_loss", 23, weighted=True)


@both_dtypes
@dense_and_sparse
def test_one_corrupted_weight_fails_the_prediction_comparison(sparse, dtype):
    """A weight a percent off, or lost, on the way into predict is noticed."""
    problem = build(replace(MUTATED, dtype=dtype, sparse=sparse))
    for wrong in corruptions(problem.parameters, problem):
        with pytest.raises(AssertionError):
            assert_within(predict(problem, parameters=wrong), oracle_predict(problem))


@both_dtypes
def test_one_corrupted_gradient_fails_the_gradient_comparison(dtype):
    """An element of the gradient a percent off, or lost, is noticed; so is a corrupted weight."""
    problem = build(replace(MUTATED, dtype=dtype))
    _, expected = oracle_gradients(problem)
    for wrong in corruptions(gradients(problem)[1], problem):
        with pytest.raises(AssertionError):
            assert_parameters_match(wrong, expected, problem, "gradient")
    for wrong in corruptions(problem.parameters, problem):
        with pytest.raises(AssertionError):
            assert_parameters_match(
                gradients(problem, parameters=wrong)[1], expected, problem, "gradient"
            )


@both_dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_corrupted_weight_fails_the_training_comparison(optimizer, dtype):
    """A trained weight or slot element a percent off, or lost, is noticed."""
    problem = build(replace(MUTATED, dtype=dtype))
    parameters, slots, _ = train(problem, optimizer, 10)
    net, expected_slots, _ = oracle_train(problem, optimizer, 10)
    for wrong in corruptions(parameters, problem):
        with pytest.raises(AssertionError):
            assert_trained_match(wrong, net, problem)
    for name, flat in slots.items():
        for wrong in corruptions(flat, problem):
            with pytest.raises(AssertionError):
                assert_parameters_match(wrong, expected_slots[name], problem, name)
