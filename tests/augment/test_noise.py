import numpy as np
import tensorflow as tf
from scipy import stats
from skimage import filters

from tfcontrast.augment import cutout, example_seeds, gaussian_noise, sobel, sobel_gradients


def pictures(count=4):
    return np.random.default_rng(0).random((count, 16, 18, 3)).astype(np.float32)


def test_noise_has_each_images_own_width_and_draws():
    images, stddevs = pictures(), tf.constant([0.0, 0.1, 0.5, 0.1])
    seeds = example_seeds(0, tf.constant([4, 5, 6, 7], tf.int64), 0)
    got = gaussian_noise(images, stddevs, seeds, stream=3)
    noise = (got - images).numpy()
    np.testing.assert_array_equal(got[0], images[0])
    for row in (1, 2, 3):
        assert stats.kstest(noise[row].ravel() / stddevs[row], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[1].ravel(), noise[3].ravel())[0, 1]) < 0.15
    alone = gaussian_noise(images[2:3], stddevs[2:3], seeds[2:3], stream=3)
    np.testing.assert_allclose(alone[0], got[2], atol=1e-6)


def test_cutout_fills_the_box_and_nothing_else():
    images = pictures()
    boxes = np.array([[2, 3, 5, 4], [0, 0, 0, 0], [-2, -2, 4, 4], [14, 10, 9, 9]], np.int32)
    expected = images.copy()
    expected[0, 2:7, 3:7] = 0.25
    expected[2, :2, :2] = 0.25
    expected[3, 14:, 10:] = 0.25

    def cut(pixels, where):
        return cutout(pixels, where, fill=0.25)

    np.testing.assert_array_equal(cut(images, boxes), expected)
    np.testing.assert_array_equal(tf.function(cut, jit_compile=True)(images, boxes), expected)


def test_sobel_is_scikit_images_where_masked():
    images = pictures()
    luma = images @ np.array([0.299, 0.587, 0.114])
    mask = np.array([True, False, True, True])
    got = sobel(images, mask).numpy()
    for row in range(4):
        if mask[row]:
            np.testing.assert_allclose(got[row, ..., 2], filters.sobel(luma[row]), atol=1e-6)
        else:
            np.testing.assert_array_equal(got[row], images[row])


def test_sobel_gradients_of_a_ramp_are_its_slopes():
    rows, columns = np.mgrid[:8, :9].astype(np.float32)
    ramp = np.repeat((0.02 * rows - 0.05 * columns)[None, ..., None], 3, axis=-1)
    inner = sobel_gradients(ramp)[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to([0.02, -0.05], (6, 7, 2)), atol=1e-6)
