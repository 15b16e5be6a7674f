"""Learning-rate schedules: the rate of every step, as a function of how far training has come.

Time is counted in epochs, the steps of an epoch being parts of it, so that a schedule is the same
whatever the batch size. Frozen records; :mod:`hotloop.options` has what users write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Steps:
    """Steps to come.

    Attributes
    ----------
    n_epochs, n_steps : int
        Epochs, and steps in each.
    first : int
        Epochs that were done before.
    most : int
        Epochs at most in all.
    n_rows : int
        Rows in an epoch.
    n_seen : int
        Rows that have gone by before.
    """

    n_epochs: int
    n_steps: int
    first: int
    most: int
    n_rows: int
    n_seen: int

    @property
    def epoch(self) -> Array:
        """The epoch that each step is in, of shape (n_epochs, 1); 0 before the first."""
        return np.maximum(self.first + np.arange(self.n_epochs)[:, np.newaxis], 0)

    @property
    def time(self) -> Array:
        """Epochs gone by before each step, of shape (n_epochs, n_steps)."""
        return self.epoch + np.arange(self.n_steps) / self.n_steps

    @property
    def step(self) -> Array:
        """Steps before each step, of shape (n_epochs, n_steps), if all epochs had as many."""
        return self.epoch * self.n_steps + np.arange(self.n_steps)


@dataclass(frozen=True)
class Schedule:
    """The rate stays as it is.

    Subclasses are functions of time; plateaus end the training of all but one.
    """

    @property
    def falls_at_plateaus(self) -> bool:
        """Whether it falls there until the rate is too small."""
        return False

    @property
    def ends(self) -> bool:
        """Whether it is over after the last of all epochs."""
        return False

    def require_rate(self, rate: float) -> None:
        """Raise ValueError if it cannot start from that rate."""

    def rates(self, rate: float, steps: Steps) -> Array:
        """Rate of each step to come.

        Parameters
        ----------
        rate : float
            The one that the schedule starts from.
        steps : Steps
            Which steps.

        Returns
        -------
        ndarray of shape (n_epochs, n_steps), float64
        """
        return np.full((steps.n_epochs, steps.n_steps), rate)

    def momenta(self, momentum: float, steps: Steps) -> Array:
        """Momentum (or beta_1) of each step to come, of the same shape."""
        return np.full((steps.n_epochs, steps.n_steps), momentum)

    def after_plateau(self, rate: float) -> float | None:
        """The rate to go on from when improvement has ceased; None to stop."""
        return None

    def spread(self, factors: Array, steps: Steps) -> Array:
        """Numbers of each epoch, of shape (n_epochs, 1), for all its steps."""
        return np.broadcast_to(factors, (steps.n_epochs, steps.n_steps)).copy()


@dataclass(frozen=True)
class InvScaling(Schedule):
    """``rate / (n_seen + 1) ** power_t`` from the end of the first epoch on; by epochs.

    References
    ----------
    scikit-learn 1.9, ``MLPClassifier(learning_rate="invscaling")``.
    """

    power_t: float

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        seen = steps.n_seen + steps.n_rows * np.arange(steps.n_epochs)
        epochs = zip(steps.epoch.ravel().tolist(), seen.tolist(), strict=True)
        rates = [rate / (n + 1) ** self.power_t if epoch else rate for epoch, n in epochs]
        return self.spread(np.array(rates)[:, np.newaxis], steps)


@dataclass(frozen=True)
class Adaptive(Schedule):
    """``rate / divisor`` at each plateau, where training would stop, until it is `min_rate`.

    References
    ----------
    scikit-learn 1.9, ``MLPClassifier(learning_rate="adaptive")``.
    """

    divisor: float
    min_rate: float

    @property
    def falls_at_plateaus(self) -> bool:
        """See the class."""
        return True

    def after_plateau(self, rate: float) -> float | None:
        """See the class."""
        return rate / self.divisor if rate > self.min_rate else None


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``rate * gamma ** (epoch // step_size)``"""

    step_size: int
    gamma: float

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        return self.spread(rate * self.gamma ** (steps.epoch // self.step_size), steps)


@dataclass(frozen=True)
class Exponential(Schedule):
    """``rate * gamma ** epoch``"""

    gamma: float

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        return self.spread(rate * self.gamma ** steps.epoch.astype(np.float64), steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the rate down to `min_rate`, over all epochs.

    References
    ----------
    Loshchilov and Hutter (2017), "SGDR: Stochastic gradient descent with warm restarts", ICLR,
    equation 5 without restarts.
    """

    min_rate: float

    @property
    def ends(self) -> bool:
        """See the class."""
        return True

    def require_rate(self, rate: float) -> None:
        """See the class."""
        _require_no_rise(rate, self.min_rate)

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        return _half_cosine(rate, self.min_rate, np.minimum(steps.time / steps.most, 1.0))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine over `period` epochs, again and again, each `growth` times as long.

    References
    ----------
    Loshchilov and Hutter (2017), equation 5.
    """

    period: int
    growth: int
    min_rate: float

    def require_rate(self, rate: float) -> None:
        """See the class."""
        _require_no_rise(rate, self.min_rate)

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        time, growth = steps.time, self.growth
        cycle = np.floor(time / self.period)
        if growth > 1:
            cycle = np.floor(np.log1p((growth - 1) * time / self.period) / np.log(growth) + 1e-12)
        length = self.period * float(growth) ** cycle
        begun = cycle * self.period
        if growth > 1:
            begun = self.period * (float(growth) ** cycle - 1) / (growth - 1)
        return _half_cosine(rate, self.min_rate, (time - begun) / length)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the rate and down again, by half cosines over all steps; momentum the other way.

    It starts at ``rate / div_factor``, is at the rate after `pct_start` of the steps, and ends at
    ``rate / div_factor / final_div_factor``. The momentum goes from `max_momentum` to
    `base_momentum` and back; None leaves it alone, and there is none to move where it is 0.

    References
    ----------
    Smith and Topin (2018), "Super-convergence", arXiv:1708.07120; two phases, as in PyTorch's
    ``OneCycleLR``.
    """

    pct_start: float
    div_factor: float
    final_div_factor: float
    base_momentum: float | None
    max_momentum: float | None

    @property
    def ends(self) -> bool:
        """See the class."""
        return True

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        low = rate / self.div_factor
        return self._there_and_back(low, rate, low / self.final_div_factor, steps)

    def momenta(self, momentum: float, steps: Steps) -> Array:
        """See the class."""
        if self.base_momentum is None or self.max_momentum is None or momentum == 0:
            return super().momenta(momentum, steps)
        most = self.max_momentum
        return self._there_and_back(most, self.base_momentum, most, steps)

    def _there_and_back(self, start: float, middle: float, end: float, steps: Steps) -> Array:
        total = steps.most * steps.n_steps
        at, top = steps.step, max(self.pct_start * total - 1, 1e-300)
        up = _half_cosine(start, middle, np.minimum(at / top, 1.0))
        down = _half_cosine(middle, end, np.clip((at - top) / max(total - 1 - top, 1e-300), 0, 1))
        return np.where(at <= top, up, down)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """``rate * (1 - t) ** power``, t being the part of all epochs that has gone by."""

    power: float

    @property
    def ends(self) -> bool:
        """See the class."""
        return True

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        return rate * (1.0 - np.minimum(steps.time / steps.most, 1.0)) ** self.power


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rises evenly from ``start_factor * rate`` over some epochs; another schedule begins then.

    References
    ----------
    Goyal et al. (2017), "Accurate, large minibatch SGD", arXiv:1706.02677, section 2.2.
    """

    epochs: int
    start_factor: float
    then: Schedule

    def rates(self, rate: float, steps: Steps) -> Array:
        """See the class."""
        risen = (steps.step + 1) / (self.epochs * steps.n_steps)
        rising = rate * (self.start_factor + (1.0 - self.start_factor) * risen)
        return np.where(steps.epoch < self.epochs, rising, self.then.rates(rate, self._rest(steps)))

    def momenta(self, momentum: float, steps: Steps) -> Array:
        """See the class."""
        return self.then.momenta(momentum, self._rest(steps))

    @property
    def falls_at_plateaus(self) -> bool:
        """As the other schedule."""
        return self.then.falls_at_plateaus

    @property
    def ends(self) -> bool:
        """As the other schedule."""
        return self.then.ends

    def require_rate(self, rate: float) -> None:
        """As the other schedule."""
        self.then.require_rate(rate)

    def after_plateau(self, rate: float) -> float | None:
        """As the other schedule."""
        return self.then.after_plateau(rate)

    def _rest(self, steps: Steps) -> Steps:
        """The same steps in the time of the other schedule; what comes before that counts as 0."""
        skipped = self.epochs * steps.n_rows
        return replace(
            steps,
            first=steps.first - self.epochs,
            most=max(1, steps.most - self.epochs),
            n_seen=steps.n_seen - skipped,
        )


def _require_no_rise(rate: float, min_rate: float) -> None:
    if min_rate > rate:
        raise ValueError(
            f"min_rate={min_rate} of the schedule is above learning_rate_init={rate}, which it is "
            "to fall from. Choose a smaller min_rate or a larger learning_rate_init."
        )


def _half_cosine(start: float, end: float, part: Array) -> Array:
    """From one number to another as a part of the way, in [0, 1], has gone by."""
    return end + (start - end) * (1.0 + np.cos(np.pi * part)) / 2.0
