"""The import rules of docs/architecture.md."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rollout"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that `path` imports, `from rollout import models` as rollout.models."""
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


@pytest.mark.parametrize(("module", "allowed"), [("errors", set()), ("records", set()), ("config", {"rollout.errors"})])
def test_the_base_modules_import_nothing_above_them(module: str, allowed: set[str]) -> None:
    assert ours(imports(PACKAGE / f"{module}.py")) <= allowed


def test_any_module_can_be_imported_first() -> None:
    graph = {name: ours(imports(path, top_level_only=True)) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("package", "module"), [("vllm", "rollout.engine.vllm_engine"), ("ray", "rollout.replicas.ray_replicas")]
)
def test_only_one_module_imports_what_is_large_and_not_always_there(package: str, module: str) -> None:
    importers = {name for name, path in MODULES.items() if any(m.split(".")[0] == package for m in imports(path))}
    assert importers == {module}
    from_the_start = {name for name, path in MODULES.items() if module in imports(path, top_level_only=True)}
    assert from_the_start == set()


def test_who_samples_what_is_worked_out_without_engines_and_files() -> None:
    assert ours(imports(PACKAGE / "replicas/dispatcher.py")) == {"rollout.records"}


def test_a_replica_knows_nothing_of_the_driver() -> None:
    assert not ours(imports(PACKAGE / "replicas/worker.py")) & {
        "rollout.replicas.driver",
        "rollout.replicas.ray_replicas",
        "rollout.lifecycle",
    }


def test_only_the_entry_points_import_the_run() -> None:
    importers = {name for name, path in MODULES.items() if "rollout.lifecycle" in imports(path)}
    assert importers == {"rollout.cli.main", "rollout.resume", "rollout.verify.__main__"}


@pytest.mark.parametrize("stage", ["tables", "prompts", "generate", "store", "finalize", "progress"])
def test_no_stage_imports_a_later_one(stage: str) -> None:
    order = ["tables", "prompts", "generate", "store", "finalize", "postprocess", "summary", "run", "cli"]
    later = order[order.index(stage) + 1 :] if stage in order else order[order.index("finalize") :]
    found = ours(imports(PACKAGE / f"{stage}.py"))
    assert not {name for name in found if name.split(".")[1] in later}


def test_modules_and_functions_stay_small() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > 330}
