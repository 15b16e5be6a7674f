"""Looking at fits: curves of the loss, distributions of weights, the range of usable rates.

Displays in scikit-learn's manner: ``from_estimator`` computes and draws, ``plot`` draws again, and
what was drawn are attributes. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone, is_classifier
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from .options import Exponential

Array = np.ndarray

#: How much a loss counts in the mean that the finder goes by one step later.
SMOOTHING = 0.9
#: The finder stops where the mean is so many times the best one.
DIVERGED = 4.0


def _axes(ax: Any) -> Any:
    """Axes to draw on: those given, or new ones."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "A display needs matplotlib, which is not installed; pip install 'hotloop[plot]'."
        ) from error
    return plt.subplots()[1] if ax is None else ax


def _network_of(estimator: Any) -> Any:
    """A fitted network: the last step of a pipeline, the best of a search, or what was given."""
    check_is_fitted(estimator)
    estimator = getattr(estimator, "best_estimator_", estimator)
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _named(estimators: Any) -> list[tuple[str, Any]]:
    """Estimators and what to call them."""
    if isinstance(estimators, Mapping):
        return [(str(name), estimator) for name, estimator in estimators.items()]
    if not isinstance(estimators, Sequence):
        return [(type(estimators).__name__, estimators)]
    names = [type(estimator).__name__ for estimator in estimators]
    return [(f"{name} {k}", e) for k, (name, e) in enumerate(zip(names, estimators, strict=True))]


@dataclass(frozen=True)
class Curve:
    """Losses of an estimator, one an epoch.

    Attributes
    ----------
    name : str
        What the legend calls it.
    train : list of float
        Over the rows that were trained on, with the penalty.
    validation : list of float or None
        Over the rows that were set aside, if their losses were recorded.
    """

    name: str
    train: list[float]
    validation: list[float] | None = None


class LossCurveDisplay:
    """Loss of every epoch, of one estimator or several, in training and on validation rows.

    Parameters
    ----------
    curves : list of Curve
        What to draw.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    lines_ : list of matplotlib Artist
        The curves; that of validation rows is dashed, in the colour of its training curve.

    See Also
    --------
    WeightDistributionDisplay : What the weights have become.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import LossCurveDisplay, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> fits = {rate: MLPClassifier(learning_rate_init=rate).fit(X, y) for rate in (1e-3, 1e-2)}
    >>> display = LossCurveDisplay.from_estimator(fits)
    >>> len(display.lines_)
    2
    """

    def __init__(self, *, curves):
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> LossCurveDisplay:
        """Draw the losses of fitted estimators.

        Parameters
        ----------
        estimator : estimator, list of estimators or dict of str to estimator
            Fitted by a stochastic solver; or fitted pipelines that end in such an estimator, or
            searches over them. Keys are names in the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.plot``.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        ValueError
            If an estimator has no losses of epochs (solver='lbfgs').
        ImportError
            Without matplotlib.
        """
        curves = []
        for name, given in _named(estimator):
            known = vars(_network_of(given))
            if not known.get("loss_curve_"):
                raise ValueError(
                    f"{name} has no loss_curve_, and solver={known.get('solver')!r}: 'lbfgs' has "
                    "no epochs. Fit an MLP with a stochastic solver, such as 'adam'."
                )
            losses = known["loss_curve_"], known.get("validation_loss_curve_")
            curves.append(Curve(name, *losses))
        return cls(curves=curves).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> LossCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.plot``.

        Returns
        -------
        LossCurveDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        self.lines_ = []
        for curve in self.curves:
            epochs = np.arange(1, len(curve.train) + 1)
            label = kwargs.get("label", curve.name)
            if len(self.curves) > 1 and "label" in kwargs:
                label = f"{label}, {curve.name}"
            (line,) = self.ax_.plot(epochs, curve.train, **{**kwargs, "label": label})
            self.lines_.append(line)
            if curve.validation:
                how = {**kwargs, "color": line.get_color(), "linestyle": "--"}
                how["label"] = f"{line.get_label()}, validation"
                epochs = np.arange(1, len(curve.validation) + 1)
                self.lines_ += self.ax_.plot(epochs, curve.validation, **how)
        self.ax_.set(xlabel="Epoch", ylabel="Loss")
        self.ax_.legend()
        return self


class WeightDistributionDisplay:
    """How the weights of each layer are distributed.

    Parameters
    ----------
    weights : list of ndarray
        Weights of each layer.
    names : list of str
        What the legend calls the layers.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    histograms_ : list of matplotlib Artist
        One a layer.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, WeightDistributionDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(max_iter=1000, random_state=0).fit(X, y)
    >>> len(WeightDistributionDisplay.from_estimator(clf).histograms_)
    2
    """

    def __init__(self, *, weights, names):
        self.weights = weights
        self.names = names

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, **kwargs: Any
    ) -> WeightDistributionDisplay:
        """Draw the weights of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted one, or a pipeline or a search with one; its `coefs_` are drawn as they are
            now.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.hist``.

        Returns
        -------
        WeightDistributionDisplay

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        weights = [np.array(coef) for coef in _network_of(estimator).coefs_]
        names = [f"layer {k}, {' x '.join(map(str, w.shape))}" for k, w in enumerate(weights)]
        return cls(weights=weights, names=names).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> WeightDistributionDisplay:
        """Draw the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.hist``.

        Returns
        -------
        WeightDistributionDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        self.histograms_ = []
        for weight, name in zip(self.weights, self.names, strict=True):
            how = {"bins": 50, "density": True, "histtype": "step", "label": name, **kwargs}
            self.histograms_.append(self.ax_.hist(weight.ravel(), **how)[2])
        self.ax_.set(xlabel="Weight", ylabel="Density")
        self.ax_.legend()
        return self


class LearningRateFinderDisplay:
    """Losses of steps whose rate grows evenly on a logarithmic scale.

    A useful `learning_rate_init` is where the loss falls fastest, well before it rises.

    Parameters
    ----------
    rates : ndarray of shape (n_steps,)
        Rate of each step.
    losses : ndarray of shape (n_steps,)
        Loss of its batch before it.

    Attributes
    ----------
    smoothed_ : ndarray of shape (n_steps,)
        Running means of the losses.
    suggestion_ : float
        The rate at which they fall fastest; NaN if they never fall.
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    line_ : matplotlib Artist
        The running means.

    References
    ----------
    .. [1] Smith, L. (2017), "Cyclical learning rates for training neural networks", WACV.
       Section 3.3.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from hotloop import LearningRateFinderDisplay, MLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = MLPClassifier(random_state=0)
    >>> display = LearningRateFinderDisplay.from_estimator(clf, X / 16, y)
    >>> 1e-4 < display.suggestion_ < 1
    True
    """

    def __init__(self, *, rates, losses):
        self.rates = rates
        self.losses = losses
        self._judge()

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        rates: tuple[float, float, int] = (1e-6, 10.0, 100),
        ax: Any = None,
        **kwargs: Any,
    ) -> LearningRateFinderDisplay:
        """Take some steps with a clone of an estimator, and draw what they lost.

        Parameters
        ----------
        estimator : estimator
            What to find a rate for; it is not fitted itself. Its solver must be stochastic. Its
            schedule has no part in it, nor what looks at epochs (early stopping, averages).
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        rates : (float, float, int), default=(1e-6, 10.0, 100)
            The smallest and the largest rate, and the number of steps from one to the other. Fewer
            are taken if the loss explodes before.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.plot``.

        Returns
        -------
        LearningRateFinderDisplay

        Raises
        ------
        ValueError
            If `rates` is no such triple, or as `fit`.
        ImportError
            Without matplotlib.
        """
        if not hasattr(estimator, "partial_fit") or not hasattr(estimator, "learning_rate_init"):
            raise ValueError(
                f"estimator must be an MLP with a stochastic solver, got {estimator!r}. Of a "
                "pipeline give the last step, and what the others make of X: "
                "from_estimator(pipe[-1], pipe[:-1].fit_transform(X), y)."
            )
        low, high, n_steps = rates if len(rates) == 3 else (0.0, 0.0, 0)
        if not (0 < low < high < np.inf and n_steps >= 2 and n_steps == int(n_steps)):
            raise ValueError(
                "rates must be the smallest rate, the largest and a number of steps, at least 2; "
                f"got {rates}."
            )
        taken, losses = _losses(estimator, (X, y, sample_weight), (low, high, int(n_steps)))
        return cls(rates=taken, losses=losses).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> LearningRateFinderDisplay:
        """Draw running means of the losses over the rates, and the suggestion.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            Passed on to ``matplotlib.axes.Axes.plot``.

        Returns
        -------
        LearningRateFinderDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        (self.line_,) = self.ax_.plot(self.rates, self.smoothed_, **kwargs)
        if np.isfinite(self.suggestion_):
            label = f"{self.suggestion_:.2g}"
            self.ax_.axvline(self.suggestion_, color="grey", linestyle=":", label=label)
            self.ax_.legend()
        self.ax_.set(xscale="log", xlabel="Learning rate", ylabel="Loss")
        return self

    def _judge(self) -> None:
        """Running means, and where they fall fastest."""
        self.smoothed_ = _smoothed(self.losses)
        self.suggestion_ = np.nan
        if len(self.losses) > 1:
            slopes = np.gradient(self.smoothed_, np.log(self.rates))
            steepest = int(np.argmin(slopes))
            if slopes[steepest] < 0:
                self.suggestion_ = float(self.rates[steepest])


def _smoothed(losses: Any) -> Array:
    """Running means, what there is before the first loss left out."""
    means = accumulate(
        losses, lambda mean, loss: SMOOTHING * mean + (1 - SMOOTHING) * loss, initial=0
    )
    return np.array([*means][1:]) / (1 - SMOOTHING ** np.arange(1, len(losses) + 1))


def _batches(n_rows: int, size: int, rng: Any) -> Iterator[Array]:
    """Rows of batches without end, in new orders."""
    while True:
        order = rng.permutation(n_rows)
        for start in range(0, n_rows - size + 1, size):
            yield order[start : start + size]


def _classes(y: Array) -> Any:
    """What partial_fit takes as the classes of a target."""
    if y.ndim == 1:
        return np.unique(y)
    if type_of_target(y) == "multilabel-indicator":
        return np.arange(y.shape[1])
    return [np.unique(column) for column in y.T]


def _losses(
    estimator: Any, given: tuple[Any, Any, Any], rates: tuple[float, float, int]
) -> tuple[Array, Array]:
    """Rates and losses of steps of a clone, each on a batch that is an epoch to it."""
    (X, y, weight), (low, high, n_steps) = given, rates
    X = X.tocsr() if issparse(X) else X  # rows are taken from it
    growth = (high / low) ** (1 / (n_steps - 1))
    model = clone(estimator).set_params(
        learning_rate=Exponential(gamma=growth), learning_rate_init=low, early_stopping=False
    )
    # What looks at epochs or averages them has no part in it, and may refuse partial_fit.
    model.set_params(scoring=None, averaging=None, power_t=0.5, verbose=False)
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    size = min(200, n_rows) if model.batch_size == "auto" else min(model.batch_size, n_rows)
    first = {}
    if is_classifier(model):
        first["classes"] = _classes(np.asarray(y))
        if isinstance(model.class_weight, str):  # "balanced", by all that is there
            balanced = compute_sample_weight(model.class_weight, y)
            weight = balanced if weight is None else balanced * np.asarray(weight)
            model.set_params(class_weight=None)
    rng, losses = check_random_state(model.random_state), []
    for k, rows in zip(range(n_steps), _batches(n_rows, size, rng), strict=False):
        try:
            batch = [None if a is None else _safe_indexing(a, rows) for a in (X, y, weight)]
            model.partial_fit(*batch, **(first if k == 0 else {}))
        except ValueError:
            if k == 0:
                raise
            break  # it has diverged
        losses.append(model.loss_)
        smoothed = _smoothed(losses)
        if not smoothed[-1] < DIVERGED * smoothed.min():
            break
    return low * growth ** np.arange(len(losses)), np.array(losses)


__all__ = ["Curve", "LearningRateFinderDisplay", "LossCurveDisplay", "WeightDistributionDisplay"]
