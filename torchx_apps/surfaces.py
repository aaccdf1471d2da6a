"""What a job of one role a surface needs to know before it is submitted."""

from pathlib import Path

from torchx.components.dist import parse_nnodes
from torchx.specs import macros
from torchx.specs.finder import ComponentValidationException

from recsys.config import load_config
from recsys.run_directory import RunDirectory


def surfaces_of(run: str) -> list[str]:
    """The surfaces that a run is trained on.

    Raises an error of TorchX's, which its command line prints, if the config is not readable here.
    """
    config = RunDirectory(Path(run)).config_file
    if not config.is_file():
        raise ComponentValidationException(
            f"{config}: not found here; give --surfaces, or start torchx where the run is readable"
        )
    return list(load_config(config).active_surfaces)


def surface_job(run: str, surface: str, together: list[str]) -> list[str]:
    """The command under which a surface's own runs, so that what became of all is known."""
    return [
        *("python", "-m", "recsys.surface_job", "--run", run, "--job", macros.app_id),
        *("--surface", surface, "--of", ",".join(together), "--"),
    ]


def check_one_node(j: str) -> None:
    """Raises an error of TorchX's, which its command line prints, if `j` asks for several nodes.

    A scheduler tells every role the address of the first role's first node, so that the ranks of
    the others could not meet.
    """
    _, nodes, _, _ = parse_nnodes(j)
    if nodes != 1:
        raise ComponentValidationException(f"-j {j}: a surface runs on one node; give -j 1xRANKS")
