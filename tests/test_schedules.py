"""Learning-rate schedules: PyTorch's to the last digits, and what estimators make of them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import hotloop
from hotloop import (
    Adaptive,
    Cosine,
    CosineRestarts,
    Exponential,
    InvScaling,
    MLPRegressor,
    OneCycle,
    Polynomial,
    StepDecay,
    Warmup,
    schedules,
)
from hotloop.options import SCHEDULES

N_EPOCHS, N_STEPS, RATE = 7, 5, 0.1
X, y = make_regression(n_samples=60, n_features=4, random_state=0)
y = y / np.abs(y).max()

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def steps(n_epochs=N_EPOCHS, first=0, most=N_EPOCHS, n_steps=N_STEPS):
    rows = 10 * n_steps
    return schedules.Steps(n_epochs, n_steps, first, most, rows, first * rows)


def of_torch(make, by_epochs):
    """Rates (and momenta) of a scheduler of PyTorch over the same steps."""
    torch = pytest.importorskip("torch", reason="PyTorch is a peer to compare with")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE, momentum=0.9)
    scheduler, found = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(N_EPOCHS):
        for _ in range(N_STEPS):
            group = optimizer.param_groups[0]
            found.append((group["lr"], group["momentum"]))
            optimizer.step()
            if not by_epochs:
                scheduler.step()
        if by_epochs:
            scheduler.step()
    return np.array(found).T.reshape(2, N_EPOCHS, N_STEPS)


ALL = N_EPOCHS * N_STEPS
PEERS = {
    "step": (StepDecay(step_size=2, gamma=0.3), lambda s, o: s.StepLR(o, 2, 0.3), True),
    "exponential": (Exponential(gamma=0.8), lambda s, o: s.ExponentialLR(o, 0.8), True),
    "cosine": (Cosine(min_rate=1e-3), lambda s, o: s.CosineAnnealingLR(o, ALL, 1e-3), False),
    "restarts": (
        CosineRestarts(period=2, min_rate=1e-4),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 2 * N_STEPS, 1, 1e-4),
        False,
    ),
    "longer restarts": (
        CosineRestarts(period=1, growth=2),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, N_STEPS, 2),
        False,
    ),
    "one cycle": (OneCycle(), lambda s, o: s.OneCycleLR(o, RATE, ALL), False),
    "polynomial": (Polynomial(power=2.0), lambda s, o: s.PolynomialLR(o, ALL, 2.0), False),
}


@pytest.mark.parametrize("name", PEERS)
def test_rates_and_momenta_are_pytorchs(name):
    """Of every step, per batch where that is the definition."""
    given, make, by_epochs = PEERS[name]
    record = given.record()
    rates, momenta = of_torch(make, by_epochs)
    np.testing.assert_allclose(record.rates(RATE, steps()), rates, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(record.momenta(0.9, steps()), momenta, rtol=1e-12)


def test_a_warm_up_is_pytorchs_linear_one():
    """LinearLR counts the first step as the start; here it is one step above it."""
    rates, _ = of_torch(lambda s, o: s.LinearLR(o, 1e-9, 1.0, 2 * N_STEPS), by_epochs=False)
    ours = Warmup(epochs=2).record().rates(RATE, steps())
    np.testing.assert_allclose(ours.ravel()[:-1], rates.ravel()[1:], atol=1e-8)
    assert ours[0, 0] == pytest.approx(RATE / (2 * N_STEPS))


@pytest.mark.parametrize("name", SCHEDULES)
@given(cut=st.integers(1, N_EPOCHS - 1))
def test_a_schedule_does_not_depend_on_how_steps_are_asked_for(name, cut):
    """All at once, or some epochs first and the others after."""
    record = SCHEDULES[name]().record()
    whole = record.rates(RATE, steps())
    parts = record.rates(RATE, steps(cut)), record.rates(RATE, steps(N_EPOCHS - cut, first=cut))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole >= 0).all()
    assert np.isfinite(whole).all()
    after = record.rates(RATE, steps(3, first=N_EPOCHS))  # beyond the end
    assert (after >= 0).all()
    assert np.isfinite(after).all()


@pytest.mark.parametrize("then", SCHEDULES)
def test_what_follows_a_warm_up_begins_at_its_beginning(then):
    """As if the warm-up had not been, in the epochs that are left."""
    record = Warmup(epochs=3, start_factor=0.5, then=then).record()
    late = record.rates(RATE, steps(4, first=3))
    fresh = SCHEDULES[then]().record().rates(RATE, steps(4, most=4))
    np.testing.assert_array_equal(late, fresh)
    assert (np.diff(record.rates(RATE, steps(3)).ravel()) > 0).all()


# In estimators.


def regressor(**parameters):
    return MLPRegressor(
        hidden_layer_sizes=(5,), batch_size=20, max_iter=6, random_state=0, **parameters
    )


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_name_trains_with_every_solver(name, solver):
    """By the name as by the object; but that adam ignores two names, as in scikit-learn."""
    by_name = regressor(solver=solver, learning_rate=name).fit(X, y)
    by_object = regressor(solver=solver, learning_rate=SCHEDULES[name]()).fit(X, y)
    same = by_name.loss_curve_ == by_object.loss_curve_
    assert same or (solver == "adam" and name == "invscaling")


def by_hand(rates):
    """Weights after the steps of plain gradient descent, by the engine one step at a time."""
    model = regressor(solver="sgd", momentum=0.0, shuffle=False, learning_rate_init=rates[0])
    model.set_params(max_iter=1, batch_size=60).fit(X, y)
    for rate in rates[1:]:
        model.set_params(learning_rate_init=rate, warm_start=True).fit(X, y)
    return model.coefs_


@pytest.mark.parametrize("schedule", [Cosine(), OneCycle(), Exponential(gamma=0.5)])
def test_the_rates_are_those_that_weights_are_stepped_by(schedule):
    """One batch an epoch, against fits of one step each at these rates."""
    model = regressor(solver="sgd", momentum=0.0, shuffle=False, learning_rate=schedule)
    model.set_params(learning_rate_init=0.2, batch_size=60, max_iter=5)
    if isinstance(schedule, OneCycle):
        model.set_params(learning_rate=clone(schedule).set_params(base_momentum=None))
    model.fit(X, y)
    record = model.learning_rate.record()
    rates = record.rates(0.2, schedules.Steps(5, 1, 0, 5, 60, 0)).ravel()
    for ours, theirs in zip(model.coefs_, by_hand(rates.tolist()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_with_the_schedule(solver):
    """Each call is an epoch: as many calls as epochs are a fit."""
    how = {"solver": solver, "learning_rate": OneCycle(), "shuffle": False}
    whole, parts = regressor(**how).fit(X, y), regressor(**how)
    for _ in range(6):
        parts.partial_fit(X, y)
    for ours, theirs in zip(parts.coefs_, whole.coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("changes", [{"learning_rate_init": 0.02}, {"learning_rate": "cosine"}])
def test_partial_fit_follows_a_change_of_the_rate(changes):
    """From the next step on, with the moments there are; what did not change goes on as it was."""
    how = {"shuffle": False, "batch_size": len(X)}
    whole, parts = (regressor().set_params(**how) for _ in range(2))
    for _ in range(3):
        whole.partial_fit(X, y)
        parts.partial_fit(X, y)
    optimizer = parts.set_params(**changes).partial_fit(X, y)._optimizer
    whole.partial_fit(X, y)
    assert not np.array_equal(whole.coefs_[0], parts.coefs_[0])
    assert optimizer.epoch == 4
    assert optimizer._rate == changes.get("learning_rate_init", whole.learning_rate_init)
    for slot, other in zip(optimizer.slots.values(), whole._optimizer.slots.values(), strict=True):
        np.testing.assert_allclose(slot, other, rtol=1e-12)


def test_partial_fit_refuses_another_solver():
    """Its moments are not those that were kept, and nothing is changed."""
    model = regressor().partial_fit(X, y)
    before = [coef.copy() for coef in model.coefs_]
    with pytest.raises(ValueError, match="cannot go on from the moments"):
        model.set_params(solver="sgd").partial_fit(X, y)
    for now, was in zip(model.coefs_, before, strict=True):
        np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", Warmup(epochs=1, then=OneCycle())])
def test_a_schedule_that_has_ended_says_so(schedule):
    """A fit that comes to its end is what was planned; calls of partial_fit after it do nothing."""
    model = regressor(learning_rate=schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    with pytest.warns(UserWarning, match="came to its end after max_iter=6 epochs"):
        model.partial_fit(X, y)


@pytest.mark.parametrize("schedule", [Cosine(min_rate=1.0), CosineRestarts(min_rate=1.0)])
def test_a_schedule_does_not_rise_to_its_smallest_rate(schedule):
    """One above the rate is refused, also after a warm-up."""
    for asked in (schedule, Warmup(then=schedule)):
        with pytest.raises(ValueError, match="above learning_rate_init"):
            regressor(learning_rate=asked).fit(X, y)


@pytest.mark.parametrize("solver", [hotloop.SGD(momentum=0.0), hotloop.RMSprop()])
def test_one_cycle_gives_no_momentum_where_there_is_none(solver):
    """As if it had been told to leave it alone."""
    left = OneCycle(base_momentum=None)
    one, other = (regressor(solver=solver, learning_rate=s) for s in (OneCycle(), left))
    np.testing.assert_array_equal(one.fit(X, y).coefs_[0], other.fit(X, y).coefs_[0])


def test_warm_start_can_change_the_rate_and_grow_max_iter():
    """A new fit goes on from the weights there are, by its own parameters."""
    model = regressor(warm_start=True).fit(X, y)
    before = model.loss_
    model.set_params(max_iter=40, learning_rate="cosine", learning_rate_init=0.01).fit(X, y)
    assert model.n_iter_ > 6
    assert model.loss_ < before


def test_adaptive_goes_on_at_plateaus_for_every_solver():
    """By its own divisor, until its own smallest rate."""
    adaptive = Adaptive(divisor=10.0, min_rate=2e-4)
    model = regressor(learning_rate=adaptive, tol=10.0, n_iter_no_change=2)
    model.set_params(max_iter=100).fit(X, y)
    plain = regressor(tol=10.0, n_iter_no_change=2).set_params(max_iter=100).fit(X, y)
    assert plain.n_iter_ < model.n_iter_ < 100  # one plateau more


def test_objects_are_searched_cloned_and_refused_like_parameters():
    """Nested names; a field beside a flat parameter; a name that has no fields."""
    search = GridSearchCV(
        regressor(learning_rate=Warmup(then=Cosine())),
        {"learning_rate__epochs": [1, 2], "learning_rate__then__min_rate": [0.0, 1e-4]},
        cv=2,
    ).fit(X, y)
    assert set(search.best_params_) == {"learning_rate__epochs", "learning_rate__then__min_rate"}
    copy = clone(regressor(learning_rate=OneCycle(pct_start=0.2)))
    assert copy.learning_rate.pct_start == 0.2
    with pytest.raises(ValueError, match="a second way"):
        regressor(learning_rate=InvScaling(), power_t=0.3).fit(X, y)
    with pytest.raises(ValueError, match="Set learning_rate to an object first"):
        regressor(learning_rate="cosine").set_params(learning_rate__min_rate=0.1)
    with pytest.raises(ValueError, match="has no such parameter"):
        regressor(learning_rate=Cosine(), power_t=0.3).fit(X, y)
    with pytest.raises(ValueError, match="Set then to an object first"):
        regressor(learning_rate=Warmup(then="cosine")).set_params(learning_rate__then__min_rate=0)
    with pytest.raises(ValueError, match="'pct_start' parameter of OneCycle"):
        regressor(learning_rate=OneCycle(pct_start=2)).fit(X, y)
    with pytest.raises(ValueError, match="then must be one of"):
        regressor(learning_rate=Warmup(then="sudden")).fit(X, y)
    with pytest.raises(ValueError, match="solver='lbfgs' does not take"):
        regressor(learning_rate="cosine", solver="lbfgs").fit(X, y)


def test_every_schedule_is_public():
    """Its class can be imported from hotloop."""
    for name, kind in SCHEDULES.items():
        assert name == "constant" or getattr(hotloop, kind.__name__) is kind


def test_a_schedule_without_an_end_still_warns():
    """It does not silence that max_iter was reached."""
    with pytest.warns(ConvergenceWarning):
        regressor(learning_rate="exponential").fit(X, y)
