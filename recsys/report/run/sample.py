"""A sample of training batches of each surface, on which a run's model is looked into."""

from dataclasses import dataclass, field

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.layout import Layout
from recsys.data.reader import Reader
from recsys.data.statistics import Statistics
from recsys.run_directory import RunDirectory

BATCH = 1024
ENOUGH = 768  # candidates of a surface, in at least two parts
MOST = 10  # batches that are read


@dataclass
class Sample:
    """The parts of each surface, none of them empty."""

    layout: Layout
    parts: dict[str, list[Batch]] = field(default_factory=dict)

    def candidates(self, surface: str) -> int:
        return sum(batch.candidates for batch in self.parts.get(surface, ()))

    def is_enough(self, surface: str) -> bool:
        return self.candidates(surface) >= ENOUGH and len(self.parts[surface]) > 1


def sample(run: RunDirectory, config: Config) -> Sample:
    """Shuffled batches of the train split, until every surface has `ENOUGH` candidates.

    A surface keeps hardly more than that. Raises `UserError` if the split is not there (any more).
    """
    found = Sample(Layout(config))
    with Reader(config, "train", Statistics.load(run.statistics), batch_candidates=BATCH) as reader:
        for number, batch in enumerate(reader, 1):
            for s, surface in enumerate(found.layout.surfaces):
                if not found.is_enough(surface):
                    part = batch.of_surface(s)
                    if part.candidates:
                        found.parts.setdefault(surface, []).append(part)
            if number >= MOST or all(map(found.is_enough, found.layout.surfaces)):
                break
    return found
