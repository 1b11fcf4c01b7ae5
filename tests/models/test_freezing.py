import keras
import pytest

from tfcontrast.models.freezing import settle_frozen


class Late(keras.layers.Layer):
    """Makes one of its layers in ``build``, as blocks whose widths depend on the input do."""

    def __init__(self):
        super().__init__()
        self.early = keras.layers.Dense(3, name="early")

    def build(self, input_shape):
        self.late = keras.layers.Dense(3, name="late")
        self.own = self.add_weight(shape=(3,), name="own")
        self.early.build(input_shape)
        self.late.build(input_shape)


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_a_frozen_layer_is_frozen_whole_whenever_it_was_frozen(when):
    layer = Late()
    if when == "before":
        layer.trainable = False
    layer.build((None, 2))
    if when == "after":
        layer.trainable = False
    settle_frozen([layer])
    assert len(layer.variables) == 5
    parts = [layer, layer.early, layer.late]
    assert {part.trainable for part in parts} == {when == "never"}
    assert {variable.trainable for variable in layer.variables} == {when == "never"}


def test_only_the_frozen_ones_are_settled():
    frozen, other = Late(), Late()
    frozen.trainable = False
    for layer in (frozen, other):
        layer.build((None, 2))
    settle_frozen([frozen, other])
    assert not frozen.late.trainable
    assert all(variable.trainable for variable in other.variables)
