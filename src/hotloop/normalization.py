"""How normalizations become op records: a part of :mod:`hotloop.plan`, which has the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from hotloop.kernels import COLUMN_STATISTICS, GRADIENTS, LAYOUTS, NORMALIZATIONS
from hotloop.spec import BatchNorm
from hotloop.vectors import NORM_START

RUNNING = ("mean", "variance")


class Normalizations:
    """Those of a network's layers, between their products and their activations.

    Parameters
    ----------
    lowering : plan._Lowering
        Whose ops they are among.
    """

    def __init__(self, lowering: Any) -> None:
        self.lowering = lowering
        self.layers = lowering.network.layers
        self.places: dict[int, dict[str, int]] = {}
        self.read: dict[int, dict[str, int]] = {}
        self.late: list[np.ndarray] = []
        self.zeros = self.unused = -1

    def width(self, layer: int) -> int:
        return self.lowering.padded(self.lowering.shapes[layer][1])

    def over_columns(self, layer: int) -> bool:
        return isinstance(self.layers[layer].normalization, BatchNorm)

    def place(self, parameters: list[dict[str, int]], *, train: bool) -> None:
        """Room in the store. Products of these layers have a bias of zeros: that of the layer is
        added after the normalization, which also has its gradient.
        """
        store = self.lowering.store
        sorts = [
            "",
            *(f"_{slot}" for slot in self.lowering.slots),
            *(["_gradient"] if train else []),
        ]
        for layer, fields in enumerate(parameters):
            if self.layers[layer].normalization is None:
                continue
            room = partial(self.lowering.take, store, self.width(layer))
            if train:
                fields["bias_gradient"] = room()
            places = {f"weight{sort}": room() for sort in sorts}
            places |= {f"bias{sort}": fields[f"bias{sort}"] for sort in sorts}
            if self.over_columns(layer):
                places |= {name: room() for name in RUNNING}
            self.places[layer] = places
        if self.places:
            widest = max(map(self.width, self.places))
            self.zeros, self.unused = (self.lowering.take(store, widest) for _ in range(2))

    def records(self) -> list[np.ndarray]:
        """Where each vector is, like the bias of a layer without a weight, in the order of the flat
        vector. Running statistics have no moments: what is said of these is put aside. They are
        averages as they are.
        """
        records = []
        for part in NORM_START:
            for layer, places in self.places.items():
                name = "weight" if part == "scale" else part
                if name not in places:
                    continue
                slots = {f"{name}_{slot}": self.unused for slot in self.lowering.slots}
                slots[f"{name}_average"] = places[name]
                fields = {"weight": places[name], "bias": places[name]}
                frozen = self.lowering.optimizer and layer not in self.lowering.trained
                for sort in (*self.lowering.slots, *([] if frozen else ["gradient"])):
                    place = (slots | places).get(f"{name}_{sort}", -1)
                    fields |= {f"weight_{sort}": place, f"bias_{sort}": place}
                layout = LAYOUTS["panels"]
                records.append(self.lowering.record("UPDATE", layer, I=0, layout=layout, **fields))
        return records

    def op(self, kind: str, layer: int, **fields: int | float) -> np.ndarray:
        """An op of a normalization, without its running statistics."""
        places = {k: v for k, v in self.places[layer].items() if k not in RUNNING}
        norm = self.layers[layer].normalization
        op = self.lowering.record(kind, layer, **{**places, "epsilon": norm.epsilon, **fields})
        op["I"], op["weight_group"] = 1, op["bias_group"]
        op["units"] = -(-self.width(layer) // self.lowering.sizes["panel_width"])
        columns = self.over_columns(layer)
        op["normalization"] = NORMALIZATIONS["batch_norm" if columns else "layer_norm"]
        return op

    def running(self, layer: int) -> dict[str, int]:
        """Places of running statistics, if there are any."""
        return {k: self.places[layer][k] for k in RUNNING if k in self.places[layer]}

    def input(self, layer: int, output: Any, rows: Callable[[int], Any]) -> Any:
        """Rows for the product of a layer: its output, or others to be normalized."""
        return rows(output.ld) if layer in self.places else output

    def reads(self, arena: Any, layer: int, n_rows: int, z: Any) -> dict[str, int]:
        """What ops read, and room for statistics of the columns of a batch, or of its rows."""
        n = COLUMN_STATISTICS * self.width(layer) if self.over_columns(layer) else 2 * n_rows
        statistics = self.lowering.take(arena, n)
        return {"input": z.place, "ld_input": z.ld, "statistics": statistics}

    def normalize(self, layer: int, output: Any, **fields: int) -> np.ndarray:
        """From what the product made to the output of its layer."""
        to = {"output": output.place, "ld_output": output.ld}
        how = self.lowering.activation_fields(layer)
        return self.op("NORMALIZE", layer, **{**to, **how, **fields})

    def predict(self, layer: int, arena: Any, n_rows: int, output: Any) -> list[np.ndarray]:
        """Ops of a layer whose product has just made so many rows; over them."""
        if layer not in self.places:
            return []
        fields = self.reads(arena, layer, n_rows, output) | self.running(layer)
        return [self.normalize(layer, output, **fields)]

    def forward(
        self, layer: int, room: tuple[Any, int], z: Any, output: Any, slopes: Mapping[str, int]
    ) -> list[np.ndarray]:
        """The same in training, with room for a batch in an arena of so many rows."""
        if layer not in self.places:
            return []
        read = self.read[layer] = self.reads(room[0], layer, room[1], z)
        first = [self.op("BATCH_STATISTICS", layer, **read)] if self.over_columns(layer) else []
        return [*first, self.normalize(layer, output, **read, **slopes)]

    def backward(
        self, layer: int, d_output: Any, rows: Callable[[int], Any]
    ) -> tuple[list[np.ndarray], Any]:
        """Ops between the delta of a layer's output and that of its product, and where this is.
        Over columns sums come first; over rows both deltas are kept, and sums can wait until no
        thread has to wait for them.
        """
        if layer not in self.places:
            return [], d_output
        first = self.over_columns(layer)
        d_input = d_output if first else rows(d_output.ld)
        delta = {"d_output": d_output.place, "ld_output": d_output.ld, **self.read[layer]}
        to = {"d_input": d_input.place, "ld_d_input": d_input.ld}
        sums = self.op("NORM_GRADIENT", layer, **delta)
        through = self.op("NORMALIZE_BACKWARD", layer, **delta, **to)
        if first:
            return [sums, through], d_input
        self.late.append(sums)
        return [through], d_input

    def squares(self) -> list[np.ndarray]:
        """What sums up the squares of the gradients of scales and biases."""
        ops = []
        for layer in self.places:
            if layer not in self.lowering.trained:
                continue
            op = self.op("GRADIENT_SQUARES", layer, **self.lowering.optimizer_fields())
            op["layout"], op["grain"] = LAYOUTS["panels"], 1
            op["units"] = self.lowering.panels(self.lowering.shapes[layer][1])
            ops.append(op)
        return ops

    def updates(self) -> list[np.ndarray]:
        """What steps on scales and biases, and takes note of the statistics of the batch; frozen
        layers are normalized by those, too, so theirs have to follow.
        """
        ops = []
        for layer, read in self.read.items():
            steps = layer in self.lowering.trained
            if not (steps or self.over_columns(layer)):
                continue
            norm = self.layers[layer].normalization
            fields = {**read, **self.running(layer), **self.lowering.optimizer_fields()}
            gradient = GRADIENTS["update" if steps else "overwrite"]
            op = self.op("NORM_UPDATE", layer, **fields, gradient=gradient)
            op["grain"] = max(1, op["units"])
            op["smoothing"] = norm.momentum if self.over_columns(layer) else 0.0
            ops.append(op)
        return ops
