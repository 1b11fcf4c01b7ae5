import dataclasses

from tfcontrast.config import GROUPS
from tfcontrast.methods import METHODS
from tfcontrast.models.resnet import DEPTHS, OUTPUT_STRIDES, STEM_STRIDES
from tfcontrast.optim import OPTIMIZERS


def test_names_are_unique_over_all_groups_and_every_method():
    general = [field.name for cls in GROUPS.values() for field in dataclasses.fields(cls)]
    assert len(general) == len(set(general))
    for cls in METHODS.values():
        assert not {field.name for field in dataclasses.fields(cls.Config)} & set(general)


def test_options_that_methods_share_have_one_type_and_one_text():
    kinds = {}
    for cls in METHODS.values():
        for field in dataclasses.fields(cls.Config):
            declared = (field.type, dict(field.metadata))
            assert kinds.setdefault(field.name, declared) == declared, field.name


def test_the_choices_are_the_librarys_own():
    fields = {
        f.name: f.metadata["choices"] for cls in GROUPS.values() for f in dataclasses.fields(cls)
    }
    assert set(fields["resnet_depth"]) == set(DEPTHS)
    assert set(fields["output_stride"]) == set(OUTPUT_STRIDES)
    assert set(fields["stem"]) == {"auto", *STEM_STRIDES}
    assert set(fields["optimizer"]) == set(OPTIMIZERS)
