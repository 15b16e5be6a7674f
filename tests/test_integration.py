"""In the company of scikit-learn: pandas, routing, searches, calibration, other estimators."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import hotloop

X, y = load_iris(return_X_y=True)
every_class = pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def new(name="MLPClassifier", **parameters):
    parameters = {"hidden_layer_sizes": (9,), "max_iter": 30, "random_state": 0, **parameters}
    return getattr(hotloop, name)(**parameters)


# Feature names.


@pytest.fixture
def frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(X, columns=["a", "b", "c", "d"])


@every_class
def test_feature_names_are_kept_and_checked(name, frame):
    """feature_names_in_ is set; other names, another order or none get scikit-learn's words."""
    estimator = new(name).fit(frame, y)
    np.testing.assert_array_equal(estimator.feature_names_in_, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(estimator.predict(frame), new(name).fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[["b", "a", "c", "d"]])
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- e"):
        estimator.predict(frame.rename(columns={"a": "e"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.partial_fit(frame[["b", "a", "c", "d"]], y)


@every_class
def test_feature_names_are_forgotten_by_a_fit_without(name, frame):
    """And mixed column names are refused as scikit-learn refuses them."""
    estimator = new(name).fit(frame, y).fit(X, y)
    assert not hasattr(estimator, "feature_names_in_")
    with pytest.raises(TypeError, match="string"):
        estimator.fit(frame.rename(columns={"a": 0}), y)


@every_class
def test_names_survive_early_stopping_without_a_warning(name, frame):
    """The validation rows are scored without names getting lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        new(name, early_stopping=True).fit(frame, y)


def test_frames_with_strings_and_missing_values_in_a_pipeline():
    """A column transformer in front: pandas in, labels out; targets may be a Series."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rng = np.random.default_rng(0)
    data = pandas.DataFrame(
        {
            "size": np.where(rng.random(80) < 0.2, np.nan, rng.normal(size=80)),
            "colour": rng.choice(["red", "green", "blue"], 80),
        }
    )
    target = pandas.Series(np.where(data["colour"] == "red", "yes", "no"), name="answer")
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["size"]), (OneHotEncoder(), ["colour"])
    )
    model = make_pipeline(columns, new(max_iter=200)).fit(data, target)
    assert set(model.predict(data)) == {"yes", "no"}
    assert model.score(data, target) > 0.95


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_labels_in_a_series_of_any_dtype(dtype, frame):
    """fit, partial_fit with classes given as a list, and score agree with scikit-learn's."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    labels = pandas.Series(np.array(["a", "bb", "ccc"])[y]).astype(dtype)
    theirs = sklearn.neural_network.MLPClassifier((9,), max_iter=30, random_state=0)
    for call in (
        lambda e: e.fit(frame, labels),
        lambda e: e.partial_fit(frame, labels, classes=["a", "bb", "ccc"]),
        lambda e: e.partial_fit(frame, labels),
        lambda e: e.partial_fit(frame, labels.tolist()),
    ):
        ours = new() if call(theirs).n_iter_ > 1 else ours  # noqa: F821
        call(ours)
        np.testing.assert_array_equal(ours.predict(frame), theirs.predict(frame))
        assert ours.score(frame, labels) == theirs.score(frame, labels)


# Metadata routing.


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@every_class
def test_sample_weight_is_routed_through_pipeline_and_grid_search(name, routing):
    """Requested, the weights arrive: the refitted estimator is the one fitted with them."""
    w = np.linspace(0.1, 2, 150)
    model = new(name).set_fit_request(sample_weight=True)
    scorer = get_scorer("r2").set_score_request(sample_weight=True)
    step = name.lower()
    pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
    search = GridSearchCV(pipeline, {f"{step}__alpha": [0.1]}, scoring=scorer, cv=2)
    search.fit(X, y, sample_weight=w)
    scaled = StandardScaler().fit_transform(X)
    direct = new(name, alpha=0.1).fit(scaled, y, sample_weight=w)
    without = new(name, alpha=0.1).fit(scaled, y)
    got = search.best_estimator_[-1].coefs_[0]
    np.testing.assert_array_equal(got, direct.coefs_[0])
    assert not np.array_equal(got, without.coefs_[0])


@every_class
def test_sample_weight_that_nobody_requested_is_an_error(name, routing):
    """Routing refuses to drop it silently."""
    search = GridSearchCV(new(name), {"alpha": [0.1]}, cv=2)
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        search.fit(X, y, sample_weight=np.ones(150))


def test_partial_fit_has_requests_for_weights_and_classes(routing):
    """set_partial_fit_request exists for both arguments."""
    model = new().set_partial_fit_request(sample_weight=True, classes=True)
    requests = model.get_metadata_routing().partial_fit.requests
    assert requests == {"sample_weight": True, "classes": True}


# Meta-estimators and tools.


def test_cross_validation_is_sklearns_seed_for_seed():
    """The same scores fold by fold."""
    data, target = load_breast_cancer(return_X_y=True)
    data = StandardScaler().fit_transform(data)
    ours = cross_val_score(new(), data, target, cv=3)
    theirs = sklearn.neural_network.MLPClassifier(
        hidden_layer_sizes=(9,), max_iter=30, random_state=0
    )
    np.testing.assert_array_equal(ours, cross_val_score(theirs, data, target, cv=3))


# scikit-learn's own, with NumPy 1.23
@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged nested sequences")
def test_grid_search_in_two_processes():
    """n_jobs=2 gives what n_jobs=1 gives, bit for bit."""
    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(5,), (7, 3)]}
    one, two = (GridSearchCV(new(), grid, cv=2, n_jobs=n).fit(X, y) for n in (1, 2))
    assert one.best_params_ == two.best_params_
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"]
    )


def test_halving_search_over_epochs():
    """resource='max_iter' of HalvingGridSearchCV."""
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    search = HalvingGridSearchCV(
        new(), {"alpha": [1e-4, 1.0, 10.0]}, resource="max_iter", max_resources=20, cv=2
    ).fit(X, y)
    assert search.best_estimator_.max_iter <= 20


def test_the_classifier_among_other_estimators():
    """Calibration, voting, stacking, bagging, one classifier per output."""
    model = new(max_iter=100, learning_rate_init=0.01)
    for meta in (
        CalibratedClassifierCV(model, cv=2),
        VotingClassifier([("net", model), ("line", LogisticRegression())], voting="soft"),
        StackingClassifier([("net", model)], cv=2),
        BaggingClassifier(model, n_estimators=2, random_state=0),
    ):
        scaled = StandardScaler().fit_transform(X)
        assert meta.fit(scaled, y).score(scaled, y) > 0.8
    both = np.c_[y, y > 0]
    assert MultiOutputClassifier(model).fit(X, both).predict(X).shape == (150, 2)


def test_scorers_and_inspection():
    """roc_auc by decision_function, permutation importance, learning curves, predictions."""
    data, target = load_breast_cancer(return_X_y=True)
    data = StandardScaler().fit_transform(data)
    result = cross_validate(new(), data, target, cv=2, scoring=["roc_auc", "neg_log_loss"])
    assert result["test_roc_auc"].min() > 0.9
    model = new().fit(data, target)
    auc = roc_auc_score(target, model.decision_function(data))
    assert auc == pytest.approx(roc_auc_score(target, model.predict_proba(data)[:, 1]))
    importance = permutation_importance(model, data[:100], target[:100], n_repeats=2)
    assert importance.importances.shape == (30, 2)
    assert cross_val_predict(new(), X, y, method="predict_proba", cv=3).shape == (150, 3)
    learning_curve(new(), X, y, cv=2, train_sizes=[0.5, 1.0], shuffle=True)


def test_the_regressor_within_a_transformed_target():
    """And in a pipeline, on the diabetes data."""
    data, target = load_diabetes(return_X_y=True)
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), new("MLPRegressor", max_iter=300)),
        transformer=StandardScaler(),
    )
    assert model.fit(data, target).score(data, target) > 0.5


@every_class
def test_reprs(name):
    """The text shows what is not default; the HTML form and its link can be made."""
    model = new(name, max_iter=200)
    assert repr(model) == f"{name}(hidden_layer_sizes=(9,), random_state=0)"
    assert name in model._repr_html_()
    assert name in model.fit(X, y)._repr_html_()
