"""The same work done by hotloop and by scikit-learn: three ways a network is used."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import sklearn.neural_network
from sklearn.base import BaseEstimator
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import Pipeline

import hotloop
from datasets import Dataset

LIBRARIES = {"hotloop": hotloop, "sklearn": sklearn.neural_network}
SEED = 0
GRID = {"network__alpha": [1e-4, 1e-2], "network__hidden_layer_sizes": [(50,), (100,)]}


@dataclass
class Result:
    """One way of use on one set, by both libraries.

    Attributes
    ----------
    score, seconds : dict of str to float
        By library; the score is the accuracy, or R2 of a regression.
    loss_curve : dict of str to list of float
        By library; empty for the ways that fit many networks.
    error : str or None
        What went wrong, in which case the other attributes may be incomplete.
    """

    dataset: str
    way: str
    shape: str = ""
    measure: str = ""
    score: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    loss_curve: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None

    @property
    def times_faster(self) -> float:
        """How many times sooner hotloop was done."""
        return self.seconds["sklearn"] / self.seconds["hotloop"]


def pipeline_for(library: str, dataset: Dataset) -> Pipeline:
    """Build the set's transformer and the library's network, both with the same parameters."""
    module = LIBRARIES[library]
    network = module.MLPRegressor if dataset.regression else module.MLPClassifier
    return Pipeline(
        [
            ("transformer", dataset.transformer),
            ("network", network(max_iter=dataset.max_iter, random_state=SEED)),
        ]
    )


def folds(dataset: Dataset) -> KFold | StratifiedKFold:
    """Three folds, the same ones for both libraries."""
    kind = KFold if dataset.regression else StratifiedKFold
    return kind(3, shuffle=True, random_state=SEED)


def fit_pipeline(model: Pipeline, dataset: Dataset) -> tuple[float, BaseEstimator]:
    """Fit on three quarters of the rows and score on the rest."""
    X, X_test, y, y_test = train_test_split(dataset.X, dataset.y, random_state=SEED)
    model.fit(X, y)
    return model.score(X_test, y_test), model


def cross_validate(model: Pipeline, dataset: Dataset) -> tuple[float, None]:
    """Score by 3-fold cross-validation."""
    return cross_val_score(model, dataset.X, dataset.y, cv=folds(dataset)).mean(), None


def search_grid(model: Pipeline, dataset: Dataset) -> tuple[float, None]:
    """Choose among four settings by 3-fold cross-validation, and fit the best one."""
    search = GridSearchCV(model, GRID, cv=folds(dataset), error_score="raise")
    return search.fit(dataset.X, dataset.y).best_score_, None


WAYS: dict[str, Callable] = {
    "Pipeline.fit": fit_pipeline,
    "cross_val_score": cross_validate,
    "GridSearchCV": search_grid,
}


def hold(dataset: Dataset, way: str, before_each: Callable[[str], None]) -> Result:
    """Let both libraries do one way's work on one set.

    Parameters
    ----------
    before_each : callable
        Called with the library's name before it starts.
    """
    result = Result(dataset.name, way, dataset.shape, dataset.measure)
    for library in LIBRARIES:
        before_each(library)
        try:
            with warnings.catch_warnings():
                # Few epochs by intent, and classes with fewer rows than folds in small samples.
                warnings.simplefilter("ignore", category=UserWarning)
                start = time.perf_counter()
                score, model = WAYS[way](pipeline_for(library, dataset), dataset)
                result.seconds[library] = time.perf_counter() - start
        except Exception as error:  # a set that fails is reported, and the next one goes on
            result.error = f"{library}: {type(error).__name__}: {error}"
            continue
        result.score[library] = float(score)
        if model is not None:
            result.loss_curve[library] = model["network"].loss_curve_
    return result


def warm_up() -> None:
    """Fit each library once, so that no first call is timed."""
    X, y = np.random.default_rng(SEED).normal(size=(40, 3)), np.arange(40) % 2
    for module in LIBRARIES.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            module.MLPClassifier(max_iter=2).fit(X, y).predict(X)
