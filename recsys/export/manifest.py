"""The manifest of an artefact: what it is, what it reads, where it comes from, and checksums."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.config import Config, IdFeature
from recsys.data.encoding import TableEncoder
from recsys.data.layout import Layout
from recsys.data.schema import column_name, features_of
from recsys.errors import UserError
from recsys.export.golden import rule
from recsys.export.program import LOGIT
from recsys.export.signature import Signature
from recsys.files import write_json

FORMAT = 1
MANIFEST = "manifest.json"
VERSION_LENGTH = 12  # hex digits


def sha256_of(value: Any) -> str:
    """Of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def schema_document(
    layout: Layout, signature: Signature, encoders: Mapping[str, TableEncoder]
) -> dict[str, Any]:
    """What goes in and out: columns of a request table, tensors, encodings with golden vectors."""
    config = layout.config
    tables = {}
    for name, encoder in encoders.items():
        tables[name] = {"dim": config.tables[name].dim, **rule(encoder)}
        if encoder.vocabulary is not None:
            kind = "string" if encoder.vocabulary.strings else "integer"
            file = f"statistics/vocabulary.{name}.parquet"
            tables[name] |= {"ids": kind, "vocabulary": file}
    outputs = [
        {
            "name": prefix + task,
            "dtype": dtype,
            "shape": ["candidates"],
            "meaning": f"{meaning} of {task}",
        }
        for prefix, dtype, meaning in (
            ("", "float64", "calibrated probability"),
            (LOGIT, "float32", "logit before calibration"),
        )
        for task in layout.tasks
    ]
    return {
        "features": _features(layout, signature),
        "inputs": signature.document(),
        "outputs": outputs,
        "tables": tables,
    }


def _features(layout: Layout, signature: Signature) -> list[dict[str, Any]]:
    """Columns of the request table, and which tensor each becomes."""
    found = []
    for each in features_of(layout):
        common: dict[str, Any] = {"column": column_name(each), "level": each.level}
        if isinstance(each.feature, IdFeature):
            key = f"{each.level}.{each.name}"
            encode = layout.config.tables[each.feature.id].encode
            ids = "int64" if encode == "none" else "int64 or string"
            found.append(
                {
                    **common,
                    "type": f"list<{ids}>" if each.feature.pooling else ids,
                    "required": each.feature.required,
                    "table": each.feature.id,
                    "pooling": each.feature.pooling,
                    "input": signature.ids[key],
                    "lengths": signature.bags.get(key),
                }
            )
        else:
            names = [column.name for column in layout.numbers_of(each.level)]
            found.append(
                {
                    **common,
                    "type": "number",
                    "required": each.feature.required,
                    "transforms": list(each.feature.number),
                    "transformed": "in the program",
                    "input": signature.numbers[each.level],
                    "position": names.index(each.name),
                }
            )
    return found


def architecture(config: Config) -> dict[str, Any]:
    """What of a view's configuration decides what its weights mean."""
    document = config.model_dump(mode="json", by_alias=True)
    return {key: document[key] for key in ("model", "surfaces", "features", "tables")}


def settings(config: Config) -> dict[str, Any]:
    """What of a view's configuration `predict`, `finetune` and `drift` go by, besides.

    Not where its run's data lay, nor the precision of its tables, which its recipe has.
    """
    document = config.model_dump(mode="json", by_alias=True)
    return {
        "data": {key: value for key, value in document["data"].items() if key != "root"},
        "export": {key: value for key, value in document["export"].items() if key != "embeddings"},
        "group": document["evaluation"]["group"],
    }


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of an artefact but the manifest."""
    return {
        name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for name, path in _files(folder)
    }


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix(), path


def write_manifest(folder: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the table of files and the manifest's own checksum, and writes it."""
    whole = {"format": FORMAT, **document, "files": file_table(folder)}
    whole["sha256"] = sha256_of(whole)
    write_json(folder / MANIFEST, whole)
    return whole


def read_manifest(folder: Path) -> dict[str, Any]:
    """An artefact's manifest. Raises `UserError` if there is none, or it is newer or broken."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        number = document["format"]
        newer = not isinstance(number, int) or number > FORMAT
    except FileNotFoundError:
        raise UserError(
            f"{folder}: not an export (no {MANIFEST}); give RUN/exports/SURFACE/VERSION"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({_one_line(error)}); export again") from None
    if newer:
        raise UserError(
            f"{path}: has format {number}, this recsys reads up to {FORMAT}; "
            "use the newer recsys that wrote it"
        )
    stated = document.pop("sha256", None)
    if stated != sha256_of(document):
        raise UserError(f"{path}: its checksum does not hold; copy the export again")
    return {**document, "sha256": stated}


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` that names the first file that is missing or not what was written."""
    for name, stated in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; copy the export again")
        if path.stat().st_size != stated["bytes"] or sha256_of_file(path) != stated["sha256"]:
            raise UserError(f"{path}: its checksum does not hold; copy the export again")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
