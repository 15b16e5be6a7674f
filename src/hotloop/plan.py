"""Compiles a network into a table of op records with offsets into flat buffers.

A :class:`Plan` holds no weights and no pointers. Every choice is made here, once, and
recorded in the ops: layouts, chunk sizes, shards, what becomes of gradients. The engine decides how
other rows are shared out, the kernels nothing but whether a panel is copied before it is read
(product.h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hotloop.kernels import (
    ACTIVATIONS,
    DEFAULT_BACKEND,
    DTYPES,
    GRADIENTS,
    KINDS,
    LAYOUTS,
    LOSSES,
    OP_DTYPE,
    OPTIMIZERS,
    backend_of,
)
from hotloop.kernels import SCALARS as SCALARS
from hotloop.kernels.philox import threshold
from hotloop.matrices import Matrices
from hotloop.normalization import Normalizations
from hotloop.spec import KNOWN_BY_VALUE, BatchNorm, Function, Network, Optimizer
from hotloop.vectors import (
    LINE_BYTES,
    functions_of,
    layer_shapes,
    n_parameters,
    parameter_views,
    slot_fields,
)

#: Parameter groups: each has its own row of scalars in every step.
GROUPS = ("weight", "bias")
#: Numbers by which ops draw from the generator (abi.h), besides those of layers.
INPUT_DROPOUT, INPUT_NOISE, MIXUP = range(2**30, 2**30 + 3)

#: What products may read instead of float32, and the bytes of such a number.
ROUNDED, ROUNDED_BYTES = ("bfloat16", "bfloat16_emulated"), 2
#: Bytes of activations and deltas that one chunk of rows may take, to stay in a core's cache.
CHUNK_BYTES = 512 * 1024
#: A batch goes in one piece if inputs and outputs of each layer take no more: weights then pass
#: through the cache once.
BATCH_BYTES = 1536 * 1024
#: From so many rows on, the gradients of some units are summed together, so that each row is
#: fetched once for all; at most so many units. Under so many panels of outputs they pack the input
#: first: rows lie on more pages than the processor keeps track of.
GROUP_FROM_ROWS, MOST_GROUPED, PACK_FROM_PANELS = 512, 32, 32
#: A guess of what a lane of a vector does in a second, to tell short steps from long ones.
FLOPS_PER_LANE = 8e9
#: How long an interrupt may have to wait for an optimizer that has begun to change weights.
PATIENCE_SECONDS = 0.075
#: Steps that take less are never shared by threads, those that take more always.
SMALL_SECONDS, LARGE_SECONDS = 5e-6, 150e-6
#: What an entry of a CSR input takes, in dense inputs: its weights come from afar.
ENTRY_COST = 16
#: Features of a CSR input that a thread takes at a time.
FEATURES_GRAIN = 128
#: So few rows go one by one (row.h), through weights of so many bytes: an interrupt can wait.
FEW_ROWS, FEW_ROWS_BYTES = 4, 64 * 2**20
#: Parts of a batch whose gradients are summed apart in steps between these two, so that only sums
#: go from core to core, where rows hold so many times as much. Of two parts one core loses least.
SHARDS, SHARDED_FROM = 2, 4
#: On a GPU: shards are no more than make about so many tiles, of such a size, for all its cores.
MOST_TILES, SHARD_TILE = 512, 64
#: Rows of a batch of the gradient plan; part of what its bits depend on.
GRADIENT_ROWS = 512


@dataclass(frozen=True)
class CSRInput:
    """What a plan is to know of a CSR input besides its width.

    Attributes
    ----------
    lazy : bool
        Whether the weights of a feature, and their moments, stay as they are in the steps of
        batches that have nothing of it. Otherwise it takes those steps, too, when it is needed
        next: the result is that of dense input.
    row_entries : int or None
        About how many entries a row has, to guess how long a step takes; None: all.
    """

    lazy: bool = False
    row_entries: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled network: what an engine or any other backend needs to run it.

    Attributes
    ----------
    network : Network
        What was compiled.
    backend : str
        Who runs it; others would not find what lies in its buffers.
    dtype : numpy.dtype
        float32 or float64.
    operands : str
        What products of training read: the dtype's name, or a narrower one of `DTYPES`.
    optimizer : Optimizer or None
        None in a plan for gradients or predictions.
    ops, accumulate_ops, inference_ops, parameter_ops : ndarray of OP_DTYPE
        A training step, the same with gradients added to those of earlier batches, a forward
        pass, and one record a layer that says where its parameters are, then one for each vector of
        a normalization, see :func:`record_views`.
    evaluation_ops : ndarray of OP_DTYPE
        The forward pass and the losses of its rows, in a plan that has targets.
    catch_up_ops : ndarray of OP_DTYPE
        One op that takes all features to the present, in a plan that trains on CSR input.
    batch_size, chunk_rows, inference_rows : int
        Rows of a step, and rows that go through the ops together in training and inference.
    arena_bytes, inference_arena_bytes, store_bytes : int
        Sizes of the buffers the offsets in the ops point into.
    inference_scratch : int
        Where in the inference arena predictions copy a panel to.
    scratch_bytes : int
        Room that each thread needs for itself in a training step.
    few_rows : int
        So many rows at most may be predicted one by one.
    small_rows, large_rows, inference_small_rows : int
        Batches of fewer rows than the first take less time than sharing them out is worth, those
        of more than the second gain by it; in between the runner finds out.
    functions : tuple of Function
        The user's, in the order that ops number them by.
    constants : tuple of float
        Of the loss, from where its op says.
    views : mapping of str to (int, tuple)
        Where each parameter lies in the flat row-major vector: offset and shape.
    n_parameters : int
        Length of that vector, P.
    """

    network: Network
    backend: str
    dtype: np.dtype
    operands: str
    optimizer: Optimizer | None
    ops: np.ndarray = field(repr=False)
    accumulate_ops: np.ndarray = field(repr=False)
    inference_ops: np.ndarray = field(repr=False)
    evaluation_ops: np.ndarray = field(repr=False)
    parameter_ops: np.ndarray = field(repr=False)
    catch_up_ops: np.ndarray = field(repr=False)
    batch_size: int
    chunk_rows: int
    inference_rows: int
    arena_bytes: int
    inference_arena_bytes: int
    inference_scratch: int
    scratch_bytes: int
    small_rows: int
    large_rows: int
    inference_small_rows: int
    few_rows: int
    store_bytes: int
    functions: tuple[Function, ...]
    constants: tuple[float, ...]
    views: Mapping[str, tuple[int, tuple[int, ...]]] = field(repr=False)
    n_parameters: int

    @property
    def n_outputs(self) -> int:
        """Columns of predictions."""
        return int(self.inference_ops[-1]["O"])

    def __str__(self) -> str:
        names, dtypes = list(KINDS), list(DTYPES)
        columns = f"{'inputs':>8}{'outputs':>8}{'layout':>8}"
        lines = [f"{'op':<24}{'dtype':<18}{columns}  multiply-adds a row"]
        for op in self.ops if len(self.ops) else self.inference_ops:
            weighs = max(op["bias"], op["weight"]) >= 0
            work = int(op["I"] * op["O"]) if weighs else 0
            layout = list(LAYOUTS)[op["layout"]] if weighs else "-"
            columns = f"{op['I']:>8}{op['O']:>8}{layout:>8}"
            kind, dtype = names[op["kind"]].lower(), dtypes[op["dtype"]]
            lines.append(f"{kind:<24}{dtype:<18}{columns}  {work}")
        return "\n".join([*lines, f"{self.n_parameters} parameters"])


class _Buffer:
    """Hands out offsets of one growing buffer, each at a cache line."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def take(self, n_bytes: int) -> int:
        start = self.n_bytes
        self.n_bytes += -(-n_bytes // LINE_BYTES) * LINE_BYTES
        return start


class _Rows(NamedTuple):
    """Rows in the arena: where they start, and their stride in elements."""

    place: int
    ld: int


class _Lowering:
    """Turns dense layers into op records, and takes room for their buffers as it goes."""

    def __init__(
        self,
        network: Network,
        dtype: np.dtype | type,
        optimizer: Optimizer | None,
        *,
        sparse: bool | CSRInput,
        backend: str,
        operands: str | None = None,
        in_place: bool = False,
    ) -> None:
        self.network = network
        self.backend = backend
        self.runs = backend_of(backend)
        self.dtype = np.dtype(dtype)
        self.operands = operands or self.dtype.name
        if sparse and network.changes_input and optimizer:
            raise ValueError(
                "input_dropout, input_noise and mixup change whole rows, which need a dense X; of "
                "a sparse X drop outputs of hidden layers (dropout)."
            )
        self.rounds = self.operands != self.dtype.name
        self.optimizer = optimizer
        self.in_place = in_place
        self.sparse = bool(sparse)
        self.csr = sparse if isinstance(sparse, CSRInput) else CSRInput()
        self.sizes = self.runs.geometry(DTYPES[self.dtype.name])
        self.shapes = layer_shapes(network)
        self.functions = functions_of(network)
        self.trained = [k for k, layer in enumerate(network.layers) if layer.trained]
        self.store = _Buffer()
        self.clip_scale: int | None = None  # where the store has the factor that clips by norm
        self.slots = slot_fields(optimizer)
        self.norms = Normalizations(self)
        self.matrices = Matrices(self)
        self.network_size = sum(I * O for I, O in self.shapes)
        if self.sparse and self.csr.row_entries is not None:
            I, O = self.shapes[0]
            self.network_size -= max(0, I - self.csr.row_entries * ENTRY_COST) * O

    def padded(self, n: int) -> int:
        lanes = self.sizes["vector_lanes"]
        return -(-n // lanes) * lanes

    def layout(self, layer: int) -> str:
        """Rows under CSR input; narrow if lanes along the outputs would be mostly empty, but for
        rounded operands, which lie in pairs, and for matrices of Muon.
        """
        if self.sparse and layer == 0:
            return "rows"
        whole = self.rounds or layer in self.matrices.layers
        few = 2 * self.shapes[layer][1] <= self.sizes["vector_lanes"]
        return "narrow" if few and not whole else "panels"

    def narrow(self, layer: int) -> bool:
        return self.layout(layer) == "narrow"

    def products_of(self, layer: int) -> str:
        """What a layer's products read; rows of CSR are never rounded."""
        return self.dtype.name if self.sparse and layer == 0 else self.operands

    def stride(self, n: int, itemsize: int = 0) -> int:
        """Row stride for n columns: an odd number of cache lines, so that a column of rows
        spreads over all sets of the cache.
        """
        line = max(LINE_BYTES // (itemsize or self.dtype.itemsize), self.sizes["vector_lanes"])
        lines = -(-n // line)
        return (lines + 1 - lines % 2) * line

    def output_stride(self, layer: int) -> int:
        """A single output is stored without gaps, so that the loss has its lanes along rows."""
        last = layer == len(self.shapes) - 1
        single = last and self.shapes[layer][1] == 1 and self.narrow(layer)
        return 1 if single else self.stride(self.shapes[layer][1])

    def take(self, buffer: _Buffer, n: int) -> int:
        return buffer.take(n * self.dtype.itemsize)

    def take_rows(self, buffer: _Buffer, n_rows: int, ld: int) -> _Rows:
        return _Rows(self.take(buffer, n_rows * ld), ld)

    def record(self, kind: str, layer: int, **fields: int | float) -> np.ndarray:
        """An op of a layer with all that its kind does not change."""
        op = np.zeros((), OP_DTYPE)
        for name in OP_DTYPE.names:
            if OP_DTYPE[name] == np.int64 and name not in ("I", "O", "units"):
                op[name] = -1
        op["grain"] = 1
        op["kind"] = KINDS[kind]
        op["dtype"] = DTYPES[self.dtype.name]
        op["I"], op["O"] = self.shapes[layer]
        op["layout"] = LAYOUTS[self.layout(layer)]
        op["loss"], op["function"] = LOSSES[self.network.loss.name], -1
        op["l1_ratio"] = self.optimizer.l1_ratio if self.optimizer else 0
        op["weight_group"], op["bias_group"] = GROUPS.index("weight"), GROUPS.index("bias")
        for name, value in fields.items():
            op[name] = value
        return op

    def units(self, layer: int) -> int:
        I, O = self.shapes[layer]
        if self.layout(layer) == "rows":
            return -(-I // self.sizes["unit_rows"])
        if self.narrow(layer):
            return -(-self.padded(I) // self.sizes["narrow_columns"])
        most, rows = self.sizes["most_unit_rows"], self.sizes["unit_rows"]
        return self.panels(O) * (1 + max(0, -(-(I - most + 1) // rows)))

    def panels(self, n: int) -> int:
        return max(1, self.padded(n) // self.sizes["panel_width"])

    def parameter_fields(self, layer: int, *, train: bool, n_gradients: int) -> dict[str, int]:
        """Room in the store for a layer's parameters and all that goes with them."""
        I, O = self.shapes[layer]
        if self.layout(layer) == "rows":
            return self.row_fields(I, O, train=train, keep_gradient=n_gradients > 0)
        n_weight = O * self.padded(I) if self.narrow(layer) else self.padded(O) * I
        n_bias = self.padded(O)
        if self.in_place and not self.narrow(layer):
            return self.plain_fields(layer)
        fields = {"weight": n_weight, "bias": n_bias}
        for slot in slot_fields(self.optimizer):
            fields |= {f"weight_{slot}": n_weight, f"bias_{slot}": n_bias}
        if train and layer > 0 and not self.narrow(layer) and self.runs.mirrors:
            fields["mirror"] = self.padded(I) * O
        rounded = self.products_of(layer) != self.dtype.name
        if rounded and train:  # pairs are as wide as one element of the weight
            fields["operand"] = self.padded(O) * -(-I // 2)
            if layer > 0:
                fields["mirror"] = self.padded(I) * -(-O // 2)
        placed = {name: self.take(self.store, n) for name, n in fields.items()}
        if train:
            placed["squares"] = self.store.take(8 * self.units(layer))
        if n_gradients:
            start = self.store.n_bytes
            placed["weight_gradient"] = self.take(self.store, n_weight)
            placed["bias_gradient"] = self.take(self.store, n_bias)
            placed["shard_bytes"] = self.store.n_bytes - start
            self.store.take((n_gradients - 1) * placed["shard_bytes"])
        return placed | {"units": self.units(layer)}

    def plain_fields(self, layer: int) -> dict[str, int]:
        """The same where the weight is read from where the user has it."""
        bias = self.take(self.store, self.padded(self.shapes[layer][1]))
        return {"weight": -1 - layer, "bias": bias, "units": self.units(layer)}

    def row_fields(self, I: int, O: int, *, train: bool, keep_gradient: bool) -> dict[str, int]:
        """The same for a weight in rows; each lies beside the same row of the slots. Predictions
        alone read it in place always.
        """
        if not train:
            return self.plain_fields(0) | {"ld_weight": O}
        width, slots = self.padded(O), slot_fields(self.optimizer)
        stride = width * (1 + len(slots))
        weight = self.take(self.store, I * stride)
        placed = {"weight": weight, "ld_weight": stride, "bias": self.take(self.store, width)}
        for k, slot in enumerate(slots):
            placed[f"weight_{slot}"] = weight + (k + 1) * width * self.dtype.itemsize
            placed[f"bias_{slot}"] = self.take(self.store, width)
        if keep_gradient:
            placed["weight_gradient"] = self.take(self.store, I * width)
            placed["bias_gradient"] = self.take(self.store, width)
        placed["features"] = self.store.take(8 * I)
        if self.optimizer and 0 in self.trained:
            n_pieces = -(-I // FEATURES_GRAIN)
            placed["counts"] = self.store.take(8 * n_pieces * self.sizes["counted_steps"])
        else:
            placed["squares"] = self.store.take(8 * self.units(0))
        return placed | {"units": self.units(0)}

    def touched(
        self, kind: str, parameters: Mapping[str, int], **fields: int | float
    ) -> np.ndarray:
        """An op over the features that a batch touches, under CSR input."""
        return self.record(
            kind,
            0,
            **{
                **parameters,
                **self.optimizer_fields(),
                "units": -1,
                "grain": FEATURES_GRAIN,
                "lazy": self.csr.lazy,
                **fields,
            },
        )

    def optimizer_fields(self) -> dict[str, int | float]:
        optimizer = self.optimizer
        if optimizer is None:
            return {}
        if optimizer.rule not in OPTIMIZERS:
            raise TypeError(f"no kernel steps by {optimizer!r}")
        fields = {
            "optimizer": OPTIMIZERS[optimizer.rule],
            "beta_2": optimizer.beta_2,
            "epsilon": optimizer.epsilon,
            "extended": optimizer.extended,
            "clip_value": math.inf if optimizer.clip_value is None else optimizer.clip_value,
        }
        return fields if self.clip_scale is None else fields | {"clip_scale": self.clip_scale}

    def activation_fields(self, layer: int) -> dict[str, int]:
        """Of a layer's activation."""
        activation = self.network.layers[layer].activation
        if isinstance(activation, Function):
            function = self.functions.index(activation)
            return {"activation": ACTIVATIONS["custom"], "function": function}
        return {"activation": ACTIVATIONS[activation]}

    def forward(
        self,
        layer: int,
        parameters: Mapping[str, int],
        source: Mapping[str, int],
        output: _Rows,
        operands: str,
    ) -> np.ndarray:
        """The product, with its activation unless that follows a normalization."""
        sparse = self.sparse and layer == 0
        weight = "weight" if operands == self.dtype.name else "operand"
        own = self.activation_fields(layer)
        if layer in self.norms.places:
            own = {"bias": self.norms.zeros, "slope": -1}
        return self.record(
            "CSR_FORWARD" if sparse else "DENSE_FORWARD",
            layer,
            **{**parameters, **source, "weight": parameters[weight], **own},
            dtype=DTYPES[operands],
            output=output.place,
            ld_output=output.ld,
        )

    def inference(
        self, parameters: list[dict[str, int]], raw: bool, depth: int | None
    ) -> tuple[np.ndarray, int, _Buffer, int]:
        """Forward ops over two buffers in turn, of all layers or some; their rows, the arena they
        need, and where in it the scratch is, which has room for a panel of any weight that is read
        in place.
        """
        widest = max(self.output_stride(layer) for layer in range(len(self.shapes)))
        rows = _chunk_rows(2 * widest * self.dtype.itemsize) * self.runs.chunks
        arena, ops = _Buffer(), []
        in_panels = [I for k, (I, _) in enumerate(self.shapes) if self.layout(k) == "panels"]
        longest = min(max(in_panels, default=0), self.sizes["reduction"]) if self.in_place else 0
        widest_panel = self.sizes["panel_width"] + self.sizes["vector_lanes"]
        scratch = self.take(arena, longest * widest_panel)
        buffers = [self.take(arena, rows * widest) for _ in range(2)]
        source = {"from_stream": 1}
        for layer, fields in enumerate(parameters[:depth]):
            output = _Rows(buffers[layer % 2], self.output_stride(layer))
            ops.append(self.forward(layer, fields, source, output, self.dtype.name))
            ops += self.norms.predict(layer, arena, rows, output)
            source = {"input": output.place, "ld_input": output.ld}
        link = "identity" if raw or depth else self.network.loss.output_activation
        ops.append(
            self.record(
                "OUTPUT",
                layer,
                output=output.place,
                ld_output=output.ld,
                activation=ACTIVATIONS[link],
            )
        )
        return np.array(ops, dtype=OP_DTYPE), rows, arena, scratch

    def evaluation(
        self, inference: np.ndarray, ops: np.ndarray, arena: _Buffer, n_rows: int
    ) -> np.ndarray:
        """Forward ops, and after them the loss of a training step, which overwrites outputs that
        have been written to their stream.
        """
        loss, end = ops[ops["kind"] == KINDS["LOSS"]].copy(), inference[-1]
        loss["output"] = loss["d_output"] = end["output"]
        loss["ld_output"], loss["row_loss"] = end["ld_output"], self.take(arena, n_rows)
        return np.array([*inference, *loss], OP_DTYPE)

    def results(self, rows: Callable[[int], _Rows]) -> tuple[_Rows, list[_Rows], list[_Rows]]:
        """Where rows are gathered, and outputs and deltas of each layer are computed, by their
        strides. What is rounded right after has the same place for all.
        """
        strides = [self.output_stride(layer) for layer in range(len(self.shapes))]
        of_input = 0 if self.sparse else self.stride(self.shapes[0][0])
        if not self.rounds:
            outputs = [rows(ld) for ld in strides]
            return rows(of_input), outputs, [rows(ld) for ld in strides[:-1]] + outputs[-1:]
        shared = rows(max(of_input, *strides))
        outputs, d_outputs = [shared] * len(strides), [shared] * len(strides)
        if self.sparse and len(strides) > 1:
            d_outputs[0] = rows(strides[0])
        return shared, outputs, d_outputs

    def keeps_slopes(self, layer: int) -> bool:
        """Whether slopes are kept beside outputs, which do not tell them: of other activations than
        those known by value, and of outputs that are dropped.
        """
        made_by = self.network.layers[layer]
        return made_by.activation not in KNOWN_BY_VALUE or made_by.dropout > 0

    def slope_fields(self, layer: int, rows: Callable[[int], _Rows]) -> dict[str, int]:
        """Room for the slopes that a layer keeps beside its outputs."""
        if not self.keeps_slopes(layer):
            return {}
        slope = rows(self.stride(self.shapes[layer][1]))
        return {"slope": slope.place, "ld_slope": slope.ld}

    def training(
        self, parameters: list[dict[str, int]], batch_size: int, *, gradients: str
    ) -> tuple[np.ndarray, int]:
        """The ops of one step, rows first and parameters after, and the arena they need."""
        arena, last = _Buffer(), len(self.shapes) - 1
        rows = partial(self.take_rows, arena, batch_size)
        gathered, outputs, d_outputs = self.results(rows)
        row_loss = self.take(arena, batch_size)
        ops = []

        def operand(layer: int, n_columns: int, made: _Rows) -> _Rows:
            """Where products of a layer find rows that were just made; rounds them if need be."""
            if self.products_of(layer) == self.dtype.name:
                return made
            ld = self.stride(n_columns, ROUNDED_BYTES)
            kept = _Rows(arena.take(batch_size * ld * ROUNDED_BYTES), ld)
            buffers = {"input": made.place, "ld_input": made.ld, "output": kept.place}
            sizes = {"I": n_columns, "O": n_columns, "ld_output": ld}
            dtype = DTYPES[self.operands]
            ops.append(self.record("ROUND", layer, dtype=dtype, **buffers, **sizes))
            return kept

        sources: list[dict[str, int]] = [{}]
        if self.sparse:
            # The gradient of features that are not touched is zero: who sums it clears it first.
            mode = GRADIENTS["accumulate" if self.optimizer else "overwrite"]
            ops.append(
                self.record("CSR_INDEX", 0, **{**parameters[0], "units": 1, "gradient": mode})
            )
            if self.optimizer and not self.csr.lazy and 0 in self.trained:
                ops.append(self.catch_up(parameters[0]))
        else:
            ops += self.input_ops(gathered, rows)
            input = operand(0, self.shapes[0][0], gathered)
            sources[0] = {"input": input.place, "ld_input": input.ld}
        slopes: list[dict[str, int]] = []
        for layer, fields in enumerate(parameters):
            made, of = outputs[layer], self.products_of(layer)
            slopes.append(self.slope_fields(layer, rows))
            z = self.norms.input(layer, made, rows)
            ops.append(self.forward(layer, {**fields, **slopes[layer]}, sources[layer], z, of))
            ops += self.norms.forward(layer, (arena, batch_size), z, made, slopes[layer])
            ops += self.dropout_ops(layer, made, slopes[layer])
            if layer < last:
                input = operand(layer + 1, self.shapes[layer][1], made)
                sources.append({"input": input.place, "ld_input": input.ld})
        ops += self.loss_ops(outputs[last], row_loss, rows)
        deltas: dict[int, _Rows] = {}
        for layer in range(last, -1, -1):
            delta = deltas[layer] = operand(layer, self.shapes[layer][1], d_outputs[layer])
            if layer == self.trained[0]:
                break
            fields = {**parameters[layer], **sources[layer], **slopes[layer - 1]}
            ops.append(self.backward_input(layer, fields, delta, d_outputs[layer - 1]))
            through, d_outputs[layer - 1] = self.norms.backward(
                layer - 1, d_outputs[layer - 1], rows
            )
            ops += through
        ops += self.parameter_ops(parameters, sources, deltas, batch_size, gradients)
        return np.array(ops, dtype=OP_DTYPE), arena.n_bytes

    def input_ops(self, gathered: _Rows, rows: Callable[[int], _Rows]) -> list[np.ndarray]:
        """Rows of a dense input, and what becomes of them at random: mixup, noise, dropout."""
        network, output = self.network, {"output": gathered.place, "ld_output": gathered.ld}
        columns = {"O": self.shapes[0][0], **output}
        ops = [self.record("GATHER", 0, **output)]
        if network.mixup:
            partners = rows(gathered.ld)
            places = {"output": partners.place, "ld_output": partners.ld}
            ops.append(self.record("PARTNER_GATHER", 0, **places))
            ops.append(self.mix(columns, partners))
        if network.input_noise:
            noise = {"draw": INPUT_NOISE, "scale": network.input_noise}
            ops.append(self.record("NOISE", 0, **columns, **noise))
        if network.input_dropout:
            drop = self.drop_fields(INPUT_DROPOUT, network.input_dropout)
            ops.append(self.record("DROPOUT", 0, **columns, **drop))
        return ops

    def drop_fields(self, draw: int, rate: float) -> dict[str, int | float]:
        return {"draw": draw, "threshold": threshold(rate), "scale": 1 / (1 - rate)}

    def dropout_ops(self, layer: int, made: _Rows, slopes: Mapping[str, int]) -> list[np.ndarray]:
        """Drops outputs of a layer, if need be, and their slopes with them."""
        rate = self.network.layers[layer].dropout
        if not rate:
            return []
        output = {"output": made.place, "ld_output": made.ld, **slopes}
        return [self.record("DROPOUT", layer, **output, **self.drop_fields(layer, rate))]

    def loss_ops(
        self, made: _Rows, row_loss: int, rows: Callable[[int], _Rows]
    ) -> list[np.ndarray]:
        """From outputs to their deltas. Under mixup the losses by both targets of a pair are
        mixed: the second is computed from a copy of the outputs.
        """
        last, function = len(self.shapes) - 1, self.network.loss.function
        end = {"ld_output": made.ld}
        if function is not None:
            end["function"] = self.functions.index(function)
        places = {"output": made.place, "d_output": made.place, "row_loss": row_loss}
        loss = self.record("LOSS", last, **end, **places)
        if not self.network.mixup:
            return [loss]
        other, other_loss = rows(made.ld), rows(1)
        places = {"output": other.place, "d_output": other.place, "row_loss": other_loss.place}
        copied = {"input": made.place, "ld_input": made.ld}
        return [
            self.record("PARTNER_LOSS", last, **end, **copied, **places),
            loss,
            self.mix(
                {"O": self.shapes[last][1], "output": made.place, "ld_output": made.ld}, other
            ),
            self.mix({"O": 1, "output": row_loss, "ld_output": 1}, other_loss),
        ]

    def mix(self, columns: Mapping[str, int], partners: _Rows) -> np.ndarray:
        return self.record("MIX", 0, **columns, input=partners.place, ld_input=partners.ld)

    def backward_input(
        self, layer: int, fields: Mapping[str, int], delta: _Rows, d_input: _Rows
    ) -> np.ndarray:
        return self.record(
            "DENSE_BACKWARD_INPUT",
            layer,
            **{**fields, **self.activation_fields(layer - 1)},
            dtype=DTYPES[self.products_of(layer)],
            d_input=d_input.place,
            ld_d_input=d_input.ld,
            d_output=delta.place,
            ld_output=delta.ld,
        )

    def parameter_ops(
        self,
        parameters: list[dict[str, int]],
        sources: list[dict[str, int]],
        deltas: Mapping[int, _Rows],
        batch_size: int,
        gradients: str,
    ) -> list[np.ndarray]:
        """The rest of a step, after the gradients of the inputs."""
        ops, updates, matrices = [], [], self.matrices.ops(parameters)
        mode = "update" if gradients == "fused" else "overwrite"
        for layer in self.trained:
            fields = parameters[layer]
            if gradients == "sharded":
                fields = fields | {"shard_rows": -(-batch_size // self.shards(batch_size))}
            if layer in self.norms.places:
                fields = fields | {"bias": -1}  # NORM_UPDATE has it
            delta = {
                "d_output": deltas[layer].place,
                "ld_output": deltas[layer].ld,
                "gradient": GRADIENTS[mode],
            }
            if self.sparse and layer == 0:
                ops.append(self.touched("CSR_BACKWARD_WEIGHT", fields, **delta))
            else:
                delta |= sources[layer]
                if gradients == "sharded":
                    ops.append(self.record("DENSE_BACKWARD_SHARD", layer, **{**fields, **delta}))
                else:
                    ops.append(self.backward_weight(layer, fields, batch_size, **delta))
            if gradients != "fused" and self.optimizer:
                updates.append(self.update(layer, fields))
        if self.optimizer is None:
            return ops + self.norms.late
        return [
            *(*ops, *self.norms.late, *self.norm_ops(parameters), *matrices, *updates),
            *(*self.norms.updates(), *self.limit_ops(parameters)),
        ]

    def norm_ops(self, parameters: list[dict[str, int]]) -> list[np.ndarray]:
        """What finds the norm of all gradients, where they are clipped by it."""
        if self.clip_scale is None or self.optimizer is None:
            return []
        ops = [
            self.parameter_op(
                "GRADIENT_SQUARES",
                layer,
                fields | ({"bias": -1} if layer in self.norms.places else {}),
            )
            for layer, fields in enumerate(parameters)
            if layer in self.trained
        ]
        ops += self.norms.squares()
        ends = np.cumsum([int(op["units"]) for op in ops])
        start = self.store.take(8 * int(ends[-1]))
        for op, end in zip(ops, ends, strict=True):
            op["norms"] = start + 8 * int(end - op["units"])
        sums: dict[str, Any] = {"norms": start, "units": 1, "clip_norm": self.optimizer.clip_norm}
        total = self.record("GRADIENT_NORM", 0, **sums, clip_scale=self.clip_scale)
        total["I"] = ends[-1]
        return [*ops, total]

    def limit_ops(self, parameters: list[dict[str, int]]) -> list[np.ndarray]:
        """What keeps the incoming weights of every unit short. Their units are panels."""
        if self.optimizer is None or self.optimizer.max_norm is None:
            return []
        how = {"max_norm": self.optimizer.max_norm, "gradient": GRADIENTS["update"]}
        return [
            self.parameter_op(
                "MAX_NORM",
                layer,
                {**fields, **how, "units": 1 if self.narrow(layer) else self.panels(O)},
            )
            for layer, (fields, (_, O)) in enumerate(zip(parameters, self.shapes, strict=True))
            if layer in self.trained
        ]

    def parameter_op(self, kind: str, layer: int, fields: Mapping[str, int | float]) -> np.ndarray:
        """An op over the parameters of a layer, of the dtype of its products."""
        dtype = DTYPES[self.products_of(layer)]
        return self.record(kind, layer, **{**self.optimizer_fields(), **fields, "dtype": dtype})

    def records(self, parameters: list[dict[str, int]]) -> np.ndarray:
        """Where each layer's parameters are; what is not trained has no gradient to clip."""
        records = [
            self.record("UPDATE", layer, **fields, dtype=DTYPES[self.products_of(layer)])
            for layer, fields in enumerate(parameters)
        ]
        if self.optimizer:
            for layer in set(range(len(parameters))) - set(self.trained):
                records[layer]["weight_gradient"] = records[layer]["bias_gradient"] = -1
        return np.array([*records, *self.norms.records()], dtype=OP_DTYPE)

    def chunk_rows(self, arena_bytes: int, batch_size: int) -> int:
        """Rows that go through the ops of a step together."""
        widest = max(self.stride(I) + self.stride(O) for I, O in self.shapes)
        if batch_size * widest * self.dtype.itemsize <= BATCH_BYTES:
            return max(batch_size, 1)
        return _chunk_rows(arena_bytes // batch_size)

    def rows_of(self, seconds: float, *, passes: int) -> int:
        """About how many rows go forward, or forward and back (3 passes), in some time."""
        flops = 2 * passes * self.network_size * (2 if self.rounds else 1)  # if pairs are slow
        return math.ceil(seconds * self.sizes["vector_lanes"] * FLOPS_PER_LANE / flops)

    def may_shard(self) -> bool:
        """Touched features are a stage of their own, and pairs need the scratch of a thread."""
        return not (self.sparse or self.rounds)

    def shards(self, batch_size: int) -> int:
        """Parts of a batch whose gradients are summed apart. Where there are many cores: so many
        that a shard has rows enough, and all shards of a weight tiles enough.
        """
        if self.runs.shard_rows is None:
            return SHARDS
        tiles = sum(-(-I // SHARD_TILE) * -(-O // SHARD_TILE) for I, O in self.shapes)
        return max(SHARDS, min(-(-batch_size // self.runs.shard_rows), MOST_TILES // tiles))

    def gradients(self, batch_size: int) -> str:
        """What becomes of the gradients of such batches, see :func:`compile_training`."""
        if self.steps_on_whole_gradients():
            return "kept"
        if not self.runs.divides:
            wide = self.runs.shard_rows is not None and batch_size > self.runs.shard_rows
            if wide and self.may_shard():
                return "sharded"
            return "kept" if self.keeps_gradients() else "fused"
        if batch_size > self.rows_of(PATIENCE_SECONDS, passes=1):
            return "kept"
        least, most = (self.rows_of(s, passes=3) for s in (SMALL_SECONDS, LARGE_SECONDS))
        if not (self.may_shard() and least <= batch_size < most):
            return "fused"
        rows = batch_size * (self.shapes[0][0] + sum(2 * O for _, O in self.shapes))
        return "sharded" if rows >= SHARDED_FROM * self.network_size else "fused"

    def steps_on_whole_gradients(self) -> bool:
        """Whether an optimizer clips gradients by their norm, or makes matrices orthogonal."""
        clips = self.optimizer is not None and self.optimizer.clip_norm is not None
        return clips or len(self.matrices.layers) > 0

    def keeps_gradients(self) -> bool:
        """Whether an optimizer has its gradients kept whatever the batch: for their sums, or since
        its rule would be in the way of products there.
        """
        beyond = self.optimizer is not None and self.optimizer.extended and not self.runs.divides
        return beyond or self.steps_on_whole_gradients()

    def few_rows(self) -> int:
        n_bytes = self.network_size * self.dtype.itemsize
        few = not (self.sparse or self.functions or self.norms.places) and n_bytes <= FEW_ROWS_BYTES
        return FEW_ROWS if few else 0

    def packs_input(self, layer: int, batch_size: int) -> bool:
        if self.products_of(layer) != self.dtype.name:
            return True  # into pairs along the reduction
        wide = self.panels(self.shapes[layer][1]) >= PACK_FROM_PANELS
        return wide and batch_size >= GROUP_FROM_ROWS

    def scratch_bytes(self, ops: np.ndarray) -> int:
        """Room for the gradients of units that are summed together, and for what they pack."""
        scratch = _Buffer()
        dense = ops[np.isin(ops["kind"], (KINDS["DENSE_BACKWARD_WEIGHT"], KINDS["UPDATE"]))]
        self.take(scratch, int(dense["grain"].max(initial=0)) * self.sizes["unit_size"])
        if dense["pack_input"].any():
            self.take(scratch, self.sizes["packed_size"])
        if self.runs.divides:
            self.take(scratch, self.matrices.scratch())
        return scratch.n_bytes

    def backward_weight(
        self, layer: int, fields: Mapping[str, int], batch_size: int, **more: int
    ) -> np.ndarray:
        op = self.record(
            "DENSE_BACKWARD_WEIGHT",
            layer,
            **{**fields, **self.optimizer_fields(), **more},
            dtype=DTYPES[self.products_of(layer)],
            pack_input=self.packs_input(layer, batch_size),
        )
        if op["pack_input"] or (batch_size >= GROUP_FROM_ROWS and not self.narrow(layer)):
            halves = -(-self.panels(self.shapes[layer][1]) // 2)  # few pieces, but even ones
            op["grain"] = min(MOST_GROUPED, halves)
        return op

    def catch_up(self, fields: Mapping[str, int]) -> np.ndarray:
        return self.touched("CSR_CATCH_UP", fields, gradient=GRADIENTS["accumulate"])

    def update(self, layer: int, fields: Mapping[str, int]) -> np.ndarray:
        how = {"gradient": GRADIENTS["update"]}
        if self.layout(layer) == "rows":
            return self.touched("CSR_UPDATE", fields, **how)
        if layer in self.matrices.layers:
            return self.matrices.update(layer, {**fields, **how})
        return self.parameter_op("UPDATE", layer, {**fields, **how})


def _chunk_rows(row_bytes: int) -> int:
    """Rows that go through the ops together: as many as the cache holds, at least 48."""
    return max(48, CHUNK_BYTES // max(row_bytes, 1) // 12 * 12)


def _require_steps(lowering: _Lowering, gradients: str) -> None:
    """Refuse an optimizer that does not go with the input, or with what becomes of gradients."""
    optimizer = lowering.optimizer
    if optimizer is None:
        return
    unsummed = lowering.steps_on_whole_gradients() and gradients == "sharded"
    if unsummed or (lowering.keeps_gradients() and gradients == "fused"):
        raise ValueError(f'{optimizer!r} needs gradients="kept" here, got {gradients!r}.')
    for name in ("clip_norm", "max_norm"):
        if lowering.sparse and getattr(optimizer, name) is not None:
            raise ValueError(
                f"{name}={getattr(optimizer, name)!r} needs dense X: a step reads the weights of "
                f"all features, those that its batch has nothing of, too. Leave {name} at None, or "
                "pass X.toarray()."
            )


def _compile(
    lowering: _Lowering,
    *,
    batch_size: int = 0,
    gradients: str | None = None,
    raw: bool = False,
    depth: int | None = None,
) -> Plan:
    network = lowering.network
    gradients = gradients or lowering.gradients(batch_size)
    if gradients == "sharded" and not lowering.may_shard():
        raise ValueError('gradients="sharded" needs dense input and operands of the same dtype.')
    train = batch_size > 0
    _require_steps(lowering, gradients)
    kinds = {"fused": 0, "kept": 1, "sharded": lowering.shards(batch_size)}
    n_gradients = kinds[gradients] if train else 0
    parameters = [
        lowering.parameter_fields(layer, train=train, n_gradients=n_gradients)
        for layer in range(len(network.layers))
    ]
    lowering.norms.place(parameters, train=train)
    inference_ops, inference_rows, inference_arena, scratch = lowering.inference(
        parameters, raw, depth
    )
    ops, arena, evaluation_ops = np.zeros(0, OP_DTYPE), 0, np.zeros(0, OP_DTYPE)
    if lowering.optimizer and lowering.optimizer.clip_norm is not None:
        lowering.clip_scale = lowering.take(lowering.store, 1)
    if train:
        ops, arena = lowering.training(parameters, batch_size, gradients=gradients)
        evaluation_ops = lowering.evaluation(inference_ops, ops, inference_arena, inference_rows)
    accumulate_ops = ops.copy()
    accumulate_ops["gradient"] = GRADIENTS["accumulate"]
    parameter_ops = lowering.records(parameters)
    catch_up_ops = np.zeros(0, OP_DTYPE)
    if lowering.sparse and lowering.optimizer is not None and 0 in lowering.trained:
        catch_up_ops = np.array([lowering.catch_up(parameters[0])], OP_DTYPE)
    tables = (ops, accumulate_ops, inference_ops, evaluation_ops, parameter_ops, catch_up_ops)
    for table in tables:
        table.flags.writeable = False  # plans are shared
    return Plan(
        network=network,
        backend=lowering.backend,
        dtype=lowering.dtype,
        operands=lowering.operands,
        optimizer=lowering.optimizer,
        ops=ops,
        accumulate_ops=accumulate_ops,
        inference_ops=inference_ops,
        evaluation_ops=evaluation_ops,
        parameter_ops=parameter_ops,
        catch_up_ops=catch_up_ops,
        batch_size=batch_size,
        chunk_rows=lowering.chunk_rows(arena, batch_size),
        inference_rows=inference_rows,
        arena_bytes=arena,
        inference_arena_bytes=inference_arena.n_bytes,
        inference_scratch=scratch,
        scratch_bytes=lowering.scratch_bytes(ops) if train else 0,
        small_rows=lowering.rows_of(SMALL_SECONDS, passes=3),
        large_rows=lowering.rows_of(LARGE_SECONDS, passes=3),
        inference_small_rows=lowering.rows_of(SMALL_SECONDS, passes=1),
        few_rows=lowering.few_rows(),
        store_bytes=lowering.store.n_bytes,
        functions=lowering.functions,
        constants=network.loss.constants(network.n_outputs, train),
        views=parameter_views(network),
        n_parameters=n_parameters(network),
    )


def store_bytes(
    network: Network,
    dtype: np.dtype | type,
    optimizer: Optimizer | None,
    *,
    sparse: bool,
    backend: str = DEFAULT_BACKEND,
) -> int:
    """What the store of a plan that trains takes, known before anything is taken or compiled.

    Parameters
    ----------
    network : Network
    dtype : dtype
    optimizer : Optimizer or None
        None for a plan of gradients.
    sparse : bool
        Whether rows are to come as CSR.
    backend : str
        Who is to run it.
    """
    lowering = _Lowering(network, dtype, optimizer, sparse=sparse, backend=backend)
    kept = int(optimizer is None or lowering.keeps_gradients())
    parameters = [
        lowering.parameter_fields(layer, train=True, n_gradients=kept)
        for layer in range(len(lowering.shapes))
    ]
    lowering.norms.place(parameters, train=True)
    lowering.matrices.reserve()
    if lowering.runs.whole_csr_gradient and sparse and optimizer:
        I, O = lowering.shapes[0]
        lowering.take(lowering.store, I * O)
    return lowering.store.n_bytes


def compile_training(
    network: Network,
    *,
    dtype: np.dtype | type | str,
    batch_size: int,
    optimizer: Optimizer,
    sparse: bool | CSRInput = False,
    gradients: str | None = None,
    backend: str = DEFAULT_BACKEND,
) -> Plan:
    """Compile training steps of `batch_size` rows.

    Parameters
    ----------
    network : Network
        What to train.
    dtype : float32 or float64, or {"bfloat16", "bfloat16_emulated"}
        Of parameters, activations and gradients. The last two are float32 whose weights,
        activations and deltas are rounded for products. Sums, the optimizer's weights and moments,
        and the inference ops stay float32, and so does a first layer on CSR.
    batch_size : int
        Rows of a step; the last of an epoch may have fewer.
    optimizer : Optimizer
        The rule that updates the parameters.
    sparse : bool or CSRInput, default=False
        Whether X is CSR, and what more is to be said of it.
    gradients : {"fused", "kept", "sharded"} or None, default=None
        What becomes of a gradient: the optimizer runs on each piece of it while the cache has it;
        or after all of it was written to memory, which is the oracle of the first and can be given
        up half-way; or those of SHARDS parts of the batch are kept, each summed by the thread that
        has its rows in its cache, and the optimizer adds them up. None takes the second if a step
        is so long that an interrupt would have to wait for the first, and the third for short steps
        of dense input if it pays with two threads: no bit depends on how many there are.
    backend : {"compiled", "numba", "cuda"}
        Who is to run the plan; by default who HOTLOOP_BACKEND names, or "compiled".

    Returns
    -------
    Plan
    """
    operands = dtype if isinstance(dtype, str) and dtype in ROUNDED else None
    if operands and not backend_of(backend).rounds:
        raise ValueError(f"backend {backend!r} has no {operands}.")
    if operands and any(layer.normalization for layer in network.layers):
        raise ValueError(f"no normalization with {operands}; use float32 or float64.")
    kind = np.dtype(np.float32 if operands else dtype)
    lowering = _Lowering(
        network, kind, optimizer, sparse=sparse, operands=operands, backend=backend
    )
    return _compile(lowering, batch_size=batch_size, gradients=gradients)


def compile_gradients(
    network: Network,
    *,
    dtype: np.dtype | type,
    n_rows: int = GRADIENT_ROWS,
    sparse: bool = False,
    backend: str = DEFAULT_BACKEND,
) -> Plan:
    """Compile the loss and gradient of a whole data set, in batches of at most `n_rows` rows,
    so that there is no batch normalization.
    """
    if any(isinstance(layer.normalization, BatchNorm) for layer in network.layers):
        raise ValueError("the gradient of a whole data set is of many batches: no BatchNorm.")
    if network.draws:
        raise ValueError(
            "dropout, input_dropout, input_noise and mixup are for training in steps; the loss of "
            "all rows and its gradient are not drawn."
        )
    lowering = _Lowering(network, dtype, None, sparse=sparse, backend=backend)
    return _compile(lowering, batch_size=min(n_rows, GRADIENT_ROWS), gradients="kept")


def reads_in_place(plan: Plan, n_rows: int) -> bool:
    """Whether so many rows are predicted sooner without copying the weights first."""
    return backend_of(plan.backend).in_place and n_rows <= plan.inference_rows


def compile_inference(
    network: Network,
    *,
    dtype: np.dtype | type,
    sparse: bool = False,
    raw: bool = False,
    depth: int | None = None,
    in_place: bool = False,
    backend: str = DEFAULT_BACKEND,
) -> Plan:
    """Compile a forward pass; with `raw` the output activation is left out, and with a `depth` all
    but so many layers, whose outputs are then those of the plan.

    With `in_place` it reads weights where they lie, each thread panel by panel for each piece of
    the rows; see :func:`reads_in_place` (measured by benchmarks/predictions.py, "few").
    """
    if in_place and not backend_of(backend).in_place:
        raise ValueError(f"backend {backend!r} does not read weights in place.")
    lowering = _Lowering(network, dtype, None, sparse=sparse, in_place=in_place, backend=backend)
    return _compile(lowering, raw=raw, depth=depth)
