"""The command line: one verb, one function; no logic of its own."""

import os
import sys
import warnings

import typer

from recsys.cli.arguments import Json, print_result
from recsys.cli.data import data_app
from recsys.cli.evaluation import calibrate, evaluate, report
from recsys.cli.exports import drift, export, finetune, predict
from recsys.cli.training import ablate, plan, train
from recsys.errors import RankError, RunError, UserError
from recsys.logs import set_up_logging


def doctor(as_json: Json = False) -> None:
    """Versions, whether torch, torchrec and fbgemm-gpu match, devices; the fix of each fault."""
    from recsys.doctor import examine, print_examination

    found = examine()
    print_result(found, as_json, lambda console: print_examination(found, console))
    if found["faults"]:
        raise typer.Exit(1)


app = typer.Typer(
    name="recsys",
    help="One engagement model for every product surface, exported once per surface.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
for verb in (
    doctor, train, plan, evaluate, calibrate, report, predict, export, finetune, ablate, drift,
):  # fmt: skip
    app.command()(verb)


def main() -> None:
    """Runs the command line; exit code 0 done, 2 wrong input, 1 anything else."""
    set_up_logging()
    if "RECSYS_WARNINGS" not in os.environ:
        warnings.filterwarnings("ignore")
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), 1, alone=isinstance(error, RankError))
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str, code: int, alone: bool = False) -> None:
    # Unless it is of one rank alone, every rank of a job has the same message.
    if alone or os.environ.get("RANK", "0") == "0":
        print(f"recsys: {message}", file=sys.stderr)
    sys.exit(code)
