"""The Parquet files of a split, on any file system, and their row groups."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.config import Config
from recsys.errors import UserError

# Schemes that Arrow reads by itself; all others go through fsspec.
ARROW_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
FOOTER_THREADS = 16


@dataclass(frozen=True)
class RowGroup:
    """A row group: its file (a position in `Split.files`), its number there, and its size.

    `candidates` counts an empty list as one candidate: it is taken from the footer, not the data.
    """

    file: int
    index: int
    requests: int
    candidates: int


@dataclass(frozen=True)
class Split:
    """The files of a split, sorted by path. This order of rows is the split's canonical order.

    Empty row groups are left out. `schemas` has the Arrow schema of each file. With `chosen`, only
    the rows of some surfaces are part of the split.
    """

    url: str
    filesystem: fs.FileSystem = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    schemas: tuple[pa.Schema, ...] = field(repr=False)
    row_groups: tuple[RowGroup, ...] = field(repr=False)
    prefix: str = ""
    chosen: "Surfaces | None" = None

    @cached_property
    def requests(self) -> int:
        return sum(group.requests for group in self.row_groups)

    @cached_property
    def candidates(self) -> int:
        """The number of candidates; a request without any counts as having one."""
        return sum(group.candidates for group in self.row_groups)

    def show(self, file: int) -> str:
        """The path of a file as a user would write it."""
        return self.prefix + self.files[file]

    def only(self, chosen: "Surfaces", of: str) -> "Split":
        """The rows of some surfaces; reads their column to count them.

        Raises `UserError` if there is no row `of` them.
        """
        kept = []
        for file, groups in groupby(self.row_groups, key=lambda group: group.file):
            with (
                readable(self.show(file)),
                pq.ParquetFile(self.filesystem.open_input_file(self.files[file])) as parquet,
            ):
                if chosen.axis not in parquet.schema_arrow.names:
                    return self  # the schema's check says so
                for group in groups:
                    table = parquet.read_row_group(group.index, columns=[chosen.axis])
                    share = pc.sum(chosen.rows(table[chosen.axis])).as_py()
                    if share:
                        candidates = round(group.candidates * share / group.requests)
                        kept.append(replace(group, requests=share, candidates=candidates))
        if not kept:
            raise UserError(f"{self.url}: no row of {of}; choose other surfaces")
        return replace(self, row_groups=tuple(kept), chosen=chosen)


@dataclass(frozen=True)
class Surfaces:
    """Which rows of a table are wanted, by the surface in its column `axis`.

    Those of `names` alone, or with `inverted` all but those. Null and unknown ones are then among
    them, to be reported or to be scored as another surface.
    """

    axis: str
    names: tuple[str, ...]
    inverted: bool = False

    def rows(self, surface: pa.ChunkedArray) -> pa.ChunkedArray:
        """The mask of the wanted rows of a column."""
        if pa.types.is_dictionary(surface.type):
            surface = surface.cast(pa.string())
        among = pc.is_in(surface, value_set=pa.array(self.names, surface.type))
        return pc.invert(among) if self.inverted else among


def open_split(config: Config, split: str) -> Split:
    """Lists a split of the configuration: `train`, `valid` or `test`, on `data.surfaces` alone.

    Raises `UserError` for a missing or empty folder and for files that are not Parquet.
    """
    root = config.data.root.rstrip("/") or "/"
    found = [
        open_table(f"{root}/{folder}", f"data.{split}") for folder in config.data.folders(split)
    ]
    return own_rows(config, joined(found))


def joined(parts: Sequence[Split]) -> Split:
    """Several tables of one file system as one split, in their order."""
    first, *others = parts
    for other in others:
        more = len(first.files)
        first = replace(
            first,
            url=f"{first.url} + {other.url}",
            files=first.files + other.files,
            schemas=first.schemas + other.schemas,
            row_groups=first.row_groups
            + tuple(replace(group, file=group.file + more) for group in other.row_groups),
        )
    return first


def own_rows(config: Config, split: Split, unseen: bool = False) -> Split:
    """The rows of a table that are of a configuration's active surfaces; those of the others that
    it names are passed over. A surface that it does not know at all stays, to be reported.

    In an export whose joint model had a fallback, rows of unknown surfaces are the fallback's with
    `unseen`, and nobody's without. Raises `UserError` if no row is left.
    """
    data, own = config.data, tuple(config.active_surfaces)
    others = (*(name for name in config.surfaces if name not in own), *data.elsewhere)
    if data.elsewhere and data.fallback and not (unseen and data.fallback in own):
        chosen = Surfaces(data.axis, own)
    elif others:
        chosen = Surfaces(data.axis, others, inverted=True)
    else:
        return split
    return split.only(chosen, of=f"{data.axis} {', '.join(own)}")


def open_table(url: str, key: str = "table") -> Split:
    """Lists the Parquet files under a folder (or the one file) at a path or URL.

    `key` is named in errors. Files and folders whose name begins with `.` or `_` are ignored.
    """
    filesystem, path, prefix = _filesystem(url, key)
    files = tuple(_files(filesystem, path, url, key))
    footers = _footers(filesystem, files, prefix)
    groups = tuple(
        RowGroup(position, index, requests, candidates)
        for position, (_, sizes) in enumerate(footers)
        for index, (requests, candidates) in enumerate(sizes)
        if requests
    )
    if not groups:
        raise UserError(f"{key}: {url}: the Parquet files have no rows; write some requests there")
    schemas = tuple(schema for schema, _ in footers)
    return Split(url, filesystem, files, schemas, groups, prefix)


def _filesystem(url: str, key: str) -> tuple[fs.FileSystem, str, str]:
    """The file system of a URL, the path on it, and what to put before its paths to show them."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return fs.LocalFileSystem(), url, ""
    try:
        if scheme in ARROW_SCHEMES:
            return *fs.FileSystem.from_uri(url), f"{scheme}://"
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path, f"{scheme}://"
    except (ValueError, ImportError, OSError, NotImplementedError) as error:
        raise UserError(f"{key}: {url}: {_one_line(error)}; check data.root") from None


def is_local(filesystem: fs.FileSystem) -> bool:
    """Whether a read waits for a disk alone, and not for a network."""
    return isinstance(filesystem, fs.LocalFileSystem)


def _files(filesystem: fs.FileSystem, path: str, url: str, key: str) -> Iterator[str]:
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f"{key}: {url}: no such folder; check data.root and {key}")
        if info.type == fs.FileType.File:
            yield path
            return
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise UserError(f"{key}: {url}: {_one_line(error)}; check data.root") from None
    files = [each.path for each in found if each.type == fs.FileType.File]
    files = [file for file in files if file.endswith(".parquet") and not _hidden(file, path)]
    if not files:
        raise UserError(f"{key}: {url}: no *.parquet file; write the request table there")
    yield from sorted(files)


def _hidden(file: str, folder: str) -> bool:
    inside = file.removeprefix(folder).split("/")
    return any(part.startswith((".", "_")) for part in inside)


def _footers(
    filesystem: fs.FileSystem, files: tuple[str, ...], prefix: str
) -> list[tuple[pa.Schema, list[tuple[int, int]]]]:
    """What `_footer` gives for each file.

    In threads where a read waits for a network. A local one waits for nothing, and each thread
    would keep the memory that it took for a while: 25 MiB all together for 25 files.
    """

    def read(file: str) -> tuple[pa.Schema, list[tuple[int, int]]]:
        return _footer(filesystem, file, prefix + file)

    if is_local(filesystem):
        return [read(file) for file in files]
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(files))) as pool:
        return list(pool.map(read, files))


def _footer(
    filesystem: fs.FileSystem, file: str, shown: str
) -> tuple[pa.Schema, list[tuple[int, int]]]:
    """The Arrow schema of a file, and (requests, candidates) of each of its row groups."""
    with readable(shown), pq.ParquetFile(filesystem.open_input_file(file)) as parquet:
        metadata = parquet.metadata
        paths = (metadata.schema.column(i).path for i in range(metadata.num_columns))
        leaf = next((i for i, path in enumerate(paths) if path.startswith("candidates.")), None)
        sizes = []
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            values = 0 if leaf is None else group.column(leaf).num_values
            sizes.append((group.num_rows, values))
        return parquet.schema_arrow, sizes


class readable:  # noqa: N801 - reads as a word where it is used
    """A context in which Arrow's errors mean that the file named `shown` is broken."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowInvalid | pa.ArrowNotImplementedError | OSError):
            raise UserError(
                f"{self.shown}: not readable as Parquet ({_one_line(error)}); write the file again"
            ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
