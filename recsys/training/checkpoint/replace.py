"""A checkpoint like another one but for some tensors."""

import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader

from recsys.files import write_json
from recsys.training.checkpoint import folder as places

METADATA = ".metadata"
ADDED = "replaced_"  # before the names of the files that hold the new tensors


def write_replaced(
    source: Path, target: Path, tensors: Mapping[str, Tensor], instead_of: tuple[str, ...]
) -> None:
    """Writes `target`, a folder that must not exist, from the complete checkpoint `source`.

    Files of tensors are linked, or copied to another file system: nothing is read but the metadata,
    however large the tables. `tensors` come in the place of all whose name begins with one of
    `instead_of`. Optimizer state, progress and sharding stay what they are.
    """
    target.mkdir(parents=True)
    for file in places.files_of(source):
        if file.name == METADATA:
            continue
        if file.name == places.STATE:
            shutil.copyfile(file, target / file.name)
        else:
            _link(file, target / file.name)
    metadata = FileSystemReader(str(source)).read_metadata()
    for index in [each for each in metadata.storage_data if each.fqn.startswith(instead_of)]:
        del metadata.storage_data[index]
    for known in (metadata.state_dict_metadata, metadata.planner_data):
        for name in [name for name in known if name.startswith(instead_of)]:
            del known[name]
    added = target / ".added"
    dcp.save(dict(tensors), checkpoint_id=str(added), no_dist=True)
    new = FileSystemReader(str(added)).read_metadata()
    for file in places.files_of(added):
        if file.name != METADATA:
            file.rename(target / (ADDED + file.name))
    metadata.state_dict_metadata |= new.state_dict_metadata
    metadata.planner_data |= new.planner_data
    metadata.storage_data |= {
        index: replace(each, relative_path=ADDED + each.relative_path)
        for index, each in new.storage_data.items()
    }
    shutil.rmtree(added)
    # As DCP writes it.
    with (target / METADATA).open("wb") as opened:
        pickle.dump(metadata, opened)
    sums = places.checksums(places.files_of(target))
    write_json(target / places.COMPLETE, {"sha256": sums})


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
