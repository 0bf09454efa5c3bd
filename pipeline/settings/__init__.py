"""Settings of every command, one frozen dataclass each: the only place for defaults, bounds and help texts.

The command line is generated from these fields, and a TOML file may set any of them.
"""
