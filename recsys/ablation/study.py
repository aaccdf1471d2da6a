"""What a study is: named variants of a configuration, and seeds."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import Field

from recsys.config import Config
from recsys.config.load import parse_section
from recsys.config.section import Section
from recsys.data.splits import Surfaces, open_split
from recsys.errors import UserError

# Name → kinds that are it; the first is trained.
CALIBRATIONS = {"none": ("none",), "global": ("global",), "per surface": ("platt", "isotonic")}
BALANCED = "balance by "  # what the names of variants begin with that need the data


class Variant(Section):
    """One variant: what it changes."""

    overrides: tuple[str, ...] = Field((), alias="set", description="Overrides, as for --set")
    each_surface: bool = Field(
        False, description="A model a surface on its own rows, judged together as one"
    )
    ranks: int = Field(1, ge=1, description="Ranks that train it")


class Study(Section):
    """A study's YAML. The first variant is what the others are compared with."""

    overrides: tuple[str, ...] = Field((), alias="set", description="Overrides of every variant")
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="One run each")
    variants: dict[str, Variant] = Field(min_length=1, description="By name")


def read_study(path: Path) -> Study:
    """Raises `UserError` naming the file and the key."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--study {path}: not readable: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--study {path}: no YAML: {' '.join(str(error).split())}") from None
    return parse_section(document, str(path), Study)


def standard_study(config: Config, requests: Mapping[str, int] | None = None) -> Study:
    """What the joint model's parts are worth, alone and together, on merged logs and surface by
    surface; multi-domain peers on the same trunk; calibration; balance of surfaces and tasks. All
    with one training budget.

    `requests` are those of each surface in the train split. Without them, or with one surface,
    nothing says which ones to sample, and that variant and its control are left out.
    """
    count = max(config.model.experts.count, 3)
    mmoe = ("model.experts.own=0", "model.experts.layers=1")
    bottom = ("model.experts.count=1", *mmoe)
    mixture = (f"model.experts.count={count}", *mmoe)
    alone = "a model a surface: "
    parts = {
        "MMoE + history": mixture,
        "shared bottom": (*bottom, *without_history(config)),
        "MMoE": (*mixture, *without_history(config)),
        "history": bottom,
    }
    if config.model.sequence is None:
        parts = {"MMoE": mixture, "shared bottom": bottom}
    variants = {name: Variant(set=overrides) for name, overrides in parts.items()}
    variants |= {
        alone + name: Variant(set=overrides, each_surface=True) for name, overrides in parts.items()
    }
    own = (f"model.experts.count={count - 1}", "model.experts.own=1")
    variants["PLE"] = Variant(set=(*own, "model.experts.layers=1"))
    variants["PLE of two layers"] = Variant(set=(*own, "model.experts.layers=2"))
    if config.model.towers != "shared":
        variants["towers off"] = Variant(set=without_towers(config))
        if len({surface.tower.stem for surface in config.surfaces.values()}) == 1:
            variants["STAR"] = Variant(set=("model.towers=star",))
    variants["EPNet"] = Variant(set=("model.gates.epnet=true",))
    if personal := personal_features(config):
        variants["PPNet"] = Variant(set=(f"model.gates.ppnet=[{', '.join(personal)}]",))
    other = {"cell": "task", "task": "cell"}[config.training.loss]
    variants[f"loss by {other}"] = Variant(set=(f"training.loss={other}",))
    variants["uncertainty weights"] = Variant(set=("training.balance.kind=uncertainty",))
    if requests and len(requests) > 1:
        # The same expected weights twice: from how many rows are seen, and from what each weighs.
        shares = sampling_shares(requests)
        for name, key in (("sampling", "request_sampling"), ("weighting", "weight")):
            changes = [f"surfaces.{surface}.{key}={share}" for surface, share in shares.items()]
            variants[f"{BALANCED}{name}"] = Variant(set=("training.loss=task", *changes))
    for name, kinds in CALIBRATIONS.items():
        if config.model.calibration.kind not in kinds:
            variants[f"calibration {name}"] = Variant(set=(f"model.calibration.kind={kinds[0]}",))
    return Study(variants=variants)


def sampling_shares(requests: Mapping[str, int]) -> dict[str, float]:
    """The root of how much fewer requests the smallest surface has: half way to equal numbers."""
    least = min(requests.values())
    return {surface: round((least / count) ** 0.5, 4) for surface, count in requests.items()}


def train_requests(config: Config) -> dict[str, int]:
    """Requests of each surface in the train split. Raises `UserError` if one has none."""
    split, axis = open_split(config, "train"), config.data.axis
    return {
        name: split.only(Surfaces(axis, (name,)), of=f"{axis} {name}").requests
        for name in config.active_surfaces
    }


def without_history(config: Config) -> tuple[str, ...]:
    """No history at all, nor the late-fusion modules that read it."""
    changes = ["model.sequence=null"]
    for name, surface in config.surfaces.items():
        modules = surface.tower.modules
        kept = [module for module in modules if "history" not in module.inputs]
        if len(kept) < len(modules):
            documents = [module.model_dump(mode="json", by_alias=True) for module in kept]
            flow = yaml.safe_dump(documents, default_flow_style=True, width=10_000).strip()
            changes.append(f"surfaces.{name}.tower.modules={flow}")
    return tuple(changes)


def without_towers(config: Config) -> tuple[str, ...]:
    """One tower for all; what surfaces have alone then feeds the trunk."""
    changes = ["model.towers=shared"]
    for name, surface in config.surfaces.items():
        if surface.tower.modules:
            changes.append(f"surfaces.{name}.tower.modules=[]")
    for level, features in (
        ("request", config.features.request),
        ("candidate", config.features.candidate),
    ):
        changes += [
            f"features.{level}.{name}.surfaces=null"
            for name, feature in features.items()
            if feature.surfaces is not None
        ]
    return tuple(changes)


def personal_features(config: Config) -> list[str]:
    """The ids that PPNet's gates look at: who is asked, by `evaluation.group`, and every id of the
    candidate whose table the history reads too."""
    seen = {
        getattr(field, "id", None)
        for field in (config.features.history.fields if config.features.history else {}).values()
    }
    request, candidate = config.features.request, config.features.candidate
    found = [
        name
        for name, feature in candidate.items()
        if getattr(feature, "id", None) in seen - {None} and not feature.surfaces
    ]
    group = config.evaluation.group
    if group in request and hasattr(request[group], "id") and not request[group].surfaces:
        found.insert(0, group)
    return found[:3]
