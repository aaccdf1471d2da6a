"""Selecting requests from flat columns, both ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys.data.gather as gathering
from recsys.data.gather import Gather, Ragged


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.randoms())
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("width", [(), (1,), (3,), (0,)])
@pytest.mark.parametrize("short", [0, 100])
def test_takes_the_lists_of_rows(
    short: int, width: tuple[int, ...], dtype: type, lengths: list[int], random: object
) -> None:
    offsets = np.cumsum([0, *lengths])
    values = np.arange(offsets[-1] * max(np.prod(width, dtype=int), 1)).astype(dtype)
    values = values.reshape(offsets[-1], *width) if 0 not in width else np.zeros((offsets[-1], 0))
    rows = random.choices(range(len(lengths)), k=random.randint(0, 15))  # type: ignore[attr-defined]
    want = [values[offsets[r] : offsets[r + 1]] for r in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "SHORT", short)
        found = Gather(Ragged(offsets), np.array(rows, dtype=np.int64))(values)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, np.concatenate([values[:0], *want]))
    assert Gather(Ragged(offsets), np.array(rows, dtype=np.int64)).index.tolist() == [
        n for r in rows for n in range(offsets[r], offsets[r + 1])
    ]
