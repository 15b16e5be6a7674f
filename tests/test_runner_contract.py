"""What a runner refuses, and corners of the number format that training must survive."""

import os
import threading

import numpy as np
import pytest

from hotloop import MLPRegressor, backends, plan, spec, vectors

NETWORK = spec.Network((6,), (spec.Dense(9, "relu"), spec.Dense(2)), spec.LOSSES["squared_error"])
N, BATCH = 20, 8


def streams(rng, n=N):
    return {"X": rng.randn(n, 6), "y": rng.randn(n, 2), "sample_weight": np.ones(n)}


def trainer(dtype=np.float64, **changes):
    """A runner of a training plan, and its state."""
    rng = np.random.RandomState(0)
    compiled = plan.compile_training(NETWORK, dtype=dtype, batch_size=BATCH, optimizer=spec.Adam())
    state = vectors.new_state(vectors.init_parameters(NETWORK, rng, dtype), spec.Adam())
    return backends.open_runner(compiled, state, {**streams(rng), **changes}), state


def scalars(n_epochs, n=N):
    values = np.zeros((1, n_epochs * -(-n // BATCH), len(plan.GROUPS), len(plan.SCALARS)))
    values[..., plan.SCALARS.index("rate")] = 1e-3
    values[..., plan.SCALARS.index("momentum")] = 0.9
    return values


@pytest.mark.parametrize(
    ("name", "shape"),
    [("X", (N, 5)), ("y", (N, 3)), ("y", (N - 1, 2)), ("sample_weight", (N - 1,))],
)
def test_streams_that_do_not_fit_are_refused(name, shape):
    """Kernels trust shapes, so the runner looks at them."""
    with pytest.raises(ValueError, match=rf"stream '{name}' must have shape"):
        trainer(**{name: np.ones(shape)})


def test_predict_converts_X_and_refuses_a_wrong_out():
    """Rows are read in place: another dtype is converted, another shape is refused."""
    runner, _ = trainer()
    X = np.random.RandomState(1).randn(5, 6)
    expected = runner.predict(X.astype(np.float32).astype(np.float64), np.empty((5, 2)))
    np.testing.assert_array_equal(runner.predict(X.astype(np.float32), np.empty((5, 2))), expected)
    for out in (np.empty((5, 3)), np.empty((5, 2), np.float32), np.empty((5, 4))[:, ::2]):
        with pytest.raises(ValueError, match="out must be"):
            runner.predict(X, out)


def test_a_plan_is_run_for_what_it_was_compiled_for():
    """Gradients of a training plan, or training by a gradient plan, would read no buffer."""
    runner, _ = trainer()
    flat = np.zeros(runner.plan.n_parameters)
    with pytest.raises(ValueError, match="compile_gradients"):
        runner.gradients(flat, flat.copy(), decay=0.0)
    rng = np.random.RandomState(0)
    gradients = backends.open_runner(
        plan.compile_gradients(NETWORK, dtype=np.float64), None, streams(rng)
    )
    with pytest.raises(ValueError, match="compile_training"):
        gradients.run(None, scalars(1), n_epochs=1)


def test_a_runner_runs_once_at_a_time():
    """A second call from another thread is refused, and the first one is not disturbed."""
    runner, _ = trainer()
    refused, done = [], []

    def run():
        try:
            done.append(runner.run(None, scalars(2000), n_epochs=2000))
        except RuntimeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) >= 1
    assert len(done) + len(refused) == 4
    assert all("running already" in message for message in refused)
    assert runner.steps == 3 * 2000 * len(done)


def test_the_backend_that_the_environment_names_is_the_one_that_runs():
    """Or a second pass of the tests would be the first once more."""
    runner, _ = trainer(np.float32)
    named = os.environ.get("HOTLOOP_BACKEND") or "compiled"
    modules = {"compiled": "hotloop.kernels.engine", "numba": "hotloop.kernels.numba_cpu"}
    assert type(runner._engine).__module__ == modules[named]


def test_moments_of_silent_inputs_reach_zero():
    """Decaying moments do not linger below the normal range, where arithmetic is slow."""
    X = np.random.RandomState(1).randn(N, 6)
    runner, state = trainer(np.float32, X=X)
    runner.run(None, scalars(5), n_epochs=5)
    runner.read_state(state)
    assert np.abs(state.slots["first_moment"]).min() > 0
    X[:, 2] = 0
    silent, later = trainer(np.float32, X=X)
    silent.write_state(state)
    silent.run(None, scalars(600), n_epochs=600)
    silent.read_state(later)
    moments = np.abs(later.slots["first_moment"])
    assert (moments == 0).any()
    assert not ((moments > 0) & (moments < np.finfo(np.float32).tiny)).any()


@pytest.mark.parametrize("epsilon", [1e-50, 2e-39, 1e-30, 1e-12])
def test_tiny_epsilons_train_as_in_scikit_learn(epsilon):
    """Below the float32 range, too: neither NaN nor steps of another size."""
    from sklearn.neural_network import MLPRegressor as Theirs

    rng = np.random.RandomState(0)
    X = (rng.randn(40, 5) * (1e-20 if epsilon == 1e-30 else 1)).astype(np.float32)
    y = X[:, 0].astype(np.float32)
    given = {
        "hidden_layer_sizes": (7,),
        "activation": "tanh",
        "epsilon": epsilon,
        "alpha": 0.0,
        "max_iter": 3,
        "random_state": 0,
    }
    with pytest.warns(UserWarning, match="Maximum iterations"):
        ours = MLPRegressor(**given).fit(X, y)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs = Theirs(**given).fit(X, y)
    for one, two in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert np.linalg.norm(one - two) <= 1e-3 * np.linalg.norm(two)
