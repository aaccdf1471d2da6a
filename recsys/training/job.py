"""Which job a run directory belongs to.

torchrun starts a job's ranks again after one died, and a scheduler starts the whole job again after
a node was lost or the job was requeued. Such a job has to go on with what it has trained so far,
without anybody there to say --resume. Another job that is given the same --run by mistake must not.
What tells them apart is the id of the job: TorchX hands the scheduler's to torchrun as the id of
its rendezvous, and torchrun hands that to every rank.
"""

import json
import os

from recsys.files import write_json
from recsys.run_directory import RunDirectory


def job_id() -> str | None:
    """The id of the job of this process, the same after a restart; None if it has none."""
    own = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if own in ("", "none"):  # what torchrun says if nobody named the job
        return None
    # Slurm counts its jobs from 1 on every cluster.
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    return f"{cluster}/{own}" if cluster else own


def holds(run: RunDirectory) -> bool:
    """Whether the job of this process was the last to begin or resume this run."""
    own = job_id()
    if own is None or not run.job.is_file():
        return False
    return bool(json.loads(run.job.read_text(encoding="utf-8"))["job"] == own)


def take(run: RunDirectory) -> None:
    """Notes that the job of this process goes on with this run from here."""
    write_json(run.job, {"job": job_id()})
