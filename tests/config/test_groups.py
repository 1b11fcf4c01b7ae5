import dataclasses

from tfcontrast.config import GROUPS
from tfcontrast.methods import METHODS


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
