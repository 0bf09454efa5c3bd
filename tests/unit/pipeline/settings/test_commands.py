"""The configs: each of their options is explained."""

import pytest

from pipeline.settings import commands as configs
from pipeline.settings.field import options


@pytest.mark.parametrize("config", [kind for name, kind in vars(configs).items() if name.endswith("Config")])
def test_every_option_has_a_help_text(config: type) -> None:
    assert options(config)
    assert all(field.metadata["help"] for field in options(config))
