"""Feature → embedding rows: the one interface through which the blocks know embeddings.

Two implementations give the same rows for the same weights under the same state-dict names:
`ShardedLookup` for training (TorchRec collections, to be wrapped by `DistributedModelParallel`) and
`PlainLookup` for one process (ordinary tensors: evaluation, single-surface views).
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec.modules.embedding_configs import (
    DataType,
    EmbeddingBagConfig,
    EmbeddingConfig,
    PoolingType,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from recsys.config import TableConfig
from recsys.data.batch import Batch
from recsys.data.layout import REQUEST_BAGS, IdColumn, Layout, is_sequences

DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16}


def pool(rows: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Sums or averages runs of rows; an empty run gives 0.

    `rows [L, dim]`, `lengths [n]` of sum L → `[n, dim]`.
    """
    owner = torch.repeat_interleave(lengths, output_size=rows.shape[0])
    pooled = rows.new_zeros(lengths.shape[0], rows.shape[1]).index_add(0, owner, rows)
    if pooling == "mean":
        pooled = pooled / lengths.clamp(min=1).unsqueeze(1)
    return pooled


def initialise(weight: Tensor, std: float | None) -> Tensor:
    """Fills a table, or a shard of one, in place; without `std` as TorchRec does by default."""
    if std is None:
        bound = weight.shape[0] ** -0.5
        return nn.init.uniform_(weight, -bound, bound)
    return nn.init.normal_(weight, std=std)


def table_rows(table: TableConfig) -> int:
    """Rows stored for a table: one an id and row 0 for absent and unknown ids."""
    return table.rows + 1


class Lookup(nn.Module):
    """The interface: `forward(batch)` gives for each id feature, by its key, its rows.

    A request feature has shape `[R, dim]`, a candidate feature `[N, dim]` (multi-valued ones are
    pooled), a history field `[H, dim]`.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def only(self, keys: Collection[str]) -> "Lookup":
        """A lookup that reads these features' tables and no others, sharing their weights."""
        raise TypeError(f"{type(self).__name__} has no views; load the weights in a PlainLookup")


def _torchrec_pooling(columns: list[IdColumn]) -> PoolingType:
    """The one pooling of a bag table; a single id pools to itself either way."""
    poolings = {column.feature.pooling for column in columns} - {None}
    return PoolingType.MEAN if poolings == {"mean"} else PoolingType.SUM


def bag_runs(collection: str, batch: Batch) -> int:
    """Runs of a bag collection: R or N."""
    return batch.requests if collection == REQUEST_BAGS else batch.candidates


class Rows(nn.Module):
    """The outputs of TorchRec's collections → the rows of each feature, by its key.

    A module without weights: `torch.fx`, by which the sparse pipeline finds the collections, takes
    one that holds none of them as a whole.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, launched: dict[str, Any], batch: Batch) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = {}
        for name, output in launched.items():
            if is_sequences(name):
                for column in self.layout.ids_of(name):
                    values = output[column.key].values()
                    if column.multi_valued:
                        lengths = batch.bag_lengths[column.key]
                        values = pool(values, lengths, str(column.feature.pooling))
                    rows[column.key] = values
            else:
                runs = bag_runs(name, batch)
                # All rows, unless the batch is empty and one empty run stands in for none.
                rows |= {key: bags[:runs] for key, bags in output.to_dict().items()}
        return rows


class ShardedLookup(Lookup):
    """TorchRec collections: `EmbeddingCollection`s and `EmbeddingBagCollection`s, see `Layout`.

    `forward` hands the batch's `KeyedJaggedTensor`s to them as they are, so that the sparse
    pipeline can start the lookups of the next batch while this one computes.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "meta") -> None:
        super().__init__(layout)
        self.device = torch.device(device)
        self.rows = Rows(layout)
        self.collections = nn.ModuleDict()
        for collection in layout.collections:
            kind = EmbeddingCollection if is_sequences(collection) else EmbeddingBagCollection
            self.collections[collection] = kind(tables=self._tables(collection), device=self.device)

    def _tables(self, collection: str) -> list[EmbeddingConfig | EmbeddingBagConfig]:
        found: list[EmbeddingConfig | EmbeddingBagConfig] = []
        for name, table in self.layout.config.tables.items():
            if self.layout.collection_of.get(name) != collection:
                continue
            readers = [c for c in self.layout.ids_of(collection) if c.feature.id == name]
            common = {
                "name": name,
                "num_embeddings": table_rows(table),
                "embedding_dim": table.dim,
                "data_type": DATA_TYPES[table.dtype],
                "feature_names": [column.key for column in readers],
                "init_fn": partial(initialise, std=table.init_std) if table.init_std else None,
            }
            if is_sequences(collection):
                found.append(EmbeddingConfig(**common))
            else:
                found.append(EmbeddingBagConfig(**common, pooling=_torchrec_pooling(readers)))
        return found

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # All lookups are launched before any result is touched: under sharding each is an
        # awaitable, and their communication overlaps.
        launched = {name: module(batch.sparse[name]) for name, module in self.collections.items()}
        return self.rows(launched, batch)


class _Tables(nn.Module):
    """Ordinary tables under the names that a TorchRec collection gives them."""

    def __init__(self, attribute: str, tables: dict[str, nn.Embedding]) -> None:
        super().__init__()
        self.attribute = attribute
        setattr(self, attribute, nn.ModuleDict(tables))

    def items(self) -> Iterator[tuple[str, nn.Embedding]]:
        return iter(getattr(self, self.attribute).items())


class PlainLookup(Lookup):
    """Ordinary tensors and `F.embedding`, in one process.

    Args:
        layout: of the batches it will read.
        device: where the tables are allocated.
        keys: features to read; None reads all.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device | str = "cpu",
        keys: Collection[str] | None = None,
    ) -> None:
        super().__init__(layout)
        self.columns = [c for c in layout.ids if keys is None or c.key in keys]
        wanted = {column.feature.id for column in self.columns}
        tables = {
            name: nn.Embedding(table_rows(table), table.dim, device=device)
            for name, table in layout.config.tables.items()
            if name in wanted
        }
        for name, table in tables.items():
            initialise(table.weight, layout.config.tables[name].init_std)
        self._adopt(tables)

    def _adopt(self, tables: dict[str, nn.Embedding]) -> None:
        self.collections = nn.ModuleDict()
        for collection in self.layout.collections:
            attribute = "embeddings" if is_sequences(collection) else "embedding_bags"
            mine = {n: t for n, t in tables.items() if self.layout.collection_of[n] == collection}
            if mine:
                self.collections[collection] = _Tables(attribute, mine)

    @property
    def tables(self) -> dict[str, nn.Embedding]:
        """Table name → its weights."""
        groups = (group for group in self.collections.values() if isinstance(group, _Tables))
        return {name: table for group in groups for name, table in group.items()}

    def only(self, keys: Collection[str]) -> "PlainLookup":
        view = PlainLookup(self.layout, device="meta", keys=keys)
        wanted = {column.feature.id for column in view.columns}
        view._adopt({name: table for name, table in self.tables.items() if name in wanted})
        return view

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        tables = self.tables
        features = {name: batch.sparse[name].to_dict() for name in self.collections}
        rows: dict[str, Tensor] = {}
        for column in self.columns:
            collection = self.layout.collection_of[column.feature.id]
            jagged = features[collection][column.key]
            values = F.embedding(jagged.values(), tables[column.feature.id].weight)
            if column.multi_valued:
                # In a bag collection a run of ids is the feature; in the sequences it is a request.
                if is_sequences(collection):
                    lengths = batch.bag_lengths[column.key]
                else:
                    lengths = jagged.lengths()[: bag_runs(collection, batch)]
                values = pool(values, lengths, str(column.feature.pooling))
            rows[column.key] = values
        return rows
