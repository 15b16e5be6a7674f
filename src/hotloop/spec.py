"""Frozen records that describe a network, its loss and its optimizer; data only, no arrays.

`fit` makes them from what the user wrote, :mod:`hotloop.plan` compiles them. A record
knows its own shapes and nothing of kernels, buffers or scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

#: Element-wise activations a hidden layer may have.
ACTIVATIONS = ("identity", "relu", "logistic", "tanh")


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

    The delta of the output layer is ``output - target`` for every pair below: each is
    the canonical pair of its distribution. A :class:`Network` refuses any other pair, so
    none can get a wrong gradient.

    Attributes
    ----------
    name : str
        The name plans and kernels know the pair by.
    output_activation : {"softmax", "logistic", "identity", "exp"}
        Activation of the output layer.
    targets : {"codes", "dense"}
        Whether the target stream is one int32 class code a row, shape (n,), or one
        number an output, shape (n, O).
    function : Function or None
        The user's, of "custom_loss": summed over outputs, before their activation.
    """

    name: str
    output_activation: str
    targets: str
    function: Function | None = None


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            Loss("log_loss", "softmax", "codes"),
            Loss("binary_log_loss", "logistic", "dense"),
            Loss("squared_error", "identity", "dense"),
            Loss("poisson", "exp", "dense"),
        )
    }
)


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
    """

    units: int
    activation: str | Function = "identity"
    normalization: Normalization | None = None
    trained: bool = True

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
    """

    in_shape: tuple[int, ...]
    layers: tuple[Dense, ...]
    loss: Loss

    def __post_init__(self) -> None:
        if not any(layer.trained for layer in self.layers):
            raise ValueError("Network: at least one layer that is trained is needed, got none.")
        if self.loss.function is None and LOSSES.get(self.loss.name) != self.loss:
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
