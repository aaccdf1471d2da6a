"""What lies where in a run's folder."""

from dataclasses import dataclass
from pathlib import Path

from recsys.config import Config, load_config
from recsys.errors import UserError


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run: `runs/NAME` unless the user says otherwise."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """The directory of an existing run; raises `UserError` if it is not one."""
        run = cls(Path(path))
        if not run.config_file.is_file():
            raise UserError(
                f"{path}: not a run directory (no config.yaml); give the --run of a train"
            )
        return run

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def job(self) -> Path:
        """The job that trains it, or trained it last."""
        return self.path / ".job.json"

    @property
    def config(self) -> Config:
        return load_config(self.config_file)

    @property
    def statistics(self) -> Path:
        """Vocabularies and number statistics, fitted on the train split."""
        return self.path / "statistics"

    @property
    def plan(self) -> Path:
        """The sharding plan in use."""
        return self.path / "plan.json"

    @property
    def warm_start(self) -> Path:
        """What was taken from another run."""
        return self.path / "warm_start.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: training steps and validations."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def predictions(self) -> Path:
        """One predictions table a split."""
        return self.path / "predictions"
