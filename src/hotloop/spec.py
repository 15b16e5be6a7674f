"""Frozen records that describe a network, its loss and its optimizer; data only, no arrays.

`fit` makes them from what the user wrote, :mod:`hotloop.plan` compiles them. A record
knows its own shapes and nothing of kernels, buffers or scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

#: Element-wise activations whose derivative is known from their value.
KNOWN_BY_VALUE = ("identity", "relu", "logistic", "tanh")
#: Those a hidden layer may have.
ACTIVATIONS = (
    *KNOWN_BY_VALUE,
    *("leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "mish"),
    *("softplus", "softsign", "hard_sigmoid", "hard_swish"),
)


@dataclass(frozen=True)
class Function:
    """A function of the user over single numbers.

    Attributes
    ----------
    kind : {"activation", "loss"}
        Of z, the sum that a unit makes; or of y, a target, and z, an output.
    value : callable
        Compiled by numba.
    derivative : callable or None
        Of the same arguments, by z; None where it is to be computed.
    """

    kind: str
    value: Callable[..., Any]
    derivative: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return getattr(self.value, "__qualname__", repr(self.value))


@dataclass(frozen=True)
class Loss:
    """A loss and the output activation (inverse link) it is derived through.

    A kernel makes loss and delta of a row from the outputs before their activation, so that the
    derivative is of the pair: ``output - target`` for the first four below, each the canonical pair
    of its distribution, and what `loss.h` says for the others. A :class:`Network` refuses any
    pair that is not below, so none can get a wrong gradient.

    Attributes
    ----------
    name : str
        The name plans and kernels know the pair by.
    output_activation : {"softmax", "logistic", "identity", "exp", "ordered", "softmaxes"}
        Activation of the output layer.
    targets : {"codes", "dense"}
        Whether the target stream is one int32 class code a row, shape (n,), or one a head,
        shape (n, heads); or one number an output, shape (n, O).
    function : Function or None
        The user's, of "custom_loss": summed over outputs, before their activation.
    parameters : tuple of float
        Constants of its formula; in the rows below, their defaults.
    least : float
        The smallest target there may be.
    above : bool
        Whether targets have to be larger than that.
    """

    name: str
    output_activation: str
    targets: str
    function: Function | None = None
    parameters: tuple[float, ...] = ()
    least: float = field(default=-math.inf, compare=False)
    above: bool = field(default=False, compare=False)

    @property
    def heads(self) -> tuple[int, ...]:
        """Outputs of each softmax, where there are several side by side."""
        return tuple(map(int, self.parameters[1:])) if self.name == "joint_log_loss" else ()

    def target_shape(self, n_rows: int, n_outputs: int) -> tuple[int, ...]:
        """Shape of the target stream of so many rows."""
        if self.targets == "dense":
            return n_rows, n_outputs
        return (n_rows, len(self.heads)) if self.heads else (n_rows,)

    def constants(self, n_outputs: int, trains: bool = True) -> tuple[float, ...]:
        """The parameters, if they are as many as kernels will read; predictions need heads only."""
        if not (trains or self.heads):
            return ()
        row = LOSSES.get(self.name)
        wanted = len(row.parameters) if row else 0
        if self.name == "ordered_quantiles":
            wanted = n_outputs
        if self.name == "joint_log_loss":
            wanted = 1 + len(self.heads)
            if sum(self.heads) != n_outputs or min(self.heads, default=0) < 1:
                raise ValueError(
                    f"{self.name} has heads of {self.heads} outputs, which have to be {n_outputs} "
                    "together, and each one at least."
                )
        if len(self.parameters) != wanted:
            raise ValueError(
                f"{self.name} of {n_outputs} outputs has {wanted} parameters, "
                f"got {self.parameters}."
            )
        return self.parameters


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            Loss("log_loss", "softmax", "codes"),
            Loss("binary_log_loss", "logistic", "dense"),
            Loss("squared_error", "identity", "dense"),
            Loss("poisson", "exp", "dense", least=0.0),
            Loss("absolute_error", "identity", "dense"),
            Loss("huber", "identity", "dense", parameters=(1.0,)),  # delta
            Loss("log_cosh", "identity", "dense"),
            Loss("quantile", "identity", "dense", parameters=(0.5,)),  # level
            Loss("ordered_quantiles", "ordered", "dense"),  # a level for each output
            Loss("gamma", "exp", "dense", least=0.0, above=True),
            Loss("tweedie", "exp", "dense", parameters=(1.5,), least=0.0),  # power
            Loss("binary_focal", "logistic", "dense", parameters=(2.0, 1.0, 1.0)),  # gamma, alphas
            Loss("binary_hinge", "identity", "dense"),
            Loss("binary_squared_hinge", "identity", "dense"),
            Loss("smooth_log_loss", "softmax", "codes", parameters=(0.1,)),  # share of all classes
            Loss("focal", "softmax", "codes", parameters=(2.0,)),  # gamma
            Loss("hinge", "identity", "codes"),
            Loss("squared_hinge", "identity", "codes"),
            Loss("joint_log_loss", "softmaxes", "codes"),  # share of all classes, outputs of heads
        )
    }
)


def loss_with(name: str, *parameters: float) -> Loss:
    """The loss of a name, with these parameters instead of their defaults."""
    return replace(LOSSES[name], parameters=tuple(map(float, parameters)))


def custom_loss(function: Function, output_activation: str) -> Loss:
    """The loss that a function of the user is, for targets that are numbers."""
    return Loss("custom_loss", output_activation, "dense", function)


@dataclass(frozen=True)
class BatchNorm:
    """Outputs of a layer's product over their mean and deviation in the batch; in predictions over
    running ones, which take the share `momentum` of each batch's.

    References
    ----------
    Ioffe and Szegedy (2015), "Batch normalization: Accelerating deep network training by
    reducing internal covariate shift", algorithms 1 and 2.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    vectors: ClassVar[tuple[str, ...]] = ("scale", "mean", "variance")


@dataclass(frozen=True)
class LayerNorm:
    """Outputs of a layer's product over their mean and deviation in the row.

    References
    ----------
    Ba, Kiros and Hinton (2016), "Layer normalization", equation 4.
    """

    epsilon: float = 1e-5
    vectors: ClassVar[tuple[str, ...]] = ("scale",)


Normalization = BatchNorm | LayerNorm


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, ``activation(X @ weight + bias)``, or with a normalization
    ``activation(scale * normalized(X @ weight) + bias)``.

    Attributes
    ----------
    units : int
        Number of outputs, O.
    activation : str or Function
        One of :data:`ACTIVATIONS`, or the user's; ``"identity"`` for an output layer, whose
        activation belongs to the loss.
    normalization : BatchNorm, LayerNorm or None
        Between product and activation; None for an output layer.
    trained : bool
        Whether steps change its parameters.
    dropout : float
        Rate at which training drops each output: it is 0, or else ``1 / (1 - dropout)`` times what
        it would be.
    """

    units: int
    activation: str | Function = "identity"
    normalization: Normalization | None = None
    trained: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"Dense: units must be at least 1, got {self.units}.")
        if not isinstance(self.activation, Function) and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"Dense: activation must be one of {ACTIVATIONS}, got {self.activation!r}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Dense: dropout must be in [0, 1), got {self.dropout!r}.")

    def out_shape(self, in_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one output row for one input row of shape ``(I,)``."""
        return (self.units,)

    def param_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, ``{"weight": (I, O), "bias": (O,)}``, then the vectors of the
        normalization.
        """
        vectors = self.normalization.vectors if self.normalization else ()
        shapes = dict.fromkeys(("bias", *vectors), (self.units,))
        return {"weight": (in_shape[0], self.units), **shapes}


@dataclass(frozen=True)
class Network:
    """Layers in order, and the loss the last one is trained by.

    Attributes
    ----------
    in_shape : tuple of int
        Shape of one input row, ``(I,)``.
    layers : tuple of Dense
        At least one; the last is the output layer and has identity activation.
    loss : Loss
        One of :data:`LOSSES`, or of :func:`custom_loss`.
    input_dropout, input_noise : float
        What training does to each input: drops it at a rate, after it added normal noise of such a
        standard deviation.
    mixup : float
        Before that training mixes each row with another of the batch, in a ratio drawn from
        Beta(mixup, mixup) for each step, and their losses likewise. 0 stands for no mixing.
    """

    in_shape: tuple[int, ...]
    layers: tuple[Dense, ...]
    loss: Loss
    input_dropout: float = 0.0
    input_noise: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not any(layer.trained for layer in self.layers):
            raise ValueError("Network: at least one layer that is trained is needed, got none.")
        row = LOSSES.get(self.loss.name)
        if self.loss.function is None and (
            row is None or replace(self.loss, parameters=row.parameters) != row
        ):
            raise ValueError(
                f"Network: loss must be one of the pairs in LOSSES ({', '.join(LOSSES)}), "
                f"got {self.loss!r}."
            )
        if self.layers[-1].activation != "identity":
            raise ValueError(
                "Network: the output layer's activation belongs to the loss "
                f"({self.loss.name} implies {self.loss.output_activation}); give the last layer "
                f"activation='identity', not {self.layers[-1].activation!r}."
            )
        if self.layers[-1].normalization is not None:
            raise ValueError("Network: the output layer has no normalization; leave it at None.")
        if self.layers[-1].dropout:
            raise ValueError("Network: outputs are never dropped; give the last layer dropout=0.")
        if not 0 <= self.input_dropout < 1:
            raise ValueError(
                f"Network: input_dropout must be in [0, 1), got {self.input_dropout!r}."
            )
        for name in ("input_noise", "mixup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Network: {name} must be 0 or more and finite, got {getattr(self, name)!r}."
                )

    @property
    def n_outputs(self) -> int:
        return self.layers[-1].units

    @property
    def changes_input(self) -> bool:
        """Whether training changes its input at random, which has to be dense then."""
        return bool(self.input_dropout or self.input_noise or self.mixup)

    @property
    def draws(self) -> bool:
        """Whether training draws random words."""
        return self.changes_input or any(layer.dropout for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What an optimizer's step does besides its rule, nothing by default.

    Attributes
    ----------
    weight_decay : float
        Decoupled: weights are multiplied by ``1 - rate * weight_decay`` before a step.
    l1_ratio : float
        Part of the penalty that is L1: ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w^2)``.
    clip_value : float or None
        Elements of a gradient lie between its negative and it.
    clip_norm : float or None
        The norm of all gradients together is no more.
    max_norm : float or None
        The norm of a unit's incoming weights is no more.
    average_decay : float or None
        Of an exponential moving average of all parameters, which is one more slot.
    beta_2, epsilon : float
        Of the rules that have them.
    """

    weight_decay: float = 0.0
    l1_ratio: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    max_norm: float | None = None
    average_decay: float | None = None
    beta_2: float = 0.0
    epsilon: float = 0.0
    #: The rule's name in the kernels, and what it keeps of each parameter.
    rule: ClassVar[str] = ""
    moments: ClassVar[tuple[str, ...]] = ()
    #: Whether the first kernels have the rule, and whether rates have bias corrections in them.
    plain: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    #: Whether weights between hidden units step along orthogonal matrices.
    orthogonalizes: ClassVar[bool] = False

    @property
    def slots(self) -> tuple[str, ...]:
        """What is kept of each parameter, by name."""
        return self.moments if self.average_decay is None else (*self.moments, "average")

    @property
    def extended(self) -> bool:
        """Whether an element's step is more than a plain rule; `max_norm` has an op of its own."""
        changes = (self.weight_decay, self.l1_ratio, self.clip_value, self.clip_norm)
        return not self.plain or any(changes) or self.average_decay is not None

    def corrected(self, rates: Any, momenta: Any, step: Any) -> Any:
        """Rates as kernels take them, of steps counted from 1: as they are."""
        return rates

    def correction(self, step: Any) -> Any:
        """What epsilon is multiplied by in steps counted from 1."""
        return np.ones_like(step)

    def scalars(self, rates: Any, momenta: Any, step: Any) -> dict[str, Any]:
        """What kernels take in steps counted from 1, by the names they have for it.

        Parameters
        ----------
        rates, momenta, step : ndarray of float64
            Of each step; any one shape.

        Returns
        -------
        dict of str to ndarray of that shape

        References
        ----------
        Of the average: Kingma and Ba (2014), "Adam: A method for stochastic optimization", section
        7.2, its bias correction folded into what is kept of it.
        """
        found = {"rate": self.corrected(rates, momenta, step), "momentum": momenta}
        if self.extended:
            found["shrink"] = 1.0 - rates * self.weight_decay
            found["correction"] = self.correction(step)
        if self.average_decay is not None:
            d = self.average_decay
            found["average"] = d * (1.0 - d ** (step - 1.0)) / (1.0 - d**step)
        return found


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum; rate and momentum come per step."""

    nesterov: bool = True
    moments = ("velocity",)
    plain = True

    @property
    def rule(self) -> str:  # type: ignore[override]
        """The rule's name in the kernels."""
        return "nesterov" if self.nesterov else "sgd"


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, ``w -= rate * m / (sqrt(v) + epsilon)``, its bias corrections folded into the rate.

    beta_1 comes per step, in the place of the momentum.

    Attributes
    ----------
    adds_to_corrected : bool
        Whether epsilon is added to the bias-corrected root, as PyTorch does, or to the root as it
        is, as scikit-learn does.
    amsgrad : bool
        Whether the largest v so far takes the place of v, as PyTorch has it.

    References
    ----------
    Kingma and Ba (2014), "Adam: A method for stochastic optimization", the rewriting
    at the end of section 2. Loshchilov and Hutter (2019), "Decoupled weight decay
    regularization". Reddi, Kale and Kumar (2018), "On the convergence of Adam and beyond".
    """

    beta_2: float = 0.999
    epsilon: float = 1e-8
    adds_to_corrected: bool = False
    amsgrad: bool = False
    corrects = True

    @property
    def moments(self) -> tuple[str, ...]:  # type: ignore[override]
        """What it keeps of each parameter."""
        both = ("first_moment", "second_moment")
        return (*both, "largest_moment") if self.amsgrad else both

    @property
    def plain(self) -> bool:  # type: ignore[override]
        """Whether the first kernels have the rule."""
        return not (self.adds_to_corrected or self.amsgrad)

    @property
    def rule(self) -> str:  # type: ignore[override]
        """The rule's name in the kernels."""
        return "amsgrad" if self.amsgrad else "adam"

    def corrected(self, rates: Any, momenta: Any, step: Any) -> Any:
        """Rates as kernels take them, of steps counted from 1: with both bias corrections."""
        return rates * (1.0 - self.beta_2**step) ** 0.5 / (1.0 - momenta**step)

    def correction(self, step: Any) -> Any:
        """What epsilon is multiplied by: the rate has a correction of the root, too."""
        return np.ones_like(step) if self.plain else (1.0 - self.beta_2**step) ** 0.5


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam with Nesterov momentum, by PyTorch's formulas; beta_1 comes as the momentum.

    References
    ----------
    Dozat (2016), "Incorporating Nesterov momentum into Adam".
    """

    beta_2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 0.004
    moments = ("first_moment", "second_moment")
    rule = "nadam"
    corrects = True

    def corrected(self, rates: Any, momenta: Any, step: Any) -> Any:
        """Rates of the first moment, of steps counted from 1."""
        factors, products = self._products(step + 1.0)
        share = momenta * factors / (1.0 - momenta ** (step + 1.0) * products)
        return rates * self.correction(step) * share

    def correction(self, step: Any) -> Any:
        """What epsilon is multiplied by: the rates have it in them, too."""
        return (1.0 - self.beta_2**step) ** 0.5

    def scalars(self, rates: Any, momenta: Any, step: Any) -> dict[str, Any]:
        """See the base class; there is a rate of the gradient, too."""
        factors, products = self._products(step)
        share = (1.0 - momenta * factors) / (1.0 - momenta**step * products)
        found = super().scalars(rates, momenta, step)
        return found | {"gradient_rate": rates * self.correction(step) * share}

    def _products(self, step: Any) -> tuple[Any, Any]:
        """Factors of beta_1 in steps counted from 1, and their products up to there."""
        products = _nadam_products(self.momentum_decay)
        # Later factors are 1, or the product is nothing already: it is the same to the last digit.
        place = np.minimum(step, len(products)).astype(int) - 1
        return 1.0 - 0.5 * 0.96 ** (step * self.momentum_decay), products[place]


@lru_cache(maxsize=16)
def _nadam_products(momentum_decay: float) -> np.ndarray:
    """Products of the factors of beta_1 up to each of the first steps."""
    step = np.arange(1, 20_001)
    return np.cumprod(1.0 - 0.5 * 0.96 ** (step * momentum_decay))


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradients over a moving root of their squares, by PyTorch's formulas.

    References
    ----------
    Tieleman and Hinton (2012), "Lecture 6.5: rmsprop", Coursera.
    """

    beta_2: float = 0.99
    epsilon: float = 1e-8
    moments = ("velocity", "second_moment")
    rule = "rmsprop"


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Gradients over the root of the sum of all their squares.

    References
    ----------
    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for online learning and
    stochastic optimization".
    """

    epsilon: float = 1e-10
    moments = ("sum_of_squares",)
    rule = "adagrad"


@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a momentum; beta_1 comes per step, in the place of the momentum.

    References
    ----------
    Chen et al. (2023), "Symbolic discovery of optimization algorithms", algorithm 2.
    """

    beta_2: float = 0.99
    moments = ("first_moment",)
    rule = "lion"


@dataclass(frozen=True)
class Muon(Adam):
    """Orthogonal steps for weights between hidden units, AdamW for all others and for biases.

    Its momentum comes per step. That of a weight between hidden units is kept in the place of the
    first moment; there is nothing in the place of the second.

    Attributes
    ----------
    nesterov : bool
        Whether the momentum is Nesterov's.
    beta_1 : float
        Of AdamW.
    adamw_rate : float
        The rate of AdamW as a part of the rate of the step.
    adjust_lr_fn : {"match_rms_adamw", "original"}
        How the rate depends on the shape of a weight.

    References
    ----------
    Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks". Liu et al.
    (2025), "Muon is scalable for LLM training", of "match_rms_adamw".
    """

    nesterov: bool = True
    beta_1: float = 0.9
    adamw_rate: float = 1.0
    adjust_lr_fn: str = "match_rms_adamw"
    adds_to_corrected: bool = True
    corrects = False
    orthogonalizes = True
    #: Of the iteration Z <- a Z + Z (b A + c A^2), A = Z' Z, which is done so many times, from a
    #: matrix that is divided by its norm, or by epsilon if that is larger.
    coefficients: ClassVar[tuple[float, float, float]] = (3.4445, -4.7750, 2.0315)
    iterations: ClassVar[int] = 5
    least_norm: ClassVar[float] = 1e-7

    def scale(self, n_inputs: int, n_outputs: int) -> float:
        """What the rate is multiplied by for a weight of this shape."""
        if self.adjust_lr_fn == "original":
            return max(1.0, n_outputs / n_inputs) ** 0.5
        return 0.2 * max(n_inputs, n_outputs) ** 0.5

    def scalars(self, rates: Any, momenta: Any, step: Any) -> dict[str, Any]:
        """See the base class; those of a matrix come besides those of AdamW."""
        betas = np.full_like(rates, self.beta_1)
        return super().scalars(self.adamw_rate * rates, betas, step) | {
            "matrix_rate": rates,
            "matrix_momentum": momenta,
            "matrix_shrink": 1.0 - rates * self.weight_decay,
        }
