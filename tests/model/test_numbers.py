"""Transforms of numbers against numpy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recsys.config import NumberFeature
from recsys.data.layout import NumberColumn
from recsys.model.numbers import QUANTILES, NumberTransforms


def column(name: str, *transforms: str, required: bool = False, **more: object) -> NumberColumn:
    feature = NumberFeature(number=transforms, required=required, **more)
    return NumberColumn("candidate", name, feature)


COLUMNS = [
    column("a", "none", "standard"),
    column("search_only", "none", surfaces=("search",)),
    column("b", "log1p", required=True),
    column("c", "rank", "log1p", "standard"),
    column("d", "rank"),
]


def raw(rows: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    values = draw.normal(0, 20, (rows, len(COLUMNS))).astype(np.float32)
    values[draw.random(values.shape) < 0.3] = np.nan
    values[:, 2] = draw.normal(0, 5, rows)  # b is never absent
    return values


def statistics() -> dict[str, SimpleNamespace]:
    draw = np.random.default_rng(1)
    return {
        f"candidate.{name}": SimpleNamespace(
            mean=float(draw.normal(0, 3)),
            std=float(draw.uniform(1, 5)),
            quantiles=np.sort(draw.normal(0, 15, QUANTILES)).astype(np.float32).tolist(),
        )
        for name in "abcd"
    }


def by_hand(values: np.ndarray, transform: str, found: SimpleNamespace) -> list[float]:
    result = []
    for x in values.tolist():
        if math.isnan(x):
            result.append(0.0)
        elif transform == "none":
            result.append(x)
        elif transform == "log1p":
            logs = [math.copysign(math.log1p(abs(q)), q) for q in found.quantiles]
            z = (math.copysign(math.log1p(abs(x)), x) - np.mean(logs)) / np.std(logs)
            result.append(min(4.0, max(-4.0, z)))
        elif transform == "standard":
            result.append(min(4.0, max(-4.0, (x - found.mean) / found.std)))
        else:
            below = sum(q < x for q in found.quantiles)
            result.append(2 * below / QUANTILES - 1)
    return result


def test_each_transform_is_its_definition() -> None:
    transforms = NumberTransforms(COLUMNS)
    numbers = statistics()
    transforms.fit(numbers)
    values = raw(50)
    output = transforms(torch.from_numpy(values))
    assert output.shape == (50, transforms.out_features)
    assert [each.name for each in transforms.columns] == ["a", "b", "c", "d"]
    positions = {each.name: i for i, each in enumerate(COLUMNS)}
    orders = {"none": 0, "log1p": 1, "standard": 2, "rank": 3}
    for each in transforms.columns:
        columns = transforms.columns_of(each.name)
        of_feature = values[:, positions[each.name]]
        kinds = sorted(each.feature.number, key=orders.__getitem__)
        expected = [by_hand(of_feature, k, numbers[f"candidate.{each.name}"]) for k in kinds]
        if not each.feature.required:
            expected.append(np.isnan(of_feature).astype(float).tolist())
        assert len(columns) == len(expected)
        np.testing.assert_allclose(
            output[:, columns].numpy(), np.array(expected).T, atol=1e-5, err_msg=each.name
        )
    every = [c for each in transforms.columns for c in transforms.columns_of(each.name)]
    assert sorted(every) == list(range(transforms.out_features))


def test_an_absent_number_is_zero_and_is_told_apart_from_zero() -> None:
    transforms = NumberTransforms([column("x", "none", "rank", "standard", "log1p")])
    absent, zero = transforms(torch.tensor([[float("nan")], [0.0]])).tolist()
    assert absent == [0, 0, 0, 0, 1]
    assert zero[-1] == 0


def test_ranks_go_from_minus_one_to_one_and_keep_the_order() -> None:
    transforms = NumberTransforms([column("x", "rank", required=True)])
    quantiles = list(range(QUANTILES))
    transforms.fit({"candidate.x": SimpleNamespace(mean=0, std=1, quantiles=quantiles)})
    x = torch.tensor([[-5.0], [126.5], [127.5], [1e9]])
    ranks = transforms(x).ravel().tolist()
    assert ranks[0] == -1
    assert ranks[3] == 1
    assert ranks[1] < ranks[2]
    assert ranks[1] == pytest.approx(2 * 127 / QUANTILES - 1, abs=1e-6)


def test_standard_is_clipped_and_a_std_of_zero_does_no_harm() -> None:
    transforms = NumberTransforms([column("x", "standard", required=True)])
    transforms.fit({"candidate.x": SimpleNamespace(mean=2, std=0, quantiles=[0] * QUANTILES)})
    assert transforms(torch.tensor([[2.0], [1e6], [-1e6]])).ravel().tolist() == [0, 4, -4]


def test_names_choose_features_of_one_surface_too() -> None:
    chosen = NumberTransforms(COLUMNS, ["search_only", "b"])
    numbers = statistics()
    chosen.fit(numbers)
    values = raw(10)
    output = chosen(torch.from_numpy(values)).numpy()
    assert [each.name for each in chosen.columns] == ["search_only", "b"]
    expected = np.nan_to_num(values[:, 1], nan=0.0)
    np.testing.assert_array_equal(output[:, chosen.columns_of("search_only")[0]], expected)
    np.testing.assert_allclose(
        output[:, chosen.columns_of("b")[0]],
        by_hand(values[:, 2], "log1p", numbers["candidate.b"]),
        atol=1e-5,
    )


def test_statistics_travel_with_the_weights() -> None:
    source, target = NumberTransforms(COLUMNS), NumberTransforms(COLUMNS)
    source.fit(statistics())
    assert set(source.state_dict()) == {"mean", "std", "log_mean", "log_std", "quantiles"}
    target.load_state_dict(source.state_dict())
    values = torch.from_numpy(raw(20))
    assert torch.equal(source(values), target(values))


def test_no_feature_and_no_row() -> None:
    assert NumberTransforms([])(torch.zeros(4, 0)).shape == (4, 0)
    assert NumberTransforms(COLUMNS)(torch.zeros(0, len(COLUMNS))).shape == (
        0,
        NumberTransforms(COLUMNS).out_features,
    )
