"""Numbers, durations and commands in the form in which people read and type them."""

from pathlib import Path

from rollout.config import RunConfig, trust
from rollout.files import as_argument
from rollout.store import outside


def duration(seconds: float) -> str:
    """Seconds as 8.5s, 1m05s or 2h03m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def resume_command(run_dir: Path) -> str:
    """The command that continues the run in `run_dir`."""
    return f"python -m rollout resume {_folder(run_dir)}"


def watch_command(run_dir: Path) -> str:
    """The command that shows the run in `run_dir` while it works."""
    return f"python -m rollout watch {as_argument(run_dir)}"


def compare_command(sweep_dir: Path) -> str:
    """The command that compares the jobs in `sweep_dir` row by row."""
    return f"python -m rollout compare {as_argument(sweep_dir)}"


def merge_command(sweep_dir: Path) -> str:
    """The command that merges the shards in `sweep_dir` into one folder beside it."""
    return f"python -m rollout merge {as_argument(sweep_dir)} {as_argument(merged_folder(sweep_dir))}"


def merged_folder(sweep_dir: Path) -> Path:
    """The folder that this command writes."""
    return sweep_dir.parent / f"{sweep_dir.name}-merged"


def how_to_finish(run_dir: Path) -> str:
    """What to do about a run without a result: wait if it still works."""
    if outside.look(run_dir).status in ("preparing", "running"):
        return f"the run still works; look at it with `{watch_command(run_dir)}`"
    return f"finish the run with `{resume_command(run_dir)}`"


def replay_command(run_dir: Path, run: RunConfig) -> str:
    """The command that repeats the run in `run_dir`, whose config is `run`, in a new folder."""
    return f"python -m rollout replay {_folder(run_dir, run)}"


def postprocess_command(run_dir: Path) -> str:
    """The command that repeats the second stage of the run in `run_dir`."""
    return f"python -m rollout.postprocess run_dir={_folder(run_dir)}"


def _folder(run_dir: Path, run: RunConfig | None = None) -> str:
    """The folder as an argument, followed by `trust=true` if the run's own config needs it. `run` is that config, if it
    is known.
    """
    return as_argument(run_dir) + (f" {trust.OVERRIDE}" if trust.needs_trust(run_dir, run) else "")


def printable(text: str) -> str:
    """`text` with blanks in place of line breaks, escape codes and other control characters: data must not move the
    cursor or colour the screen.
    """
    return "".join(character if character.isprintable() else " " for character in text)
