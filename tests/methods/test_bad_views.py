"""One view that is not finite takes the others of its step with it."""

import numpy as np
import pytest

from tfcontrast.methods.bad_views import spoil_together


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_view_spoils_all_of_them(value):
    rng = np.random.default_rng(0)
    large, small = (rng.random([4, side, side, 3]).astype(np.float32) for side in (4, 2))
    for same, view in zip(spoil_together([large, small]), (large, small), strict=True):
        np.testing.assert_array_equal(same, view)
    small[3, 0, 0, 0] = value
    assert all(np.isnan(view).all() for view in spoil_together([large, small]))
