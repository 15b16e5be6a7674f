"""What abi.h says, read from its text: for installs without the compiled engine.

Offers what `engine` offers the package: the op record, the vocabularies, and that there are no
instruction sets.
"""

import re
from pathlib import Path

import numpy as np

_TEXT = Path(__file__).with_name("abi.h").read_text(encoding="utf-8")
#: Why there is none of what is compiled, and what to do.
ABSENT = "this install was built without compiled kernels; use 'numba'"
_FORMATS = {"int32_t": "i4", "int64_t": "i8", "double": "f8"}


def _rows(macro):
    """The arguments of every F(...) in an X-macro."""
    found = re.search(rf"#define {macro}\(F\)((?:.*\\\n)*.*\n)", _TEXT)
    if found is None:
        raise KeyError(macro)
    listed = re.sub(r"/\*.*?\*/", "", found.group(1))
    return [re.split(r",\s*", row) for row in re.findall(r"F\(([^)]*)\)", listed)]


def vocabulary(name):
    """Names of one of abi.h's vocabularies, a dict from name to value in order of the values."""
    return {row[0]: value for value, row in enumerate(_rows(f"HL_{name.upper()}"))}


#: The dtype of an op record: a C struct, so aligned.
OP_DTYPE = np.dtype([(name, _FORMATS[type_]) for type_, name in _rows("HL_OP_FIELDS")], align=True)
STAGES = tuple(stage for _, stage in _rows("HL_KINDS"))


def isa():
    """Name of the instruction set in use."""
    return "none"


def usable():
    """Names of the instruction sets that can run."""
    return []


def geometry(dtype):
    """Sizes that plans for compiled kernels are laid out by: there are none."""
    raise ValueError(f"backend='compiled' cannot be used: {ABSENT}.")


def provider(dtype):
    """Name of the set whose kernels are used for a value of the vocabulary ``dtypes``: none."""
    return None
