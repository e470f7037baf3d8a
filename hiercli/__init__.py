"""hier: visual search that understands hierarchy.

Importing this package is cheap: rooms that need PyTorch (``nn``, ``losses``, ``training``,
``export``) are imported by name, the serving rooms never pull them in.
"""

__version__ = "0.1.0"
