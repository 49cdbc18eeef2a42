"""What commands import, imported once; the process that has done it is forked for each command of the tests.

Left out are what must begin with the command (`rollout.cli.launch` remembers when) and what only vLLM, W&B and Ray
need.
"""

import gc
import os
import pkgutil
import sys
from importlib import import_module

from hydra.core.plugins import Plugins

import rollout

LEFT_OUT = (
    "rollout.cli.launch",
    "rollout.resume",
    "rollout.replay",
    "rollout.api.calls",
    "rollout.replicas.ray_replicas",
)
OF_TORCH = ("rollout.engine.vllm_", "rollout.engine.nucleus", "rollout.engine.pair_sum")
"""Beginnings of the names of modules that import torch or vLLM: five seconds once, and 0.1 s for each fork."""
LATER = ("pandas", "pyarrow.dataset", "pyarrow.json", "rich._emoji_codes")
"""What the package or its libraries import when they use it first."""

for _module in pkgutil.walk_packages(rollout.__path__, "rollout."):
    if _module.name not in LEFT_OUT and not _module.name.endswith("__main__") and not _module.name.startswith(OF_TORCH):
        import_module(_module.name)
for _name in LATER:
    import_module(_name)
assert "torch" not in sys.modules, "a module that imports torch is missing in OF_TORCH"
os.fsync = lambda fd: None  # as in conftest.py
Plugins.instance()  # imports those that are installed
gc.freeze()  # a collection would write to all the memory that the forks share
