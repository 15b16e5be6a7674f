"""What host and device say to each other in arrays of numbers: names of their columns."""

from collections import namedtuple
from typing import Any

#: Columns of an op in a table: integers, offsets in elements. `meet`: whether all wait after it.
FIELDS = (
    *("kind", "meet", "activation", "loss", "gradient", "optimizer", "weight_group", "bias_group"),
    *("from_stream", "lazy", "I", "O", "input", "d_input", "output", "d_output", "ld_input"),
    *("ld_d_input", "ld_output", "row_loss", "ld_weight", "weight", "weight_slot_0"),
    *("weight_slot_1", "weight_gradient", "bias", "bias_slot_0", "bias_slot_1", "bias_gradient"),
    *("shard_rows", "shard_bytes", "function", "slope", "ld_slope", "first_constant", "draw"),
    "threshold",
)
AT: Any = namedtuple("AT", FIELDS)(*range(len(FIELDS)))
#: Of a model in a launch: where what it has begins in the arrays of all, and which records it runs.
PLACES = (
    *("store", "arena", "positions", "partials", "out", "X", "targets", "weights", "codes"),
    *("entries", "indptr", "columns", "first", "last", "order", "n", "ordered", "weighted"),
    *("report", "size", "inverted", "seed_low", "seed_high"),
)
JOB: Any = namedtuple("JOB", PLACES)(*range(len(PLACES)))
#: Of a record, which is a step, or the end of an epoch if it has no rows. `factor` takes the loss
#: of its rows to its share in the loss of the epoch, `penalty` is the L2 penalty's part in that.
#: `step` is the number of the step, for what is drawn; scalars follow.
_STEP = ("epoch", "start", "rows", "inverse_weight", "factor", "penalty", "accumulate", "step")
ENTRIES = (*_STEP, "scalars")
RECORD: Any = namedtuple("RECORD", ENTRIES)(*range(len(ENTRIES)))
#: What a model reports; the losses of its epochs follow. `ruled`: whether the stopping rule is on.
REPORTED = (
    *("loss", "squares", "epochs", "stopped", "steps", "ruled"),
    *("best", "tol", "failed", "patience", "losses"),
)
REPORT: Any = namedtuple("REPORT", REPORTED)(*range(len(REPORTED)))
