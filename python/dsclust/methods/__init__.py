"""Methods: every file in this folder is one, under its own name, and registers itself; nothing else lists them.

`METHODS[name]` imports a method when it is asked for. What methods are made of is in `dsclust.parts`.
"""

from dsclust.parts.method import METHODS, register_method

__all__ = ["METHODS", "register_method"]
