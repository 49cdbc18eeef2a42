"""The import rule of docs/architecture.md: which package may import which, and what stays out until it is needed."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rollout"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

EDGES: dict[str, set[str]] = {
    "errors": set(),
    "records": set(),
    "process": set(),
    "store.layout": set(),
    "files": {"errors"},
    "config": {"files", "store.layout"},
    "data": {"config", "records"},
    "engine": {"config", "process", "records"},
    "scoring": {"data", "process"},
    "pages": {"files"},
    "store": {"data", "engine"},
    "tracking": {"store"},
    "postprocess": {"pages", "scoring", "store"},
    "terminal": {"postprocess", "tracking"},
    "compare": {"terminal"},
    "generation": {"terminal"},
    "replicas": {"generation"},
    "sweep": {"compare"},
    "preflight": {"generation", "postprocess"},
    "lifecycle": {"preflight", "replicas"},
    "cli": {"lifecycle", "sweep"},
    "prepare": {"data"},
    "merge": {"store", "terminal"},
    "verify": {"generation"},
    "resume": {"cli"},
    "replay": {"cli"},
    "api": {"cli"},
}
"""Package (or module) -> what it may import, and with that all that those may. A `__main__` may import anything."""


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that `path` imports, `from rollout.engine import models` as rollout.engine.models."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set[str]()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names if f"{node.module}.{alias.name}" in MODULES}
            found.add(node.module)
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("rollout.")}


def room(module: str) -> str:
    """The package or module of EDGES that a module belongs to."""
    _, _, name = module.partition(".")
    return name if name in EDGES else name.partition(".")[0]


def may_import(room: str) -> set[str]:
    reachable = set(EDGES[room])
    return reachable.union(*(may_import(other) for other in reachable))


def forbidden(module: str, imported: set[str]) -> set[str]:
    """What of it the rule does not allow."""
    allowed = may_import(room(module)) | {room(module)}
    return {name for name in ours(imported) if room(name) not in allowed}


LIBRARY = sorted(name for name in MODULES if name != "rollout" and not name.endswith("__main__"))


@pytest.mark.parametrize("module", LIBRARY)
def test_a_module_imports_only_what_its_package_may(module: str) -> None:
    assert not forbidden(module, imports(MODULES[module]))


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("rollout.errors", "rollout.files"),
        ("rollout.config.schema", "rollout.engine.models"),
        ("rollout.store.journal", "rollout.generation.loop"),
        ("rollout.engine.vllm_engine", "rollout.store.journal"),
        ("rollout.replicas.worker", "rollout.lifecycle"),
    ],
)
def test_a_forbidden_import_is_found(module: str, imported: str) -> None:
    assert forbidden(module, {imported, "rollout.errors"}) == {imported}


def test_the_table_names_every_package_and_has_no_circle() -> None:
    assert {room(module) for module in LIBRARY} == set(EDGES)
    TopologicalSorter(EDGES).prepare()  # raises CycleError


def test_any_module_can_be_imported_first() -> None:
    graph = {name: ours(imports(path, top_level_only=True)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


OF_VLLM = (
    *("annotations", "arguments", "batch_shard", "constraints"),
    *("engine", "logprobs", "lora", "pair_worker", "reasoning", "renderer", "scheduler", "weights"),
)


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("pandas", {"rollout.api.calls", "rollout.api.run_folder"}),
        ("vllm", {f"rollout.engine.vllm_{name}" for name in OF_VLLM}),
        ("ray", {"rollout.replicas.ray_replicas"}),
    ],
)
def test_few_modules_import_what_is_large_and_not_always_there(package: str, modules: set[str]) -> None:
    importers = {name for name, path in MODULES.items() if any(m.split(".")[0] == package for m in imports(path))}
    assert importers == modules
    from_the_start = {name for name, path in MODULES.items() if modules & imports(path, top_level_only=True)}
    assert from_the_start <= modules


def test_who_samples_what_is_worked_out_without_engines_and_files() -> None:
    assert ours(imports(PACKAGE / "replicas/dispatcher.py")) == {"rollout.records"}


def test_a_replica_knows_nothing_of_the_driver() -> None:
    found = ours(imports(PACKAGE / "replicas/worker.py") | imports(PACKAGE / "replicas/job_thread.py"))
    assert not found & {"rollout.replicas.driver", "rollout.replicas.ray_replicas"}


def test_only_the_entry_points_import_the_lifecycle() -> None:
    importers = {name for name, path in MODULES.items() if "rollout.lifecycle" in imports(path)}
    assert importers == {"rollout.cli.launch", "rollout.resume", "rollout.api.calls", "rollout.api.run_folder"}


def test_the_house_has_few_doors() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_modules_stay_small() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > 330}
