"""What to give instead of a folder that holds runs, where one result is read."""

from pathlib import Path

from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import as_argument
from rollout.store import run_record
from rollout.store.digest import Digest
from rollout.store.layout import MANIFEST, MERGED, OUTPUT
from rollout.sweep.notes import is_sweep
from rollout.terminal.text import merge_command, merged_folder, watch_command


def refuse_several(folder: Path, key: str) -> None:
    """Raise UserError, naming `key`, where `folder` is no run's and holds some, or is a sweep's."""
    if run_record.exists(folder):
        return
    inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not inside and not is_sweep(folder):
        return
    if _are_shards(inside):
        raise UserError(f"{key}={folder}: holds the shards of one input; {_how_to_merge(folder.resolve())}")
    what, one = f"holds {counted(len(inside), 'run')}", "one of them"
    if is_sweep(folder):
        what, one = "is a sweep's folder", "one job"
    if not inside:
        raise UserError(f"{key}={folder}: {what}, and no job has begun; look at it with `{watch_command(folder)}`")
    example = next((run_dir for run_dir in inside if (run_dir / OUTPUT).exists()), inside[0])
    raise UserError(f"{key}={folder}: {what}; give the folder of {one}, such as {as_argument(example)}")


def _are_shards(run_dirs: list[Path]) -> bool:
    """Whether they are parts of one input, all different."""
    digests = [digest for run_dir in run_dirs if (digest := _digest(run_dir)) is not None]
    indices = {digest.get("data.shard_index") for digest in digests}
    counts = {digest.get("data.num_shards", 1) for digest in digests}
    return len(indices) == len(run_dirs) > 1 and len(counts) == 1 and counts != {1}


def _digest(run_dir: Path) -> Digest | None:
    try:
        return run_record.read(run_dir).digest
    except UserError:
        return None


def _how_to_merge(folder: Path) -> str:
    merged = merged_folder(folder)
    if (merged / MERGED).exists() and (merged / OUTPUT).exists():
        return f"give the merged ones, {as_argument(merged)}"
    return f"merge them with `{merge_command(folder)}`, then give {as_argument(merged)}"
