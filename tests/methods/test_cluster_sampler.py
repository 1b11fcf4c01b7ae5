import numpy as np
import pytest

from tfcontrast.methods.cluster_sampler import uniform_over_clusters


def test_clusters_of_any_size_come_equally_often():
    """A giant cluster, middling ones, one of a single image and an empty one."""
    sizes = [700, 150, 100, 49, 1, 0]
    clusters = np.random.default_rng(0).permutation(np.repeat(range(6), sizes))
    shares = np.zeros(6)
    for epoch in range(20):
        drawn = uniform_over_clusters(clusters, 1000, seed=3, epoch=epoch)
        assert (drawn.shape, drawn.dtype) == ((1000,), np.int64)
        counts = np.bincount(clusters[drawn], minlength=6)
        # 201 draws of each of five clusters, of which five are cut off
        assert np.all((counts[:5] >= 196) & (counts[:5] <= 201))
        shares += counts
        # those of the giant are different images, those of the others repeat
        of_giant = drawn[clusters[drawn] == 0]
        assert len(set(of_giant)) == len(of_giant)
        assert len(set(drawn[clusters[drawn] == 1])) < 151
        assert set(drawn[clusters[drawn] == 4]) == set(np.flatnonzero(clusters == 4))
    np.testing.assert_allclose(shares[:5] / shares.sum(), 0.2, atol=0.002)


def test_plain_shuffling_would_leave_the_small_ones_out():
    """What the sampler is for: 90 % of the images in one of ten clusters."""
    clusters = np.concatenate([np.zeros(900, int), np.repeat(range(1, 10), 11), [9]])
    drawn = uniform_over_clusters(clusters, 1000, seed=0, epoch=0)
    assert np.mean(clusters[drawn] == 0) == pytest.approx(0.1, abs=0.002)
    assert np.mean(clusters == 0) == 0.9


def test_clusters_of_one_size_are_nearly_a_permutation_of_all():
    clusters = np.arange(60) % 6
    drawn = uniform_over_clusters(clusters, 60, seed=1, epoch=2)
    counts = np.bincount(clusters[drawn])
    assert np.all((counts >= 5) & (counts <= 11))  # 11 of each, of which 6 are cut
    # clusters of 10 images with 11 draws: with repetition, as in the released code
    assert len(set(drawn)) < 60


def test_draws_are_shuffled_and_follow_seed_epoch_and_clusters_only():
    clusters = np.arange(100) // 25
    first = uniform_over_clusters(clusters, 100, seed=1, epoch=0)
    np.testing.assert_array_equal(first, uniform_over_clusters(clusters, 100, seed=1, epoch=0))
    for seed, epoch, groups in ((2, 0, clusters), (1, 1, clusters), (1, 0, clusters[::-1])):
        other = uniform_over_clusters(groups, 100, seed=seed, epoch=epoch)
        assert np.any(first != other)
    assert np.all(np.bincount(clusters[first[:50]], minlength=4) > 3)
    np.testing.assert_array_equal(uniform_over_clusters(clusters, 64, seed=1, epoch=0), first[:64])


def test_names_of_clusters_do_not_matter():
    clusters = np.arange(30) % 3
    np.testing.assert_array_equal(
        uniform_over_clusters(clusters, 30, seed=0, epoch=0),
        uniform_over_clusters(clusters * 1000 - 5, 30, seed=0, epoch=0),
    )


@pytest.mark.parametrize(
    ("clusters", "count"), [(np.zeros(3, int), 4), (np.zeros(3, int), 0), (np.zeros([2, 2]), 1)]
)
def test_bad_arguments(clusters, count):
    with pytest.raises(ValueError, match=r"Received: "):
        uniform_over_clusters(clusters, count, seed=0, epoch=0)
