"""Settings of the commands: each option is explained."""

import pytest

from pipeline.settings import cache_commands, commands, training
from pipeline.settings.field import options

CONFIGS = {
    name: kind
    for module in (cache_commands, commands, training)
    for name, kind in vars(module).items()
    if name.endswith("Config")
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_has_a_help_text(name: str) -> None:
    assert options(CONFIGS[name])
    assert all(field.metadata["help"] for field in options(CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_number_that_may_be_left_out_says_what_it_is_then(name: str) -> None:
    for field in options(CONFIGS[name]):
        if field.type in (int | None, float | None) and field.name not in ("images", "picture_bytes"):
            assert "Default: " in field.metadata["help"], field.name
