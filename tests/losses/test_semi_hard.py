import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.semi_hard import semi_hard_negatives
from tfcontrast.losses.view_pairs import view_pairs


def loop_semi_hard(z1, z2, margin):
    z = [v / np.linalg.norm(v) for v in np.concatenate([z1, z2])]
    n, picked = len(z1), []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        near = [z[i] @ z[k] for k in range(2 * n) if k not in (i, p)]
        near = [s for s in near if z[i] @ z[p] - margin < s < z[i] @ z[p]]
        picked.append(max(near) if near else None)
    return picked


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.5])
@pytest.mark.parametrize("b", [1, 3, 8])
def test_equals_the_loop(random_views, margin, b):
    z1, z2 = random_views(b, 3)
    closest, found = semi_hard_negatives(view_pairs(z1, z2), margin)
    expected = loop_semi_hard(z1, z2, margin)
    assert found.numpy().tolist() == [value is not None for value in expected]
    np.testing.assert_allclose(closest, [value or 0.0 for value in expected], atol=1e-12)


def test_what_is_picked_is_an_active_triplet(random_views):
    pairs = view_pairs(*random_views(16, 4))
    closest, found = (np.asarray(t) for t in semi_hard_negatives(pairs, 0.3))
    gap = closest - pairs.positives.numpy() + 0.3
    assert found.any()
    assert (gap[found] > 0).all()
    assert (gap[found] < 0.3).all()


def test_bounds_are_strict():
    # cosines of anchor 0: positive 1, negatives 0 (twice); of the band (0, 1) none
    z = tf.eye(2)
    _, found = semi_hard_negatives(view_pairs(z, z), margin=1.0)
    assert not found.numpy().any()
    _, found = semi_hard_negatives(view_pairs(z, z), margin=1.001)
    assert found.numpy().all()
    same = tf.ones([3, 2])
    assert not semi_hard_negatives(view_pairs(same, same), margin=1.0)[1].numpy().any()
