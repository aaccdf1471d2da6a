"""A program compiled ahead of time by AOTInductor, for processors like this machine's."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recsys.errors import UserError

Runner = Callable[..., dict[str, Tensor]]


def check_compiler() -> None:
    """Raises `UserError` if there is no C++ compiler to be found."""
    named = os.environ.get("CXX")
    if not any(shutil.which(each) for each in ([named] if named else ["g++", "clang++"])):
        raise UserError(
            f"--aot: no C++ compiler found ({named or 'g++ or clang++'}); install one, name one in "
            "CXX, or export without --aot"
        )


def compile_program(program: ExportedProgram, example: Mapping[str, Tensor], path: Path) -> None:
    """Writes the compiled package; minutes for a model of many layers. `example` is not kept."""
    check_compiler()
    program._example_inputs = ((), dict(example))
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    finally:
        program._example_inputs = None


def load_compiled(path: Path) -> Runner:
    """The package as a function that takes tensors by name; needs torch alone.

    It is machine code: load none from a source that you do not trust.
    """
    return torch._inductor.aoti_load_package(str(path))  # type: ignore[no-any-return]
