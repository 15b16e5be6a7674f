"""Where work is cut: chunks of rows, units and tiles of every width. Results must not show it."""

from dataclasses import replace

import numpy as np
import pytest

import oracle
from bounds import assert_within
from hotloop import backends, plan, vectors
from stacks import (
    OPTIMIZERS,
    Stack,
    build,
    gradients,
    make_orders,
    make_scalars,
    oracle_gradients,
    steps_per_epoch,
)

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both_dtypes
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_few_outputs_of_every_number_of_inputs(outputs, dtype):
    """Each number of vectors that a row of a narrow weight may have, full and with a tail."""
    loss = "binary_log_loss"
    for inputs in (*range(1, 150, 6), 128, 256, 300):
        problem = build(Stack((inputs, outputs), (), loss, n=9, dtype=dtype))
        value, flat = gradients(problem)
        expected_value, expected = oracle_gradients(problem)
        assert_within(value, expected_value, f"loss with {inputs} inputs")
        parts = oracle.split(flat, problem.stack.widths)
        for got, reference in zip(parts, expected, strict=True):
            assert_within(got, reference, f"gradient with {inputs} inputs")


@both_dtypes
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("loss", ["log_loss", "binary_log_loss", "squared_error", "poisson"])
@pytest.mark.parametrize("outputs", [1, 3, 70])
def test_chunks_of_rows_do_not_show(outputs, loss, sparse, dtype):
    """A step whose rows go through in chunks of 7 has the bits of one whose rows go at once."""
    if loss == "log_loss":
        outputs = max(outputs, 2)  # a single class has no softmax
    stack = Stack((19, 33, outputs), ("tanh",), loss, n=60, dtype=dtype, sparse=sparse)
    problem = build(replace(stack, weighted=True))
    compiled = plan.compile_training(
        problem.network,
        dtype=np.dtype(dtype),
        batch_size=25,
        optimizer=OPTIMIZERS["adam"],
        sparse=sparse,
    )
    results = []
    for chunk_rows in (7, 10_000):
        cut = replace(compiled, chunk_rows=chunk_rows, inference_rows=chunk_rows)
        state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS["adam"])
        runner = backends.open_runner(cut, state, problem.streams)
        n_steps = 2 * steps_per_epoch(60, 25)
        losses = runner.run(make_orders(problem, 2), make_scalars("adam", n_steps))
        runner.read_state(state)
        out = np.empty((60, outputs), dtype)
        results.append((losses, state.parameters, runner.predict(problem.streams["X"], out)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.compiled
@both_dtypes
@pytest.mark.parametrize("inputs", [16, 143, 144, 230])
def test_units_that_go_together_do_not_show(inputs, dtype):
    """The gradients of a large batch and a wide layer are summed for many units at a time, from a
    copy of the input without gaps; they have the bits of those that are made one by one from the
    input where it lies.
    """
    problem = build(Stack((inputs, 1100, 4), ("relu",), "log_loss", n=700, dtype=dtype))
    compiled = plan.compile_training(
        problem.network, dtype=np.dtype(dtype), batch_size=600, optimizer=OPTIMIZERS["adam"]
    )
    assert compiled.ops["pack_input"].any()
    assert (compiled.ops["grain"] > 1).any()
    in_place, alone = compiled.ops.copy(), compiled.ops.copy()
    in_place["pack_input"] = 0
    alone["grain"] = 1
    results = []
    for ops in (compiled.ops, in_place, alone):
        state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS["adam"])
        runner = backends.open_runner(replace(compiled, ops=ops), state, problem.streams)
        runner.run(make_orders(problem, 2), make_scalars("adam", 2 * steps_per_epoch(700, 600)))
        runner.read_state(state)
        results.append(state.parameters)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    assert not np.array_equal(results[0][0], problem.parameters[0])
