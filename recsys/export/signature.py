"""The inputs of an exported program: plain named tensors, and how they map to a `Batch`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from recsys.config.features import Level
from recsys.data.batch import Batch
from recsys.data.layout import REQUEST_BAGS, IdColumn, Layout, is_sequences

# The dimension that each level counts, as the manifest names it.
COUNTS: Mapping[Level, str] = {
    "request": "requests",
    "candidate": "candidates",
    "history": "events",
}


@dataclass(frozen=True)
class Input:
    """One tensor. A dimension is a number, or the name of one that differs from call to call."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


class Signature:
    """The inputs of one surface's program.

    Each id feature is a tensor of table rows, with one of lengths if it is multi-valued; the number
    features of a level are one matrix of raw numbers with NaN for null. Candidates and events of
    all requests follow each other; `candidate_lengths` and `history_lengths` say whose they are.

    Args:
        layout: of a view's configuration, whose one surface is `layout.surfaces[0]`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._taken: set[str] = set()
        self.ids: dict[str, str] = {}
        self.bags: dict[str, str] = {}
        self.numbers: dict[Level, str] = {}
        self.inputs: list[Input] = []
        levels: list[Level] = ["request", "candidate"]
        self.lengths = {"candidate": self._add("candidate_lengths", "int64", ["requests"],
                                               "candidates of each request")}  # fmt: skip
        if layout.history_length:
            levels.append("history")
            meaning = f"events of each request, at most {layout.history_length}, the latest ones"
            self.lengths["history"] = self._add("history_lengths", "int64", ["requests"], meaning)
        for level in levels:
            self._add_ids(level)
            columns = [column.name for column in layout.numbers_of(level)]
            if columns:
                self.numbers[level] = self._add(
                    f"{level}_numbers",
                    "float32",
                    [COUNTS[level], len(columns)],
                    "raw numbers, NaN for null; columns: " + ", ".join(columns),
                )

    def _add_ids(self, level: Level) -> None:
        for column in self.layout.ids:
            if column.level != level:
                continue
            count, key = COUNTS[level], column.key
            rows = f"rows of table {column.feature.id}"
            if column.multi_valued:
                name = f"{level}_{column.name}"
                self.ids[key] = self._add(name, "int64", [f"ids of {name}"], rows)
                meaning = f"ids of each {level} in {self.ids[key]}"
                self.bags[key] = self._add(f"{name}_lengths", "int64", [count], meaning)
            else:
                self.ids[key] = self._add(f"{level}_{column.name}", "int64", [count], rows)

    def _add(self, name: str, dtype: str, shape: Sequence[str | int], meaning: str) -> str:
        """Adds an input under a name that is a Python identifier and not taken yet."""
        name = re.sub(r"\W", "_", name)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self.inputs.append(Input(name, dtype, tuple(shape), meaning))
        return name

    def __iter__(self) -> Iterator[Input]:
        return iter(self.inputs)

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.inputs]

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """The inputs for a batch of this surface, made with this layout."""
        found = {self.lengths["candidate"]: batch.candidate_lengths}
        if "history" in self.lengths:
            found[self.lengths["history"]] = batch.history_lengths
        for column in self.layout.ids:
            key = column.key
            collection = self.layout.collection_of[column.feature.id]
            jagged = batch.sparse[collection][key]
            found[self.ids[key]] = jagged.values()
            if key in self.bags:
                runs = batch.requests if collection == REQUEST_BAGS else batch.candidates
                lengths = batch.bag_lengths[key] if is_sequences(collection) else jagged.lengths()
                found[self.bags[key]] = lengths[:runs]
        numbers = {
            "request": batch.request_numbers,
            "candidate": batch.candidate_numbers,
            "history": batch.history_numbers,
        }
        found |= {name: numbers[level] for level, name in self.numbers.items()}
        return {name: found[name] for name in self.names}

    def batch(self, inputs: Mapping[str, Tensor]) -> Batch:
        """What the model reads besides embedding rows, from the inputs; traceable."""
        lengths = inputs[self.lengths["candidate"]]
        requests, candidates = lengths.shape[0], self._candidates(inputs)
        history_lengths = (
            inputs[self.lengths["history"]]
            if "history" in self.lengths
            else torch.zeros_like(lengths)
        )
        none = lengths.new_zeros(0, dtype=torch.float32)
        sizes = {"request": requests, "candidate": candidates, "history": 0}
        numbers = {
            level: inputs[self.numbers[level]]
            if level in self.numbers
            else none.new_zeros(size, 0)
            for level, size in sizes.items()
        }  # fmt: skip
        if "history" in self.lengths and "history" not in self.numbers:
            events = next(c for c in self.layout.ids if c.level == "history")
            numbers["history"] = none.new_zeros(inputs[self.ids[events.key]].shape[0], 0)
        index = torch.repeat_interleave(lengths, output_size=candidates)
        return Batch(
            sparse={},
            bag_lengths={},
            request_numbers=numbers["request"],
            candidate_numbers=numbers["candidate"],
            history_numbers=numbers["history"],
            history_lengths=history_lengths,
            candidate_lengths=lengths,
            request_index=index,
            request_surface_index=torch.zeros_like(lengths),
            surface_index=torch.zeros_like(index),
            labels=none,
            request_offsets=(0, requests),
            candidate_offsets=(0, candidates),
            longest_history=_room(history_lengths, 0, self.layout.history_length),
            most_candidates=_room(lengths, 1),
            passed=requests,
        )

    def _candidates(self, inputs: Mapping[str, Tensor]) -> int:
        """N, of an input that has a row a candidate."""
        return next(
            inputs[each.name].shape[0] for each in self.inputs if each.shape[0] == "candidates"
        )

    def columns(self) -> Iterator[tuple[IdColumn, str, str | None]]:
        """Each id feature with its input and that of its lengths."""
        for column in self.layout.ids:
            yield column, self.ids[column.key], self.bags.get(column.key)

    def document(self) -> list[dict[str, Any]]:
        """The inputs as the manifest describes them."""
        return [
            {"name": i.name, "dtype": i.dtype, "shape": list(i.shape), "meaning": i.meaning}
            for i in self.inputs
        ]


def _room(lengths: Tensor, least: int, most: int | None = None) -> int:
    """One more than the largest of `lengths [R]`, as a number that shapes may depend on; traceable.

    With room to spare, padded sizes are never 1, so that a compiler need not ask whether one
    broadcasts. `least` and `most` are known of the largest.
    """
    largest = cast(int, lengths.max().item())
    torch._check(largest >= least)
    if most is not None:
        torch._check(largest <= most)
    return largest + 1
