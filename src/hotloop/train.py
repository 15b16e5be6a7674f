"""Epochs, and what happens between them: rates, stopping, validation, callbacks.

Talks to a runner only; what it hands back is plain data (:class:`Outcome`). The rules are
scikit-learn's, epoch for epoch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import scipy.optimize
import scipy.special
from sklearn.exceptions import ConvergenceWarning

from .backends import Runner, open_runner, random_words, shuffle, times_faster
from .plan import GROUPS, MIXUP, SCALARS, Plan
from .schedules import Schedule, Steps
from .spec import Optimizer
from .vectors import State

Array = np.ndarray

#: How long one call of the runner may keep an interrupt or another thread waiting...
CALL_SECONDS = 0.05
#: ...by a careful guess of its speed: flops a second, and the fixed cost of a step in flops.
FLOPS_PER_SECOND = 2e10
STEP_FLOPS = 2e4
#: What messages call the loss of validation rows, whose negative is a score.
VALIDATION_LOSS = "Validation loss"
#: Numbers that the orders and scalars of one call may hold (32 MB).
CALL_NUMBERS = 2**22


@dataclass(frozen=True)
class Budget:
    """How long a fit may take.

    Attributes
    ----------
    seconds : float
        From `began` on; infinity for no limit.
    began : float
        Of :func:`time.perf_counter`.
    """

    seconds: float = np.inf
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds that are left, if any."""
        return self.seconds - (time.perf_counter() - self.began)

    @property
    def is_spent(self) -> bool:
        """Whether the time is over."""
        return self.left <= 0

    def warn(self, done: str) -> None:
        """Say that the fit ended for want of time, and what was done in it."""
        warnings.warn(
            f"The time budget max_time_s={self.seconds:g} is over after {done}, and the "
            "optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=3,
        )


class Tasks(Protocol):
    """Who is told of a fit's progress, and may ask it to stop."""

    active: bool

    def begin_iteration(self, snapshot: Callable[[], Outcome]) -> None:
        """Hear that an iteration begins, unless one is under way."""

    def end_iteration(self, snapshot: Callable[[], Outcome]) -> bool:
        """Hear that an iteration ended; whether to stop."""


@dataclass(frozen=True)
class Settings:
    """Parameters of an estimator that its epochs are governed by, under the same names.

    Attributes
    ----------
    batch_size : int
        Rows in a batch, no more than there are.
    n_jobs : int or None
        Threads that may share a step.
    incremental : bool
        Whether it is partial_fit that asks: one epoch, whatever `max_iter` says.
    swa_start : float or None
        The part of `max_iter` from which on weights at the ends of epochs are averaged.
    budget : Budget
        Looked at between epochs.
    """

    max_iter: int
    tol: float
    n_iter_no_change: float
    shuffle: bool
    verbose: bool | int
    alpha: float
    n_jobs: int | None
    batch_size: int
    incremental: bool
    swa_start: float | None = None
    budget: Budget = Budget()


@dataclass
class History:
    """What a fit remembers from epoch to epoch, and a continued one from call to call.

    Attributes
    ----------
    loss_curve : list of float
        Mean loss of every epoch.
    best_loss : float or None
        The smallest of them; None when validation scores decide on stopping.
    no_improvement_count : int
        Epochs in a row that were not better by the tolerance.
    validation_scores : list of float or None
        Score of every epoch, larger is better; None without validation rows.
    best_validation_score : float or None
        The largest of them.
    validation_losses : list of float or None
        Mean loss of the validation rows after every epoch, without a penalty.
    n_seen : int
        Samples that have gone by, over all calls.
    n_epochs : int
        Epochs of this call.
    n_steps : int
        Optimizer steps over all calls, by whose numbers random words are drawn.
    seed : int or None
        Of these words; None as long as none are drawn.
    """

    loss_curve: list[float] = field(default_factory=list)
    best_loss: float | None = np.inf
    no_improvement_count: int = 0
    validation_scores: list[float] | None = None
    best_validation_score: float | None = None
    validation_losses: list[float] | None = None
    n_seen: int = 0
    n_epochs: int = 0
    n_steps: int = 0
    seed: int | None = None

    @property
    def loss(self) -> float:
        """Loss of the last epoch; NaN before the first."""
        return self.loss_curve[-1] if self.loss_curve else np.nan

    def judge_by(self, validation: Validation | None) -> None:
        """Keep the books of validation rows, if there are any, from now on; their scores, or else
        the loss, decide on stopping.
        """
        if validation is None:
            self.validation_scores = self.best_validation_score = self.validation_losses = None
        elif self.validation_scores is None or self.validation_losses is None:
            self.validation_scores = self.validation_scores or []
            self.validation_losses = []
            if self.best_validation_score is None:
                self.best_validation_score = -np.inf
        if validation is None or not validation.decides:
            self.best_loss = np.inf if self.best_loss is None else self.best_loss
        elif self.best_loss is not None:  # the weights of the best score so far are not kept
            self.best_loss, self.best_validation_score = None, -np.inf

    def add_score(self, score: float, loss: float, tol: float) -> bool:
        """Enter what an epoch made of the validation rows; whether it is the best so far."""
        assert self.validation_scores is not None
        assert self.validation_losses is not None
        assert self.best_validation_score is not None
        self.validation_scores.append(score)
        self.validation_losses.append(loss)
        if self.best_loss is None:
            worse = not score >= self.best_validation_score + tol  # NaN is
            self.no_improvement_count = self.no_improvement_count + 1 if worse else 0
        # As long as no score is a number, the last weights are as good as any.
        best = score > self.best_validation_score or self.best_validation_score == -np.inf
        if score > self.best_validation_score:
            self.best_validation_score = score
        return best

    def warn_of_no_score(self) -> None:
        """Say if scores were to decide, and none was a number."""
        if self.best_loss is None and self.best_validation_score == -np.inf:
            warnings.warn(
                "No score of the validation rows was a number: the weights are those of the last "
                "epoch. Look at validation_scores_, `scoring` and the validation rows.",
                stacklevel=2,
            )


@dataclass
class StochasticOptimizer:
    """A stochastic solver between two calls: its moments, and the rates of its steps.

    Attributes
    ----------
    record : spec.Optimizer
        What plans are made from.
    schedule : Schedule
        How the rate changes.
    learning_rate_init : float
        The rate it started with.
    momentum : float
        Of SGD; for Adam beta_1, which has the same place in the kernels.
    learning_rate : float
        Rate of the last step, with its corrections (Adam), or of the next one (SGD).
    step, epoch : int
        Steps and whole epochs done.
    slots : dict of str to ndarray of shape (P,)
        Its moments, by the names in ``record.moments``; empty before the first call.
    trajectory : ndarray of shape (P,) or None
        The parameters that steps have come to, where those handed out are an average.
    """

    record: Optimizer
    schedule: Schedule
    learning_rate_init: float
    momentum: float
    learning_rate: float = field(init=False)
    step: int = field(default=0, init=False)
    epoch: int = field(default=0, init=False)
    slots: dict[str, Array] = field(default_factory=dict, init=False)
    trajectory: Array | None = field(default=None, init=False)
    #: What the schedule starts from: a plateau may have changed it.
    _rate: float = field(init=False)

    def __post_init__(self) -> None:
        self.learning_rate = self._rate = float(self.learning_rate_init)

    def continued(self, asked: StochasticOptimizer) -> StochasticOptimizer:
        """Another with these moments and this clock, and what `asked`, a new one, is set to: a
        change of the rate or the schedule starts from the rate it says.
        """
        after = copy(self)
        after.record, after.momentum = asked.record, asked.momentum
        if (asked.learning_rate_init, asked.schedule) != (self.learning_rate_init, self.schedule):
            after.learning_rate_init, after.schedule = asked.learning_rate_init, asked.schedule
            after.learning_rate = after._rate = asked._rate
        if asked.record.average_decay is None:
            after.trajectory = None
        return after

    def require_size(self, n: int) -> None:
        """Raise ValueError unless the moments there are belong to so many parameters."""
        kept = [*self.slots.values(), *([] if self.trajectory is None else [self.trajectory])]
        wrong = [values.shape for values in kept if values.shape != (n,)]
        if wrong:
            raise ValueError(
                f"coefs_, intercepts_ and normalizations have {n} numbers, but the moments that "
                f"partial_fit kept of the solver have shape {wrong[0]}. Weights of other shapes "
                "need new ones: call fit, with init=(coefs_, intercepts_) to start from them."
            )

    def scalars(self, steps: Steps) -> dict[str, Array]:
        """What steps to come take from here, by the names of the kernels' scalars.

        Parameters
        ----------
        steps : Steps
            Which; its `first` is the number of epochs done.

        Returns
        -------
        dict of str to ndarray of shape (n_epochs, n_steps), float64
        """
        rates = self.schedule.rates(self._rate, steps)
        momenta = self.schedule.momenta(self.momentum, steps)
        step = (self.step + 1.0 + np.arange(rates.size)).reshape(rates.shape)
        return self.record.scalars(rates, momenta, step)

    def advance(self, n_steps: int, n_epochs: int, taken: Array, steps: Steps) -> None:
        """Take note of steps and whole epochs that were done.

        Parameters
        ----------
        n_steps, n_epochs : int
            How many.
        taken : ndarray of float64
            The rates there were for them and those after them, in order.
        steps : Steps
            What comes next.
        """
        self.step += n_steps
        self.epoch += n_epochs
        if not self.record.corrects:
            self.learning_rate = float(self.schedule.rates(self._rate, steps)[0, 0])
        elif n_steps:
            self.learning_rate = float(taken.flat[n_steps - 1])

    def stops_at_plateau(self, message: str, verbose: bool | int) -> bool:
        """Whether to stop now that improvement has ceased, or to go on at a smaller rate."""
        rate = self.schedule.after_plateau(self._rate)
        if rate is None:
            small = self.schedule.falls_at_plateaus
            if verbose:
                print(f"{message}{' Learning rate too small.' if small else ''} Stopping.")
            return True
        self._rate = self.learning_rate = rate
        if verbose:
            print(f"{message} Setting learning rate to {rate:f}")
        return False


class RowOrders:
    """The row order of each epoch: a shuffle of the one before, from scikit-learn's stream.

    Parameters
    ----------
    rng : RandomState
        Advanced by the epochs that are kept and by no other.
    rows : ndarray of intp, shape (n,)
        The rows of an epoch.
    """

    def __init__(self, rng: np.random.RandomState, rows: Array) -> None:
        self._rng = rng
        self._last = rows
        self._drawn = self._last[np.newaxis]
        self._before: Any = None

    def draw(self, n_epochs: int) -> Array:
        """Orders of the next epochs, intp of shape (1, n_epochs, n_rows)."""
        self._before = self._rng.get_state(legacy=False) if n_epochs > 1 else None
        self._drawn = np.empty((n_epochs, len(self._last)), dtype=np.intp)
        self._drawn[0] = self._last
        shuffle(self._rng, self._drawn)
        return self._drawn[np.newaxis]

    def keep(self, n_epochs: int) -> None:
        """Take back all but the first `n_epochs` of the orders drawn last.

        An epoch that was drawn alone is never taken back: it has begun.
        """
        if n_epochs < len(self._drawn) and self._before is not None:
            self._rng.set_state(self._before)
            shuffle(self._rng, self._drawn[:n_epochs].copy())
        if n_epochs:
            self._last = self._drawn[n_epochs - 1]


@dataclass
class Outcome:
    """What training hands back.

    Attributes
    ----------
    parameters : ndarray of shape (P,)
        All weights, then all biases.
    loss : float
        The last one.
    n_iter : int
        Epochs, or iterations of L-BFGS.
    history : History or None
        None after L-BFGS without validation rows.
    optimizer : StochasticOptimizer or None
        With its moments, for partial_fit to go on from; None after L-BFGS.
    """

    parameters: Array
    loss: float
    n_iter: int
    history: History | None = None
    optimizer: StochasticOptimizer | None = None


@dataclass
class Validation:
    """Rows that are scored after every epoch, and not trained on.

    Attributes
    ----------
    streams : dict of str to array
        "X", "y" and perhaps "sample_weight", of the plan's dtype.
    score : callable
        Makes the score, larger is better, from outputs of shape (n, O), the mean loss of the rows,
        and what makes an outcome of the weights there are; NaN for a diverged network.
    out : ndarray of shape (n, O)
        Room for the outputs.
    decides : bool
        Whether the scores decide on stopping and on the weights that are kept.
    watched : str
        What messages call the score.
    kept : ndarray of intp or None
        The rows to train on; None for all.
    """

    streams: dict[str, Any]
    score: Callable[[Array, float, Callable[[], Outcome]], float]
    out: Array
    decides: bool
    watched: str = "Validation score"
    kept: Array | None = None


class EpochLoop:
    """Runs epochs until a rule, a callback, the limit or the user says stop.

    Parameters
    ----------
    plan : Plan
        A training plan.
    start : ndarray of shape (P,)
        Parameters to start from; overwritten, with those of the outcome in the end.
    streams : dict of str to array
        "X", "y" and perhaps "sample_weight".
    validation : Validation or None
        Rows to look at after every epoch.
    optimizer : StochasticOptimizer
        Where it was left; advanced as epochs are done, its old moments not written to.
    history : History
        Continued as epochs are done.
    settings : Settings
        The rules.
    """

    def __init__(
        self,
        plan: Plan,
        start: Array,
        streams: dict[str, Any],
        validation: Validation | None,
        optimizer: StochasticOptimizer,
        history: History,
        settings: Settings,
    ) -> None:
        self.plan = plan
        self.streams = streams
        self.optimizer = optimizer
        self.history = history
        self.settings = settings
        kept = validation.kept if validation else None
        self._rows = np.arange(streams["X"].shape[0]) if kept is None else kept
        self.n_rows = len(self._rows)
        self.n_steps = -(-self.n_rows // settings.batch_size)
        moments = {k: v.astype(start.dtype, copy=False) for k, v in optimizer.slots.items()}
        self._start = start  # and the best so far where a validation score decides
        self._weights = Weights(plan, optimizer, settings)
        self._orders: RowOrders | None = None
        self._tasks: Any = None
        self._validation = validation
        self._keeps_best = validation is not None and validation.decides
        self._runner: Any = None
        self._running = False
        self._stop: Array | None = None
        self._rates = np.empty(0)  # of the steps of a call
        self._steps_noted = 0
        self._state = State(
            start[np.newaxis],
            {k: v[np.newaxis] for k, v in moments.items()},
            history.n_steps,
            history.seed or 0,
        )
        self._weights.begin(self._state)

    def run(self, rng: np.random.RandomState, tasks: Tasks) -> Outcome:
        """Train.

        Parameters
        ----------
        rng : RandomState
            Where row orders are drawn from.
        tasks : Tasks
            Who is told of every epoch.

        Returns
        -------
        Outcome
            With the weights of the best epoch if a validation score decides.
        """
        settings, history = self.settings, self.history
        self._orders = RowOrders(rng, self._rows) if settings.shuffle else None
        self._tasks = tasks
        history.judge_by(self._validation)
        history.n_epochs = self._steps_noted = 0
        watched = self._validation is not None or tasks.active or settings.verbose
        watched = watched or settings.swa_start is not None
        max_epochs = 1 if settings.incremental else settings.max_iter
        stopped = late = False
        opened = open_runner(self.plan, self._state, self.streams, n_jobs=settings.n_jobs)
        with closing(opened) as self._runner:
            # All memory is there, and was written to, before anyone waits for it: the system
            # takes longer to find a page than to fill it.
            slots = {name: np.full_like(self._start, 0) for name in self.optimizer.record.moments}
            self._weights.open(self._runner, self._start)
            try:
                while not (stopped or late) and history.n_epochs < max_epochs:
                    n_epochs = 1 if watched else self._epochs_a_call()
                    stopped = self._call(min(n_epochs, max_epochs - history.n_epochs))
                    late = settings.budget.is_spent
            except KeyboardInterrupt:
                # An epoch that is not scored yet counts as one that is not over.
                self._note_epochs(self._runner.losses if self._validation is None else [])
                warnings.warn("Training interrupted by user.", stacklevel=2)
                stopped = True
            if late and not stopped and history.n_epochs < max_epochs:
                settings.budget.warn(f"{history.n_epochs} epochs")
            elif not (stopped or settings.incremental or self.optimizer.schedule.ends):
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({max_epochs}) reached and the "
                    "optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            history.warn_of_no_score()
            self._warn_of_late_average()
            return self._outcome_of(self._start, slots, last=True)

    def _warn_of_late_average(self) -> None:
        """Say if a mean of weights never began."""
        start = self.settings.swa_start
        if start is not None and not self._weights.differ:
            warnings.warn(
                f"Training ended after {self.history.n_epochs} epochs, and averaging by SWA was to "
                f"begin after {start:g} of max_iter={self.settings.max_iter}: the weights are no "
                "average. Use a smaller SWA(start=...) or max_iter, or averaging='ema'.",
                stacklevel=2,
            )

    def _epochs_a_call(self) -> int:
        """As many as `CALL_SECONDS`, the budget and `CALL_NUMBERS` allow; one at least.

        One, too, if batches may be skipped for want of weight: then it is not known
        beforehand which steps are the next epoch's.
        """
        weight = self.streams.get("sample_weight")
        if weight is not None and not weight.all():
            return 1
        X, n_parameters = self.streams["X"], self.plan.n_parameters
        # X.size is the number of entries stored if X is sparse.
        n_units = self.plan.views["bias_0"][1][0]
        n_products = X.size * n_units + self.n_rows * (n_parameters - X.shape[1] * n_units)
        flops = 6 * n_products + self.n_steps * (12 * n_parameters + STEP_FLOPS)
        numbers = self.n_rows + self.n_steps * len(GROUPS) * len(SCALARS)
        seconds = min(CALL_SECONDS, self.settings.budget.left)
        most = seconds * FLOPS_PER_SECOND * times_faster(self.plan) / flops
        return max(1, int(min(most, CALL_NUMBERS // numbers)))

    def _call(self, n_epochs: int) -> bool:
        """Run some epochs, and judge them; whether to stop."""
        history, settings = self.history, self.settings
        self._tasks.begin_iteration(self._outcome)
        orders = None
        if self._orders:
            orders = self._orders.draw(n_epochs)
        elif self._validation and self._validation.kept is not None:
            orders = np.broadcast_to(self._rows, (1, n_epochs, self.n_rows))
        patience = min(settings.n_iter_no_change, 2**53)  # what a float64 counts up to
        rules = [history.best_loss, settings.tol, history.no_improvement_count, patience]
        self._stop = None
        if not self._keeps_best:
            self._stop = np.array([rules], dtype=np.float64)
        scalars = self._scalars(n_epochs)
        self._running = True
        self._runner.run(orders, scalars, self._stop, n_epochs=n_epochs)
        self._weights.note_epoch(history.n_epochs + 1)
        looked = self._look(self._validation) if self._validation else None
        self._note_epochs(self._runner.losses)
        if settings.verbose:
            print(f"Iteration {history.n_epochs}, loss = {history.loss:.8f}")
        if looked is not None:
            self._note_score(*looked)
        asked_to_stop = self._tasks.end_iteration(self._outcome)
        return self._ends_at_plateau() or asked_to_stop

    def _scalars(self, n_epochs: int) -> Array:
        """What each step that is taken is to use, of shape (1, E * S, groups, kinds)."""
        scalars = np.zeros((1, n_epochs * self.n_steps, len(GROUPS), len(SCALARS)))
        for name, values in self.optimizer.scalars(self._steps(n_epochs)).items():
            scalars[..., SCALARS.index(name)] = values.reshape(1, -1, 1)
        scalars[..., GROUPS.index("bias"), SCALARS.index("shrink")] = 1  # biases do not decay
        self._rates = scalars[0, :, 0, SCALARS.index("rate")]
        scalars[..., GROUPS.index("weight"), SCALARS.index("decay")] = self.settings.alpha
        if self.plan.network.mixup:
            shares = self._shares(n_epochs * self.n_steps)
            scalars[..., SCALARS.index("mix")] = shares[:, np.newaxis]
        return scalars

    def _shares(self, n_steps: int) -> Array:
        """What share each row has in its pair in the next steps, from Beta(mixup, mixup)."""
        steps = self.history.n_steps + np.arange(n_steps)
        places = (random_words(self.history.seed or 0, steps, MIXUP) + 0.5) / 2**32
        alpha = self.plan.network.mixup
        return scipy.special.betaincinv(alpha, alpha, places)

    def _steps(self, n_epochs: int) -> Steps:
        """The steps of the next epochs."""
        return Steps(
            n_epochs,
            self.n_steps,
            first=self.optimizer.epoch,
            most=self.settings.max_iter,
            n_rows=self.n_rows,
            n_seen=self.history.n_seen,
        )

    def _note_epochs(self, losses: list[float]) -> None:
        """Enter into the books what the runner has done since it was called: all its steps, and
        the epochs that had these losses.
        """
        if not self._running:
            return
        self._running = False
        history = self.history
        n_steps = self._runner.steps - self._steps_noted
        self._steps_noted += n_steps
        history.n_steps += n_steps
        history.loss_curve.extend(map(float, losses))
        history.n_epochs += len(losses)
        history.n_seen += len(losses) * self.n_rows
        if self._stop is not None:
            history.best_loss = float(self._stop[0, 0])
            history.no_improvement_count = int(self._stop[0, 2])
        after = replace(self._steps(1), first=self.optimizer.epoch + len(losses))
        self.optimizer.advance(n_steps, len(losses), self._rates, after)
        if self._orders:
            self._orders.keep(len(losses))

    def _look(self, validation: Validation) -> tuple[float, float]:
        """Score and mean loss of the validation rows, by the weights there are."""
        loss = self._weights.evaluate(validation)
        return validation.score(validation.out, loss, self._snapshot), loss

    def _snapshot(self) -> Outcome:
        """The weights there are, in a new array, and no more."""
        parameters = np.empty_like(self._start)
        self._weights.read(parameters)
        return Outcome(parameters, self.history.loss, self.history.n_epochs)

    def _note_score(self, score: float, loss: float) -> None:
        best = self.history.add_score(score, loss, self.settings.tol)
        if best and self._keeps_best:
            self._weights.read(self._start)
        if self.settings.verbose:
            assert self._validation is not None
            watched = self._validation.watched
            print(f"{watched}: {loss if watched == VALIDATION_LOSS else score:f}")

    def _ends_at_plateau(self) -> bool:
        patience, tol = self.settings.n_iter_no_change, self.settings.tol
        if self.history.no_improvement_count <= patience:
            return False
        judge = "Training loss"
        if self._validation and self._keeps_best:
            judge = self._validation.watched
        ends = self.optimizer.stops_at_plateau(
            f"{judge} did not improve more than tol={tol:f} for {patience} consecutive epochs.",
            self.settings.verbose,
        )
        if not ends:
            self.history.no_improvement_count = 0
        return ends

    def _outcome(self) -> Outcome:
        """What there is to adopt if training ends now, in new arrays."""
        parameters, names = self._start.copy(), self.optimizer.record.moments
        return self._outcome_of(parameters, {name: np.empty_like(parameters) for name in names})

    def _outcome_of(
        self, parameters: Array, slots: dict[str, Array], *, last: bool = False
    ) -> Outcome:
        """The same in given arrays, in which parameters are those of the best epoch already where
        a validation score decides.
        """
        optimizer = copy(self.optimizer)
        wanted = None if self._keeps_best else parameters
        optimizer.trajectory = self._weights.read(wanted, slots, last=last)
        optimizer.slots = slots
        n_epochs, loss = self.history.n_epochs, self.history.loss
        return Outcome(parameters, loss, n_epochs, self.history, optimizer)


class Weights:
    """The parameters to hand out: those of a runner, or an average of them.

    Parameters
    ----------
    plan : Plan
        Of training.
    optimizer : StochasticOptimizer
    settings : Settings
    """

    def __init__(self, plan: Plan, optimizer: StochasticOptimizer, settings: Settings) -> None:
        self._plan, self._optimizer, self._n_jobs = plan, optimizer, settings.n_jobs
        self._moves = plan.optimizer is not None and "average" in plan.optimizer.slots
        self._first = np.inf  # epoch whose weights are the first to be averaged
        if settings.swa_start is not None:
            self._first = int(settings.swa_start * settings.max_iter) + 1
        self._n = 0  # epochs in the mean
        self._mean: Array | None = None
        self._trajectory: Array | None = None
        self._runner: Any = None

    @property
    def differ(self) -> bool:
        """Whether they are others than the runner's."""
        return self._moves or self._n > 0

    def begin(self, state: State) -> None:
        """Make the state that training starts from of the one that was handed out."""
        if not self._moves or state.parameters is None:
            return
        state.slots["average"] = state.parameters.copy()
        last = self._optimizer.trajectory
        if last is not None:
            state.parameters = last.astype(state.parameters.dtype)[np.newaxis]

    def open(self, runner: Any, start: Array) -> None:
        """Take the runner, and all memory that is needed later."""
        self._runner = runner
        if self._moves or self._first < np.inf:
            self._trajectory = np.full_like(start, 0)
        if self._first < np.inf:
            self._mean = np.zeros(start.size)

    def note_epoch(self, epoch: int) -> None:
        """Count the weights at the end of an epoch of this call, the first being 1, in the mean."""
        if epoch < self._first or self._mean is None or self._trajectory is None:
            return
        self._runner.read_state(State(self._trajectory[np.newaxis], {}))
        self._n += 1
        self._mean += (self._trajectory - self._mean) / self._n

    def evaluate(self, validation: Validation) -> float:
        """Outputs and mean loss of validation rows, by the weights that would be handed out."""
        if not self.differ:
            return self._runner.evaluate(validation.streams, validation.out)
        streams, flat = validation.streams, np.empty_like(self._trajectory)
        self.read(flat)
        with closing(open_runner(self._plan, None, streams, n_jobs=self._n_jobs)) as runner:
            runner.write_state(State(flat[np.newaxis], {}))
            return runner.evaluate(streams, validation.out)

    def read(
        self, out: Array | None, slots: dict[str, Array] | None = None, *, last: bool = False
    ) -> Array | None:
        """Copy them out, and moments.

        Parameters
        ----------
        out : ndarray of shape (P,) or None
            None if moments are wanted alone.
        slots : dict of str to ndarray of shape (P,), optional
            Overwritten.
        last : bool
            Whether the runner is not needed any more.

        Returns
        -------
        ndarray of shape (P,) or None
            The runner's own parameters, where `out` has a moving average of them.
        """
        wanted = {name: slot[np.newaxis] for name, slot in (slots or {}).items()}
        parameters, trajectory = None if out is None else out[np.newaxis], None
        if self._moves and out is not None:
            wanted["average"] = out[np.newaxis]
            trajectory = self._trajectory if last else np.empty_like(out)
            assert trajectory is not None
            parameters = trajectory[np.newaxis]
        self._runner.read_state(State(parameters, wanted), last=last)
        if self._n and out is not None:
            out[:] = self._mean
        return trajectory


@dataclass
class Watch:
    """Who looks at iterations of L-BFGS, and may end them.

    Attributes
    ----------
    tasks : Tasks
        Who is told of every iteration.
    budget : Budget
        Looked at between iterations.
    validation : Validation or None
        Rows to look at after every iteration.
    tol, n_iter_no_change : float
        By how much their score has to improve, and how often in a row it may fail to.
    history : History
        The books of these rows.
    best : Outcome or None
        Of the best score; None where no score decides.
    """

    tasks: Tasks
    budget: Budget
    validation: Validation | None
    tol: float
    n_iter_no_change: float
    history: History = field(default_factory=History, init=False)
    best: Outcome | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.history.judge_by(self.validation)

    @property
    def listens(self) -> bool:
        """Whether anyone wants to hear of iterations."""
        return self.tasks.active or self.validation is not None or self.budget.seconds < np.inf

    def stops(self, runner: Runner, latest: Outcome) -> bool:
        """Look at the validation rows; whether their score says stop."""
        validation = self.validation
        if validation is None:
            return False
        runner.write_state(State(latest.parameters[np.newaxis], {}))
        loss = runner.evaluate(validation.streams, validation.out)
        score = validation.score(validation.out, loss, lambda: latest)
        best = self.history.add_score(score, loss, self.tol)
        if not validation.decides:
            return False
        if best or self.best is None:
            self.best = copy(latest)
        return self.history.no_improvement_count > self.n_iter_no_change


class _Stopped(Exception):
    """An iteration of L-BFGS that is the last; SciPy before 1.11 does not know StopIteration."""


def minimize_lbfgs(
    plan: Plan,
    start: Array,
    streams: dict[str, Any],
    alpha: float,
    options: dict,
    watch: Watch,
    n_jobs: int | None,
) -> Any:
    """Minimise the loss of all rows by SciPy's L-BFGS-B.

    Parameters
    ----------
    plan : Plan
        A gradients plan in float64.
    start : ndarray of shape (P,), float64
        Parameters to start from; not written to.
    streams : dict of str to array
        "X", "y" and perhaps "sample_weight".
    alpha : float
        Strength of the L2 penalty on weights.
    options : dict
        SciPy's options of the method.
    watch : Watch
        Who looks at every iteration; keeps the best one.
    n_jobs : int or None
        Threads that may share the rows.

    Returns
    -------
    scipy.optimize.OptimizeResult
        SciPy's; ``was_stopped`` says whether it was `watch` that ended it.

    References
    ----------
    Zhu, Byrd, Lu and Nocedal (1997), "Algorithm 778: L-BFGS-B", ACM Transactions on
    Mathematical Software 23(4).
    """
    history = watch.history if watch.validation else None
    latest = Outcome(start, loss=np.nan, n_iter=0, history=history)
    last_loss, was_stopped = np.nan, False
    mistaken: StopIteration | None = None  # a callback's own, which SciPy would take for a wish

    def objective(parameters: Array) -> tuple[float, Array]:
        nonlocal last_loss
        watch.tasks.begin_iteration(lambda: watch.best or latest)
        gradient = np.empty_like(parameters)
        last_loss = runner.gradients(parameters, gradient, decay=alpha)
        return last_loss, gradient

    def end_iteration(parameters: Array) -> None:
        nonlocal latest, was_stopped, mistaken
        latest = Outcome(parameters, last_loss, latest.n_iter + 1, history)
        try:
            was_stopped = watch.stops(runner, latest)
            was_stopped |= watch.tasks.end_iteration(lambda: watch.best or latest)
        except StopIteration as error:
            mistaken = error
            raise
        if not was_stopped and watch.budget.is_spent:
            watch.budget.warn(f"{latest.n_iter} iterations")
            was_stopped = True
        if was_stopped:
            raise _Stopped

    with closing(open_runner(plan, None, streams, n_jobs=n_jobs)) as runner:
        try:
            result = scipy.optimize.minimize(
                objective,
                start,
                method="L-BFGS-B",
                jac=True,
                options=options,
                callback=end_iteration if watch.listens else None,
            )
        except _Stopped:
            found = {"x": latest.parameters, "fun": latest.loss, "nit": latest.n_iter}
            result = scipy.optimize.OptimizeResult(found)
    if mistaken is not None:
        raise mistaken
    if history is not None:
        history.warn_of_no_score()
    result.was_stopped = was_stopped
    return result


def loss_and_gradient(
    plan: Plan, parameters: Array, streams: dict[str, Any], alpha: float
) -> tuple[float, Array]:
    """Mean loss of all rows with its penalty, and the gradient of shape (P,); see above."""
    gradient = np.empty_like(parameters)
    with closing(open_runner(plan, None, streams)) as runner:
        return runner.gradients(parameters, gradient, decay=alpha), gradient
