"""The user's objects: what has parameters of its own, given where a name would do.

An object is mutable and searchable like an estimator (``solver__weight_decay``), is checked when a
fit begins, and makes the frozen records of :mod:`hotloop.spec` that plans are compiled from. A name
stands for an object with its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import BaseEstimator

from . import schedules
from .compat import Interval, validate_parameters


class Option(BaseEstimator):
    """An object that a parameter of an estimator may be."""

    _parameter_constraints: ClassVar[dict] = {}

    def _validate_params(self) -> None:
        validate_parameters(self)


def chosen(parameter: str, given: Any, names: Mapping[str, type[Option]]) -> Option:
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
    given._validate_params()
    return given


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
    for name, (value, default) in flat.items():
        if value != default:
            raise ValueError(
                f"{name}={value!r} beside {parameter}={given!r} would be a second way to say one "
                f"thing. Set it in the object, and leave {name} at {default!r}."
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
    >>> from hotloop import InvScaling, MLPClassifier
    >>> clf = MLPClassifier(learning_rate=InvScaling(power_t=0.3))
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
    >>> from hotloop import Adaptive, MLPClassifier
    >>> clf = MLPClassifier(learning_rate=Adaptive(divisor=2.0), n_iter_no_change=5)
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
    >>> from hotloop import MLPClassifier, StepDecay
    >>> clf = MLPClassifier(learning_rate=StepDecay(step_size=20, gamma=0.5))
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
    >>> from hotloop import Exponential, MLPClassifier
    >>> clf = MLPClassifier(learning_rate=Exponential(gamma=0.9))
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
    >>> from hotloop import Cosine, MLPClassifier
    >>> clf = MLPClassifier(learning_rate=Cosine(min_rate=1e-5), max_iter=50)
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
    >>> from hotloop import CosineRestarts, MLPClassifier
    >>> clf = MLPClassifier(learning_rate=CosineRestarts(period=5, growth=2))
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
        Between which the momentum goes; None leaves it as it is.

    References
    ----------
    .. [1] Smith, L. and Topin, N. (2018), "Super-convergence: Very fast training of neural
       networks using large learning rates", arXiv:1708.07120. In two phases, as PyTorch has it.

    Examples
    --------
    >>> from hotloop import MLPClassifier, OneCycle
    >>> clf = MLPClassifier(learning_rate=OneCycle(), learning_rate_init=0.01, max_iter=30)
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
    >>> from hotloop import MLPClassifier, Polynomial
    >>> clf = MLPClassifier(learning_rate=Polynomial(power=2.0), max_iter=50)
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
    >>> from hotloop import MLPClassifier, Warmup
    >>> clf = MLPClassifier(learning_rate=Warmup(epochs=3, then="cosine"), max_iter=50)
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


__all__ = [
    "SCHEDULES",
    "Adaptive",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InvScaling",
    "OneCycle",
    "Option",
    "Polynomial",
    "Schedule",
    "StepDecay",
    "Warmup",
    "chosen",
    "refuse_beside",
]
