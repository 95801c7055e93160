"""Loaded by every Python that ``autofit run`` starts, directly or through a launcher: PYTHONPATH is inherited.

It imports the standard library alone. It waits until the program itself imports ``transformers.trainer``, and then
has autofit patch it; an interpreter that never does so pays about a millisecond.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
from types import ModuleType

JOB = os.environ.get("AUTOFIT_PROGRAM_JOB", "")
SERVES = "AUTOFIT_PROGRAM_SOCKET" in os.environ
ASKING = ("bitsandbytes", "torchao")
"""Packages that ask the GPU what it is when they are imported, and so open it."""
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib's equivalents resolve links


def _leave_mark(ending: str, text: str = "") -> None:
    pathlib.Path(JOB).with_suffix(ending).write_text(text, encoding="utf-8")


def _run_the_one_that_is_hidden() -> None:
    """There is one sitecustomize in an interpreter; this one must not replace the user's or the distribution's."""
    path = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


class _PatchesTrainer(importlib.abc.Loader):
    """Loads ``transformers.trainer`` as its own loader does, then has it patched."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _leave_mark(".patched")
        try:
            from autofit.worker.program.hook import patch
        except ImportError as error:
            _leave_mark(
                ".problem",
                f"The program's Python ({sys.executable}) has no autofit ({error}): install it there, "
                "pip install autofit-train.",
            )
            os._exit(1)
        patch(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _WaitsForTrainer(importlib.abc.MetaPathFinder):
    """A finder that steps aside as soon as ``transformers.trainer`` is asked for."""

    _answers_are_given = False

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in ASKING and SERVES and not self._answers_are_given:
            self._answers_are_given = True
            with contextlib.suppress(ImportError):  # said where the Trainer is imported
                importlib.import_module("autofit.worker.program.device").have_driver_answer()
        if fullname != "transformers.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchesTrainer(spec.loader)
        return spec


try:
    _run_the_one_that_is_hidden()
finally:
    if JOB:
        _leave_mark(".hooked")
        sys.meta_path.insert(0, _WaitsForTrainer())
