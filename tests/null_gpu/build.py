"""``python -m tests.null_gpu.build FOLDER``: compile the null GPU against the CUDA libraries of this Python's torch.

Needs gcc, nm (binutils) and CUDA's headers: those of ``CUDA_HOME``, of /usr/local/cuda*, or of pip's packages.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).with_name("src")
LIBRARY = "libnullgpu.so"
STANDS_FOR = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1")
"""Libraries of the driver, which a machine without a card lacks; the runtime's, of torch, are preloaded over."""
NOT_SUPPORTED, NCCL_INVALID_USAGE, SUCCESS = 801, 5, 0
CUDA_LIBRARIES, NCCL_LIBRARIES = "cu13", "nccl"
"""Folders of pip's packages."""
RUNTIME_LIBRARIES = (
    (CUDA_LIBRARIES, "libcudart.so.13", "cuda", NOT_SUPPORTED),
    (CUDA_LIBRARIES, "libcublas.so.13", "cublas", SUCCESS),
    (CUDA_LIBRARIES, "libcublasLt.so.13", "cublasLt", SUCCESS),
    (NCCL_LIBRARIES, "libnccl.so.2", "nccl", NCCL_INVALID_USAGE),
)
"""Package, library, prefix of its names, and what a function answers that is not written by hand: products succeed."""
SUCCEEDING_DRIVER_NAMES = ("cuTensorMapEncode", "cuLogs")


class BuildError(Exception):
    """Something to build the null GPU with is missing; the text is a sentence."""


def package(name: str) -> Path:
    """The folder of one of NVIDIA's packages that torch came with. Raises BuildError."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / name
        if (folder / "lib").exists():
            return folder
    raise BuildError("This Python has no torch for CUDA 13: pip install torch==2.14.1.")


def headers() -> Path:
    """A folder with cuda.h and what it includes. Raises BuildError."""
    home = os.environ.get("CUDA_HOME")
    places = [Path(home) / "include"] if home else []
    places += [each / "include" for each in sorted(Path("/usr/local").glob("cuda*"), reverse=True)]
    places.append(package(CUDA_LIBRARIES) / "include")
    for place in places:
        if (place / "cuda.h").exists() and (place / "crt" / "host_defines.h").exists():
            return place
    raise BuildError("CUDA's headers were not found: set CUDA_HOME to a CUDA 13 toolkit.")


def exported(library: Path) -> set[str]:
    """Names of the functions that a shared library defines."""
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    fields = (line.split() for line in listed.splitlines())
    return {name.split("@")[0] for _, kind, name in fields if kind == "T"}


def written_by_hand() -> set[str]:
    """Names of the functions in the sources."""
    pattern = re.compile(r"^PUBLIC [^(;=]*?\b(\w+)\(", re.MULTILINE)
    return {name for source in SOURCES.glob("*.c") for name in pattern.findall(source.read_text())}


def refused(have: set[str], include: Path) -> Iterator[tuple[str, int]]:
    """Every function that is not written by hand, and what it answers."""
    for of_package, library, prefix, answer in RUNTIME_LIBRARIES:
        for name in sorted(exported(package(of_package) / "lib" / library)):
            belongs_to_another = prefix == "cublas" and name.startswith("cublasLt")
            if name.startswith(prefix) and name not in have and not belongs_to_another:
                yield name, answer
    for name in sorted(set(re.findall(r"CUDAAPI (cu[A-Z]\w+)\(", (include / "cuda.h").read_text()))):
        if name not in have and not any(f"{name}_v{version}" in have for version in (2, 3, 4)):
            yield name, SUCCESS if name.startswith(SUCCEEDING_DRIVER_NAMES) else NOT_SUPPORTED


def build(folder: Path) -> Path:
    """Compile into ``folder``; the library. Raises BuildError, and CalledProcessError from the compiler."""
    include, have = headers(), written_by_hand()
    # Without the headers: the generated functions take no arguments, whatever these declare.
    stubs = ["#include <stdatomic.h>", "int null_gpu_refuse(const char *symbol, int answer, atomic_int *told);"]
    for name, answer in refused(have, include):
        refusal = f'static atomic_int told; return null_gpu_refuse("{name}", {answer}, &told);'
        body = "return 0;" if answer == SUCCESS else refusal
        stubs.append(f'__attribute__((visibility("default"))) int {name}(void) {{ {body} }}')
    folder.mkdir(parents=True, exist_ok=True)
    generated = folder / "stubs.c"
    generated.write_text("\n".join(stubs) + "\n")
    made = folder / f"{LIBRARY}.new"
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    sources = [*sorted(SOURCES.glob("*.c")), generated]
    folders = [f"-I{each}" for each in (SOURCES, include, package(NCCL_LIBRARIES) / "include")]
    subprocess.run(["gcc", *options, "-fno-builtin", *folders, "-o", made, *sources, "-ldl", "-lpthread"], check=True)
    made.replace(folder / LIBRARY)
    for name in STANDS_FOR:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(LIBRARY)
    return folder / LIBRARY


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1])))
    except BuildError as error:
        sys.exit(str(error))
