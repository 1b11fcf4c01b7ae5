import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import transform

from tfcontrast.augment import geometry


def pictures(count=4, height=20, width=27, seed=0):
    return np.random.default_rng(seed).random((count, height, width, 3)).astype(np.float32)


BOXES = np.array([[0, 0, 20, 27], [3, 5, 9, 14], [19, 26, 1, 1], [2, 0, 5, 26]], np.int32)


def compiled(function):
    return tf.function(function, jit_compile=True)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [8, 32])
def test_crop_and_resize_is_tf_image_resize_of_the_cut_out_box(size, method, antialias):
    images = pictures()
    expected = [
        tf.image.resize(img[y : y + h, x : x + w], [size, size], method, antialias=antialias)
        for img, (y, x, h, w) in zip(images, BOXES, strict=True)
    ]

    def crop(pixels, boxes):
        return geometry.crop_and_resize(pixels, boxes, size, method=method, antialias=antialias)

    # TensorFlow's bicubic kernel without antialias comes from a table of 1024 places.
    tolerance = 2e-3 if method == "bicubic" and not antialias else 2e-5
    np.testing.assert_allclose(crop(images, BOXES), expected, atol=tolerance)
    np.testing.assert_allclose(compiled(crop)(images, BOXES), crop(images, BOXES), atol=2e-6)


def test_bicubic_weights_are_keys_kernel_in_plain_loops():
    image, size = pictures(1, 7, 7)[0].astype(np.float64), 5

    def keys(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    matrix = np.zeros((size, 7))
    for row in range(size):
        for pixel in range(1, 6):  # the box is rows and columns 1 to 5
            matrix[row, pixel] = keys(pixel - (1 + (row + 0.5) * 5 / size - 0.5))
        matrix[row] /= matrix[row].sum()
    expected = np.einsum("ab,cd,bde->ace", matrix, matrix, image)
    got = geometry.crop_and_resize(image[None].astype(np.float32), [[1, 1, 5, 5]], size)
    np.testing.assert_allclose(got[0], expected, atol=1e-6)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [11, 40])
def test_antialiased_resize_is_pillows(size, resample):
    channel = pictures(1, 29, 35)[0, :, :, 0]
    box = (4, 6, 4 + 27, 6 + 19)
    expected = np.asarray(
        Image.fromarray(channel).crop(box).resize((size, size), Image.Resampling[resample.upper()])
    )
    images = np.repeat(channel[None, ..., None], 3, axis=-1)
    boxes = np.array([[6, 4, 19, 27]], np.int32)
    got = geometry.crop_and_resize(images, boxes, size, method=resample, antialias=True)
    np.testing.assert_allclose(got[0, ..., 1], expected, atol=1e-5)


def test_crop_with_flip_mirrors_only_the_masked_images():
    images, mask = pictures(), tf.constant([True, False, True, False])
    plain = geometry.crop_and_resize(images, BOXES, 16)
    flipped = geometry.crop_and_resize(images, BOXES, 16, flip=mask)
    np.testing.assert_allclose(
        flipped, np.where(mask[:, None, None, None], plain[:, :, ::-1], plain), atol=1e-6
    )


def test_a_box_of_the_wanted_size_is_copied_exactly():
    images = pictures(2)
    boxes = np.array([[1, 2, 9, 9], [11, 18, 9, 9]], np.int32)
    got = geometry.crop_and_resize(images, boxes, 9)
    np.testing.assert_array_equal(got[0], images[0, 1:10, 2:11])
    np.testing.assert_array_equal(got[1], images[1, 11:20, 18:27])


def test_uint8_is_scaled_to_one():
    raw = np.array([0, 128, 255], np.uint8).reshape(1, 1, 1, 3)
    got = geometry.crop_and_resize(raw, [[0, 0, 1, 1]], 2)
    np.testing.assert_allclose(got[0, 0, 0], [0, 128 / 255, 1], atol=1e-7)
    assert geometry.to_float(raw.astype(np.float64)).dtype == tf.float32


def test_unknown_shapes_give_what_known_shapes_give():
    images = (pictures(4) * 255).astype(np.uint8)

    def crop(pixels, boxes):
        return geometry.crop_and_resize(pixels, boxes, 12)

    spec = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 4], tf.int32)]
    known = crop(images, BOXES)
    np.testing.assert_allclose(
        tf.function(crop, input_signature=spec)(images, BOXES), known, atol=1e-5
    )


@pytest.mark.parametrize(("method", "antialias"), [("bicubic", False), ("bilinear", True)])
def test_a_single_streamed_image_is_cut_first_and_gives_the_same(monkeypatch, method, antialias):
    images = (pictures(4) * 255).astype(np.uint8)
    mask = np.array([True, False, False, True])
    options = {"method": method, "antialias": antialias}
    known = geometry.crop_and_resize(images, BOXES, 12, flip=mask, **options)
    resized = []
    kernel = tf.image.resize
    monkeypatch.setattr(
        tf.image, "resize", lambda cut, *rest, **kw: resized.append(cut) or kernel(cut, *rest, **kw)
    )

    def crop(pixels, box, flip):
        return geometry.crop_and_resize(pixels, box, 12, flip=flip, **options)

    spec = [tf.TensorSpec([1, None, None, 3], tf.uint8), tf.TensorSpec([1, 4], tf.int32)]
    streamed = tf.function(crop, input_signature=[*spec, tf.TensorSpec([1], tf.bool)])
    got = [streamed(images[i : i + 1], BOXES[i : i + 1], mask[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(got, known, atol=2e-3)
    assert [cut.op.type for cut in resized] == ["StridedSlice"]  # the crop, not the whole image
    floats = [tf.TensorSpec([1, None, None, 3]), tf.TensorSpec([1, 4], tf.int32)]
    plain = tf.function(lambda i, b: geometry.crop_and_resize(i, b, 12), input_signature=floats)
    expected = geometry.crop_and_resize(pictures(1), BOXES[:1], 12)
    np.testing.assert_allclose(plain(pictures(1), BOXES[:1]), expected, atol=2e-3)


def test_resize_takes_both_sides():
    images = pictures(2)
    expected = tf.image.resize(images, [10, 13], "bicubic", antialias=True)
    got = geometry.resize(images, (10, 13), antialias=True)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_flip_left_right():
    images = pictures(3)
    got = geometry.flip_left_right(images, tf.constant([False, True, False]))
    np.testing.assert_array_equal(got[::2], images[::2])
    np.testing.assert_array_equal(got[1], images[1][:, ::-1])


def test_rotate_is_scikit_images_counterclockwise():
    images, degrees = pictures(5, 15, 22), np.array([0.0, 13.0, -77.0, 180.0, 301.5], np.float32)
    expected = np.stack(
        [
            transform.rotate(img.astype(np.float64), angle, order=1, mode="constant")
            for img, angle in zip(images, degrees, strict=True)
        ]
    )
    got = geometry.rotate(images, degrees)
    # scikit-image treats the half pixel outside the border differently.
    np.testing.assert_allclose(got[:, 4:-4, 7:-7], expected[:, 4:-4, 7:-7], atol=2e-5)
    np.testing.assert_allclose(compiled(geometry.rotate)(images, degrees), got, atol=2e-5)
    np.testing.assert_array_equal(got[0], images[0])


def test_rotate_by_a_quarter_is_rot90_and_brings_in_zeros():
    images = pictures(1, 9, 9)
    np.testing.assert_allclose(geometry.rotate(images, [90.0])[0], np.rot90(images[0]), atol=1e-5)
    turned = geometry.rotate(np.ones((1, 9, 9, 3), np.float32), [45.0])[0]
    assert turned[0, 0, 0] == 0.0
    assert turned[4, 4, 0] == 1.0


def test_warp_affine_in_plain_loops():
    images = pictures(2, 6, 5).astype(np.float64)
    rng = np.random.default_rng(1)
    matrices = np.eye(2) + rng.normal(0, 0.2, (2, 2, 2))
    shifts = rng.normal(0, 1, (2, 2))
    expected = np.zeros_like(images)
    for b in range(2):
        for y in range(6):
            for x in range(5):
                sy, sx = matrices[b] @ [y - 2.5, x - 2.0] + shifts[b] + [2.5, 2.0]
                for py in range(6):
                    for px in range(5):
                        weight = max(0, 1 - abs(sy - py)) * max(0, 1 - abs(sx - px))
                        expected[b, y, x] += weight * images[b, py, px]
    got = geometry.warp_affine(*(tf.constant(a, tf.float32) for a in (images, matrices, shifts)))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("call", [geometry.crop_and_resize, geometry.resize])
def test_unknown_methods_are_refused(call):
    arguments = (BOXES, 8) if call is geometry.crop_and_resize else ((8, 8),)
    with pytest.raises(ValueError, match="Received: 'nearest'"):
        call(pictures(), *arguments, method="nearest")
