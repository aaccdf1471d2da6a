"""A view of one surface as a program of torch alone."""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recsys.config.export import Precision
from recsys.export.signature import Signature
from recsys.export.tables import stored
from recsys.model.lookup import Lookup, PlainLookup, pool
from recsys.model.named import NamedModules
from recsys.model.unified import UnifiedModel

LOGIT = "logit_"  # before the name of a task, in the outputs
# Where in the source a node comes from: paths of the machine that exported, and half of the file.
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class ServingModel(nn.Module):
    """A view with its tables as they are stored, from named tensors to named probabilities.

    The forward pass is the model's own. Outputs: `TASK`, the calibrated and corrected probability,
    float64 `[N]`, and `logit_TASK`, the logit before calibration, float32 `[N]`, for each task of
    the surface.

    Args:
        view: of one surface, on ordinary tensors.
        precisions: of each of its tables.
    """

    def __init__(self, view: UnifiedModel, precisions: Mapping[str, Precision]) -> None:
        super().__init__()
        assert isinstance(view.lookup, PlainLookup)
        self.signature = Signature(view.layout)
        self.tasks = view.layout.tasks
        self.tables = NamedModules(
            {
                name: stored(table.weight.detach(), precisions[name])
                for name, table in view.lookup.tables.items()
            }
        )
        # Without its lookup: the tables are stored once, above.
        towers = {surface: view.tower_of(surface) for surface in view.layout.surfaces}
        self.model = UnifiedModel(
            view.layout,
            Lookup(view.layout),
            view.trunk,
            towers,
            dict(view.calibrators.items()),  # type: ignore[arg-type]  # a ModuleDict is of modules
        )
        self.forward = self._by_name()

    def _by_name(self) -> Callable[..., dict[str, Tensor]]:
        """`forward` with one keyword a tensor: keywords have names and no order to get wrong."""

        def forward(**inputs: Tensor) -> dict[str, Tensor]:
            return self.probabilities(inputs)

        keyword = inspect.Parameter.KEYWORD_ONLY
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, keyword) for name in self.signature.names]
        )
        return forward

    def probabilities(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probability and logit of each task, each `[N]`."""
        rows = {}
        for column, name, lengths in self.signature.columns():
            found = self.tables[column.feature.id](inputs[name])
            if lengths is not None:
                found = pool(found, inputs[lengths], str(column.feature.pooling))
            rows[column.key] = found
        logits = self.model.score(self.signature.batch(inputs), rows)
        probabilities = logits.probabilities()
        found = {task: probabilities[:, t] for t, task in enumerate(self.tasks)}
        return found | {LOGIT + task: logits.raw[:, t] for t, task in enumerate(self.tasks)}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """A context in which no parameter wants a gradient."""
    wanted = [each for each in model.parameters() if each.requires_grad]
    for each in wanted:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in wanted:
            each.requires_grad_(True)


def export_program(model: ServingModel, example: Mapping[str, Tensor]) -> ExportedProgram:
    """Traces the model for any number of requests, candidates, events and ids.

    `example` is real or invented; it should have at least two of everything. It is not kept.
    """
    dims: dict[str, Dim] = {}
    shapes = {}
    for each in model.signature:
        named = {}
        for axis, size in enumerate(each.shape):
            if isinstance(size, str):
                least = 1 if size in ("requests", "candidates") else 0
                name = "".join(c if c.isalnum() else "_" for c in size)
                named[axis] = dims.setdefault(size, Dim(name, min=least))
        shapes[each.name] = named
    # Sizes of 0 and 1 are sizes like any other.
    oblivious = torch.fx.experimental._config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=True
    )
    with frozen(model), torch.no_grad(), oblivious:
        program = torch.export.export(
            model.eval(), (), dict(example), dynamic_shapes=shapes, strict=False
        )
    program._example_inputs = None  # they would be stored as a pickle
    for node in program.graph.nodes:
        for key in TRACES:
            node.meta.pop(key, None)
    return program


class PatientFile(io.FileIO):
    """A file that says only at its end that the disk was full.

    torch's writer of archives ends the process if its own destructor cannot write.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.error = error
        return size


def save_program(program: ExportedProgram, path: Path) -> None:
    """Writes a `.pt2`. Raises `OSError` if it cannot."""
    with PatientFile(path, "w") as file:
        torch.export.save(program, file)
        if file.error is not None:
            raise file.error


def load_program(path: Path) -> nn.Module:
    """The program as a module that takes tensors by name; needs torch alone."""
    return torch.export.load(path).module()
