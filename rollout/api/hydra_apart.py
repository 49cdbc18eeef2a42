"""Keep our use of Hydra apart from the calling program's, which may have names and settings of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, cast

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from omegaconf.basecontainer import BaseContainer


@contextmanager
def hydra_apart() -> Iterator[None]:
    """Hydra is not initialised in the body; its registers and OmegaConf's resolvers are as before at the end."""
    plugins = Plugins.instance()  # they add to the registers when they are found, once in a process
    store, sources = ConfigStore(), SourcesRegistry()
    instances, resolvers = Singleton._instances, BaseContainer._resolvers
    Singleton._instances, BaseContainer._resolvers = {Plugins: cast(Any, plugins)}, dict(resolvers)
    ConfigStore.instance().repo = deepcopy(store.repo)
    SourcesRegistry.instance().types = dict(sources.types)
    try:
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = instances, resolvers
