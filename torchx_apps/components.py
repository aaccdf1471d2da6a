"""The jobs of this project as TorchX components: `torchx run -s SCHEDULER recsys.NAME …`.

Each runs a verb of the command line under torchrun, by TorchX's own `dist.torchrun`. TorchX makes
the `--help` of a component from its docstring and reads its arguments by their types.

TorchX refuses an option that is given twice, so that overrides of the configuration are positional
here: `torchx run recsys.train --config c.yaml training.epochs=2 data.root=logs`.
"""

from typing import Dict, List, Optional

import torchx
from torchx import specs

from torchx_apps.command import Command, Job, with_overrides
from torchx_apps.surfaces import check_one_node, surface_job, surfaces_of


def train(
    *overrides: str,
    config: str,
    run: Optional[str] = None,
    resume: bool = False,
    plan: Optional[str] = None,
    j: str = "1x1",
    h: str = "cpu_2",
    image: str = torchx.IMAGE,
    name: str = "recsys/train",
    env: Optional[Dict[str, str]] = None,
    max_restarts: int = 0,
    max_retries: int = 0,
    grace_seconds: int = 30,
    rdzv_port: int = 29500,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Trains one model on the logs of all surfaces.

    Example: torchx run -s local_cwd recsys.train --config configs/simulated.yaml --run runs/first
    -j 1x2 training.epochs=2

    A job that is restarted (max_restarts) or retried and requeued (max_retries) goes on from its
    newest checkpoint. Another job is refused the same run directory, unless it says --resume True.

    Args:
        overrides: keys of the configuration, last on the line: training.epochs=2 data.root=logs
        config: the experiment's YAML file, as the job sees it
        run: run directory, as the job sees it; on more than one node, one that all nodes share.
            runs/NAME if not given
        resume: go on with a run directory that another job began, or begin it
        plan: a sharding plan that recsys plan wrote, as the job sees it; made anew if not given
        j: nodes x ranks a node; 2x8 is 16 ranks. A GPU node has a rank a GPU
        h: the named resource that a node has: cpu_2, cpu_16, h100_8 or another registered one
        image: container image that has recsys installed; local_cwd and Slurm run what is on PATH
        name: of the job: EXPERIMENT/NAME
        env: environment of the ranks: A=1,B=2
        max_restarts: how often torchrun starts all ranks again, on the same nodes, after one died
        max_retries: how often the scheduler starts the job again (Slurm: requeue, Kubernetes:
            restart; local_cwd never does)
        grace_seconds: after SIGTERM, how long ranks have to write a checkpoint before they are
            killed; a scheduler may be less patient
        rdzv_port: where torchrun meets on the first of several nodes
        mounts: of a container: type=bind,src=/data,dst=/data,readonly
    """
    arguments = ["train", config]
    if run is not None:
        arguments += ["--run", run]
    if resume:
        arguments.append("--resume")
    if plan is not None:
        arguments += ["--plan", plan]
    job = Job(
        j=j,
        h=h,
        image=image,
        name=name,
        env=env,
        max_restarts=max_restarts,
        max_retries=max_retries,
        grace_seconds=grace_seconds,
        rdzv_port=rdzv_port,
        mounts=mounts,
    )
    return job.app([Command("train", with_overrides(arguments, overrides))])


def evaluate(
    *,
    run: str,
    split: str = "test",
    surface: Optional[str] = None,
    h: str = "cpu_2",
    image: str = torchx.IMAGE,
    name: str = "recsys/evaluate",
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Metrics of a run per surface and task, and its predictions table.

    Example: torchx run -s local_cwd recsys.evaluate --run runs/first --split valid

    Args:
        run: run directory, as the job sees it
        split: train, valid or test
        surface: this surface alone, by its view of the model; all of them if not given
        h: the named resource to run on: cpu_2, cpu_16, h100_8 or another registered one
        image: container image that has recsys installed; local_cwd and Slurm run what is on PATH
        name: of the job: EXPERIMENT/NAME
        env: environment of the process: A=1,B=2
        max_retries: how often the scheduler starts the job again
        mounts: of a container: type=bind,src=/data,dst=/data,readonly
    """
    arguments = ["evaluate", run, "--split", split]
    if surface is not None:
        arguments += ["--surface", surface]
    job = Job(h=h, image=image, name=name, env=env, max_retries=max_retries, mounts=mounts)
    return job.app([Command("evaluate", arguments)])


def tune(
    *arguments: str,
    config: str,
    topology: str,
    out: Optional[str] = None,
    h: str = "cpu_2",
    image: str = torchx.IMAGE,
    name: str = "recsys/tune",
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Searches sharding plans by estimate, then measures the best few by short training runs.

    Example: torchx run -s local_cwd recsys.tune --config configs/simulated.yaml --topology 1x2xcpu

    The job is one process on one node: it starts the ranks of the runs it measures itself.

    Args:
        arguments: more arguments of recsys plan, last on the line; key.path=value becomes --set
        config: the experiment's YAML file, as the job sees it
        topology: what to plan for: 1x2xcpu, 1x8xH100, or a YAML file as the job sees it
        out: where to write the best plan, for --plan of recsys.train
        h: the named resource to run on: cpu_2, cpu_16, h100_8 or another registered one
        image: container image that has recsys installed; local_cwd and Slurm run what is on PATH
        name: of the job: EXPERIMENT/NAME
        env: environment of the process: A=1,B=2
        max_retries: how often the scheduler starts the job again
        mounts: of a container: type=bind,src=/data,dst=/data,readonly
    """
    command = ["plan", config, "--topology", topology, "--tune"]
    if out is not None:
        command += ["--out", out]
    job = Job(h=h, image=image, name=name, env=env, max_retries=max_retries, mounts=mounts)
    return job.app([Command("tune", with_overrides(command, arguments))])


def each_surface(
    *arguments: str,
    verb: str,
    run: str,
    surfaces: Optional[List[str]] = None,
    j: str = "1x1",
    h: str = "cpu_2",
    image: str = torchx.IMAGE,
    name: str = "recsys/each_surface",
    env: Optional[Dict[str, str]] = None,
    max_retries: int = 0,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Runs `recsys VERB RUN --surface S` for every surface S, each as a role of its own.

    Example: torchx run -s local_cwd recsys.each_surface --verb evaluate --run runs/first
    --surfaces home,search -- --split valid

    The surfaces run at the same time; one that fails does not stop the others. The last shows what
    became of all, and the job fails if one did.

    Args:
        arguments: more arguments of the verb, last on the line; key.path=value becomes --set
        verb: a verb of the command line that takes RUN and --surface: export, finetune, evaluate
        run: run directory, as the job sees it
        surfaces: which surfaces: home,search. If not given, those of RUN/config.yaml, which then
            must be readable where torchx runs
        j: 1 x ranks, of each surface; a surface never takes more than one node
        h: the named resource that a surface gets: cpu_2, cpu_16, h100_8 or another registered one
        image: container image that has recsys installed; local_cwd and Slurm run what is on PATH
        name: of the job: EXPERIMENT/NAME
        env: environment of the processes: A=1,B=2
        max_retries: how often the scheduler starts the job again
        mounts: of a container: type=bind,src=/data,dst=/data,readonly
    """
    check_one_node(j)
    job = Job(j=j, h=h, image=image, name=name, env=env, max_retries=max_retries, mounts=mounts)
    command = with_overrides([verb, run], arguments)
    together = surfaces or surfaces_of(run)
    return job.app(
        [
            Command(
                f"{verb}-{surface}",
                [*command, "--surface", surface],
                under=surface_job(run, surface, together),
            )
            for surface in together
        ]
    )
