"""Processes that a verb starts: ranks, what they inherit, and what they said if they failed."""

import os
import sys

# Of a torchrun that this process may itself be in: what it starts is no part of that.
OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def python(module: str, *arguments: str, ranks: int = 1, torchrun: bool = False) -> list[str]:
    """The command that runs a module, under torchrun if there are several ranks or if asked."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    # `--`: torchrun would take an option of the module's for an abbreviation of one of its own.
    under = (*launcher, "-m", "--") if torchrun or ranks > 1 else ()
    return [sys.executable, "-m", *under, module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's, without what makes it a rank."""
    own = {key: value for key, value in os.environ.items() if key not in OF_A_RANK}
    return {**own, **more}


def reason(stderr: str) -> str:
    """The line in which recsys says what is wrong, or the last lines there are."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    own = next((line for line in lines if line.startswith("recsys: ")), None)
    errors = [line for line in lines if "Error" in line]
    return own.removeprefix("recsys: ") if own else " | ".join((errors or lines)[-3:])
