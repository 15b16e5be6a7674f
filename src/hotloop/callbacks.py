"""Callbacks for ``set_callbacks``: checkpoints, pruning by Optuna, logs in MLflow.

They follow scikit-learn's protocol (:mod:`sklearn.callback`, from 1.9 on), which tells them of
every epoch, or iteration of L-BFGS.
"""

from __future__ import annotations

import math
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib

from .compat import require_callbacks, without_callbacks
from .model_io import whole_file

#: Values of an epoch by the names that callbacks know them by, and whether larger is better.
VALUES = {"validation_score": True, "validation_loss": False, "loss": False}
_CURVES = {
    "validation_score": "validation_scores_",
    "validation_loss": "validation_loss_curve_",
    "loss": "loss_curve_",
}


class FitWatcher:
    """What the callbacks here share: scikit-learn's hooks, which call those below."""

    def __init__(self) -> None:
        require_callbacks(type(self).__name__)

    def setup(self, estimator: Any, context: Any) -> None:
        """Called before a fit.

        Parameters
        ----------
        estimator : estimator
            The one to be fitted.
        context : sklearn.callback.CallbackContext
            The task that the fit is.
        """
        self._begin(estimator)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Called after a fit, however it ended.

        Parameters
        ----------
        estimator : estimator
            The one that was fitted.
        context : sklearn.callback.CallbackContext
            The task that the fit was.
        """
        self._close()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Called before the fit and before each of its iterations: does nothing.

        Parameters
        ----------
        estimator : estimator
            The one that is fitted.
        context : sklearn.callback.CallbackContext
            The fit, or the iteration.
        """

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> bool:
        """Called after each iteration and after the fit.

        Parameters
        ----------
        estimator : estimator
            The one that is fitted.
        context : sklearn.callback.CallbackContext
            The fit, or the iteration.
        fitted_estimator : estimator, default=None
            As if the fit had stopped there.

        Returns
        -------
        bool
            False: none of these callbacks stops a fit by a wish.
        """
        if fitted_estimator is not None and context.task_name == "iteration":
            self._look(fitted_estimator, context.task_id)
        elif fitted_estimator is not None:
            self._end(fitted_estimator)
        return False

    def _begin(self, estimator: Any) -> None:
        """A fit begins."""

    def _look(self, fitted: Any, iteration: int) -> None:
        """An iteration has ended; the first is number 0."""

    def _end(self, fitted: Any) -> None:
        """A fit has ended well."""

    def _close(self) -> None:
        """A fit has ended."""


def values_of(fitted: Any) -> dict[str, float]:
    """The values that a fit has after an iteration, by the names in `VALUES`."""
    known = {name: getattr(fitted, curve, None) for name, curve in _CURVES.items()}
    values = {name: float(curve[-1]) for name, curve in known.items() if curve}
    if "loss" not in values and getattr(fitted, "loss_", None) is not None:
        values["loss"] = float(fitted.loss_)  # of L-BFGS, which keeps no curve
    return values


def value_of(fitted: Any, monitor: str) -> float:
    """One of them, which has to be there."""
    values = values_of(fitted)
    if monitor not in values:
        raise ValueError(
            f"monitor={monitor!r} has no value in this fit, only {sorted(values)} have. Set "
            "early_stopping=True or pass X_val and y_val to fit, or use monitor='loss'."
        )
    return values[monitor]


def _require_one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {sorted(allowed)}, got {value!r}.")


def _package(name: str, what: str) -> Any:
    """An optional package."""
    try:
        return import_module(name)
    except ImportError as error:
        message = f"{what} needs {name}, which cannot be imported ({error}); pip install {name}"
        raise ImportError(message) from error


class Checkpoint(FitWatcher):
    """Writes the estimator to a file during a fit, as if the fit had stopped there.

    The file is the one there was or the new one, whole, whatever happens: it is written beside it,
    brought to the disk and then renamed. :func:`joblib.load` reads it; it is a pickle, so load only
    what you trust.

    Parameters
    ----------
    path : str or path-like
        The file, in a folder that exists. Estimators that are fitted at the same time, as those of
        a search are, need a callback and a file each.
    every : int, default=1
        Epochs (or iterations of L-BFGS) between two looks.
    monitor : {'best', 'last'}, default='best'
        'best' writes when the validation score is better than any before, or without validation
        rows the loss; 'last' always, and once more when the fit ends.

    Raises
    ------
    RuntimeError
        If scikit-learn is older than 1.9.
    ValueError
        If a parameter cannot be used.

    Examples
    --------
    >>> import joblib, os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> path = os.path.join(tempfile.mkdtemp(), "model.joblib")
    >>> clf = MLPClassifier(max_iter=300, tol=1, random_state=0)
    >>> if hasattr(clf, "set_callbacks"):  # scikit-learn 1.9 or later
    ...     from hotloop import Checkpoint
    ...     clf = clf.set_callbacks(Checkpoint(path, monitor="last")).fit(X, y)
    ...     assert (joblib.load(path).predict(X) == clf.predict(X)).all()
    """

    def __init__(self, path: Any, *, every: int = 1, monitor: str = "best") -> None:
        super().__init__()
        _require_one_of("monitor", monitor, ("best", "last"))
        if every != int(every) or every < 1:
            raise ValueError(f"every must be a positive integer, got {every!r}.")
        self.path, self.every, self.monitor = Path(path), int(every), monitor
        self._best: float | None = None

    def _begin(self, estimator: Any) -> None:
        """Forget what an earlier fit was like; refuse a folder that is not there."""
        self._best = None
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"Checkpoint: there is no folder {folder}.")

    def _look(self, fitted: Any, iteration: int) -> None:
        """Write the file if it is time to."""
        if (iteration + 1) % self.every:
            return
        values = values_of(fitted)
        score = values.get("validation_score", -values.get("loss", math.nan))
        better = not math.isnan(score) and (self._best is None or score > self._best)
        if better:
            self._best = score
        if better or self.monitor == "last":
            self._write(fitted)

    def _end(self, fitted: Any) -> None:
        """Write what is there, if that is wanted or nothing was written."""
        if self.monitor == "last" or self._best is None:
            self._write(fitted)

    def _write(self, fitted: Any) -> None:
        """The old file or the new one, never neither."""
        with whole_file(self.path) as file:
            joblib.dump(without_callbacks(copy(fitted)), file)


class OptunaPruning(FitWatcher):
    """Reports every epoch to a trial of Optuna, and ends fits that the study's pruner gives up.

    Then ``fit`` raises ``optuna.TrialPruned``, which the study understands, and the estimator is
    left as it was. A trial has one fit: the epochs of a second one would be those of the first.

    Parameters
    ----------
    trial : optuna.Trial
        Of the objective that calls `fit`.
    monitor : {'validation_score', 'validation_loss', 'loss'}, default='validation_score'
        What is reported. The study has to maximize the first, and to minimize the others.

    Raises
    ------
    ImportError
        If there is no Optuna.
    RuntimeError
        If scikit-learn is older than 1.9.
    ValueError
        If the study goes the other way, or, during the fit, there is no such value.
    """

    def __init__(self, trial: Any, *, monitor: str = "validation_score") -> None:
        super().__init__()
        _require_one_of("monitor", monitor, VALUES)
        _package("optuna", "OptunaPruning")
        wanted = "MAXIMIZE" if VALUES[monitor] else "MINIMIZE"
        directions = getattr(getattr(trial, "study", None), "directions", [])
        if any(direction.name != wanted for direction in directions):
            found = ", ".join(direction.name.lower() for direction in directions)
            raise ValueError(
                f"monitor={monitor!r} is for a study with direction={wanted.lower()!r}, and this "
                f"one is to {found}."
            )
        self.trial, self.monitor = trial, monitor

    def _look(self, fitted: Any, iteration: int) -> None:
        """Report; raise if the trial is to be given up."""
        value = value_of(fitted, self.monitor)
        self.trial.report(value, step=iteration)
        if self.trial.should_prune():
            raise _package("optuna", "OptunaPruning").TrialPruned(
                f"{self.monitor} is {value:g} after {iteration + 1} epochs."
            )


class MLflowLogger(FitWatcher):
    """Logs "loss" to MLflow, and "validation_score" and "validation_loss" where there are any.

    They go to the run that is active when a fit begins, or to a new one that ends with the fit.

    Parameters
    ----------
    prefix : str, default=""
        Put before the names of the metrics.
    every : int, default=1
        Epochs (or iterations of L-BFGS) between two entries.

    Raises
    ------
    ImportError
        If there is no MLflow.
    RuntimeError
        If scikit-learn is older than 1.9.
    ValueError
        If a parameter cannot be used.
    """

    def __init__(self, *, prefix: str = "", every: int = 1) -> None:
        super().__init__()
        _package("mlflow", "MLflowLogger")
        if every != int(every) or every < 1:
            raise ValueError(f"every must be a positive integer, got {every!r}.")
        self.prefix, self.every = prefix, int(every)
        self._own_run = False

    def _begin(self, estimator: Any) -> None:
        """Start a run if none is active."""
        mlflow = _package("mlflow", "MLflowLogger")
        self._own_run = mlflow.active_run() is None
        if self._own_run:
            mlflow.start_run(run_name=type(estimator).__name__)

    def _look(self, fitted: Any, iteration: int) -> None:
        """Log the values there are."""
        if iteration % self.every == 0:
            metrics = {self.prefix + name: value for name, value in values_of(fitted).items()}
            _package("mlflow", "MLflowLogger").log_metrics(metrics, step=iteration)

    def _close(self) -> None:
        """End the run if it was started here."""
        if self._own_run:
            self._own_run = False
            _package("mlflow", "MLflowLogger").end_run()


__all__ = ["Checkpoint", "MLflowLogger", "OptunaPruning"]
