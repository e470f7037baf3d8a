"""hier: visual search that understands hierarchy.

Importing this package is cheap: rooms that need PyTorch (``nn``, ``losses``, ``training``,
``export``) are imported by name, the serving rooms never pull them in.
"""

import os

__version__ = "0.1.0"

# Nothing is sent home, and nothing is written for it into a home folder. These libraries look when
# they are loaded, so it is said before any of them is; who sets one of these decides.
for _switch, _off in (
    ("ORT_DISABLE_TELEMETRY", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
):
    os.environ.setdefault(_switch, _off)
