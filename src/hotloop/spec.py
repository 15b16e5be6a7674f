"""Frozen records that describe a network, its loss and its optimizer; data only, no arrays.

`fit` makes them from what the user wrote, :mod:`hotloop.plan` compiles them. A record
knows its own shapes and nothing of kernels, buffers or scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

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
    """

    name: str
    output_activation: str
    targets: str
    function: Function | None = None
    parameters: tuple[float, ...] = ()

    @property
    def heads(self) -> tuple[int, ...]:
        """Outputs of each softmax, where there are several side by side."""
        return tuple(map(int, self.parameters[1:])) if self.name == "joint_log_loss" else ()

    def target_shape(self, n_rows: int, n_outputs: int) -> tuple[int, ...]:
        """Shape of the target stream of so many rows."""
        if self.targets == "dense":
            return n_rows, n_outputs
        return (n_rows, len(self.heads)) if self.heads else (n_rows,)

    def constants(self, n_outputs: int) -> tuple[float, ...]:
        """The parameters, if they are as many as kernels will read."""
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
            Loss("poisson", "exp", "dense"),
            Loss("absolute_error", "identity", "dense"),
            Loss("huber", "identity", "dense", parameters=(1.0,)),  # delta
            Loss("log_cosh", "identity", "dense"),
            Loss("quantile", "identity", "dense", parameters=(0.5,)),  # level
            Loss("ordered_quantiles", "ordered", "dense"),  # a level for each output
            Loss("gamma", "exp", "dense"),
            Loss("tweedie", "exp", "dense", parameters=(1.5,)),  # power
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
class Dense:
    """A fully connected layer, ``activation(X @ weight + bias)``.

    Attributes
    ----------
    units : int
        Number of outputs, O.
    activation : str or Function
        One of :data:`ACTIVATIONS`, or the user's; ``"identity"`` for an output layer, whose
        activation belongs to the loss.
    """

    units: int
    activation: str | Function = "identity"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"Dense: units must be at least 1, got {self.units}.")
        if not isinstance(self.activation, Function) and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"Dense: activation must be one of {ACTIVATIONS}, got {self.activation!r}."
            )

    def out_shape(self, in_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one output row for one input row of shape ``(I,)``."""
        return (self.units,)

    def param_shapes(self, in_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, ``{"weight": (I, O), "bias": (O,)}``."""
        return {"weight": (in_shape[0], self.units), "bias": (self.units,)}


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
    """

    in_shape: tuple[int, ...]
    layers: tuple[Dense, ...]
    loss: Loss

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("Network: at least one layer is needed, got none.")
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

    @property
    def n_outputs(self) -> int:
        return self.layers[-1].units


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with (Nesterov) momentum; rate and momentum come per step."""

    nesterov: bool = True
    slots: ClassVar[tuple[str, ...]] = ("velocity",)
    corrects: ClassVar[bool] = False

    def corrected(self, rates: Any, momenta: Any, step: Any) -> Any:
        """Rates as kernels take them, of steps counted from 1: as they are."""
        return rates


@dataclass(frozen=True)
class Adam:
    """Adam as scikit-learn writes it, ``w -= rate * m / (sqrt(v) + epsilon)``.

    The bias corrections are folded into the per-step rate. beta_1 comes per step, in
    the place of the momentum.

    References
    ----------
    Kingma and Ba (2014), "Adam: A method for stochastic optimization", the rewriting
    at the end of section 2.
    """

    beta_2: float = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")
    corrects: ClassVar[bool] = True

    def corrected(self, rates: Any, momenta: Any, step: Any) -> Any:
        """Rates as kernels take them, of steps counted from 1: with both bias corrections."""
        return rates * (1.0 - self.beta_2**step) ** 0.5 / (1.0 - momenta**step)


Optimizer = SGD | Adam
