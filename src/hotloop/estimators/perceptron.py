"""What both perceptrons share: from the input of a fit to what it leaves, and predictions."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted, indexable

from .. import backends, device_arrays, model_io, options, spec, train, validate
from ..compat import (
    LBFGS_VECTORS,
    CallbackSupportMixin,
    FitTasks,
    Interval,
    Options,
    StrOptions,
    fit_context,
    lbfgs_options,
    lbfgs_result,
)
from ..plan import (
    FEW_ROWS,
    CSRInput,
    compile_gradients,
    compile_inference,
    compile_training,
    reads_in_place,
    store_bytes,
)
from ..validate import TrainingData
from ..vectors import (
    INITS,
    empty_vector,
    functions_of,
    init_parameters,
    n_parameters,
    norm_views,
    weight_views,
    without_weights,
)
from . import solving, summary, watching
from .exclusive import exclusive

Array = np.ndarray

#: Fields of a :class:`train.History`, and the attributes that keep them between calls.
HISTORY = {
    "loss_curve": "loss_curve_",
    "best_loss": "best_loss_",
    "no_improvement_count": "_no_improvement_count",
    "validation_scores": "validation_scores_",
    "best_validation_score": "best_validation_score_",
    "validation_losses": "validation_loss_curve_",
    "n_seen": "t_",
    "n_steps": "_n_steps",
    "seed": "_seed",
}
#: Vectors of normalizations in the flat vector, and the attributes that are views of them.
NORMS = {"scale": "norm_scales_", "mean": "norm_means_", "variance": "norm_variances_"}
#: Attributes that not every fit sets: those of an earlier one must not outlive it.
PASSING = (
    *(*HISTORY.values(), *NORMS.values()),
    *("_optimizer", "feature_names_in_", "quantiles_"),
)
#: Parameters of an estimator, and fields of a network, by which training changes its input.
INPUT_CHANGES = ("input_dropout", "input_noise", "mixup")
#: Those fields of a history that L-BFGS keeps, too, where there are validation rows.
OF_VALIDATION = ("validation_scores", "best_validation_score", "validation_losses")
#: dtypes that rows are predicted from where they lie.
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False)
class _Job:
    """What a call of fit or partial_fit is to train, from where on, and what is looked at between
    epochs: by `scorer`, on rows of `given`, which the user gave, or on others `beside` those.
    """

    network: spec.Network
    data: TrainingData
    start: Array
    history: train.History
    incremental: bool
    operands: str | None
    backend: str
    given: watching.Rows
    beside: watching.Rows | None
    scorer: Any
    budget: train.Budget


def _network(
    widths: tuple[int, ...],
    activations: tuple[str | spec.Function, ...],
    loss: spec.Loss,
    normalization: spec.Normalization | None = None,
) -> spec.Network:
    """Dense layers of `widths`, the first of which is the number of features, and an activation for
    each hidden one.
    """
    pairs = zip(widths[1:-1], activations, strict=True)
    hidden = [spec.Dense(units, activation, normalization) for units, activation in pairs]
    return spec.Network((widths[0],), (*hidden, spec.Dense(widths[-1])), loss)


def _without_training(network: spec.Network, frozen: frozenset[int]) -> spec.Network:
    """The network with some layers that steps leave as they are."""
    if not frozen:
        return network
    layers = (replace(layer, trained=k not in frozen) for k, layer in enumerate(network.layers))
    return replace(network, layers=tuple(layers))


# Plans hold no weights and depend on their arguments alone: the fits of a grid search and
# the calls of partial_fit and predict share them.
_training_plan = lru_cache(maxsize=64)(compile_training)
_gradient_plan = lru_cache(maxsize=64)(compile_gradients)
_store_bytes = lru_cache(maxsize=64)(store_bytes)


def _loss_through(output_activation: str) -> spec.Loss:
    """The loss that is derived through an output activation."""
    for loss in spec.LOSSES.values():
        if loss.output_activation == output_activation:
            return loss
    allowed = sorted({loss.output_activation for loss in spec.LOSSES.values()})
    raise ValueError(f"out_activation_ must be one of {allowed}, got {output_activation!r}.")


@lru_cache(maxsize=64)
def _inference_network(
    widths: tuple[int, ...],
    activations: tuple[str | spec.Function, ...],
    output: str,
    normalization: spec.Normalization | None = None,
    heads: tuple[int, ...] = (),
) -> spec.Network:
    """The network that ends in that output activation; of heads, in those of so many outputs."""
    loss = spec.loss_with("joint_log_loss", 0, *heads) if heads else _loss_through(output)
    return _network(widths, activations, loss, normalization)


_inference_plan = lru_cache(maxsize=64)(compile_inference)


@lru_cache(maxsize=64)
def _few_rows(
    widths: tuple[int, ...], names: str | tuple[str, ...], output: str, dtype: Any, raw: bool
) -> backends.FewRows:
    """What predicts a few rows, by an activation for all layers or one for each; before the output
    activation if `raw`.
    """
    activations = (names,) * (len(widths) - 2) if isinstance(names, str) else names
    network = _inference_network(widths, activations, output)
    return backends.FewRows(_inference_plan(network, dtype=dtype, raw=raw, backend="compiled"))


class MultilayerPerceptron(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, options.Nested, ABC
):
    """What both estimators share: all but the meaning of y and of outputs."""

    # All that a fit may set: types by which model files are judged.
    coefs_: list[Array]
    intercepts_: list[Array]
    norm_scales_: list[Array]
    norm_means_: list[Array]
    norm_variances_: list[Array]
    n_features_in_: int
    feature_names_in_: Array
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    n_iter_: int
    t_: int
    device_: str
    loss_: float
    best_loss_: float | None
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    validation_loss_curve_: list[float] | None
    _normalization: spec.Normalization | None
    _optimizer: train.StochasticOptimizer
    _no_improvement_count: int
    _n_steps: int
    _seed: int | None

    loss: Any
    #: The scorer that would do what `_score_rows` does from outputs.
    _own_scoring: str | None

    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(spec.ACTIVATIONS)), callable, tuple, list],
        "solver": [StrOptions({"lbfgs", *options.SOLVERS}), options.Solver],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(options.SCHEDULES)), options.Schedule],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({*validate.PRECISIONS})],
        "n_jobs": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Integral, None, -1, closed="right"),
            None,
        ],
        "backend": [StrOptions({"auto", *backends.CPU_BACKENDS})],
        "sparse_updates": [StrOptions({"exact", "lazy"})],
        "device": [StrOptions({"cpu", "cuda", "auto"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "input_noise": [Interval(Real, 0, None, closed="left")],
        "mixup": [Interval(Real, 0, None, closed="left")],
        "normalization": [StrOptions(set(options.NORMALIZATIONS)), options.Normalization, None],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "max_norm": [Interval(Real, 0, None, closed="neither"), None],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "clip_value": [Interval(Real, 0, None, closed="neither"), None],
        "init": [StrOptions({"auto", *INITS}), tuple, list],
        "averaging": [StrOptions(set(options.AVERAGES)), *options.AVERAGES.values(), None],
        "frozen_layers": ["array-like", None],
        "scoring": [str, callable, None],
        "max_time_s": [Interval(Real, 0, None, closed="neither"), None],
    }

    @abstractmethod
    def __init__(self) -> None: ...

    # ---- what differs between the two ------------------------------------------------

    @abstractmethod
    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        """`data` with its target judged and made of numbers."""

    @abstractmethod
    def _loss_of(self, data: TrainingData) -> spec.Loss:
        """The loss to train by."""

    def _heads(self) -> tuple[int, ...]:
        """Outputs of each softmax, where the output activation is several."""
        return ()

    @abstractmethod
    def _score_rows(self, data: TrainingData, output: Array) -> float:
        """Score of outputs of shape (n, O) against the targets of `data`."""

    # ---- fit -------------------------------------------------------------------------

    @exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input. float32 is computed with as such, anything else as float64, unless
            `precision` says otherwise.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            For the classifier labels, in one column or several, or an indicator matrix for
            several labels a sample; for the regressor numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.
        X_val : {array-like, sparse matrix} of shape (n_val, n_features), default=None
            Rows that are not trained on, but looked at after every epoch: see `scoring`. With
            `early_stopping` they decide in place of rows set aside: all of X is trained on, and
            nothing is drawn from `random_state` for a split. Without it they are looked at and
            decide nothing. In a pipeline they are transformed as X is where it was made with
            ``transform_input=["X_val"]``, after ``set_fit_request(X_val=True, y_val=True)``
            (metadata routing has to be enabled).
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Their targets; labels that are among those of y.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.

        Returns
        -------
        self : object
            The fitted estimator. If anything is raised it is left as it was before.

        Raises
        ------
        ValueError
            If a parameter, X, y or a weight cannot be used, or the network diverges; but with
            `early_stopping` the weights of the best epoch are kept, and a network that diverges
            after it is no error.
        MemoryError
            If there is no room for a network of that size.
        """
        given = watching.Rows(X, y, sample_weight)
        return self._fit(given, beside=watching.Rows(X_val, y_val, sample_weight_val))

    def _fit(
        self,
        given: watching.Rows,
        classes: Any = None,
        *,
        incremental: bool = False,
        beside: watching.Rows = watching.NONE,
    ) -> Self:
        """Validate, compile, train, adopt."""
        budget = train.Budget(np.inf if self.max_time_s is None else self.max_time_s)
        scorer = watching.scorer_of(self, beside, incremental=incremental)
        solving.refuse_what_solver_ignores(self, incremental=incremental)
        afresh = "coefs_" not in vars(self) or not (incremental or self.warm_start)
        backends.engine_of(self._backend())  # or say why there is none
        operands = self._operands()
        hidden = validate.hidden_layer_sizes(self.hidden_layer_sizes)
        data = validate.training_data(
            self,
            *device_arrays.taken(self.device, *given[:3]),
            reset=afresh,
            precision=self.precision,
            y_numeric=isinstance(self, RegressorMixin),
        )
        data = self._encoded(data, classes, incremental=incremental)
        rows = self._judged(beside, data) if beside.X is not None else None

        widths = (data.X.shape[1], *hidden, data.n_outputs)
        activations, norm = self._activations(len(hidden)), self._normalization_record(operands)
        network = _network(widths, activations, self._loss_of(data), norm)
        frozen = validate.frozen_layers(self.frozen_layers, len(network.layers))
        network = _without_training(network, frozen)
        network = self._augmented(network, data)
        self._judge(network, data)
        with validate.random_stream(self.random_state) as rng:
            backend = self._backend_for(network, data)
            start = self._initial(network, data, backend, rng) if afresh else self._current(network)
            history = train.History() if afresh else self._history()
            if network.draws and history.seed is None:
                history.seed = int(rng.randint(0, 2**64, dtype=np.uint64))
            watched = given, rows, scorer, budget
            job = _Job(network, data, start, history, incremental, operands, backend, *watched)

            max_iter = 1 if incremental else self.max_iter
            describe = partial(self._attributes, job)
            tasks = FitTasks(self, *given[:3], max_iter, describe)
            if self.solver == "lbfgs":
                outcome = self._run_lbfgs(job, rng, tasks)
            else:
                outcome = self._run_epochs(job, rng, tasks)
        if not np.isfinite(outcome.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large"
                " values and need to be preprocessed."
            )
        tasks.end(lambda: outcome)
        return self._adopt(describe(outcome))

    def _operands(self) -> str | None:
        """What the products of training read where it is not the dtype of the weights."""
        if not self.precision.startswith("bfloat16"):
            return None
        if self.solver == "lbfgs":
            raise ValueError(
                f"solver='lbfgs' computes in float64, but precision is {self.precision!r}. Use "
                "precision='float32' for a result rounded to that, or another solver."
            )
        reason = backends.why_no_operands(self.precision, self._backend())
        if reason is not None:
            raise ValueError(f"precision={self.precision!r} cannot be used: {reason}.")
        return self.precision

    def _normalization_record(self, operands: str | None) -> spec.Normalization | None:
        """What hidden layers are to be normalized by, if this can be trained as asked."""
        given = self.normalization
        if given is None:
            return None
        chosen: Any = options.chosen("normalization", given, options.NORMALIZATIONS)
        if operands is not None:
            raise ValueError(
                f"normalization={given!r} is computed in float32 or float64, but precision is "
                f"{self.precision!r}. Use precision='float32', or normalization=None."
            )
        if self.solver == "lbfgs" and isinstance(chosen, options.BatchNorm):
            raise ValueError(
                f"solver='lbfgs' follows the loss of all rows at once, but normalization={given!r} "
                "is of batches. Use normalization='layer', or another solver."
            )
        return chosen.record()

    def _activations(self, n_hidden: int) -> tuple[str | spec.Function, ...]:
        """Of each hidden layer."""
        return validate.activations(self.activation, n_hidden)

    def _augmented(self, network: spec.Network, data: TrainingData) -> spec.Network:
        """The network as it is trained: with what is dropped, mixed and made noisy."""
        rates = validate.dropout(self.dropout, len(network.layers) - 1)
        changes: dict[str, Any] = {
            name: value for name in INPUT_CHANGES if (value := float(getattr(self, name)))
        }
        if any(rates):
            layers = zip(network.layers, (*rates, 0.0), strict=True)
            changes["layers"] = tuple(replace(layer, dropout=rate) for layer, rate in layers)
        if not changes:
            return network
        network = replace(network, **changes)
        asked = [name for name in INPUT_CHANGES if name in changes]
        if network.draws and self.solver == "lbfgs":
            asked += ["dropout"] if any(rates) else []
            raise ValueError(
                f"solver='lbfgs' minimises one loss of all rows, which {' and '.join(asked)} would "
                "change at random from step to step. Use another solver, or set "
                f"{'=0, '.join(asked)}=0."
            )
        if network.changes_input and data.is_sparse:
            raise ValueError(
                f"X is sparse, and {' and '.join(asked)} would change whole rows of it, zeros "
                "included. Drop outputs of hidden layers instead (dropout), or pass a dense X."
            )
        return network

    def _judge(self, network: spec.Network, data: TrainingData) -> None:
        """Refuse functions of the user that cannot be trained with."""
        dtype = self._dtype(data.X)  # lbfgs computes in float64, and predicts in this
        for function in functions_of(network):
            if self.solver == "lbfgs":
                backends.judge(function, np.dtype(np.float64), _quarters(function, data))
            how = backends.judge(function, dtype, _quarters(function, data))
            if how != "given":
                warnings.warn(
                    f"{function.kind}={function.name} has no derivative: it is computed {how}, "
                    "which takes longer. Give a pair of functions, (value, derivative), to save "
                    "that.",
                    stacklevel=6,
                )

    def _backend(self, flops: float = 0.0) -> str:
        """Who computes steps of so many flops; without them, where "auto" means the CPU."""
        return backends.chosen_for(self.device, self.backend, flops)

    def _backend_for(self, network: spec.Network, data: TrainingData) -> str:
        """Who trains; products of bfloat16 are for the CPU, unless a device was named."""
        if self.precision.startswith("bfloat16"):
            return self._backend()
        n_rows = data.X.shape[0]
        n_rows = n_rows if self.solver == "lbfgs" else min(n_rows, self._batch_size(n_rows))
        return self._backend(backends.work_of(network, n_rows, data.row_entries))

    def _initial(
        self,
        network: spec.Network,
        data: TrainingData,
        backend: str,
        rng: np.random.RandomState,
    ) -> Array:
        """Random parameters, if there is room for all that training needs."""
        self._require_room(network, data, backend)
        if not isinstance(self.init, str):
            start = without_weights(network, self._dtype(data.X))
            norms = {NORMS[part]: v for part, v in norm_views(network, start).items() if v}
            given = validate.initial_parameters(self.init, network, start.dtype, norms)
            places = chain(*weight_views(network, start), *norms.values())
            for here, there in zip(given, places, strict=False):  # vectors of norms may be left out
                there[...] = here
            return start
        # Without hidden layers, too, scikit-learn draws for the activation there would be.
        alone = self.activation if isinstance(self.activation, str) else None
        return init_parameters(network, rng, self._dtype(data.X), self.init, alone)

    def _require_room(self, network: spec.Network, data: TrainingData, backend: str) -> None:
        """Refuse what does not fit into memory: what kernels hold, what the outcome is copied to
        (or L-BFGS works with), and outputs and their gradients in a batch.
        """
        record = None if self.solver == "lbfgs" else solving.record_of(self)
        if record is None:
            dtype, n_rows, n_vectors = np.dtype(np.float64), 1, LBFGS_VECTORS
        else:
            dtype, n_rows = self._dtype(data.X), data.X.shape[0]
            n_rows, n_vectors = min(self._batch_size(n_rows), n_rows), 1 + len(record.slots)
            n_vectors += 2 * (self.averaging is not None)
        n_units = sum(layer.units for layer in network.layers)
        n_units += sum(layer.units for layer in network.layers if layer.dropout) // 2  # slopes
        n_units += (network.in_shape[0] + network.n_outputs) // 2 if network.mixup else 0
        n_numbers = n_vectors * n_parameters(network) + 2 * n_rows * n_units
        how = {"sparse": data.is_sparse, "backend": backend}
        stored = _store_bytes(network, dtype, record, **how)
        validate.affordable(network, stored + dtype.itemsize * n_numbers)

    def _dtype(self, followed: Array) -> np.dtype:
        """What is computed with: the dtype of `followed`, unless `precision` says another."""
        if self.precision == "auto":
            return followed.dtype
        return np.dtype(validate.PRECISIONS[self.precision][0])

    def _current(self, network: spec.Network) -> Array:
        """The parameters to go on from: `coefs_` and `intercepts_` as they are now, copied."""
        if self.out_activation_ != network.loss.output_activation:
            raise ValueError(
                f"out_activation_ is {self.out_activation_!r}, but {network.loss.name} is derived "
                f"through {network.loss.output_activation!r}. warm_start and partial_fit go on "
                "with the loss there was; set warm_start=False and call fit for another one."
            )
        coefs, intercepts = validate.parameters(self.coefs_, self.intercepts_)
        have = [coefs[0].shape[0], *(len(b) for b in intercepts)]
        want = [network.in_shape[0], *(layer.units for layer in network.layers)]
        if have != want:
            raise ValueError(
                f"coefs_ holds layers of {have} units, but X, hidden_layer_sizes and y ask for "
                f"{want}. warm_start and partial_fit go on with the network there is; set "
                "warm_start=False and call fit for another one."
            )
        norms, fitted = self._norm_vectors(coefs), vars(self).get("_normalization")
        if fitted != network.layers[0].normalization:
            raise ValueError(
                f"normalization={self.normalization!r} asks for {network.layers[0].normalization}, "
                f"but the network there is has {fitted}. warm_start and partial_fit go on with "
                "that; set warm_start=False and call fit for another one."
            )
        arrays = [*coefs, *intercepts, *norms]
        flat = empty_vector(sum(a.size for a in arrays), self._dtype(arrays[0]))
        with np.errstate(over="ignore"):
            return np.concatenate([a.ravel() for a in arrays], out=flat, casting="same_kind")

    def _norm_vectors(self, coefs: list[Array]) -> list[Array]:
        """The vectors of normalizations as they are now, in the order of the flat vector."""
        record = vars(self).get("_normalization")
        if record is None:
            return []
        named = {NORMS[part]: getattr(self, NORMS[part]) for part in record.vectors}
        return validate.norm_vectors(named, coefs)

    def _history(self) -> train.History:
        """What earlier calls left to go on from, copied."""
        known = vars(self)
        return train.History(
            **{field: copy(known[name]) for field, name in HISTORY.items() if name in known}
        )

    def _batch_size(self, n_rows: int) -> int:
        return min(200, n_rows) if self.batch_size == "auto" else int(self.batch_size)

    def _run_lbfgs(self, job: _Job, rng: np.random.RandomState, tasks: FitTasks) -> train.Outcome:
        validation = self._validation(job, rng, np.dtype(np.float64)) if job.beside else None
        watch = train.Watch(tasks, job.budget, validation, self.tol, self.n_iter_no_change)
        plan = _gradient_plan(
            job.network,
            dtype=np.float64,
            n_rows=job.data.X.shape[0],
            sparse=job.data.is_sparse,
            backend=job.backend,
        )
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        result = train.minimize_lbfgs(
            plan,
            job.start.astype(np.float64),
            job.data.streams(np.float64),
            self.alpha,
            {**options, **lbfgs_options(self.verbose)},
            watch,
            self.n_jobs,
        )
        n_iter = result.nit if result.was_stopped else lbfgs_result(result, self.max_iter)
        found, loss = (
            (result.x, result.fun)
            if watch.best is None
            else (watch.best.parameters, watch.best.loss)
        )
        history = watch.history if validation else None
        with np.errstate(over="ignore"):
            return train.Outcome(found.astype(job.start.dtype), float(loss), n_iter, history)

    def _run_epochs(self, job: _Job, rng: np.random.RandomState, tasks: FitTasks) -> train.Outcome:
        data, dtype = job.data, job.start.dtype
        validation = None
        if self.early_stopping or job.beside is not None:
            validation = self._validation(job, rng, dtype)
        n_rows = data.X.shape[0]
        if validation is not None and validation.kept is not None:
            n_rows = len(validation.kept)
        batch_size = self._batch_size(n_rows)
        if batch_size > n_rows:
            batch_size = n_rows
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=2,
            )
        last = vars(self).get("_optimizer") if job.incremental else None
        if last is not None:
            last.require_size(job.start.size)
        optimizer = solving.optimizer_of(self, last)
        csr = CSRInput(self.sparse_updates == "lazy", data.row_entries)
        plan = _training_plan(
            job.network,
            dtype=job.operands or dtype,
            batch_size=batch_size,
            optimizer=optimizer.record,
            sparse=csr if data.is_sparse else False,
            backend=job.backend,
        )
        names = ("max_iter", "tol", "n_iter_no_change", "shuffle", "verbose", "alpha", "n_jobs")
        settings = train.Settings(
            **{name: getattr(self, name) for name in names},
            batch_size=batch_size,
            incremental=job.incremental,
            swa_start=solving.swa_start(self),
            budget=job.budget,
        )
        loop = train.EpochLoop(
            plan, job.start, data.streams(dtype), validation, optimizer, job.history, settings
        )
        return loop.run(rng, tasks)

    def _judged(self, beside: watching.Rows, data: TrainingData) -> watching.Rows:
        """Validation rows of the user, and what they mean; `data` is what is learned from."""
        with validate.blamed_on("X_val, y_val or sample_weight_val"):
            given = device_arrays.taken(self.device, *beside[:3])
            rows = validate.validation_data(self, data, given, precision=self.precision)
            if data.labels is not None:
                target = data.labels.encode(rows.target)
                rows = replace(rows, target=target, labels=data.labels, smoothing=data.smoothing)
            else:
                rows = self._encoded(rows, None, incremental=False)
            if rows.n_outputs != data.n_outputs:
                raise ValueError(f"y_val has {rows.n_outputs} outputs, but y has {data.n_outputs}.")
            return watching.Rows(given[0], given[1], data=rows)

    def _validation(
        self, job: _Job, rng: np.random.RandomState, dtype: np.dtype
    ) -> train.Validation:
        """What is looked at after every epoch: the rows that were given beside, or a split."""
        kept: Array | None = None
        held_out: Any = None
        rows = job.beside
        if rows is None:
            kept, held_out = self._split(job.data, rng)
        data = job.data.rows(held_out) if rows is None else rows.data
        score: Any = partial(_by_outputs, partial(self._score_rows, data))
        watched = "Validation score"
        if job.scorer == "loss":
            score, watched = watching.minus_loss, train.VALIDATION_LOSS
        elif job.scorer is not None:
            if rows is None:
                X, y = indexable(job.given.X, job.given.y)
                X, y = device_arrays.rows_of(self.device, held_out, X, y)
                rows = watching.Rows(X, y, data=data)
            score = partial(watching.score, job.scorer, rows, partial(self._as_after, job))
        return train.Validation(
            {**data.streams(dtype), "X": validate.converted(data.X, dtype)},
            score,
            np.empty((data.X.shape[0], job.network.n_outputs), dtype),
            bool(self.early_stopping),
            watched,
            kept,
        )

    def _as_after(self, job: _Job, outcome: train.Outcome) -> Self:
        """A copy as a fit that ended in `outcome` would leave it."""
        fitted = copy(self)
        fitted.__dict__.update(self._attributes(job, outcome))
        return fitted

    def _split(self, data: TrainingData, rng: np.random.RandomState) -> tuple[Array, Array]:
        """Which rows to learn from, and which to validate by: scikit-learn's very split.

        It is stratified for two classes only, by names that appear in error messages.
        """
        strata = None
        if data.labels is not None and data.labels.kind == "binary":
            strata = np.where(data.target.ravel() > 0, "True", "False")
        kept, held_out = train_test_split(
            np.arange(data.X.shape[0]),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=strata,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        data.weights_of(kept)
        return kept, held_out

    def _attributes(self, job: _Job, outcome: train.Outcome) -> dict[str, Any]:
        """All that a fit that ended in `outcome` sets."""
        coefs, intercepts = weight_views(job.network, outcome.parameters)
        attributes: dict[str, Any] = {
            "n_features_in_": job.network.in_shape[0],
            "feature_names_in_": job.data.feature_names,
            "n_layers_": len(coefs) + 1,
            "n_outputs_": job.network.n_outputs,
            "out_activation_": job.network.loss.output_activation,
            "coefs_": coefs,
            "intercepts_": intercepts,
            "_normalization": job.network.layers[0].normalization,
            "loss_": outcome.loss,
            "n_iter_": outcome.n_iter,
            "device_": backends.device_of(job.backend),
            "t_": job.history.n_seen,
        }
        for part, vectors in norm_views(job.network, outcome.parameters).items():
            if vectors:
                attributes[NORMS[part]] = vectors
        if job.data.labels is not None:
            attributes["classes_"] = job.data.labels.classes
            attributes["_sparse_labels"] = job.data.labels.sparse
            attributes["_label_kind"] = job.data.labels.kind
        if outcome.history is not None:
            for field, name in HISTORY.items():
                if outcome.optimizer is not None or field in OF_VALIDATION:
                    attributes[name] = copy(getattr(outcome.history, field))
        if outcome.optimizer is not None:
            attributes["_optimizer"] = outcome.optimizer
        return attributes

    def _adopt(self, attributes: dict[str, Any]) -> Self:
        if attributes["feature_names_in_"] is None:
            del attributes["feature_names_in_"]
        self.__dict__.update(attributes)
        for name in PASSING:
            if name not in attributes:
                self.__dict__.pop(name, None)
        return self

    def _check_solver(self) -> bool:
        if isinstance(self.solver, str) and self.solver not in options.SOLVERS:
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    # ---- predict ---------------------------------------------------------------------

    def _checked(self, X: Any) -> Any:
        """X as the network takes it, if there is one."""
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        return validate.inference_input(self, *device_arrays.taken(self.device, X))

    def _predicted(self, X: Any, *, raw: bool = False) -> Array:
        """Output for whatever the user asks about, as `_output` has it; a few rows of a plain
        array go straight to the kernels, which see to it that they are finite.
        """
        if type(X) is np.ndarray and X.ndim == 2 and len(X) <= FEW_ROWS:
            known = self.__dict__
            try:
                backends.check_n_jobs(known["n_jobs"])
                coefs, intercepts, dtype = known["coefs_"], known["intercepts_"], X.dtype
                names = known["activation"]
                if not isinstance(names, str):  # functions are not for a few rows
                    names = tuple(names) if isinstance(names, list) else ()
                if (
                    dtype in FLOATS
                    and known["device"] != "cuda"
                    and known["out_activation_"] != "softmaxes"
                    and backends.predicts_few_rows(known["backend"])
                    and X.shape[1] == known["n_features_in_"]
                    and "feature_names_in_" not in known
                    and "norm_scales_" not in known
                ):
                    widths = (X.shape[1], *map(len, intercepts))
                    rows = _few_rows(widths, names, self.out_activation_, dtype, raw)
                    output = rows.predict(X, coefs, intercepts)
                    if output is not None:
                        return output
            except (KeyError, TypeError, ValueError):
                pass  # not fitted, n_jobs is none, or coefs_ edited past use: said below
        return self._output(self._checked(X), raw=raw)

    def _output(self, X: Any, *, raw: bool = False, depth: int | None = None) -> Array:
        """Output for checked X, of shape (n, O); before the output activation if `raw`, of the
        layer that a `depth` comes down to.
        """
        coefs, intercepts = validate.parameters(self.coefs_, self.intercepts_)
        widths = (coefs[0].shape[0], *map(len, intercepts))
        if X.shape[1] != widths[0]:
            raise ValueError(f"X has {X.shape[1]} features, but coefs_[0] has {widths[0]} rows.")
        dtype = coefs[0].dtype
        if self.precision == "auto" and np.result_type(X.dtype, dtype) != dtype:
            dtype = np.dtype(np.float64)
            coefs, intercepts = (validate.as_dtype(arrays, dtype) for arrays in (coefs, intercepts))
        vectors = validate.as_dtype(self._norm_vectors(coefs), dtype)
        X = validate.narrowed(self, X, dtype)
        sparse = scipy.sparse.issparse(X)
        norm = vars(self).get("_normalization") if vectors else None
        activations = self._activations(len(widths) - 2)
        network = _inference_network(widths, activations, self.out_activation_, norm, self._heads())
        for function in functions_of(network):  # it may be another than was trained with
            backends.judge(function, dtype)
        entries = X.nnz // max(1, X.shape[0]) if sparse else None
        backend = self._backend(backends.work_of(network, X.shape[0], entries) / 3)
        kind = {"dtype": dtype, "sparse": sparse, "raw": raw, "depth": depth, "backend": backend}
        plan = _inference_plan(network, **kind)
        if reads_in_place(plan, X.shape[0]):
            plan = _inference_plan(network, **kind, in_place=True)
        return backends.predict(plan, coefs, intercepts, X, vectors=vectors, n_jobs=self.n_jobs)

    def transform(self, X: Any) -> Array:
        """Outputs of the last hidden layer.

        What the network has made of the input, for another estimator to learn from. Without hidden
        layers it is the input.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples, n_units), float32 or float64
            Without hidden layers sparse if X is.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.neighbors import KNeighborsClassifier
        >>> from sklearn.pipeline import make_pipeline
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> hidden = MLPClassifier(8, solver="lbfgs", random_state=0, max_iter=1000)
        >>> pipeline = make_pipeline(hidden, KNeighborsClassifier()).fit(X, y)
        >>> pipeline[:-1].transform(X[:2]).shape
        (2, 8)
        """
        checked = self._checked(X)
        if len(self.coefs_) == 1:
            return validate.converted(checked, self.coefs_[0].dtype)
        return device_arrays.likewise(X, self._output(checked, depth=len(self.coefs_) - 1))

    @property
    def _n_features_out(self) -> int:
        """Units of the last hidden layer, for get_feature_names_out."""
        return self.coefs_[-1].shape[0]

    def summary(self) -> None:
        """Print what the fitted network is made of: layers, shapes, parameters and work per row.

        Raises
        ------
        NotFittedError
            Before `fit`.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> clf = MLPClassifier(8, solver="lbfgs", random_state=0, max_iter=1000)
        >>> clf.fit(*load_iris(return_X_y=True)).summary()
           layer                                    weights  parameters   multiply-adds a row
        0  dense, relu                                4 x 8          40                    32
        1  dense, softmax                             8 x 3          27                    24
           in all                                                    67                    56
        """
        check_is_fitted(self)
        print(summary.of(self, self._activations(len(self.coefs_) - 1)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.sparse = True
        return tags

    # ---- pickling --------------------------------------------------------------------

    def __copy__(self) -> Self:
        """A shallow one: any function may be in it, and arrays are shared."""
        twin = object.__new__(type(self))
        twin.__dict__.update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Functions go by import path."""
        for name in ("activation", "loss", "scoring"):
            validate.require_importable(name, getattr(self, name))
        return self._state()

    def _state(self) -> dict[str, Any]:
        """What is kept of it, in a pickle or a model file."""
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make `coefs_`, `intercepts_` and the vectors of normalizations views of one vector again;
        leave memory maps alone.
        """
        super().__setstate__(state)
        for name in {*self._get_param_names()} - {*vars(self)}:  # newer than the pickle
            setattr(self, name, getattr(type(self)(), name))
        names = [n for n in ("coefs_", "intercepts_", *NORMS.values()) if n in vars(self)]
        arrays = [array for name in names for array in getattr(self, name)]
        plain = all(type(array) is np.ndarray and array.dtype.kind == "f" for array in arrays)
        if plain and len({array.dtype for array in arrays}) == 1:
            flat = empty_vector(sum(array.size for array in arrays), arrays[0].dtype)
            np.concatenate([array.ravel() for array in arrays], out=flat)
            ends = np.cumsum([array.size for array in arrays])
            parts = np.split(flat, ends[:-1])
            views = [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
            for name in names:
                n = len(getattr(self, name))
                setattr(self, name, views[:n])
                views = views[n:]

    # ---- model files -----------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write the estimator to a file that `load` reads, safely wherever it is from.

        All of it is kept: parameters, what `fit` has found, and what `partial_fit` and
        `warm_start` go on from, bit for bit, and of scikit-learn's settings `set_output` and
        `set_fit_request`; an estimator that was not fitted has its parameters. Callbacks are left
        out. Of functions that are parameters only the names are written, and `load` asks for them.

        The file has the safetensors format, so that other programs read the arrays, ``coefs_.0``
        and so on; by custom its name ends in ``.safetensors``. It appears, or takes the place of an
        older one, when it is complete: if anything fails the older one stays as it is. A new one
        has the permissions of the one that it replaces.

        Parameters
        ----------
        path : str or path-like
            The file, in a folder that exists.

        Raises
        ------
        OSError
            If it cannot be written.
        TypeError
            If a parameter or an attribute is of a type that such a file cannot hold.
        ValueError
            If parameters cannot be used, or attributes were edited and do not agree.

        Examples
        --------
        >>> import os, tempfile
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> path = os.path.join(tempfile.mkdtemp(), "iris.safetensors")
        >>> clf.save(path)
        >>> bool((MLPClassifier.load(path).predict(X) == clf.predict(X)).all())
        True
        """
        model_io.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, functions: Mapping[str, Any] | None = None) -> Self:
        """Read an estimator from a file that `save` has written.

        The file may come from anyone: nothing in it is executed or imported, all of it is checked,
        and the memory it takes is bounded by its size: arrays take what they take in the file, and
        lists and the like a bounded multiple of it.

        Parameters
        ----------
        path : str or path-like
            The file.
        functions : dict of str to (callable or (callable, callable)), default=None
            The functions that were parameters, by their place: that parameter's name, and in a
            list a dot and the number there, as in ``{"loss": (f, df), "activation.1": g}``. Each
            as it was given, a function or a pair. An error says which are wanted.

        Returns
        -------
        estimator : object
            As it was saved.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is no such file, not whole, of another class or a newer version; if functions are
            missing, not asked for or of another shape.
        TypeError
            If `path` is no path, or `functions` no dict.

        Examples
        --------
        >>> import os, tempfile
        >>> from hotloop import MLPRegressor
        >>> def double(z):
        ...     return z + z
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> MLPRegressor(hidden_layer_sizes=(8, 4), activation=["relu", double]).save(path)
        >>> MLPRegressor.load(path, functions={"activation.1": double}).hidden_layer_sizes
        (8, 4)
        """
        return model_io.load(cls, path, functions)

    def _require_whole(self) -> None:
        """Raise ValueError unless functions take what they will be given, and the attributes of a
        fit, if there was one, are all there and agree.
        """
        several = isinstance(self.activation, list)
        self._activations(len(self.activation) if several else 1)
        if callable(self.loss) or isinstance(self.loss, tuple):
            validate.function("loss", self.loss)
        known, declared = vars(self), model_io.declared(model_io.own_class(type(self)))
        if not declared.keys() & known.keys():
            return
        record = known.get("_normalization")
        norms = {NORMS[part] for part in (record.vectors if record else ())}
        missing = ({*declared} - {*PASSING} | norms) - {*known}
        if missing:
            raise ValueError(f"{sorted(missing)} are missing, which every fit sets.")
        coefs, intercepts = validate.parameters(self.coefs_, self.intercepts_)
        self._norm_vectors(coefs)
        _loss_through(self.out_activation_)
        shapes = {
            "n_features_in_": len(coefs[0]),
            "n_layers_": len(coefs) + 1,
            "n_outputs_": len(intercepts[-1]),
        }
        said = {name: known[name] for name in shapes}
        if said != shapes or not all(coef.size for coef in coefs):
            raise ValueError(f"coefs_ have the shapes of {shapes}, above 0, but there are {said}.")
        names = known.get("feature_names_in_")
        if names is not None and (names.dtype != object or names.shape != coefs[0].shape[:1]):
            raise ValueError(
                f"feature_names_in_ are not {len(coefs[0])} strings, but {names!r:.100}."
            )

    # ---- private names that scikit-learn's own tests reach for -------------------------
    # `_optimizer.learning_rate` and `_no_improvement_count` are attributes that fit sets;
    # `_label_binarizer` is on the classifier.

    def _loss_grad_lbfgs(
        self,
        packed_coef_inter: Array,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        *work: Any,
    ) -> tuple[float, Array]:
        """Loss and gradient at given parameters; `work`, scikit-learn's buffers, is ignored."""
        coefs, _ = validate.parameters(self.coefs_, self.intercepts_)
        loss = _loss_through(self.out_activation_)
        widths = tuple(c.shape[0] for c in coefs) + (self.n_outputs_,)
        target = y.argmax(axis=1).astype(np.int32) if loss.targets == "codes" else y
        data = TrainingData(X, target, sample_weight)
        return train.loss_and_gradient(
            _gradient_plan(
                _network(widths, self._activations(len(widths) - 2), loss),
                dtype=np.float64,
                n_rows=X.shape[0],
                sparse=data.is_sparse,
            ),
            np.asarray(packed_coef_inter, dtype=np.float64),
            data.streams(np.float64),
            self.alpha,
        )


def _by_outputs(score: Any, output: Array, *_: Any) -> float:
    """A score that needs outputs only."""
    return score(output)


def _quarters(function: spec.Function, data: TrainingData) -> Array | None:
    """Targets to try a loss on."""
    if function.kind != "loss":
        return None
    return np.unique(np.quantile(data.target, np.linspace(0, 1, 5), method="nearest"))
