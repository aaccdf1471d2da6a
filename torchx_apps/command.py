"""From a verb of the command line to the roles of a TorchX job."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torchx
from torchx import specs
from torchx.components import dist
from torchx.specs.overlays import set_overlay

# key.path=value, whatever characters a surface's or a table's name has; an option begins with `-`.
OVERRIDE = re.compile(r"[A-Za-z_][^\s=]*=.*", re.DOTALL)


def with_overrides(arguments: Sequence[str], more: Iterable[str]) -> list[str]:
    """`arguments` of a verb and `more`; a key.path=value becomes `--set key.path=value`."""
    command = [*arguments]
    for each in more:
        command += ["--set", each] if OVERRIDE.fullmatch(each) else [each]
    return command


@dataclass(frozen=True)
class Command:
    """A role of a job: its name, and the arguments of `recsys` that it runs.

    `under`: a command that gets the role's own as its last arguments, and runs it.
    """

    role: str
    arguments: list[str]
    under: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """What all roles of a job share; the components' docstrings say what each means."""

    h: str
    name: str
    image: str = torchx.IMAGE
    j: str = "1x1"
    env: Mapping[str, str] | None = None
    max_restarts: int = 0
    max_retries: int = 0
    grace_seconds: int = 30
    rdzv_port: int = 29500
    mounts: list[str] | None = None

    def app(self, commands: Sequence[Command]) -> specs.AppDef:
        """One role a command, each started by torchrun."""
        apps = [self._torchrun(each) for each in commands]
        whole = apps[0]
        whole.roles = [role for app in apps for role in app.roles]
        return whole

    def _torchrun(self, command: Command) -> specs.AppDef:
        env = {
            # torchrun reads options that dist.torchrun has no argument for from here.
            "PET_MAX_RESTARTS": str(self.max_restarts),
            "PET_SHUTDOWN_TIMEOUT": str(self.grace_seconds),
            **(self.env or {}),
        }
        app = dist.torchrun(
            # Without the `--`, torchrun takes --run for a short form of an option of its own.
            *("--", *command.arguments),
            m="recsys.cli",
            image=self.image,
            name=self.name,
            h=self.h,
            j=self.j,
            env=env,
            max_retries=self.max_retries,
            rdzv_port=self.rdzv_port,
            mounts=self.mounts,
        )
        (only,) = app.roles
        only.name = command.role
        if command.under:
            (shell, own) = only.args
            only.args = [shell, f"{shlex.join(command.under)} {own}"]
        # Kubernetes waits as long as torchrun does, and a little longer.
        pod = {"spec": {"terminationGracePeriodSeconds": self.grace_seconds + 5}}
        set_overlay(only, "kubernetes", "V1Pod", pod)
        return app
