"""What commands import, imported once; the process that has done it is forked for each command of the tests.

Left out are what must begin with the command (`rollout.cli.launch` remembers when) and what only vLLM, W&B and Ray
need.
"""

import gc
import os
import pkgutil
from importlib import import_module

from hydra.core.plugins import Plugins

import rollout

LEFT_OUT = {
    *("rollout.cli.launch", "rollout.resume", "rollout.replay", "rollout.api.calls"),
    *("rollout.engine.vllm_engine", "rollout.engine.vllm_worker", "rollout.replicas.ray_replicas"),
    *(
        "rollout.engine.nucleus",
        "rollout.engine.nucleus_kernel",
        "rollout.engine.nucleus_choice",
        "rollout.engine.nucleus_last",
        "rollout.engine.nucleus_rows",
        "rollout.engine.pair_sum",
        "rollout.engine.vllm_batch_shard",
        "rollout.engine.vllm_pair_worker",
        "rollout.engine.vllm_sampler",
        "rollout.engine.vllm_scheduler",
    ),
}
LATER = ("pandas", "pyarrow.dataset", "pyarrow.json", "rich._emoji_codes")
"""What the package or its libraries import when they use it first."""

for _module in pkgutil.walk_packages(rollout.__path__, "rollout."):
    if _module.name not in LEFT_OUT and not _module.name.endswith("__main__"):
        import_module(_module.name)
for _name in LATER:
    import_module(_name)
os.fsync = lambda fd: None  # as in conftest.py
Plugins.instance()  # imports those that are installed
gc.freeze()  # a collection would write to all the memory that the forks share
