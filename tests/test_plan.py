"""Plans: offsets and views, scikit-learn's initial weights, printing, equality."""

import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor

from hotloop import plan, spec, vectors
from stacks import Stack, build, gradient_kinds, layers_of

STACK = Stack((5, 7, 4, 3), ("relu", "tanh"))


@pytest.fixture
def network():
    return spec.Network((5,), layers_of(STACK), spec.LOSSES["log_loss"])


def every_plan(network, dtype="float64", sparse=False):
    for in_place in (False, True):
        yield plan.compile_inference(
            network, dtype=np.dtype(dtype), sparse=sparse, in_place=in_place
        )
    yield plan.compile_gradients(network, dtype=np.dtype(dtype), sparse=sparse)
    for optimizer in (spec.SGD(), spec.SGD(nesterov=False), spec.Adam()):
        for gradients in gradient_kinds(sparse):
            yield plan.compile_training(
                network,
                dtype=np.dtype(dtype),
                batch_size=8,
                optimizer=optimizer,
                sparse=sparse,
                gradients=gradients,
            )


@pytest.mark.compiled
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_views_tile_the_parameter_vector(network, dtype, sparse):
    """All weights row-major, then all biases; no gap, no overlap, P in all."""
    for compiled in every_plan(network, dtype, sparse):
        assert compiled.n_parameters == 5 * 7 + 7 * 4 + 4 * 3 + 7 + 4 + 3
        names = ["weight_0", "weight_1", "weight_2", "bias_0", "bias_1", "bias_2"]
        at = 0
        for name in names:
            offset, shape = compiled.views[name]
            assert offset == at
            at += np.prod(shape)
        assert at == compiled.n_parameters


def test_weight_views_share_the_flat_vectors_memory(network):
    """coefs and intercepts are row-major views: an edit in place is seen in the vector."""
    flat = np.arange(5 * 7 + 7 * 4 + 4 * 3 + 7 + 4 + 3, dtype=np.float32)
    coefs, intercepts = vectors.weight_views(network, flat)
    assert [c.shape for c in coefs] == [(5, 7), (7, 4), (4, 3)]
    assert [b.shape for b in intercepts] == [(7,), (4,), (3,)]
    assert all(v.flags.c_contiguous and np.shares_memory(v, flat) for v in coefs + intercepts)
    np.testing.assert_array_equal(np.concatenate([v.ravel() for v in coefs + intercepts]), flat)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["identity", "relu", "logistic", "tanh"])
def test_initial_parameters_are_sklearns(activation, dtype):
    """The same stream, bit for bit, and the generator is left in the same place."""
    theirs = MLPRegressor((7, 4), activation=activation)
    theirs._random_state = rng = np.random.RandomState(3)
    pairs = [theirs._init_coef(i, o, dtype) for i, o in ((5, 7), (7, 4), (4, 3))]
    network = spec.Network(
        (5,), layers_of(Stack(STACK.widths, (activation,) * 2)), spec.LOSSES["squared_error"]
    )
    ours = np.random.RandomState(3)
    flat = vectors.init_parameters(network, ours, np.dtype(dtype))
    assert flat.dtype == dtype
    coefs, intercepts = vectors.weight_views(network, flat)
    for k, (coef, intercept) in enumerate(pairs):
        np.testing.assert_array_equal(coefs[k], coef)
        np.testing.assert_array_equal(intercepts[k], intercept)
    assert ours.uniform() == rng.uniform()


@pytest.mark.parametrize("optimizer", [spec.SGD(), spec.Adam()])
def test_a_new_state_has_a_model_axis_and_zero_slots(optimizer):
    """Parameters (M, P), each slot of the optimizer (M, P) and zero, no step taken."""
    state = vectors.new_state(np.arange(6.0), optimizer)
    np.testing.assert_array_equal(state.parameters, np.arange(6.0)[None])
    assert tuple(state.slots) == optimizer.slots
    for slot in state.slots.values():
        np.testing.assert_array_equal(slot, np.zeros((1, 6)))
    assert state.step == 0


@pytest.mark.compiled
def test_a_plan_is_deterministic_and_frozen(network):
    """Compiled twice, the same table; its fields cannot be set."""
    for one, two in zip(every_plan(network), every_plan(network), strict=True):
        np.testing.assert_array_equal(one.ops, two.ops)
        assert str(one) == str(two)
        with pytest.raises(AttributeError):
            one.ops = None


@pytest.mark.compiled
def test_a_printed_plan_is_a_table_of_its_ops(network):
    """The model summary names every layer's sizes and the parameter count."""
    for compiled in every_plan(network):
        text = str(compiled)
        assert len(text.splitlines()) > len(compiled.ops)
        for size in STACK.widths:
            assert str(size) in text


def test_the_problem_builder_agrees_with_the_plan():
    """The tests' own layout of the parameter vector is the plan's."""
    problem = build(STACK)
    coefs, intercepts = vectors.weight_views(problem.network, problem.parameters)
    for got, expected in zip(coefs + intercepts, problem.net.parameters, strict=True):
        np.testing.assert_array_equal(got, expected.value)
