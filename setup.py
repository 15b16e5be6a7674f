"""Builds the kernels: one static library for each instruction set, one extension over them.

Metadata and every tool's settings are in pyproject.toml.
"""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
from setuptools import Extension, find_packages, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

X86 = "x86_64|amd64|AMD64"
ARM = "aarch64|arm64|ARM64"


class InstructionSet(NamedTuple):
    """One row of the table: the kernels are compiled once with its flags, and run where it fits."""

    name: str
    machines: str  # regular expression of the machines it exists on
    features: tuple[str, ...] = ()  # CPU features, by the names gcc has for them after -m
    tuning: tuple[str, ...] = ()  # further flags
    extends: str = ""  # the row whose kernels are used beside those of this one
    dtype: str = ""  # the only one that an extension has kernels for


#: Every instruction set, best first: the first one that the CPU has is taken at import, with all
#: its extensions that the CPU has, too.
INSTRUCTION_SETS = (
    InstructionSet(
        "avx512",
        X86,
        ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"),
        ("-mprefer-vector-width=512",),
    ),
    InstructionSet(
        "avx512_bf16",
        X86,
        ("avx512bf16", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"),
        ("-mprefer-vector-width=512",),
        extends="avx512",
        dtype="bfloat16",
    ),
    InstructionSet("avx2", X86, ("avx2", "fma")),
    InstructionSet("neon", ARM),  # a part of every 64-bit ARM
    InstructionSet("baseline", f"(?!{ARM}).*"),
)

#: What every file that is compiled here must run on, whatever CFLAGS says.
BASELINE = {X86: ["-march=x86-64", "-mtune=generic", "-mno-avx"], ARM: ["-march=armv8-a"]}

#: Bits must not depend on tile, batch or compiler: no contraction, no reassociation, no LTO.
EXACT = ["-fno-fast-math", "-ffp-contract=off", "-fno-math-errno"]
UNIX_FLAGS = [
    *("-std=c11", "-O3", "-g0", *EXACT, "-fno-lto"),  # with debug symbols 7 times as large
    *(
        "-fvisibility=hidden",
        "-fno-semantic-interposition",
        "-Wall",
        "-Wextra",
        "-Werror=switch",
        "-Werror=implicit-function-declaration",
    ),
]
CLANG_CL_FLAGS = ["/O2", "/std:c11", "/W3"]

if sysconfig.get_platform().endswith("universal2"):  # vector flags fit one architecture only
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    MACHINE = platform.machine()
else:
    MACHINE = sysconfig.get_platform().split("-")[-1]

TARGETS = [row for row in INSTRUCTION_SETS if re.fullmatch(row.machines, MACHINE)]
#: What dispatch.c expands: name and required features, in order of preference.
ISA_LIST = " ".join(
    f'HL_ISA({row.name}, "{" ".join(row.features)}")' for row in TARGETS if not row.extends
)
EXTENSION_LIST = " ".join(
    f'HL_EXTENSION({row.name}, "{" ".join(row.features)}", {row.extends}, {row.dtype})'
    for row in TARGETS
    if row.extends
)
#: Static libraries and extension are made anew when any of these is newer than they are.
DEPENDENCIES = ["setup.py", *sorted(glob("kernels/*.[ch]") + glob("kernels/*.pxi"))]


def compiler_flags(compiler, own=()):
    """Flags for all C code in the compiler's own manner; a library's own come last and win."""
    if compiler.compiler_type == "msvc":
        return [*CLANG_CL_FLAGS, *(f"/clang:{flag}" for flag in ["-O3", *EXACT, *own])]
    baseline = next((flags for arch, flags in BASELINE.items() if re.fullmatch(arch, MACHINE)), [])
    return [*UNIX_FLAGS, *baseline, *own]


def require_clang_cl(compiler):
    """On Windows take clang-cl, since cl.exe has no vector extensions."""
    if compiler.compiler_type == "msvc":
        compiler.initialize()
        compiler.cc = shutil.which("clang-cl")
        if compiler.cc is None:
            raise SystemExit("hotloop needs clang-cl to build on Windows: install LLVM.")


class BuildLibraries(build_clib):
    """Static libraries, each with its own flags and its own folder of object files."""

    def build_libraries(self, libraries):
        require_clang_cl(self.compiler)
        folder = self.build_temp
        for name, info in libraries:
            self.build_temp = str(Path(folder, name))
            flags = compiler_flags(self.compiler, info["cflags"])
            super().build_libraries([(name, {**info, "cflags": flags})])
        self.build_temp = folder


class BuildExtension(build_ext):
    """The Cython extension, which links the static libraries."""

    def build_extension(self, ext):
        require_clang_cl(self.compiler)
        ext.extra_compile_args = compiler_flags(self.compiler)
        if self.compiler.compiler_type == "msvc":
            # What __builtin_cpu_supports calls is in clang's runtime, unknown to link.exe.
            ask = ["clang", "--rtlib=compiler-rt", "-print-libgcc-file-name"]
            ext.extra_link_args.append(subprocess.check_output(ask, text=True).strip())
        else:
            # -Wextra has much to say about what Cython writes, and nothing we could mend.
            ext.extra_compile_args += ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]
            ext.libraries.append("m")
        super().build_extension(ext)


def static_library(name, sources, macros, flags=()):
    """A `libraries` entry of `setup`."""
    info = {"sources": sources, "macros": macros, "cflags": list(flags)}
    return f"hotloop_{name}", {**info, "obj_deps": {"": DEPENDENCIES}}


libraries = [
    static_library(
        "dispatch",
        ["kernels/dispatch.c", "kernels/threads.c"],
        [("HL_ISA_LIST", ISA_LIST), ("HL_EXTENSION_LIST", EXTENSION_LIST)],
    )
]
for row in TARGETS:
    flags = [f"-m{feature}" for feature in row.features] + list(row.tuning)
    dtypes = [row.dtype] if row.extends else ["float32", "float64", "bfloat16"]
    sources = [f"kernels/{dtype}.c" for dtype in dtypes]
    libraries.append(static_library(row.name, sources, [("HL_ISA_NAME", row.name)], flags))

engine = Extension(
    "hotloop.kernels.engine",
    ["kernels/engine.pyx"],
    include_dirs=["kernels", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    libraries=[name for name, _ in libraries],  # the dispatcher first: it calls the others
    depends=DEPENDENCIES,
)
engine.cython_c_in_temp = True  # the C that Cython writes stays out of the tree, and of the wheel

if os.environ.get("HOTLOOP_WITHOUT_EXTENSION"):  # for platforms without a C compiler: numba runs it
    libraries, extensions = [], []
else:
    extensions = [engine]

setup(
    packages=[*find_packages("src"), "hotloop.kernels"],
    package_dir={"": "src", "hotloop.kernels": "kernels"},
    libraries=libraries,
    ext_modules=extensions,
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtension},
)
