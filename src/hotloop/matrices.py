"""How steps along orthogonal matrices become op records: a part of :mod:`hotloop.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Rows of a product that a thread takes at a time: whole tiles, and whole vectors of every
#: instruction set, since a symmetric result is cut there.
PRODUCT_ROWS = 48


class Matrices:
    """Weights between hidden units that :class:`hotloop.spec.Muon` steps on, if it does the steps.

    Parameters
    ----------
    lowering : plan._Lowering
        Whose ops they are among.
    """

    def __init__(self, lowering: Any) -> None:
        self.lowering = lowering
        self.optimizer = lowering.optimizer
        orthogonalizes = self.optimizer is not None and self.optimizer.orthogonalizes
        #: Neither the first nor the last, and those that are trained.
        self.layers = [k for k in lowering.trained if 0 < k < len(lowering.shapes) - 1]
        self.layers *= orthogonalizes
        self.made: dict[int, int] = {}  # where the store has orthogonal matrices in the end

    def place(self, layer: int) -> list[int]:
        """Room for those of a layer in a step: twice Z, A, P, and sums of squares, of its units
        or, for who has no units, its rows.
        """
        lowering, shape = self.lowering, self.lowering.shapes[layer]
        short, long = sorted(shape)
        ld, store = lowering.stride(short), lowering.store
        places = [lowering.take(store, n * ld) for n in (long, long, short, short)]
        return [*places, store.take(8 * max(lowering.units(layer), shape[0]))]

    def reserve(self) -> None:
        """Room for those of all layers."""
        for layer in self.layers:
            self.place(layer)

    def ops(self, parameters: list[dict[str, int]]) -> list[np.ndarray]:
        """What makes orthogonal matrices, stage by stage, each for all layers that have one."""
        stages = [self.stages(layer, parameters[layer]) for layer in self.layers]
        return [op for stage in zip(*stages, strict=True) for op in stage]

    def stages(self, layer: int, fields: Mapping[str, int]) -> list[np.ndarray]:
        """The same of one layer."""
        lowering, optimizer = self.lowering, self.optimizer
        short, long = sorted(lowering.shapes[layer])
        source, target, gram, polynomial, norms = self.place(layer)
        a, b, c = optimizer.coefficients
        fields = {**lowering.optimizer_fields(), **fields, **self.fields(layer)}

        def product(kind: str, left: int, right: int, result: int, **how: float) -> np.ndarray:
            places = {"left": left, "right": right, "result": result}
            size = long if kind == "MUON_APPLY" else short
            cut = {"units": size, "grain": PRODUCT_ROWS}
            return lowering.record(kind, layer, **{**fields, **places, **how, **cut})

        start = {**fields, "norms": norms, "result": source, "epsilon": optimizer.least_norm}
        ops = [lowering.record(kind, layer, **start) for kind in ("MUON_SQUARES", "MUON_SCALE")]
        for _ in range(optimizer.iterations):
            ops += [
                product("MUON_GRAM", source, source, gram),
                product("MUON_POLYNOMIAL", gram, gram, polynomial, scale=c, shift=b),
                product("MUON_APPLY", source, polynomial, target, scale=1.0, shift=a),
            ]
            source, target = target, source
        self.made[layer] = source
        return ops

    def fields(self, layer: int) -> dict[str, int]:
        """Of all ops of a layer."""
        ld = self.lowering.stride(min(self.lowering.shapes[layer]))
        return {"ld_matrix": ld, "nesterov": self.optimizer.nesterov}

    def update(self, layer: int, fields: Mapping[str, int | float]) -> np.ndarray:
        """The step along what was made."""
        scale = self.optimizer.scale(*self.lowering.shapes[layer])
        how = {"left": self.made[layer], "scale": scale, **self.fields(layer)}
        return self.lowering.parameter_op("MUON_UPDATE", layer, {**fields, **how})

    def scratch(self) -> int:
        """Elements of a panel that a thread packs."""
        sizes, shapes = self.lowering.sizes, self.lowering.shapes
        longest = max((min(shapes[layer]) for layer in self.layers), default=0)
        return min(longest, sizes["reduction"]) * (sizes["panel_width"] + sizes["vector_lanes"])
