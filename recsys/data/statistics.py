"""What is fitted on the train split before training: vocabularies and statistics of numbers."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.encoding import Vocabulary
from recsys.errors import UserError
from recsys.files import whole_file, write_json

_NUMBERS = "numbers.json"


@dataclass(frozen=True)
class NumberStatistics:
    """Of the values of a number feature that are not null, before any transform.

    `std` divides by the number of values, and is 1 where they are all equal. `quantiles` are the
    values at 1/256, …, 255/256 of the distribution.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Statistics:
    """Fitted by `fit.fit`.

    `vocabularies` has one for each table with `encode: vocab` (its name is the key), `numbers` one
    for each number feature under a transform but `none`, by `level.name` (`candidate.duration_ms`).
    """

    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    numbers: dict[str, NumberStatistics] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes numbers.json, and vocabulary.TABLE.parquet (id, row) for each vocabulary."""
        for name, vocabulary in self.vocabularies.items():
            rows = pa.array(range(1, len(vocabulary.ids) + 1), pa.int64())
            with whole_file(_vocabulary(folder, name)) as beside:
                pq.write_table(pa.table({"id": vocabulary.ids, "row": rows}), beside)
        # Written last: where it exists, so do the vocabularies that it names.
        write_json(
            folder / _NUMBERS,
            {
                "vocabularies": list(self.vocabularies),
                "numbers": {key: asdict(found) for key, found in self.numbers.items()},
            },
        )

    @staticmethod
    def is_whole(folder: Path) -> bool:
        """Whether `save` got to its end there."""
        return (folder / _NUMBERS).is_file()

    @classmethod
    def load(cls, folder: Path) -> "Statistics":
        """Reads what `save` wrote. Raises `UserError` if a file is missing or broken."""
        try:
            document = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
            vocabularies = {}
            for name in document["vocabularies"]:
                with _vocabulary(folder, name).open("rb") as file:
                    table = pq.read_table(file).sort_by("row")
                vocabularies[name] = Vocabulary(table["id"].combine_chunks())
            numbers = {
                key: NumberStatistics(found["mean"], found["std"], tuple(found["quantiles"]))
                for key, found in document["numbers"].items()
            }
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or folder}: missing; train the run again") from None
        except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{folder}: broken ({reason}); train the run again") from None
        return cls(vocabularies, numbers)


def _vocabulary(folder: Path, table: str) -> Path:
    return folder / f"vocabulary.{table}.parquet"
