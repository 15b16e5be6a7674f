"""Displays: what they draw is what a fit recorded, in scikit-learn's manner."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.datasets import load_digits, make_multilabel_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from hotloop import (
    LearningRateFinderDisplay,
    LossCurveDisplay,
    MLPClassifier,
    MLPRegressor,
    WeightDistributionDisplay,
)

plt = pytest.importorskip("matplotlib.pyplot", reason="displays draw with matplotlib")
X, y = load_digits(return_X_y=True)
X = X / 16
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def fitted(**parameters):
    return MLPClassifier((8,), max_iter=4, random_state=0, **parameters).fit(X, y)


def test_loss_curves_are_those_of_the_fits():
    """One estimator, a list, or names of one's own; on the axes that were given."""
    one, two = fitted(), fitted(alpha=1.0)
    display = LossCurveDisplay.from_estimator(one, color="red")
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), one.loss_curve_)
    assert display.lines_[0].get_color() == "red"
    _, ax = plt.subplots()
    both = LossCurveDisplay.from_estimator({"weak": one, "strong": two}, ax=ax)
    assert both.ax_ is ax
    assert both.figure_ is ax.figure
    assert [line.get_label() for line in both.lines_] == ["weak", "strong"]
    np.testing.assert_array_equal(both.lines_[1].get_ydata(), two.loss_curve_)
    assert len(LossCurveDisplay.from_estimator([one, two, one]).lines_) == 3
    assert both.plot() is both
    assert both.ax_ is not ax


def test_networks_in_pipelines_and_searches_are_found():
    """And a label for several curves leaves them their names."""
    pipe = make_pipeline(MLPClassifier((8,), max_iter=4, random_state=0)).fit(X, y)
    search = GridSearchCV(fitted(), {"alpha": [1e-3, 1e-4]}, cv=2).fit(X, y)
    both = LossCurveDisplay.from_estimator({"pipe": pipe, "search": search}, label="x")
    assert [line.get_label() for line in both.lines_] == ["x, pipe", "x, search"]
    np.testing.assert_array_equal(both.lines_[0].get_ydata(), pipe[-1].loss_curve_)
    assert len(WeightDistributionDisplay.from_estimator(pipe).histograms_) == 2


def test_validation_losses_are_drawn_dashed_in_the_same_colour():
    """Where a fit recorded them."""
    model = fitted()
    model.validation_loss_curve_ = [3.0, 2.0, 1.0, 0.5]
    training, validation = LossCurveDisplay.from_estimator(model).lines_
    assert validation.get_linestyle() == "--"
    assert validation.get_color() == training.get_color()
    np.testing.assert_array_equal(validation.get_ydata(), model.validation_loss_curve_)


def test_a_fit_without_epochs_has_no_loss_curve_to_draw():
    """The message says which solvers have one."""
    model = MLPClassifier((8,), max_iter=4, solver="lbfgs").fit(X, y)
    with pytest.raises(ValueError, match="'lbfgs' has no epochs"):
        LossCurveDisplay.from_estimator(model)


def test_weight_distributions_are_those_of_every_layer():
    """All weights are in the bins, of the layers as they are now."""
    model = fitted()
    model.coefs_[1][0, 0] = 7.0
    display = WeightDistributionDisplay.from_estimator(model, density=False)
    assert [w.shape for w in display.weights] == [c.shape for c in model.coefs_]
    assert display.weights[1].max() == 7.0
    heights = [patch[0].get_xy()[:, 1] for patch in display.histograms_]
    assert all(h.max() > 0 for h in heights)
    assert [name.split(",")[0] for name in display.names] == ["layer 0", "layer 1"]


@pytest.mark.parametrize(
    "data",
    [
        (X, y),
        (csr_matrix(X), y),
        (coo_matrix(X), y),
        (pd.DataFrame(X), pd.Series(y).astype(str)),
        make_multilabel_classification(n_samples=300, random_state=0),
    ],
    ids=["dense", "sparse", "coo", "pandas", "multilabel"],
)
def test_the_finder_finds_a_rate_that_trains(data):
    """Between those that do nothing and those that explode; the estimator is not fitted."""
    model = MLPClassifier(random_state=0)
    display = LearningRateFinderDisplay.from_estimator(model, *data)
    assert "coefs_" not in vars(model)
    assert display.rates[0] == pytest.approx(1e-6)
    assert 1e-5 < display.suggestion_ < 1
    assert len(display.rates) == len(display.losses) == len(display.line_.get_xdata())


@pytest.mark.parametrize(
    "how",
    [
        {"scoring": "loss", "early_stopping": True},
        {"scoring": "accuracy", "averaging": "swa"},
        {"class_weight": "balanced", "averaging": "ema"},
        {"loss": "hinge", "dropout": 0.2},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3},
    ],
    ids=str,
)
def test_the_finder_takes_what_fit_takes(how):
    """What looks at epochs has no part in it; weights by all labels."""
    model = MLPClassifier(random_state=0, **how)
    display = LearningRateFinderDisplay.from_estimator(model, X, y % 3)
    assert 1e-5 < display.suggestion_ < 5


def test_the_finder_takes_several_columns_of_classes():
    """Each with classes of its own."""
    labels = np.column_stack([y % 3, y % 2])
    display = LearningRateFinderDisplay.from_estimator(MLPClassifier(random_state=0), X, labels)
    assert 1e-5 < display.suggestion_ < 1


def test_the_finder_takes_steps_at_growing_rates():
    """Its rates, the loss of a step at a vanishing rate, and a loss that explodes ends it."""
    model = MLPRegressor(solver="sgd", momentum=0.0, batch_size=200, random_state=0)
    target = X @ np.linspace(-1, 1, 64)
    display = LearningRateFinderDisplay.from_estimator(model, X, target, rates=(1e-5, 1e5, 61))
    assert len(display.rates) < 61
    np.testing.assert_allclose(np.diff(np.log10(display.rates)), 1 / 6, rtol=1e-9)
    assert display.smoothed_[0] == pytest.approx(display.losses[0])
    with pytest.raises(ValueError, match="smallest rate, the largest and a number"):
        LearningRateFinderDisplay.from_estimator(model, X, target, rates=(1.0, 0.1, 5))
    with pytest.raises(ValueError, match="number of steps"):
        LearningRateFinderDisplay.from_estimator(model, X, target, rates=(0.1, 1.0))
    with pytest.raises(ValueError, match=r"pipe\[-1\]"):
        LearningRateFinderDisplay.from_estimator(make_pipeline(model), X, target)
    with pytest.raises(ValueError, match="stochastic solver"):
        LearningRateFinderDisplay.from_estimator(model.set_params(solver="lbfgs"), X, target)


def test_where_losses_never_fall_there_is_no_suggestion():
    """NaN, and no line in the picture."""
    display = LearningRateFinderDisplay(rates=np.array([1.0, 2.0, 3.0]), losses=np.ones(3)).plot()
    assert np.isnan(display.suggestion_)
    assert len(display.ax_.lines) == 1


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    """Only when something is drawn."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"hotloop\[plot\]"):
        LossCurveDisplay.from_estimator(fitted())
