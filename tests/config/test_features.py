"""How features are written."""

import pytest

from recsys.config import FeaturesConfig, IdFeature, NumberFeature, TableConfig


def features(**levels: object) -> FeaturesConfig:
    return FeaturesConfig.model_validate(levels)


def test_an_id_and_a_number_are_told_apart_by_their_key() -> None:
    found = features(candidate={"a": {"id": "t", "pooling": "sum"}, "b": {"number": "rank"}})
    assert found.candidate == {
        "a": IdFeature(id="t", pooling="sum"),
        "b": NumberFeature(number=("rank",)),
    }


@pytest.mark.parametrize("value", [{"idd": "t"}, "t", {}, {"pooling": "sum"}, ["id"]])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"a feature is \{id: TABLE\} or \{number: TRANSFORM\}"):
        features(candidate={"a": value})


def test_one_transform_or_several() -> None:
    found = features(request={"a": {"number": "log1p"}, "b": {"number": ["none", "standard"]}})
    assert [each.number for each in found.request.values()] == [("log1p",), ("none", "standard")]
    with pytest.raises(ValueError, match="at least 1 item"):
        features(request={"a": {"number": []}})


def test_features_are_listed_by_level_in_order() -> None:
    found = features(
        candidate={"z": {"id": "t"}, "a": {"id": "t"}},
        history={"fields": {"z": {"id": "t"}}},
        request={"r": {"number": "none"}},
    )
    assert [(level, name) for level, name, _ in found] == [
        ("request", "r"),
        ("candidate", "z"),
        ("candidate", "a"),
        ("history", "z"),
    ]


@pytest.mark.parametrize(("dim", "use"), [(5, 8), (7, 8), (13, 16)])
def test_the_width_of_a_table_is_a_multiple_of_four(dim: int, use: int) -> None:
    with pytest.raises(ValueError, match=f"must be a multiple of 4, is {dim}: use {use}"):
        TableConfig(rows=1, dim=dim)
    assert TableConfig(rows=1, dim=use).dim == use
