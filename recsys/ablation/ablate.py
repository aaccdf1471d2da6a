"""`recsys ablate`: from a configuration to a table of what its parts are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys.ablation.judge import judge, summarise
from recsys.ablation.page import html
from recsys.ablation.runs import finish_all, runs_of
from recsys.ablation.show import markdown
from recsys.ablation.study import BALANCED, Study, read_study, standard_study, train_requests
from recsys.config import Config, load_config
from recsys.config.experiment import nearest
from recsys.errors import UserError
from recsys.files import write_json, write_text

SPLITS = ("train", "valid", "test")


def ablate(
    config: Path,
    out: Path,
    *,
    study: Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    split: str = "test",
    workers: int = 1,
) -> dict[str, Any]:
    """Trains and judges every variant; writes `ablation.json`, `.md` and `.html` to `out`.

    What is complete in `out` is not done again, what was interrupted goes on.

    Returns `summarise`'s document with `split`, `seeds` and `config`. Raises `UserError` for a
    study, a variant or a split that cannot be, and `RunError` at the end if a run failed.
    """
    if split not in SPLITS:
        raise UserError(f"--split {split}: is {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
    chosen = read_study(study) if study else _standard(load_config(config, overrides), only)
    chosen = _narrowed(chosen, overrides, seeds, only)
    runs = runs_of(chosen, config, out, split)
    finish_all((run for each in runs.values() for seed in each for run in seed), workers)
    judged = {name: [judge(seed) for seed in each] for name, each in runs.items()}
    document = {
        "config": str(config),
        "split": split,
        "seeds": list(chosen.seeds),
        **summarise(judged),
    }
    write_json(out / "ablation.json", document)
    write_text(out / "ablation.md", markdown(document))
    write_text(out / "ablation.html", html(document))
    return document


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """`1,2,3`; none if nothing is given. Raises `UserError`."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"--seeds {text}: give numbers with commas between, as 1,2,3") from None


def _standard(config: Config, only: Sequence[str]) -> Study:
    """With the variants that need the data, unless other ones are chosen."""
    needed = not only or any(name.startswith(BALANCED) for name in only)
    return standard_study(config, train_requests(config) if needed else None)


def _narrowed(
    study: Study, overrides: Sequence[str], seeds: Sequence[int], only: Sequence[str]
) -> Study:
    for name in only:
        if name not in study.variants:
            raise UserError(f"--only {name}: no such variant; {nearest(name, study.variants)}")
    variants = {n: v for n, v in study.variants.items() if not only or n in only}
    return study.model_copy(
        update={
            "overrides": (*study.overrides, *overrides),
            "seeds": tuple(seeds) or study.seeds,
            "variants": variants,
        }
    )
