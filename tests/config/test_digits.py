import dataclasses

from tfcontrast import config as config_lib
from tfcontrast.config import GROUPS, check_options
from tfcontrast.methods import METHODS


def test_defaults_name_options_that_exist_and_accept_them():
    known = {f.name: cls for cls in GROUPS.values() for f in dataclasses.fields(cls)}
    tables = {name: (cls.Config, cls.Config.DEFAULTS) for name, cls in METHODS.items()}
    tables["digits"] = (METHODS["supcon"].Config, config_lib.DIGITS_DEFAULTS)
    for name, (own, table) in tables.items():
        assert set(table) == {"pretrain", "linear_eval", "finetune"}, name
        for values in table.values():
            for key, value in values.items():
                cls = known.get(key, own)
                field = {f.name: f for f in dataclasses.fields(cls)}[key]
                check_options(cls(**{key: value}))
                # A flagfile has no word for None, so a default may not stand in its way.
                assert not config_lib.is_optional(field), (name, key)
