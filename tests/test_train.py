"""The epoch loop: scikit-learn's row orders, and many epochs a call without a difference."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.utils import shuffle

import hotloop
from hotloop import backends, train
from state import state_of

X, y = load_iris(return_X_y=True)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def sklearns_orders(rng, n_rows, n_epochs):
    """Each epoch's order is a shuffle of the one before."""
    order, orders = np.arange(n_rows), []
    for _ in range(n_epochs):
        order = shuffle(order, random_state=rng)
        orders.append(order)
    return orders


@pytest.mark.parametrize("n_rows", [1, 2, 3, 100, 1797, 70_000])
def test_row_orders_are_sklearns_and_leave_the_generator_where_it_does(n_rows):
    """Drawn one by one or several at once, and between other draws."""
    ours, theirs = np.random.RandomState(3), np.random.RandomState(3)
    ours.normal(), theirs.normal()  # leaves a half-used pair of normal deviates behind
    orders = train.RowOrders(ours, np.arange(n_rows))
    drawn = []
    for n_epochs in (1, 4, 2, 1):
        drawn.extend(orders.draw(n_epochs)[0].copy())
        orders.keep(n_epochs)
    for got, expected in zip(drawn, sklearns_orders(theirs, n_rows, 8), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert state_of(ours) == state_of(theirs)


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_epochs_that_did_not_run_are_taken_back(kept):
    """The generator is advanced by the epochs that ran and by no other."""
    ours, theirs = np.random.RandomState(0), np.random.RandomState(0)
    orders = train.RowOrders(ours, np.arange(50))
    orders.draw(5)
    orders.keep(kept)
    expected = sklearns_orders(theirs, 50, kept + 1)
    np.testing.assert_array_equal(orders.draw(1)[0, 0], expected[-1])
    assert state_of(ours) == state_of(theirs)


@pytest.fixture
def epochs_of_calls(monkeypatch):
    """How many epochs each call into the runner was asked for."""
    asked = []
    original = backends.TableRunner.run

    def run(self, orders, scalars, stop=None, *, n_epochs=None):
        asked.append(n_epochs if orders is None else orders.shape[1])
        return original(self, orders, scalars, stop, n_epochs=n_epochs)

    monkeypatch.setattr(backends.TableRunner, "run", run)
    return asked


def fit(**parameters):
    how = {"hidden_layer_sizes": (9,), "max_iter": 40, "random_state": np.random.RandomState(0)}
    return hotloop.MLPClassifier(**how, **parameters).fit(X, y)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"tol": 0.05, "n_iter_no_change": 3},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2},
        {"shuffle": False, "batch_size": 7},
    ],
    ids=str,
)
def test_many_epochs_a_call_change_nothing(parameters, monkeypatch, epochs_of_calls):
    """The same state, generator included, as with one epoch a call; and far fewer calls."""
    together = fit(**parameters)
    n_calls = len(epochs_of_calls)
    assert n_calls <= max(3, together.n_iter_ // 3)
    monkeypatch.setattr(train.EpochLoop, "_epochs_a_call", lambda self: 1)
    apart = fit(**parameters)
    assert set(epochs_of_calls[n_calls:]) == {1}
    assert state_of(together) == state_of(apart)


def test_engine_calls_are_fewer_than_epochs_and_far_fewer_than_batches(epochs_of_calls):
    """A small set is trained in a handful of calls; a watched fit in one an epoch."""
    fit(batch_size=5)
    assert len(epochs_of_calls) < 10
    epochs_of_calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(early_stopping=True)
    assert set(epochs_of_calls) == {1}
