import dataclasses

from tfcontrast.config import ModelConfig
from tfcontrast.models.resnet import DEPTHS, OUTPUT_STRIDES, STEM_STRIDES


def test_the_choices_are_the_networks_own():
    fields = {f.name: f.metadata["choices"] for f in dataclasses.fields(ModelConfig)}
    assert set(fields["resnet_depth"]) == set(DEPTHS)
    assert set(fields["output_stride"]) == set(OUTPUT_STRIDES)
    assert set(fields["stem"]) == {"auto", *STEM_STRIDES}
