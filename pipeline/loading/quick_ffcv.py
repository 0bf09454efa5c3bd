"""FFCV without the three seconds in which it compiles, at every import, a dictionary of two names.

To be imported before FFCV: the dictionary becomes a plain one, which serves as well, since no compiled code reads it.
"""

import importlib
from unittest.mock import patch

with patch("numba.typed.Dict", dict):
    importlib.import_module("ffcv.fields.rgb_image")
