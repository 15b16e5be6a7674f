"""scikit-learn's multi-layer perceptrons: the same classes, parameters and results."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial, wraps
from numbers import Integral, Real
from typing import Any, ClassVar, Self
from weakref import ref

import numpy as np
import scipy.sparse
from scipy.special import log_expit, log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, column_or_1d

from .. import backends, device_arrays, spec, train, validate
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
    parameter_names,
    validate_parameters,
)
from ..plan import (
    FEW_ROWS,
    CSRInput,
    compile_gradients,
    compile_inference,
    compile_training,
    empty_vector,
    functions_of,
    init_parameters,
    n_parameters,
    reads_in_place,
    store_bytes,
    weight_views,
)
from ..validate import Labels, TrainingData

Array = np.ndarray

#: Fields of a :class:`train.History`, and the attributes that keep them between calls.
HISTORY = {
    "loss_curve": "loss_curve_",
    "best_loss": "best_loss_",
    "no_improvement_count": "_no_improvement_count",
    "validation_scores": "validation_scores_",
    "best_validation_score": "best_validation_score_",
    "n_seen": "t_",
}
#: Attributes that not every fit sets: those of an earlier one must not outlive it.
PASSING = (*HISTORY.values(), "_optimizer", "feature_names_in_")
#: dtypes that rows are predicted from where they lie.
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False)
class _Job:
    """What a call of fit or partial_fit is to train, and from where on."""

    network: spec.Network
    data: TrainingData
    start: Array
    history: train.History
    incremental: bool
    operands: str | None
    backend: str


def _network(
    widths: tuple[int, ...], activation: str | spec.Function, loss: spec.Loss
) -> spec.Network:
    """Dense layers of `widths`, the first of which is the number of features."""
    hidden = [spec.Dense(units, activation) for units in widths[1:-1]]
    return spec.Network((widths[0],), (*hidden, spec.Dense(widths[-1])), loss)


# Plans hold no weights and depend on their arguments alone: the fits of a grid search and
# the calls of partial_fit and predict share them.
_training_plan = lru_cache(maxsize=64)(compile_training)
_gradient_plan = lru_cache(maxsize=64)(compile_gradients)
_store_bytes = lru_cache(maxsize=64)(store_bytes)


#: Estimators that are being fitted, by id, with a weak reference to what lives as long as the fit:
#: an interrupt at the worst moment may leave an entry, but not what it refers to. A forked child
#: fits none.
_FITTING: dict[int, Any] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FITTING.clear)


class _Fit:
    """Lives as long as a fit."""


def _exclusive(method: Any) -> Any:
    """Refuse a fit of an estimator that is being fitted, before anything of it is touched."""

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        fit = _Fit()
        mine = ref(fit)
        if _FITTING.setdefault(id(self), mine) is not mine:
            if _FITTING[id(self)]() is not None:
                raise RuntimeError(
                    f"This {type(self).__name__} is being fitted already, by another thread or by "
                    "a callback of that fit. Wait for it, or fit a clone (sklearn.base.clone)."
                )
            _FITTING[id(self)] = mine
        try:
            return method(self, *args, **kwargs)
        finally:
            _FITTING.pop(id(self), None)

    return wrapper


def _loss_through(output_activation: str) -> spec.Loss:
    """The loss that is derived through an output activation."""
    for loss in spec.LOSSES.values():
        if loss.output_activation == output_activation:
            return loss
    allowed = sorted(loss.output_activation for loss in spec.LOSSES.values())
    raise ValueError(f"out_activation_ must be one of {allowed}, got {output_activation!r}.")


@lru_cache(maxsize=64)
def _inference_network(
    widths: tuple[int, ...], activation: str | spec.Function, output: str
) -> spec.Network:
    """The network that ends in that output activation."""
    return _network(widths, activation, _loss_through(output))


_inference_plan = lru_cache(maxsize=64)(compile_inference)


@lru_cache(maxsize=64)
def _few_rows(
    widths: tuple[int, ...], activation: str, output: str, dtype: Any, raw: bool
) -> backends.FewRows:
    """What predicts a few rows; before the output activation if `raw`."""
    network = _inference_network(widths, activation, output)
    return backends.FewRows(_inference_plan(network, dtype=dtype, raw=raw, backend="compiled"))


class MultilayerPerceptron(CallbackSupportMixin, BaseEstimator, ABC):
    """What both estimators share: all but the meaning of y and of outputs."""

    coefs_: list[Array]
    intercepts_: list[Array]
    n_outputs_: int
    loss: Any
    out_activation_: str

    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(spec.ACTIVATIONS)), callable, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
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
    }

    @abstractmethod
    def __init__(self) -> None: ...

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(parameter_names(cls))

    def _validate_params(self) -> None:
        validate_parameters(self)

    # ---- what differs between the two ------------------------------------------------

    @abstractmethod
    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        """`data` with its target judged and made of numbers."""

    @abstractmethod
    def _loss_of(self, data: TrainingData) -> spec.Loss:
        """The loss to train by."""

    @abstractmethod
    def _score_rows(self, data: TrainingData, output: Array) -> float:
        """Score of outputs of shape (n, O) against the targets of `data`."""

    # ---- fit -------------------------------------------------------------------------

    @_exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input. float32 is computed with as such, anything else as float64, unless
            `precision` says otherwise.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            For the classifier labels, or an indicator matrix for several labels a sample;
            for the regressor numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.

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
        return self._fit(X, y, sample_weight)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, classes: Any = None, incremental: bool = False
    ) -> Self:
        """Validate, compile, train, adopt."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        afresh = "coefs_" not in vars(self) or not (incremental or self.warm_start)
        backends.engine_of(self._backend())  # or say why there is none
        operands = self._operands()
        hidden = validate.hidden_layer_sizes(self.hidden_layer_sizes)
        data = validate.training_data(
            self,
            *device_arrays.taken(self.device, X, y, sample_weight),
            reset=afresh,
            precision=self.precision,
            y_numeric=isinstance(self, RegressorMixin),
        )
        data = self._encoded(data, classes, incremental=incremental)

        widths = (data.X.shape[1], *hidden, data.n_outputs)
        network = _network(widths, self._activation(), self._loss_of(data))
        self._judge(network, data)
        with validate.random_stream(self.random_state) as rng:
            backend = self._backend_for(network, data)
            start = self._initial(network, data, backend, rng) if afresh else self._current(network)
            history = train.History() if afresh else self._history()
            job = _Job(network, data, start, history, incremental, operands, backend)

            max_iter = 1 if incremental else self.max_iter
            describe = partial(self._attributes, job)
            tasks = FitTasks(self, X, y, sample_weight, max_iter, describe)
            if self.solver == "lbfgs":
                outcome = self._run_lbfgs(job, tasks)
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
                "precision='float32' for a result rounded to that, or solver='adam' or 'sgd'."
            )
        reason = backends.why_no_operands(self.precision, self._backend())
        if reason is not None:
            raise ValueError(f"precision={self.precision!r} cannot be used: {reason}.")
        return self.precision

    def _activation(self) -> str | spec.Function:
        if isinstance(self.activation, str):
            return self.activation
        return validate.function("activation", self.activation)

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
        factor = 2.0 if self.activation == "logistic" else 6.0
        return init_parameters(network, rng, self._dtype(data.X), factor=factor)

    def _require_room(self, network: spec.Network, data: TrainingData, backend: str) -> None:
        """Refuse what does not fit into memory: what kernels hold, what the outcome is copied to
        (or L-BFGS works with), and outputs and their gradients in a batch.
        """
        records: dict[str, spec.SGD | spec.Adam] = {"sgd": spec.SGD(), "adam": spec.Adam()}
        record = records.get(self.solver)
        if record is None:
            dtype, n_rows, n_vectors = np.dtype(np.float64), 1, LBFGS_VECTORS
        else:
            dtype, n_rows = self._dtype(data.X), data.X.shape[0]
            n_rows, n_vectors = min(self._batch_size(n_rows), n_rows), 1 + len(record.slots)
        n_units = sum(layer.units for layer in network.layers)
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
        arrays = [*coefs, *intercepts]
        flat = empty_vector(sum(a.size for a in arrays), self._dtype(arrays[0]))
        with np.errstate(over="ignore"):
            return np.concatenate([a.ravel() for a in arrays], out=flat, casting="same_kind")

    def _history(self) -> train.History:
        """What earlier calls left to go on from, copied."""
        known = vars(self)
        return train.History(
            **{field: copy(known[name]) for field, name in HISTORY.items() if name in known}
        )

    def _batch_size(self, n_rows: int) -> int:
        return min(200, n_rows) if self.batch_size == "auto" else int(self.batch_size)

    def _run_lbfgs(self, job: _Job, tasks: FitTasks) -> train.Outcome:
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
            tasks,
            self.n_jobs,
        )
        n_iter = result.nit if result.was_stopped else lbfgs_result(result, self.max_iter)
        with np.errstate(over="ignore"):
            return train.Outcome(result.x.astype(job.start.dtype), float(result.fun), n_iter)

    def _run_epochs(self, job: _Job, rng: np.random.RandomState, tasks: FitTasks) -> train.Outcome:
        data, validation, dtype = job.data, None, job.start.dtype
        n_rows = data.X.shape[0]
        if self.early_stopping:
            kept, held_out = self._split(data, rng)
            n_rows = len(kept)
            validation = train.Validation(
                kept,
                validate.converted(held_out.X, dtype),
                partial(self._score_rows, held_out),
                np.empty((held_out.X.shape[0], job.network.n_outputs), dtype),
            )
        batch_size = self._batch_size(n_rows)
        if batch_size > n_rows:
            batch_size = n_rows
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=2,
            )
        optimizer = self._optimizer_of(job)
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
        )
        loop = train.EpochLoop(
            plan, job.start, data.streams(dtype), validation, optimizer, job.history, settings
        )
        return loop.run(rng, tasks)

    def _split(self, data: TrainingData, rng: np.random.RandomState) -> tuple[Array, TrainingData]:
        """Which rows to learn from, and those to validate by: scikit-learn's very split.

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
        return kept, data.rows(held_out)

    def _optimizer_of(self, job: _Job) -> train.StochasticOptimizer:
        """For partial_fit a copy of the one there is; otherwise a new one."""
        last = vars(self).get("_optimizer") if job.incremental else None
        if last is not None:
            return copy(last)
        if self.solver == "sgd":
            record = spec.SGD(nesterov=bool(self.nesterovs_momentum))
            return train.SGD(
                record, self.learning_rate_init, self.momentum, self.learning_rate, self.power_t
            )
        adam = spec.Adam(beta_2=float(self.beta_2), epsilon=float(self.epsilon))
        return train.Adam(adam, self.learning_rate_init, self.beta_1)

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
            "loss_": outcome.loss,
            "n_iter_": outcome.n_iter,
            "device_": backends.device_of(job.backend),
            "t_": job.history.n_seen,
        }
        if job.data.labels is not None:
            attributes["classes_"] = job.data.labels.classes
            attributes["_sparse_labels"] = job.data.labels.sparse
        if outcome.history is not None:
            for field, name in HISTORY.items():
                attributes[name] = copy(getattr(outcome.history, field))
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
        if self.solver not in ("sgd", "adam"):
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
                if (
                    dtype in FLOATS
                    and known["device"] != "cuda"
                    and backends.predicts_few_rows(known["backend"])
                    and X.shape[1] == known["n_features_in_"]
                    and "feature_names_in_" not in known
                ):
                    widths = (X.shape[1], *map(len, intercepts))
                    rows = _few_rows(widths, self.activation, self.out_activation_, dtype, raw)
                    output = rows.predict(X, coefs, intercepts)
                    if output is not None:
                        return output
            except (KeyError, TypeError, ValueError):
                pass  # not fitted, n_jobs is none, or coefs_ edited past use: said below
        return self._output(self._checked(X), raw=raw)

    def _output(self, X: Any, *, raw: bool = False) -> Array:
        """Output for checked X, of shape (n, O); before the output activation if `raw`."""
        coefs, intercepts = validate.parameters(self.coefs_, self.intercepts_)
        widths = (coefs[0].shape[0], *map(len, intercepts))
        if X.shape[1] != widths[0]:
            raise ValueError(f"X has {X.shape[1]} features, but coefs_[0] has {widths[0]} rows.")
        dtype = coefs[0].dtype
        if self.precision == "auto" and np.result_type(X.dtype, dtype) != dtype:
            dtype = np.dtype(np.float64)
            coefs, intercepts = (validate.as_dtype(arrays, dtype) for arrays in (coefs, intercepts))
        X = validate.narrowed(self, X, dtype)
        sparse = scipy.sparse.issparse(X)
        network = _inference_network(widths, self._activation(), self.out_activation_)
        for function in functions_of(network):  # it may be another than was trained with
            backends.judge(function, dtype)
        entries = X.nnz // max(1, X.shape[0]) if sparse else None
        backend = self._backend(backends.work_of(network, X.shape[0], entries) / 3)
        kind = {"dtype": dtype, "sparse": sparse, "raw": raw, "backend": backend}
        plan = _inference_plan(network, **kind)
        if reads_in_place(plan, X.shape[0]):
            plan = _inference_plan(network, **kind, in_place=True)
        return backends.predict(plan, coefs, intercepts, X, n_jobs=self.n_jobs)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ---- pickling --------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Functions go by import path."""
        for name in ("activation", "loss"):
            validate.require_importable(name, getattr(self, name))
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make `coefs_` and `intercepts_` views of one vector again; leave memory maps alone."""
        super().__setstate__(state)
        for name in {*self._get_param_names()} - {*vars(self)}:  # newer than the pickle
            setattr(self, name, getattr(type(self)(), name))
        arrays = [*vars(self).get("coefs_", ()), *vars(self).get("intercepts_", ())]
        plain = all(type(array) is np.ndarray and array.dtype.kind == "f" for array in arrays)
        if plain and len({array.dtype for array in arrays}) == 1:
            flat = empty_vector(sum(array.size for array in arrays), arrays[0].dtype)
            np.concatenate([array.ravel() for array in arrays], out=flat)
            ends = np.cumsum([array.size for array in arrays])
            parts = np.split(flat, ends[:-1])
            views = [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
            n_layers = len(self.coefs_)
            self.coefs_, self.intercepts_ = views[:n_layers], views[n_layers:]

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
                _network(widths, self.activation, loss),
                dtype=np.float64,
                n_rows=X.shape[0],
                sparse=data.is_sparse,
            ),
            np.asarray(packed_coef_inter, dtype=np.float64),
            data.streams(np.float64),
            self.alpha,
        )


def _quarters(function: spec.Function, data: TrainingData) -> Array | None:
    """Targets to try a loss on."""
    if function.kind != "loss":
        return None
    return np.unique(np.quantile(data.target, np.linspace(0, 1, 5), method="nearest"))


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """Multi-layer perceptron classifier.

    Takes the place of :class:`sklearn.neural_network.MLPClassifier`: same parameters, same
    random stream, same result up to rounding, in a fraction of the time. It minimises the
    log-loss through a softmax for three classes or more, through the logistic function for
    two classes and for indicator matrices.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer, from input to output. Empty for none, which makes a
        linear model.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, callable or (callable, callable), \
            default='relu'
        Activation of the hidden layers: ``x``, ``1 / (1 + exp(-x))``, ``tanh(x)`` or
        ``max(0, x)``; or a function of one number, or a pair of it and its derivative. numba
        compiles it (``pip install 'hotloop[numba]'``) in a second or two, and
        :mod:`hotloop.elementwise` has functions to make it of that are as fast as the kernels.
        A derivative that is not given is computed, with a warning: by complex steps, or by
        differences where the function compares, branches or calls what has no complex form.
        One that is given is compared with differences.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        How the weights are found: by 'adam' or stochastic gradient descent ('sgd') in
        mini-batches, or by 'lbfgs', a quasi-Newton method over all rows at once, which
        often is the best choice for small data sets.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases),
        ``alpha / 2 * sum(w ** 2)``, divided by the sum of sample weights in the batch.
    batch_size : int or 'auto', default='auto'
        Rows in a mini-batch; 'auto' is ``min(200, n_samples)``. Not used by 'lbfgs'.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        How the rate of 'sgd' changes: it stays; it is
        ``learning_rate_init / (t_ + 1) ** power_t`` from each epoch's end on; or it is
        divided by 5 instead of stopping when `n_iter_no_change` says so, until it is below
        1e-6.
    learning_rate_init : float, default=0.001
        Step size at the start, of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; for 'lbfgs' iterations.
    shuffle : bool, default=True
        Whether 'sgd' and 'adam' go through the rows in a new order in every epoch.
    random_state : int, RandomState instance or None, default=None
        Decides on the initial weights, the rows of early stopping and the orders of
        epochs. An int gives the same result every time, and the one that scikit-learn's
        class gives for it.
    tol : float, default=1e-4
        Loss (or validation score) has to improve by this much to count as improved; for
        'lbfgs' the largest gradient entry at which it stops.
    verbose : bool, default=False
        Whether to print every epoch's loss.
    warm_start : bool, default=False
        Whether `fit` starts from the weights there are instead of random ones.
    momentum : float, default=0.9
        Of 'sgd', between 0 and 1.
    nesterovs_momentum : bool, default=True
        Whether that momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether 'sgd' and 'adam' set rows aside, stop by the score on those, and keep the
        weights of the best epoch. For two classes the split is stratified, for more
        or an indicator matrix it is not.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping sets aside, in [0, 1).
    beta_1 : float, default=0.9
        Decay rate of the first moment in 'adam', in [0, 1).
    beta_2 : float, default=0.999
        Decay rate of the second moment in 'adam', in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment in 'adam'.
    n_iter_no_change : int or inf, default=10
        Epochs in a row that may fail to improve before 'sgd' and 'adam' stop.
    max_fun : int, default=15000
        Evaluations of the loss at most, by 'lbfgs'.
    precision : {'auto', 'float32', 'float64', 'bfloat16', 'bfloat16_emulated'}, default='auto'
        What is computed with: 'auto' follows X (float32 for float32, else float64), the
        others force. 'lbfgs' computes in float64 and rounds the result.

        'bfloat16' is for 'adam' and 'sgd' on processors with AVX512_BF16 and an error
        elsewhere; `hotloop.show_config()` tells. `fit` and `partial_fit` round weights,
        activations and gradients of activations to bfloat16 where they multiply matrices, and
        sum in float32, in which everything else is: `coefs_`, the moments of the solver, the
        loss, predictions and validation scores, and a first layer on sparse X.
        'bfloat16_emulated' does the same on any processor by float32 arithmetic, with the same
        products to the bit, and is slower than 'float32'.
    n_jobs : int or None, default=None
        Threads that share the work of `fit` and of predictions; the result has the same bits
        for any number. None and -1 stand for all processors that the process may use, or
        fewer if OMP_NUM_THREADS says so (joblib sets it in its workers), -2 for all but one.
        Never more than there are, nor than 256; the environment variable HOTLOOP_NUM_THREADS
        stands in for what there is. One in a daemonic process, as those of a
        ``multiprocessing.Pool`` are. Fits side by side share the processors.
    sparse_updates : {'exact', 'lazy'}, default='exact'
        What 'sgd' and 'adam' do, on sparse X, with the weights of a feature in batches that have
        nothing of it. 'exact': what they would do on the same X if it were dense, though later:
        when the feature comes up again, or the weights are read. 'lazy': nothing, so that
        momentum, moments and `alpha` work on a feature only in batches that have it; it is
        sooner, and another result.
    backend : {'auto', 'compiled', 'numba'}, default='auto'
        Who computes: the compiled kernels, or others that need numba
        (``pip install 'hotloop[numba]'``), take half a minute for each precision to compile when
        they are first used on a machine, have one thread whatever `n_jobs` says, and are 5 to 15
        times slower on it. Results are the same up to rounding. 'numba' has no bfloat16, and
        answers an interrupt after the step. 'auto' is 'compiled', but 'numba' in an install
        without compiled kernels, or what the environment variable HOTLOOP_BACKEND names.
    loss : {'log_loss'}, callable or (callable, callable), default='log_loss'
        What is minimised. For two classes and indicator matrices it may be a function ``f(y, z)``
        of a label, 0 or 1, and an output before the logistic function (what `decision_function`
        returns), or a pair of it and its derivative by ``z``; summed over labels. It is compiled
        and tried as an `activation` is. Probabilities are ``1 / (1 + exp(-z))``.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute, in `fit` and in predictions. 'cuda' is an Nvidia GPU, by kernels that
        need numba (``pip install 'hotloop[cuda]'``); it computes in float32 and float64, has
        `backend` 'auto' only, and the result is that of the CPU up to rounding. Where there is no
        GPU it is an error: set 'cpu' to predict there with a model that was trained on one. See
        :func:`hotloop.fit_many` for many small models at once. 'auto' takes a GPU, if there is
        one, for steps (or predictions) of at least 5 MFLOP, which is 6 (2) times rows times
        weights: below that the CPU is done sooner.

        With 'cuda', arrays of CuPy, torch, numba and others that lie on the GPU are taken, by
        ``__cuda_array_interface__`` or DLPack. X is not copied, so it must be C-contiguous and of
        float32 or float64 (where the other is computed with, it is converted there); y and sample
        weights are copied to the host. With 'cpu' and 'auto' they are an error. Predictions and
        fitted attributes are NumPy arrays; under
        ``sklearn.set_config(array_api_dispatch=True)`` predictions are copied to X's device, as
        arrays of X's library (of numba, if scikit-learn does not know that library), except for
        labels that are strings or sparse.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels in ascending order; column numbers for an indicator matrix.
    loss_ : float
        Loss of the last epoch (mean over rows, penalty included), or at L-BFGS' end.
    best_loss_ : float or None
        The smallest loss of an epoch; None with early stopping. Not set by 'lbfgs', like
        the next three.
    loss_curve_ : list of float
        Loss of each epoch, over all calls that went on from each other.
    validation_scores_ : list of float or None
        Accuracy of each epoch on the rows set aside; None without early stopping.
    best_validation_score_ : float or None
        The largest of them.
    t_ : int
        Samples that have gone by in training.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer, of the dtype that was computed with. All arrays here and in
        `intercepts_` are row-major views of one vector; edit or replace them as you like.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; set if X had names that are strings.
    n_iter_ : int
        Epochs, or iterations of L-BFGS, of the last call.
    device_ : {'cpu', 'cuda'}
        Where the last call computed.
    n_layers_ : int
        Number of layers, the input counted as one.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Activation of the output layer: 'softmax' or 'logistic'.

    See Also
    --------
    MLPRegressor : The same for numbers.

    Notes
    -----
    With scikit-learn 1.9 or later, callbacks given by ``set_callbacks`` are told of every
    epoch, by ``partial_fit`` of its one, and may stop the training.

    References
    ----------
    .. [1] Glorot, X. and Bengio, Y. (2010), "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS. Initial weights: equation 16.
    .. [2] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Algorithm 1, as rewritten at the end of section 2.
    .. [3] Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), "On the importance of
       initialization and momentum in deep learning", ICML. Section 2.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.model_selection import train_test_split
    >>> from hotloop import MLPClassifier
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=1)
    >>> clf = MLPClassifier(random_state=1, max_iter=300).fit(X_train, y_train)
    >>> clf.predict_proba(X_test[:1]).round(2)
    array([[0.04, 0.96]])
    >>> clf.predict(X_test[:5])
    array([1, 0, 1, 0, 1])
    >>> clf.score(X_test, y_test)
    0.88
    """

    _parameter_constraints: ClassVar[dict] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), callable, tuple],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        precision="auto",
        n_jobs=None,
        sparse_updates="exact",
        backend="auto",
        loss="log_loss",
        device="cpu",
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.precision = precision
        self.n_jobs = n_jobs
        self.sparse_updates = sparse_updates
        self.backend = backend
        self.loss = loss
        self.device = device

    @property
    def _labels(self) -> Labels:
        """What the fitted classes mean."""
        kind = "multiclass" if self.out_activation_ == "softmax" else "multilabel-indicator"
        if self.out_activation_ == "logistic" and self.n_outputs_ == 1:
            kind = "binary"
        return Labels(self.classes_, kind, vars(self).get("_sparse_labels", False))

    @property
    def _label_binarizer(self) -> Any:
        """For third parties that read scikit-learn's private attribute (skl2onnx)."""
        return self._labels.binarizer()

    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        y, labels = data.target, self._labels if "classes_" in vars(self) else None
        if incremental:
            labels = self._labels_of_partial_fit(labels, y, classes)
        if labels is None or not (incremental or self.warm_start):
            labels, target = Labels.learn(y)
        else:
            if self.warm_start:
                labels.require_same_classes(Labels.learn(y)[0])
            target = labels.encode(y)
        return replace(data, target=target, labels=labels)

    def _labels_of_partial_fit(self, labels: Labels | None, y: Any, classes: Any) -> Labels:
        """The labels there are, or on the first call those that it was given."""
        if classes is None:
            if labels is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return labels
        passed, _ = Labels.learn(column_or_1d(classes))
        if labels is None and y.ndim == 1:
            return passed
        if labels is None:
            labels, _ = Labels.learn(y)
        if not np.array_equal(labels.classes, passed.classes):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, or as "
                f"the columns of y, was: {labels.classes!r}"
            )
        return labels

    def _loss_of(self, data: TrainingData) -> spec.Loss:
        assert data.labels is not None
        multiclass = data.labels.kind == "multiclass"
        if self.loss != "log_loss":
            if multiclass:
                raise ValueError(
                    f"loss={self.loss!r} is a function of one output, and y has "
                    f"{len(data.labels.classes)} classes, which share theirs. Use it for two "
                    "classes or an indicator matrix, or in sklearn.multiclass.OneVsRestClassifier."
                )
            return spec.custom_loss(validate.function("loss", self.loss), "logistic")
        return spec.LOSSES["log_loss" if multiclass else "binary_log_loss"]

    def _score_rows(self, data: TrainingData, output: Array) -> float:
        assert data.labels is not None
        chosen, n_rows = data.labels.choose(output), len(output)
        hits = (chosen.reshape(n_rows, -1) == data.target.reshape(n_rows, -1)).all(axis=1)
        return float(np.average(hits, weights=data.sample_weight))

    @available_if(MultilayerPerceptron._check_solver)
    @_exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch more, starting where the last call ended.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input, as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, all of them among the classes, or an indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.
        classes : array-like of shape (n_classes,), default=None
            All labels that y may ever hold. Needed in the first call, if there was no `fit`
            before; later it may be left out.

        Returns
        -------
        self : object
            The fitted estimator. If anything is raised it is left as it was before.

        Raises
        ------
        ValueError
            As `fit`; for labels that are not among the classes; with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, classes, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            The most probable class of each sample, of the dtype of `classes_`; or an
            indicator matrix of the classes that are more probable than not, sparse if y was.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.predict(X[:3])
        array([0, 0, 0])
        """
        output = self._predicted(X)
        return device_arrays.likewise(X, self._labels.decode(output))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32 or float64
            In the order of `classes_`; of each label by itself for an indicator matrix. Two
            columns if there is one class only, which has the first.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.predict_proba(X[:1]).round(2)
        array([[1., 0., 0.]])
        """
        return device_arrays.likewise(X, _probabilities(self._predicted(X)))

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities of the classes.

        They are ``log(predict_proba(X))`` bit for bit, but where a probability is rounded
        to 0: there it is its logarithm in truth, not minus infinity.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32 or float64
            In the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.
        """
        checked = self._checked(X)
        with np.errstate(divide="ignore"):
            logarithms = np.log(_probabilities(self._output(checked)))
        lost = np.isneginf(logarithms)
        if lost.any():
            raw = self._output(checked, raw=True)
            if self.out_activation_ == "softmax":
                exact = log_softmax(raw, axis=1)
            else:
                exact = log_expit(np.hstack([-raw, raw]) if raw.shape[1] == 1 else raw)
            logarithms[lost] = exact[lost]
        return device_arrays.likewise(X, logarithms)

    def decision_function(self, X: Any) -> Array:
        """Output of the network before its output activation.

        For two classes the log-odds of the second, ``log(p / (1 - p))``: `predict` chooses
        it where they are positive. For more, numbers that differ from the logarithms of the
        probabilities by one constant a sample: `predict` chooses the largest. For an
        indicator matrix the log-odds of each label. (`predict` goes by the probabilities:
        where these tie by rounding it chooses the first class.)

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes), float32 or float64
            Flat for two classes.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from hotloop import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(solver="lbfgs", random_state=0, max_iter=1000).fit(X, y)
        >>> clf.decision_function(X[:2]).argmax(axis=1)
        array([0, 0])
        """
        raw = self._predicted(X, raw=True)
        return device_arrays.likewise(X, raw.ravel() if raw.shape[1] == 1 else raw)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _probabilities(output: Array) -> Array:
    """A column for each class: two for the one output that tells two classes apart."""
    return np.concatenate((1 - output, output), axis=1) if output.shape[1] == 1 else output


class MLPRegressor(RegressorMixin, MultilayerPerceptron):
    """Multi-layer perceptron regressor.

    Takes the place of :class:`sklearn.neural_network.MLPRegressor`: same parameters, same
    random stream, same result up to rounding, in a fraction of the time.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, callable or (callable, callable), default='squared_error'
        What is minimised: half the mean squared error, with linear outputs, or half the
        Poisson deviance, with outputs ``exp(x)`` and targets that are not negative; or a function
        ``f(y, z)`` of a target and a linear output, or a pair of it and its derivative by ``z``,
        summed over outputs. It is compiled and tried as an `activation` is.
    hidden_layer_sizes : int or array-like of int of shape (n_layers - 2,), default=(100,)
        Units of each hidden layer, from input to output. Empty for none, which makes a
        linear model.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, callable or (callable, callable), \
            default='relu'
        Activation of the hidden layers: ``x``, ``1 / (1 + exp(-x))``, ``tanh(x)`` or
        ``max(0, x)``; or a function of one number, or a pair of it and its derivative. numba
        compiles it (``pip install 'hotloop[numba]'``) in a second or two, and
        :mod:`hotloop.elementwise` has functions to make it of that are as fast as the kernels.
        A derivative that is not given is computed, with a warning: by complex steps, or by
        differences where the function compares, branches or calls what has no complex form.
        One that is given is compared with differences.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        How the weights are found: by 'adam' or stochastic gradient descent ('sgd') in
        mini-batches, or by 'lbfgs', a quasi-Newton method over all rows at once, which
        often is the best choice for small data sets.
    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights (not the biases),
        ``alpha / 2 * sum(w ** 2)``, divided by the sum of sample weights in the batch.
    batch_size : int or 'auto', default='auto'
        Rows in a mini-batch; 'auto' is ``min(200, n_samples)``. Not used by 'lbfgs'.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        How the rate of 'sgd' changes: it stays; it is
        ``learning_rate_init / (t_ + 1) ** power_t`` from each epoch's end on; or it is
        divided by 5 instead of stopping when `n_iter_no_change` says so, until it is below
        1e-6.
    learning_rate_init : float, default=0.001
        Step size at the start, of 'sgd' and 'adam'.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        Epochs at most; for 'lbfgs' iterations.
    shuffle : bool, default=True
        Whether 'sgd' and 'adam' go through the rows in a new order in every epoch.
    random_state : int, RandomState instance or None, default=None
        Decides on the initial weights, the rows of early stopping and the orders of
        epochs. An int gives the same result every time, and the one that scikit-learn's
        class gives for it.
    tol : float, default=1e-4
        Loss (or validation score) has to improve by this much to count as improved; for
        'lbfgs' the largest gradient entry at which it stops.
    verbose : bool, default=False
        Whether to print every epoch's loss.
    warm_start : bool, default=False
        Whether `fit` starts from the weights there are instead of random ones.
    momentum : float, default=0.9
        Of 'sgd', between 0 and 1.
    nesterovs_momentum : bool, default=True
        Whether that momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether 'sgd' and 'adam' set rows aside, stop by the score on those, and keep the
        weights of the best epoch.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping sets aside, in [0, 1).
    beta_1 : float, default=0.9
        Decay rate of the first moment in 'adam', in [0, 1).
    beta_2 : float, default=0.999
        Decay rate of the second moment in 'adam', in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment in 'adam'.
    n_iter_no_change : int or inf, default=10
        Epochs in a row that may fail to improve before 'sgd' and 'adam' stop.
    max_fun : int, default=15000
        Evaluations of the loss at most, by 'lbfgs'.
    precision : {'auto', 'float32', 'float64', 'bfloat16', 'bfloat16_emulated'}, default='auto'
        What is computed with: 'auto' follows X (float32 for float32, else float64), the
        others force. 'lbfgs' computes in float64 and rounds the result.

        'bfloat16' is for 'adam' and 'sgd' on processors with AVX512_BF16 and an error
        elsewhere; `hotloop.show_config()` tells. `fit` and `partial_fit` round weights,
        activations and gradients of activations to bfloat16 where they multiply matrices, and
        sum in float32, in which everything else is: `coefs_`, the moments of the solver, the
        loss, predictions and validation scores, and a first layer on sparse X.
        'bfloat16_emulated' does the same on any processor by float32 arithmetic, with the same
        products to the bit, and is slower than 'float32'.
    n_jobs : int or None, default=None
        Threads that share the work of `fit` and of predictions; the result has the same bits
        for any number. None and -1 stand for all processors that the process may use, or
        fewer if OMP_NUM_THREADS says so (joblib sets it in its workers), -2 for all but one.
        Never more than there are, nor than 256; the environment variable HOTLOOP_NUM_THREADS
        stands in for what there is. One in a daemonic process, as those of a
        ``multiprocessing.Pool`` are. Fits side by side share the processors.
    sparse_updates : {'exact', 'lazy'}, default='exact'
        What 'sgd' and 'adam' do, on sparse X, with the weights of a feature in batches that have
        nothing of it. 'exact': what they would do on the same X if it were dense, though later:
        when the feature comes up again, or the weights are read. 'lazy': nothing, so that
        momentum, moments and `alpha` work on a feature only in batches that have it; it is
        sooner, and another result.
    backend : {'auto', 'compiled', 'numba'}, default='auto'
        Who computes: the compiled kernels, or others that need numba
        (``pip install 'hotloop[numba]'``), take half a minute for each precision to compile when
        they are first used on a machine, have one thread whatever `n_jobs` says, and are 5 to 15
        times slower on it. Results are the same up to rounding. 'numba' has no bfloat16, and
        answers an interrupt after the step. 'auto' is 'compiled', but 'numba' in an install
        without compiled kernels, or what the environment variable HOTLOOP_BACKEND names.
    device : {'cpu', 'cuda', 'auto'}, default='cpu'
        Where to compute, in `fit` and in predictions. 'cuda' is an Nvidia GPU, by kernels that
        need numba (``pip install 'hotloop[cuda]'``); it computes in float32 and float64, has
        `backend` 'auto' only, and the result is that of the CPU up to rounding. Where there is no
        GPU it is an error: set 'cpu' to predict there with a model that was trained on one. See
        :func:`hotloop.fit_many` for many small models at once. 'auto' takes a GPU, if there is
        one, for steps (or predictions) of at least 5 MFLOP, which is 6 (2) times rows times
        weights: below that the CPU is done sooner.

        With 'cuda', arrays of CuPy, torch, numba and others that lie on the GPU are taken, by
        ``__cuda_array_interface__`` or DLPack. X is not copied, so it must be C-contiguous and of
        float32 or float64 (where the other is computed with, it is converted there); y and sample
        weights are copied to the host. With 'cpu' and 'auto' they are an error. Predictions and
        fitted attributes are NumPy arrays; under
        ``sklearn.set_config(array_api_dispatch=True)`` predictions are copied to X's device, as
        arrays of X's library (of numba, if scikit-learn does not know that library), except for
        labels that are strings or sparse.

    Attributes
    ----------
    loss_ : float
        Loss of the last epoch (mean over rows, penalty included), or at L-BFGS' end.
    best_loss_ : float or None
        The smallest loss of an epoch; None with early stopping. Not set by 'lbfgs', like
        the next three.
    loss_curve_ : list of float
        Loss of each epoch, over all calls that went on from each other.
    validation_scores_ : list of float or None
        R2 of each epoch on the rows set aside; None without early stopping.
    best_validation_score_ : float or None
        The largest of them.
    t_ : int
        Samples that have gone by in training.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer, of the dtype that was computed with. All arrays here and in
        `intercepts_` are row-major views of one vector; edit or replace them as you like.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; set if X had names that are strings.
    n_iter_ : int
        Epochs, or iterations of L-BFGS, of the last call.
    device_ : {'cpu', 'cuda'}
        Where the last call computed.
    n_layers_ : int
        Number of layers, the input counted as one.
    n_outputs_ : int
        Number of outputs.
    out_activation_ : str
        Activation of the output layer: 'identity' or 'exp'.

    See Also
    --------
    MLPClassifier : The same for class labels.

    Notes
    -----
    With scikit-learn 1.9 or later, callbacks given by ``set_callbacks`` are told of every
    epoch, by ``partial_fit`` of its one, and may stop the training.

    References
    ----------
    .. [1] Glorot, X. and Bengio, Y. (2010), "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS. Initial weights: equation 16.
    .. [2] Kingma, D. and Ba, J. (2014), "Adam: A method for stochastic optimization",
       arXiv:1412.6980. Algorithm 1, as rewritten at the end of section 2.
    .. [3] Sutskever, I., Martens, J., Dahl, G. and Hinton, G. (2013), "On the importance of
       initialization and momentum in deep learning", ICML. Section 2.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.model_selection import train_test_split
    >>> from hotloop import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=1)
    >>> regr = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X_train, y_train)
    >>> regr.predict(X_test[:2]).round()
    array([  29., -291.])
    >>> round(regr.score(X_test, y_test), 2)
    0.98
    """

    _parameter_constraints: ClassVar[dict] = {
        **MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson"}), callable, tuple],
    }

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        precision="auto",
        n_jobs=None,
        sparse_updates="exact",
        backend="auto",
        device="cpu",
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.precision = precision
        self.n_jobs = n_jobs
        self.sparse_updates = sparse_updates
        self.backend = backend
        self.device = device

    def _encoded(self, data: TrainingData, classes: Any, *, incremental: bool) -> TrainingData:
        return replace(data, target=validate.regression_target(data.target, self.loss))

    def _loss_of(self, data: TrainingData) -> spec.Loss:
        if isinstance(self.loss, str):
            return spec.LOSSES[self.loss]
        return spec.custom_loss(validate.function("loss", self.loss), "identity")

    def _score_rows(self, data: TrainingData, output: Array) -> float:
        if not np.isfinite(output).all():
            return float("nan")
        return _r2(data.target, output, data.sample_weight)

    @available_if(MultilayerPerceptron._check_solver)
    @_exclusive
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more, starting where the last call ended.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input, as for `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none of them negative. None stands for ones.

        Returns
        -------
        self : object
            The fitted estimator. If anything is raised it is left as it was before.

        Raises
        ------
        ValueError
            As `fit`; with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Predict numbers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), float32 or float64
            Flat for one output.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> from hotloop import MLPRegressor
        >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
        >>> regr = MLPRegressor(solver="lbfgs", random_state=0, max_iter=1000).fit(X, 3 * X.ravel())
        >>> regr.predict([[0.5]]).round(1)
        array([1.5])
        """
        output = self._predicted(X)
        return device_arrays.likewise(X, output.ravel() if output.shape[1] == 1 else output)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # (scikit-learn's check of several outputs fits negative targets whatever the tags say)
        tags.target_tags.multi_output = self.loss != "poisson"
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags


def _r2(y: Array, prediction: Array, sample_weight: Array | None) -> float:
    """Coefficient of determination, averaged over outputs, as `r2_score` has it.

    Parameters
    ----------
    y, prediction : ndarray of shape (n, O)
        What is, and what was predicted; finite.
    sample_weight : ndarray of shape (n,) or None
        Weights, not all zero.

    Returns
    -------
    float
        For an output that does not vary, 1 if all is right and else 0.
    """
    weight = 1.0 if sample_weight is None else sample_weight[:, np.newaxis]
    with np.errstate(all="ignore"):
        mean = np.average(y, axis=0, weights=sample_weight)
        error = np.sum(weight * (y - prediction) ** 2, axis=0)
        spread = np.sum(weight * (y - mean) ** 2, axis=0)
        scores = np.where(spread != 0, 1.0 - error / spread, 0.0)
    return float(np.mean(np.where(error != 0, scores, 1.0)))
