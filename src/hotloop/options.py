"""The user's objects: what has parameters of its own, given where a name would do.

An object is mutable and searchable like an estimator (``solver__weight_decay``), is checked when a
fit begins, and makes the frozen records of :mod:`hotloop.spec` that plans are compiled from. A name
stands for an object with its defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from . import schedules, spec
from .compat import Interval, StrOptions, parameter_names, validate_parameters


class Nested(BaseEstimator):
    """What has parameters that may have parameters of their own, ``solver__weight_decay``."""

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(parameter_names(cls))

    def _validate_params(self) -> None:
        validate_parameters(self)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of objects that are parameters, as ``solver__weight_decay``.

        Parameters
        ----------
        **params : dict
            Names and values.

        Returns
        -------
        self : object
            What they were set on.

        Raises
        ------
        ValueError
            If there is no such parameter, or none of its own in what it is set to.
        """
        own = self.get_params(deep=False)
        for name in params:
            owner, _, field = name.partition("__")
            held = params.get(owner, own.get(owner))
            if field and owner in own and not hasattr(held, "set_params"):
                raise ValueError(
                    f"{name} cannot be set: {owner} is {held!r}, which has no parameters of its "
                    f"own. Set {owner} to an object first."
                )
        return super().set_params(**params)


class Option(Nested):
    """An object that a parameter of an estimator may be."""

    _parameter_constraints: ClassVar[dict] = {}


def chosen(parameter: str, given: Any, names: Mapping[str, type[Any]]) -> Any:
    """The object that was given for a parameter, checked; of a name the one with its defaults.

    Parameters
    ----------
    parameter : str
        Name of the estimator's parameter, for messages.
    given : str or Option
        What the user set it to.
    names : mapping of str to type
        The names there are.

    Raises
    ------
    ValueError
        If a field of the object cannot be used, or there is no such name.
    """
    if isinstance(given, str):
        if given not in names:
            raise ValueError(f"{parameter} must be one of {sorted(names)}, got {given!r}.")
        return names[given]()
    if not isinstance(given, tuple(names.values())):
        kinds = ", ".join(sorted(kind.__name__ for kind in names.values()))
        raise ValueError(
            f"{parameter} must be one of {sorted(names)} or an object of {kinds}, got {given!r}."
        )
    option: Any = given
    option._validate_params()
    return option


def refuse_beside(parameter: str, given: Any, flat: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse parameters of an estimator that say what the fields of an object say.

    Parameters
    ----------
    parameter : str
        Name of the estimator's parameter that an object was given for.
    given : Option
        The object.
    flat : mapping of str to (value, default)
        The estimator's parameters that belong to the object.

    Raises
    ------
    ValueError
        If one of them is not at its default.
    """
    own = given.get_params(deep=False)
    for name, (value, default) in flat.items():
        if value != default:
            field = "nesterov" if name == "nesterovs_momentum" else name
            reason = "would be a second way to say one thing. Set it in the object, and"
            if field not in own:
                reason = "is of no use, as that has no such parameter."
            raise ValueError(
                f"{name}={value!r} beside {parameter}={given!r} {reason} "
                f"{'leave' if field in own else 'Leave'} {name} at {default!r}."
            )


# ------------------------------------------------------------ learning-rate schedules


class Schedule(Option):
    """What a parameter `learning_rate` may be: see the classes derived from it."""

    _record: ClassVar[type] = schedules.Schedule

    def record(self) -> schedules.Schedule:
        """What training runs by."""
        return self._record(**self.get_params(deep=False))


class Constant(Schedule):
    """The rate stays as it is."""


class InvScaling(Schedule):
    """The rate falls with the samples seen, ``learning_rate_init / (t_ + 1) ** power_t``.

    As ``learning_rate="invscaling"``, for every stochastic solver.

    Parameters
    ----------
    power_t : float, default=0.5
        The exponent.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import InvScaling, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate=InvScaling(power_t=0.1), learning_rate_init=0.1)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"power_t": [Interval(Real, 0, None, closed="left")]}
    _record = schedules.InvScaling

    def __init__(self, *, power_t=0.5):
        self.power_t = power_t


class Adaptive(Schedule):
    """The rate is divided where training would stop, until it is too small.

    Training would stop when what is watched has not improved by `tol` in `n_iter_no_change`
    epochs. As ``learning_rate="adaptive"``, for every stochastic solver.

    Parameters
    ----------
    divisor : float, default=5.0
        By how much.
    min_rate : float, default=1e-6
        The rate at which training stops after all.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Adaptive, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate=Adaptive(divisor=2.0), n_iter_no_change=5)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "divisor": [Interval(Real, 1, None, closed="neither")],
        "min_rate": [Interval(Real, 0, None, closed="neither")],
    }
    _record = schedules.Adaptive

    def __init__(self, *, divisor=5.0, min_rate=1e-6):
        self.divisor = divisor
        self.min_rate = min_rate


class StepDecay(Schedule):
    """The rate is multiplied by `gamma` every `step_size` epochs.

    Parameters
    ----------
    step_size : int, default=30
        Epochs.
    gamma : float, default=0.1
        The factor.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, StepDecay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(
    ...     learning_rate=StepDecay(step_size=20, gamma=0.5), learning_rate_init=0.05
    ... )
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "step_size": [Interval(Integral, 1, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="neither")],
    }
    _record = schedules.StepDecay

    def __init__(self, *, step_size=30, gamma=0.1):
        self.step_size = step_size
        self.gamma = gamma


class Exponential(Schedule):
    """The rate is multiplied by `gamma` after every epoch.

    Parameters
    ----------
    gamma : float, default=0.95
        The factor.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Exponential, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate=Exponential(gamma=0.95), learning_rate_init=0.05)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"gamma": [Interval(Real, 0, None, closed="neither")]}
    _record = schedules.Exponential

    def __init__(self, *, gamma=0.95):
        self.gamma = gamma


class Cosine(Schedule):
    """The rate falls along half a cosine, step by step, from first to last of `max_iter` epochs.

    Parameters
    ----------
    min_rate : float, default=0.0
        Where it ends.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F. (2017), "SGDR: Stochastic gradient descent with warm
       restarts", ICLR. Equation 5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Cosine, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(
    ...     learning_rate=Cosine(min_rate=1e-5), learning_rate_init=0.05, max_iter=50
    ... )
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"min_rate": [Interval(Real, 0, None, closed="left")]}
    _record = schedules.Cosine

    def __init__(self, *, min_rate=0.0):
        self.min_rate = min_rate


class CosineRestarts(Schedule):
    """Half a cosine over `period` epochs, then again from the top.

    Parameters
    ----------
    period : int, default=10
        Epochs of the first one.
    growth : int, default=1
        How many times as long as the last each next one is.
    min_rate : float, default=0.0
        Where each ends.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F. (2017), "SGDR: Stochastic gradient descent with warm
       restarts", ICLR. Equation 5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import CosineRestarts, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate=CosineRestarts(period=5, growth=2))
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "period": [Interval(Integral, 1, None, closed="left")],
        "growth": [Interval(Integral, 1, None, closed="left")],
        "min_rate": [Interval(Real, 0, None, closed="left")],
    }
    _record = schedules.CosineRestarts

    def __init__(self, *, period=10, growth=1, min_rate=0.0):
        self.period = period
        self.growth = growth
        self.min_rate = min_rate


class OneCycle(Schedule):
    """The rate rises to `learning_rate_init` and falls to almost nothing, step by step.

    By half cosines over the steps of `max_iter` epochs, while the momentum (beta_1) falls and
    rises.

    Parameters
    ----------
    pct_start : float, default=0.3
        The part of the steps in which it rises.
    div_factor : float, default=25.0
        It starts at ``learning_rate_init / div_factor``.
    final_div_factor : float, default=1e4
        It ends at ``learning_rate_init / (div_factor * final_div_factor)``.
    base_momentum, max_momentum : float or None, default=0.85 and 0.95
        Between which the momentum goes, whatever it was set to; None leaves it as it is, and where
        the solver has none, 0, there is none to move.

    References
    ----------
    .. [1] Smith, L. and Topin, N. (2018), "Super-convergence: Very fast training of neural
       networks using large learning rates", arXiv:1708.07120. In two phases, as PyTorch has it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, OneCycle
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate=OneCycle(), learning_rate_init=0.05, max_iter=50)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "pct_start": [Interval(Real, 0, 1, closed="both")],
        "div_factor": [Interval(Real, 1, None, closed="left")],
        "final_div_factor": [Interval(Real, 1, None, closed="left")],
        "base_momentum": [Interval(Real, 0, 1, closed="left"), None],
        "max_momentum": [Interval(Real, 0, 1, closed="left"), None],
    }
    _record = schedules.OneCycle

    def __init__(
        self,
        *,
        pct_start=0.3,
        div_factor=25.0,
        final_div_factor=1e4,
        base_momentum=0.85,
        max_momentum=0.95,
    ):
        self.pct_start = pct_start
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.base_momentum = base_momentum
        self.max_momentum = max_momentum


class Polynomial(Schedule):
    """The rate falls to zero as ``(1 - t) ** power``, t being the part of `max_iter` gone by.

    Parameters
    ----------
    power : float, default=1.0
        The exponent.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, Polynomial
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(
    ...     learning_rate=Polynomial(power=2.0), learning_rate_init=0.05, max_iter=50
    ... )
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"power": [Interval(Real, 0, None, closed="neither")]}
    _record = schedules.Polynomial

    def __init__(self, *, power=1.0):
        self.power = power


class Warmup(Schedule):
    """The rate rises evenly, step by step, before another schedule begins.

    Parameters
    ----------
    epochs : int, default=5
        How long.
    start_factor : float, default=0.0
        It rises from so much of `learning_rate_init`; the first step is one step above that.
    then : str or Schedule, default='constant'
        The schedule to follow, for which the epochs of the warm-up do not count.

    References
    ----------
    .. [1] Goyal, P. et al. (2017), "Accurate, large minibatch SGD: Training ImageNet in 1 hour",
       arXiv:1706.02677. Section 2.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, Warmup
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(
    ...     learning_rate=Warmup(then="cosine"), learning_rate_init=0.05, max_iter=50
    ... )
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "start_factor": [Interval(Real, 0, 1, closed="both")],
        "then": [str, Schedule],
    }
    _record = schedules.Warmup

    def __init__(self, *, epochs=5, start_factor=0.0, then="constant"):
        self.epochs = epochs
        self.start_factor = start_factor
        self.then = then

    def record(self) -> schedules.Schedule:
        """What training runs by."""
        then: Any = chosen("then", self.then, SCHEDULES)
        return schedules.Warmup(self.epochs, self.start_factor, then.record())


#: Names of schedules.
SCHEDULES: Mapping[str, type[Schedule]] = {
    "constant": Constant,
    "invscaling": InvScaling,
    "adaptive": Adaptive,
    "step": StepDecay,
    "exponential": Exponential,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "one_cycle": OneCycle,
    "polynomial": Polynomial,
    "warmup": Warmup,
}


class LogLoss(Option):
    """The log-loss of a classifier, with smoothed labels: ``loss=LogLoss(label_smoothing=0.1)``.

    Of K classes a row is taken to be of each with probability ``label_smoothing / K``, and of its
    own with ``1 - label_smoothing`` more; each label of an indicator matrix has K = 2.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        In [0, 1). 0 is ``loss="log_loss"``.

    References
    ----------
    Szegedy, Vanhoucke, Ioffe, Shlens and Wojna (2016), "Rethinking the Inception architecture for
    computer vision", CVPR. Section 7.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import LogLoss, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver="lbfgs", loss=LogLoss(label_smoothing=0.3), random_state=0)
    >>> clf.fit(X, y).predict_proba(X[:1]).round(1)
    array([[0.8, 0.1, 0.1]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "label_smoothing": [Interval(Real, 0, 1, closed="left")]
    }

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def record(self, *, multiclass: bool) -> spec.Loss:
        """What a plan is compiled from.

        Parameters
        ----------
        multiclass : bool
            Whether targets are a class code a row, or else zeros and ones, smoothed already.
        """
        if not multiclass:
            return spec.LOSSES["binary_log_loss"]
        if self.label_smoothing == 0:
            return spec.LOSSES["log_loss"]
        return spec.loss_with("smooth_log_loss", self.label_smoothing)


class Focal(Option):
    """The focal loss of a classifier: ``loss=Focal(gamma=2.0)``.

    ``-alpha (1 - p) ** gamma log(p)``, where p is the probability of the class that is right: rows
    that are classified well count less. Probabilities are through softmax for three classes or
    more, and through the logistic function for two and for the labels of an indicator matrix.

    Parameters
    ----------
    gamma : float, default=2.0
        Not negative; 0 is the log-loss.
    alpha : float or None, default=None
        Weight of the second class, or of a label that is set, in [0, 1]; the other has
        ``1 - alpha``. None stands for 1 for both. For more classes use `class_weight`.

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar (2017), "Focal loss for dense object detection", ICCV.
    Equation 5.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from hotloop import Focal, MLPClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> clf = MLPClassifier(loss=Focal(gamma=1.0), max_iter=20, tol=1, random_state=0)
    >>> bool(clf.fit(scale(X), y).score(scale(X), y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "gamma": [Interval(Real, 0, None, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="both"), None],
    }

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        self.gamma = gamma
        self.alpha = alpha

    def record(self, *, multiclass: bool) -> spec.Loss:
        """What a plan is compiled from.

        Parameters
        ----------
        multiclass : bool
            Whether targets are a class code a row, or else zeros and ones.
        """
        if not multiclass:
            alphas = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
            return spec.loss_with("binary_focal", self.gamma, *alphas)
        if self.alpha is not None:
            raise ValueError(
                f"alpha={self.alpha!r} of the focal loss weighs one class against another, and y "
                "has more than two. Use alpha=None, and class_weight for weights of classes."
            )
        return spec.loss_with("focal", self.gamma)


class Huber(Option):
    """The Huber loss of a regressor: ``loss=Huber(delta=1.0)``.

    ``d ** 2 / 2`` where ``d = abs(y - prediction)`` is at most delta, ``delta * (d - delta / 2)``
    beyond.

    Parameters
    ----------
    delta : float, default=1.0
        Where the square becomes a line; above 0.

    References
    ----------
    Huber (1964), "Robust estimation of a location parameter", Annals of Mathematical Statistics 35.

    Examples
    --------
    >>> import numpy as np
    >>> from hotloop import Huber, MLPRegressor
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> y = np.where(np.arange(50) == 25, 100.0, 3 * X.ravel())
    >>> regr = MLPRegressor(Huber(delta=0.1), (), solver="lbfgs", random_state=0).fit(X, y)
    >>> regr.predict([[0.5]]).round(1)
    array([1.5])
    """

    _parameter_constraints: ClassVar[dict] = {"delta": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, *, delta: float = 1.0) -> None:
        self.delta = delta

    def record(self) -> spec.Loss:
        """What a plan is compiled from."""
        return spec.loss_with("huber", self.delta)


class Quantile(Option):
    """The pinball loss of a regressor: ``loss=Quantile(quantiles=[0.1, 0.5, 0.9])``.

    ``q * max(0, y - prediction) + (1 - q) * max(0, prediction - y)``, which the quantile of level q
    makes least; of several levels it is their sum.

    Several make a network with an output for each, which do not cross: the first is ``z_0``, each
    other one lies ``log(1 + exp(z_k))`` above the one before, z being what the last layer makes.

    Parameters
    ----------
    quantiles : float or array-like of float of shape (n_quantiles,), default=0.5
        Levels between 0 and 1, each above the one before. One level takes any number of targets,
        several take one.

    References
    ----------
    Koenker and Bassett (1978), "Regression quantiles", Econometrica 46(1).

    Examples
    --------
    >>> import numpy as np
    >>> from hotloop import MLPRegressor, Quantile
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> y = X.ravel() + np.random.RandomState(0).uniform(size=200)
    >>> regr = MLPRegressor(Quantile(quantiles=[0.1, 0.9]), (), solver="lbfgs", random_state=0)
    >>> bool((np.diff(regr.fit(X, y).predict(X)) >= 0).all())
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "quantiles": [Interval(Real, 0, 1, closed="neither"), "array-like"]
    }

    def __init__(self, *, quantiles: Any = 0.5) -> None:
        self.quantiles = quantiles

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles; ValueError where they are none."""
        try:
            levels = np.atleast_1d(np.asarray(self.quantiles, dtype=np.float64))
        except (TypeError, ValueError):
            levels = np.empty(0)
        inside = bool(((levels > 0) & (levels < 1)).all())
        if levels.ndim != 1 or not levels.size or not inside or (np.diff(levels) <= 0).any():
            raise ValueError(
                "quantiles must be numbers between 0 and 1, each above the one before, as "
                f"[0.1, 0.5, 0.9], got {self.quantiles!r}."
            )
        return tuple(levels.tolist())

    def record(self) -> spec.Loss:
        """What a plan is compiled from."""
        several = len(self.levels) > 1
        return spec.loss_with("ordered_quantiles" if several else "quantile", *self.levels)


class Tweedie(Option):
    """Half the Tweedie deviance of a regressor: ``loss=Tweedie(power=1.5)``.

    Predictions are ``p = exp(z)``, always above 0, and the loss is
    ``y ** (2 - power) / ((1 - power) (2 - power)) - y p ** (1 - power) / (1 - power)
    + p ** (2 - power) / (2 - power)``, half of what `sklearn.metrics.mean_tweedie_deviance` is the
    mean of.

    Parameters
    ----------
    power : float, default=1.5
        The variance grows as the mean to this power. 0 and below: targets of any sign (0 is the
        squared error); 1 (Poisson) and between 1 and 2 (sums of gamma numbers, Poisson many): not
        negative; 2 (gamma), 3 (inverse Gaussian) and others: above 0. None between 0 and 1 exists.

    References
    ----------
    Jorgensen (1987), "Exponential dispersion models", Journal of the Royal Statistical Society B,
    volume 49.

    Examples
    --------
    >>> import numpy as np
    >>> from hotloop import MLPRegressor, Tweedie
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> regr = MLPRegressor(Tweedie(power=1.9), (), solver="lbfgs", random_state=0)
    >>> regr.fit(X, np.exp(X.ravel())).predict([[0.0]]).round(1)
    array([1.])
    """

    _parameter_constraints: ClassVar[dict] = {
        "power": [
            Interval(Real, None, 0, closed="right"),
            Interval(Real, 1, None, closed="left"),
        ]
    }

    def __init__(self, *, power: float = 1.5) -> None:
        self.power = power

    def record(self) -> spec.Loss:
        """What a plan is compiled from."""
        names: dict[float, str] = {1: "poisson", 2: "gamma"}
        if self.power in names:
            return spec.LOSSES[names[self.power]]
        least = 0.0 if self.power > 0 else -math.inf
        return replace(spec.loss_with("tweedie", self.power), least=least, above=self.power > 2)


#: Names of the losses of a classifier that have parameters.
CLASSIFIER_LOSSES: Mapping[str, type[Option]] = {"log_loss": LogLoss, "focal": Focal}
_WITHOUT_PARAMETERS = ("squared_error", "absolute_error", "log_cosh", "poisson", "gamma")
#: Names of all losses of a regressor: their objects, or what there is of one without parameters.
REGRESSOR_LOSSES: Mapping[str, type[Option] | spec.Loss] = {
    **{name: spec.LOSSES[name] for name in _WITHOUT_PARAMETERS},
    "huber": Huber,
    "quantile": Quantile,
    "tweedie": Tweedie,
}


# ------------------------------------------------------------ solvers

_COEFFICIENT = [Interval(Real, 0, 1, closed="left")]
_POSITIVE = [Interval(Real, 0, None, closed="neither")]
_NOT_NEGATIVE = [Interval(Real, 0, None, closed="left")]


class Solver(Option):
    """What a parameter `solver` may be: see the classes derived from it."""

    _record: ClassVar[type[spec.Optimizer]]
    #: The field that comes with every step, since a schedule may change it; None for none.
    _momentum: ClassVar[str | None] = "beta_1"
    #: Fields of the record that are no parameters.
    _fixed: ClassVar[dict[str, Any]] = {}

    @property
    def inertia(self) -> float:
        """What comes with every step in the place of a momentum."""
        return float(getattr(self, self._momentum)) if self._momentum else 0.0

    def record(self, **changes: Any) -> spec.Optimizer:
        """What plans are made from.

        Parameters
        ----------
        **changes : dict
            Fields of a :class:`spec.Optimizer` that the estimator says.

        Returns
        -------
        spec.Optimizer
        """
        fields: dict[str, Any] = {
            name: _plain(value)
            for name, value in self.get_params(deep=False).items()
            if name != self._momentum
        }
        return self._record(**fields, **self._fixed, **changes)


def _plain(value: Any) -> str | bool | float:
    """A field as records have it."""
    if isinstance(value, str):
        return value
    return bool(value) if isinstance(value, bool | np.bool_) else float(value)


class SGD(Solver):
    """Stochastic gradient descent with momentum.

    ``v = momentum * v - rate * g``; a weight moves by ``v``, or with Nesterov's momentum by
    ``momentum * v - rate * g``.

    Parameters
    ----------
    momentum : float, default=0.9
        Between 0 and 1.
    nesterov : bool, default=True
        Whether the momentum is Nesterov's.
    weight_decay : float, default=0.0
        Decoupled: weights (not biases) are multiplied by ``1 - rate * weight_decay`` before a
        step, beside `alpha` of the estimator, which is part of the loss.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F. (2019), "Decoupled weight decay regularization", ICLR.
       Algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import SGD, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=SGD(momentum=0.95, weight_decay=0.01), alpha=0)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterov": ["boolean"],
        "weight_decay": _NOT_NEGATIVE,
    }
    _record = spec.SGD
    _momentum = "momentum"

    def __init__(self, *, momentum=0.9, nesterov=True, weight_decay=0.0):
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay


class Adam(Solver):
    """Adam; with `amsgrad` its variant whose second moment never falls.

    ``w -= rate * m / (sqrt(v) + epsilon)``, m and v being moving averages of the gradient and its
    square. As ``solver="adam"`` and as scikit-learn it adds epsilon to the root before its bias
    is corrected; with `amsgrad`, as PyTorch, after.

    Parameters
    ----------
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of the moments, in [0, 1).
    epsilon : float, default=1e-8
        Keeps the quotient finite.
    amsgrad : bool, default=False
        Whether the largest v so far takes the place of v.

    References
    ----------
    .. [1] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Algorithm 1, as rewritten at the end of section 2.
    .. [2] Reddi, S., Kale, S. and Kumar, S. (2018), "On the convergence of Adam and beyond", ICLR.
       Algorithm 2, with bias corrections as PyTorch has them.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Adam, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=Adam(beta_1=0.8, amsgrad=True))
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "beta_1": _COEFFICIENT,
        "beta_2": _COEFFICIENT,
        "epsilon": _POSITIVE,
        "amsgrad": ["boolean"],
    }
    _record = spec.Adam

    def __init__(self, *, beta_1=0.9, beta_2=0.999, epsilon=1e-8, amsgrad=False):
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad


class AdamW(Adam):
    """Adam with decoupled weight decay, by PyTorch's formulas.

    Weights (not biases) are multiplied by ``1 - rate * weight_decay``, then step as Adam's do, but
    for epsilon, which is added to the bias-corrected root. `alpha` of the estimator is part of the
    loss still; set it to 0 for the decay alone.

    Parameters
    ----------
    weight_decay : float, default=0.01
        The decay.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of the moments, in [0, 1).
    epsilon : float, default=1e-8
        Keeps the quotient finite.
    amsgrad : bool, default=False
        Whether the largest second moment so far takes the place of it.

    References
    ----------
    .. [1] Loshchilov, I. and Hutter, F. (2019), "Decoupled weight decay regularization", ICLR.
       Algorithm 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import AdamW, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=AdamW(weight_decay=0.1), alpha=0)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **Adam._parameter_constraints,
        "weight_decay": _NOT_NEGATIVE,
    }
    _fixed: ClassVar[dict[str, Any]] = {"adds_to_corrected": True}

    def __init__(self, *, weight_decay=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-8, amsgrad=False):
        super().__init__(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, amsgrad=amsgrad)
        self.weight_decay = weight_decay


class NAdam(Solver):
    """Adam with Nesterov's momentum, by PyTorch's formulas.

    Parameters
    ----------
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of the moments, in [0, 1).
    epsilon : float, default=1e-8
        Keeps the quotient finite.
    momentum_decay : float, default=0.004
        The momentum of step t is ``beta_1 * (1 - 0.96 ** (t * momentum_decay) / 2)``.
    weight_decay : float, default=0.0
        Decoupled, as that of :class:`~hotloop.AdamW`.

    References
    ----------
    .. [1] Dozat, T. (2016), "Incorporating Nesterov momentum into Adam", ICLR workshop.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, NAdam
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=NAdam(weight_decay=0.01), alpha=0)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "beta_1": _COEFFICIENT,
        "beta_2": _COEFFICIENT,
        "epsilon": _POSITIVE,
        "momentum_decay": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
    }
    _record = spec.NAdam

    def __init__(
        self, *, beta_1=0.9, beta_2=0.999, epsilon=1e-8, momentum_decay=0.004, weight_decay=0.0
    ):
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.momentum_decay = momentum_decay
        self.weight_decay = weight_decay


class RMSprop(Solver):
    """The gradient over the root of a moving average of its squares, by PyTorch's formulas.

    ``v = beta_2 * v + (1 - beta_2) * g ** 2``, ``u = momentum * u + g / (sqrt(v) + epsilon)``,
    ``w -= rate * u``.

    Parameters
    ----------
    beta_2 : float, default=0.99
        Decay rate of the squares, in [0, 1).
    momentum : float, default=0.0
        Between 0 and 1.
    epsilon : float, default=1e-8
        Keeps the quotient finite.
    weight_decay : float, default=0.0
        Decoupled, as that of :class:`~hotloop.AdamW`.

    References
    ----------
    .. [1] Tieleman, T. and Hinton, G. (2012), "Lecture 6.5: rmsprop", Coursera.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, RMSprop
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=RMSprop(momentum=0.9))
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "beta_2": _COEFFICIENT,
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "epsilon": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
    }
    _record = spec.RMSprop
    _momentum = "momentum"

    def __init__(self, *, beta_2=0.99, momentum=0.0, epsilon=1e-8, weight_decay=0.0):
        self.beta_2 = beta_2
        self.momentum = momentum
        self.epsilon = epsilon
        self.weight_decay = weight_decay


class Adagrad(Solver):
    """The gradient over the root of the sum of all its squares.

    ``s += g ** 2``, ``w -= rate * g / (sqrt(s) + epsilon)``. Wants a `learning_rate_init` of 0.01
    or more.

    Parameters
    ----------
    epsilon : float, default=1e-10
        Keeps the quotient finite.
    weight_decay : float, default=0.0
        Decoupled, as that of :class:`~hotloop.AdamW`.

    References
    ----------
    .. [1] Duchi, J., Hazan, E. and Singer, Y. (2011), "Adaptive subgradient methods for online
       learning and stochastic optimization", JMLR 12.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Adagrad, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=Adagrad(), learning_rate_init=0.05)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "epsilon": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
    }
    _record = spec.Adagrad
    _momentum = None

    def __init__(self, *, epsilon=1e-10, weight_decay=0.0):
        self.epsilon = epsilon
        self.weight_decay = weight_decay


class Lion(Solver):
    """The sign of a momentum: every weight moves by the rate, or not at all.

    ``w -= rate * sign(beta_1 * m + (1 - beta_1) * g)``, ``m = beta_2 * m + (1 - beta_2) * g``.
    Wants a `learning_rate_init` of a third or a tenth of Adam's.

    Parameters
    ----------
    beta_1, beta_2 : float, default=0.9 and 0.99
        How much of the momentum counts in a step, and how much of it is kept, in [0, 1).
    weight_decay : float, default=0.0
        Decoupled, as that of :class:`~hotloop.AdamW`.

    References
    ----------
    .. [1] Chen, X. et al. (2023), "Symbolic discovery of optimization algorithms", NeurIPS.
       Algorithm 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import Lion, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(solver=Lion(weight_decay=0.1), learning_rate_init=5e-4, alpha=0)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "beta_1": _COEFFICIENT,
        "beta_2": _COEFFICIENT,
        "weight_decay": _NOT_NEGATIVE,
    }
    _record = spec.Lion

    def __init__(self, *, beta_1=0.9, beta_2=0.99, weight_decay=0.0):
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.weight_decay = weight_decay


class Muon(Solver):
    """Orthogonal steps for the weights between hidden layers, AdamW for all others.

    The momentum of a weight of shape (n_in, n_out) between two hidden layers is made nearly
    orthogonal, so that a step moves along all its singular vectors alike, the rare ones too:

    ``m = momentum * m + (1 - momentum) * g``,
    ``d = momentum * m + (1 - momentum) * g`` with `nesterov`, else ``m``,
    ``w = (1 - rate * weight_decay) * w - rate * scale * orthogonal(d)``.

    `orthogonal` is five rounds of a polynomial iteration of Newton and Schulz, which brings
    singular values close to 1, about 0.7 to 1.2, in the dtype of the fit. Weights of the first and
    of the last layer, and biases, step by :class:`~hotloop.AdamW`; without two hidden layers there
    is nothing else. A step takes about ``5 * m / batch_size`` of the products of an m x m layer
    more, and a third less than that by symmetry.

    Parameters
    ----------
    momentum : float, default=0.95
        In [0, 1).
    nesterov : bool, default=True
        Whether the momentum is Nesterov's.
    weight_decay : float, default=0.1
        Decoupled, of all weights, as that of :class:`~hotloop.AdamW`.
    adjust_lr_fn : {"match_rms_adamw", "original"}, default="match_rms_adamw"
        Whether `scale` is ``0.2 * sqrt(max(n_in, n_out))``, so that elements move about as far as
        AdamW would move them and a rate that suits it suits both; or
        ``sqrt(max(1, n_out / n_in))``, which wants a `learning_rate_init` of about 0.02 and an
        `adamw_rate` of about 0.02.
    adamw_rate : float, default=1.0
        The rate of AdamW, as a part of the rate.
    beta_1, beta_2 : float, default=0.9 and 0.999
        Decay rates of AdamW's moments, in [0, 1).
    epsilon : float, default=1e-8
        Keeps AdamW's quotient finite.

    References
    ----------
    .. [1] Jordan, K. et al. (2024), "Muon: An optimizer for hidden layers in neural networks",
       https://kellerjordan.github.io/posts/muon. With momentum and rates as PyTorch has them.
    .. [2] Liu, J. et al. (2025), "Muon is scalable for LLM training", arXiv:2502.16982. Section
       2.2, of "match_rms_adamw".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import MLPClassifier, Muon
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(hidden_layer_sizes=(64, 64, 64), solver=Muon(), alpha=0)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "momentum": _COEFFICIENT,
        "nesterov": ["boolean"],
        "weight_decay": _NOT_NEGATIVE,
        "adjust_lr_fn": [StrOptions({"match_rms_adamw", "original"})],
        "adamw_rate": _POSITIVE,
        "beta_1": _COEFFICIENT,
        "beta_2": _COEFFICIENT,
        "epsilon": _POSITIVE,
    }
    _record = spec.Muon
    _momentum = "momentum"

    def __init__(
        self,
        *,
        momentum=0.95,
        nesterov=True,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
        adamw_rate=1.0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
    ):
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.adjust_lr_fn = adjust_lr_fn
        self.adamw_rate = adamw_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon


#: Names of solvers; "amsgrad" is Adam with that.
SOLVERS: Mapping[str, type[Solver]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "amsgrad": Adam,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "lion": Lion,
    "muon": Muon,
}


def chosen_solver(given: Any, flat: Mapping[str, tuple[Any, Any]]) -> Solver:
    """The solver that a parameter `solver` means.

    Parameters
    ----------
    given : str or Solver
        What the user set it to. A name takes the estimator's own `momentum`, `beta_1` and so on
        where its object has the same default.
    flat : mapping of str to (value, default)
        Those.

    Raises
    ------
    ValueError
        If a field cannot be used, or one of `flat` would be passed over that the solver has.
    """
    solver: Any = chosen("solver", given, SOLVERS)
    if not isinstance(given, str):
        refuse_beside("solver", given, flat)
        return solver
    if given == "amsgrad":
        solver.amsgrad = True
    own = solver.get_params(deep=False)
    for name, (value, default) in flat.items():
        field = "nesterov" if name == "nesterovs_momentum" else name
        if field in own and own[field] == default:
            setattr(solver, field, value)
        elif field in own and value != default:
            raise ValueError(
                f"{name}={value!r} is not used by solver={given!r}, whose {field} is "
                f"{own[field]!r} unless an object says otherwise. Give "
                f"solver={type(solver).__name__}({field}={value!r}), and leave {name} at "
                f"{default!r}."
            )
    return solver


# ------------------------------------------------------------ averages of the weights


class Average(Option):
    """What a parameter `averaging` may be: see the classes derived from it."""

    #: Of a moving average over steps; or of a mean over epochs the part of them it leaves out.
    decay: float | None = None
    start: float | None = None


class EMA(Average):
    """An exponential moving average of all weights, updated after every step.

    Weights of step i count ``(1 - decay) * decay ** (t - i) / (1 - decay ** t)`` after t steps.
    The averaged weights are `coefs_` and `intercepts_`, and what early stopping scores. Training
    goes on with its own: so does `partial_fit`, which keeps them from call to call, so that
    changes to `coefs_` in between count in the average alone. A fit with `warm_start` begins at
    `coefs_`, with a new average.

    Parameters
    ----------
    decay : float, default=0.999
        In (0, 1). An average over about ``1 / (1 - decay)`` steps.

    References
    ----------
    .. [1] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Section 7.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import EMA, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(averaging=EMA(decay=0.99))
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"decay": [Interval(Real, 0, 1, closed="neither")]}

    def __init__(self, *, decay=0.999):
        self.decay = decay


class SWA(Average):
    """The mean of the weights at the ends of epochs, from a part of `max_iter` on.

    The mean is what `coefs_` and `intercepts_` are, and what early stopping scores once it has
    begun. A fit that stops before has the last weights as they are. It wants a rate that does not
    fall to nothing, and a `tol` that lets training go on. Not for `partial_fit`.

    Parameters
    ----------
    start : float, default=0.75
        The part of `max_iter` after which it begins, in [0, 1).

    References
    ----------
    .. [1] Izmailov, P. et al. (2018), "Averaging weights leads to wider optima and better
       generalization", UAI. Algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import SWA, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(averaging=SWA(start=0.5), learning_rate_init=0.02, max_iter=60)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {"start": [Interval(Real, 0, 1, closed="left")]}

    def __init__(self, *, start=0.75):
        self.start = start


#: Names of averages.
AVERAGES: Mapping[str, type[Average]] = {"ema": EMA, "swa": SWA}


class Normalization(Option):
    """What a parameter `normalization` may be: see the classes derived from it."""

    _record: ClassVar[type] = spec.LayerNorm

    def record(self) -> spec.Normalization:
        """What plans are compiled from."""
        return self._record(**{name: float(v) for name, v in self.get_params(deep=False).items()})


class BatchNorm(Normalization):
    """Each hidden unit's sum is measured from its mean in the batch, by its deviation there.

    ``activation(scale * (z - mean) / sqrt(variance + epsilon) + intercept)``, z being the products
    of the layer. As ``normalization="batch"``. Predictions take means and variances that were
    averaged while training. The rows of a batch count alike in both, whatever their
    `sample_weight`: leave out rows of weight 0 that are not like the others.

    Parameters
    ----------
    momentum : float, default=0.1
        Share of each batch in the running mean and variance.
    epsilon : float, default=1e-5
        Added to the variance.

    References
    ----------
    .. [1] Ioffe, S. and Szegedy, C. (2015), "Batch normalization: Accelerating deep network
       training by reducing internal covariate shift", ICML. Algorithms 1 and 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import BatchNorm, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier((64, 64), normalization=BatchNorm(momentum=0.05), batch_size=128)
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
    }
    _record = spec.BatchNorm

    def __init__(self, *, momentum=0.1, epsilon=1e-5):
        self.momentum = momentum
        self.epsilon = epsilon


class LayerNorm(Normalization):
    """Each row's sums in a hidden layer are measured from their mean, by their deviation.

    ``activation(scale * (z - mean) / sqrt(variance + epsilon) + intercept)``, z being the products
    of the layer for a row. As ``normalization="layer"``. The same in training and predictions.

    Parameters
    ----------
    epsilon : float, default=1e-5
        Added to the variance.

    References
    ----------
    .. [1] Ba, J. L., Kiros, J. R. and Hinton, G. E. (2016), "Layer normalization",
       arXiv:1607.06450. Equation 4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from hotloop import LayerNorm, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(normalization=LayerNorm(epsilon=1e-3))
    >>> bool(clf.set_params(random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "epsilon": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, epsilon=1e-5):
        self.epsilon = epsilon


#: Names of normalizations.
NORMALIZATIONS: Mapping[str, type[Normalization]] = {"batch": BatchNorm, "layer": LayerNorm}


__all__ = [
    "AVERAGES",
    "CLASSIFIER_LOSSES",
    "EMA",
    "NORMALIZATIONS",
    "REGRESSOR_LOSSES",
    "SCHEDULES",
    "SGD",
    "SOLVERS",
    "SWA",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adaptive",
    "BatchNorm",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "Focal",
    "Huber",
    "InvScaling",
    "LayerNorm",
    "Lion",
    "LogLoss",
    "Muon",
    "NAdam",
    "Normalization",
    "OneCycle",
    "Option",
    "Polynomial",
    "Quantile",
    "RMSprop",
    "Schedule",
    "Solver",
    "StepDecay",
    "Tweedie",
    "Warmup",
    "chosen",
    "chosen_solver",
    "refuse_beside",
]
