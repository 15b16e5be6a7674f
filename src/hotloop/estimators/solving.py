"""What the parameters of an estimator say of its solver: rule, schedule and average of weights."""

from __future__ import annotations

import warnings
from typing import Any

from .. import options, schedules, spec
from ..train import StochasticOptimizer

#: Parameters that say what a stochastic solver does besides its rule, and their defaults.
STOCHASTIC = {"max_norm": None, "clip_norm": None, "clip_value": None, "averaging": None}
#: Parameters that belong to a solver, and their defaults.
OF_SOLVER = {
    "momentum": 0.9,
    "nesterovs_momentum": True,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
}


def refuse_what_solver_ignores(estimator: Any, *, incremental: bool) -> None:
    """Refuse what L-BFGS does not do, but for what scikit-learn lets pass, and partial_fit cannot.

    Parameters
    ----------
    estimator : MultilayerPerceptron
        With its parameters.
    incremental : bool
        Whether it is partial_fit that asks.

    Raises
    ------
    ValueError
        If there is something.
    """
    if incremental and swa_start(estimator) is not None:
        raise ValueError(
            "partial_fit does not support averaging by SWA, which begins after a part of "
            "max_iter. Use averaging='ema', or None."
        )
    if estimator.solver != "lbfgs":
        return
    rate = estimator.learning_rate
    if not (isinstance(rate, str) and rate in ("constant", "invscaling", "adaptive")):
        raise ValueError(
            f"learning_rate={rate!r} is a schedule of steps, which solver='lbfgs' does not take. "
            "Leave it at 'constant', or use another solver."
        )
    for name, default in {**STOCHASTIC, "l1_ratio": 0.0}.items():
        value = getattr(estimator, name)
        if value != default:
            reason = "changes the steps of stochastic solvers"
            if name == "l1_ratio":
                reason = "makes a loss with kinks, along which a quasi-Newton method fails"
            raise ValueError(
                f"{name}={value!r} {reason}, and solver is 'lbfgs'. Leave {name} at {default!r}, "
                "or use another solver."
            )


def optimizer_of(estimator: Any, last: StochasticOptimizer | None) -> StochasticOptimizer:
    """The optimizer that the parameters ask for.

    Parameters
    ----------
    estimator : MultilayerPerceptron
        With its parameters.
    last : StochasticOptimizer or None
        The one of the calls of partial_fit before, whose moments and clock are kept; left as it is.

    Returns
    -------
    StochasticOptimizer

    Raises
    ------
    ValueError
        If a field of an object cannot be used, or `last` steps by another rule.
    """
    solver, schedule = _solver(estimator), _schedule(estimator)
    schedule.require_rate(estimator.learning_rate_init)
    asked = StochasticOptimizer(
        _record(estimator, solver), schedule, estimator.learning_rate_init, solver.inertia
    )
    if last is None:
        return asked
    if type(asked.record) is not type(last.record):
        raise ValueError(
            f"solver={estimator.solver!r} cannot go on from the moments that partial_fit kept of "
            f"the solver before, {last.record.rule!r}. Set solver back, or call fit to start anew."
        )
    if schedule.ends and last.epoch >= estimator.max_iter:
        warnings.warn(
            f"learning_rate={estimator.learning_rate!r} came to its end after "
            f"max_iter={estimator.max_iter} epochs, each call of partial_fit being one: the rate "
            "stays at its last, which may be 0. Set max_iter to the number of calls there will be, "
            "or use a schedule without an end.",
            stacklevel=2,
        )
    return last.continued(asked)


def _solver(estimator: Any) -> options.Solver:
    """The object that `solver` is, or stands for."""
    flat = {name: (getattr(estimator, name), default) for name, default in OF_SOLVER.items()}
    return options.chosen_solver(estimator.solver, flat)


def _averaging(estimator: Any) -> options.Average:
    """The object that `averaging` is, or stands for; of None one that averages nothing."""
    if estimator.averaging is None:
        return options.Average()
    return options.chosen("averaging", estimator.averaging, options.AVERAGES)


def swa_start(estimator: Any) -> float | None:
    """The part of `max_iter` after which weights are averaged by epochs; None if they are not."""
    return _averaging(estimator).start


def record_of(estimator: Any) -> spec.Optimizer:
    """What a step does."""
    return _record(estimator, _solver(estimator))


def _record(estimator: Any, solver: options.Solver) -> spec.Optimizer:
    decay = _averaging(estimator).decay
    given = {name: getattr(estimator, name) for name in ("max_norm", "clip_norm", "clip_value")}
    return solver.record(
        l1_ratio=float(estimator.l1_ratio),
        average_decay=None if decay is None else float(decay),
        **{name: None if value is None else float(value) for name, value in given.items()},
    )


def _schedule(estimator: Any) -> schedules.Schedule:
    """How the rate changes; 'adam' has no ears for scikit-learn's names, as there."""
    given = estimator.learning_rate
    if estimator.solver == "adam" and given in ("invscaling", "adaptive"):
        given = "constant"
    if given == "invscaling":
        return schedules.InvScaling(estimator.power_t)
    schedule: Any = options.chosen("learning_rate", given, options.SCHEDULES)
    if not isinstance(given, str):
        options.refuse_beside("learning_rate", given, {"power_t": (estimator.power_t, 0.5)})
    return schedule.record()
