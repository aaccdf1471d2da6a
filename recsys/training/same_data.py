"""Whether a run still reads the data that it began with."""

import hashlib
from typing import Any

from recsys.data.splits import Split
from recsys.errors import UserError


def fingerprint(split: Split) -> dict[str, Any]:
    """Counts of a split's files and requests, and a digest of which row groups lie where.

    Names are relative to the split, so that the data may move as a whole; values are not read.
    """
    digest = hashlib.sha256()
    folder = split.url.rsplit("/", 1)[-1]
    for group in split.row_groups:
        file = split.files[group.file]
        inside = f"/{folder}/" if f"/{folder}/" in file else "/"
        name = file.rsplit(inside, 1)[-1]
        digest.update(f"{name} {group.index} {group.requests}\n".encode())
    return {
        "files": len(split.files),
        "requests": split.requests,
        "digest": digest.hexdigest(),
    }


def check_same_data(known: dict[str, Any], name: str, split: Split) -> None:
    """Raises `UserError` if a split is not what it was; notes it in `known` at the first time.

    The order of an epoch and the position in it depend on the files: with others, rows would be
    trained on twice or never.
    """
    now = fingerprint(split)
    was = known.setdefault(name, now)
    if was != now:
        raise UserError(
            f"{split.url}: has {now['files']} files with {now['requests']} requests, but the run "
            f"began with {was['files']} files with {was['requests']} requests"
            f"{'' if _counts(was) != _counts(now) else ' in other row groups'}; put them back and "
            "go on with --resume, or start a new --run"
        )


def _counts(found: dict[str, Any]) -> tuple[int, int]:
    return found["files"], found["requests"]
