"""What a call could leave changed in the process that calls."""

import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import hydra
import rich
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer


def state() -> dict[str, Any]:
    """All of it, to be compared."""
    loggers = {name: logging.getLogger(name) for name in ("", "rollout", "vllm", "hydra")}
    base = hydra.version.getbase()
    return {
        "signals": [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)],
        "logs": {name: (log.handlers[:], log.level, log.propagate, log.disabled) for name, log in loggers.items()},
        "streams": (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__),
        "descriptors": [os.fstat(descriptor)[1:3] for descriptor in (0, 1, 2)],
        "environment": dict(os.environ),
        "argv": (sys.argv[:], sys.orig_argv[:]),
        "path": sys.path[:],
        "folder": Path.cwd(),
        "hooks": (sys.excepthook, threading.excepthook, sys.exit, warnings.showwarning),
        "console": rich.get_console(),
        "hydra": (GlobalHydra.instance().hydra, dict(Singleton._instances), base),
        "configs": _in_words(ConfigStore.instance().repo),
        "sources": dict(SourcesRegistry.instance().types),
        "resolvers": dict(BaseContainer._resolvers),
        "threads": {thread.name for thread in threading.enumerate() if not thread.name.startswith("wandb")},
    }


def _in_words(configs: Any) -> Any:
    """Nested dictionaries of configs as texts: one with an interpolation that nobody can resolve equals no other."""
    if isinstance(configs, dict):
        return {name: _in_words(config) for name, config in configs.items()}
    return configs.group, configs.package, configs.provider, OmegaConf.to_yaml(configs.node)
