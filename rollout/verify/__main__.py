"""`python -m rollout verify RUN_DIR [rows=32] [hardware=...]`: generate some rows of a run again and compare.

Takes `rows` of them, evenly spread over the run (`rows=all`: every one), generates their samples with the saved config
and compares them with rollouts.parquet: text, finish reason and number of tokens, and the token ids where the run has
kept them. Nothing in the run's folder changes.
Exit code 0 when every sample is the same, else 1.
"""

import dataclasses
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rollout.cli import saved_config
from rollout.cli.arguments import run_folder, show_help
from rollout.cli.help import text
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import AdaptiveConfig, PostprocessConfig, RunConfig, trust
from rollout.data.tables import Table, open_table
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import short
from rollout.store import lineage, run_record
from rollout.store.layout import LOG, OUTPUT
from rollout.store.lineage import Made
from rollout.store.provenance import Reproducibility
from rollout.store.run_record import RunRecord
from rollout.terminal.console import screen
from rollout.terminal.text import how_to_finish, resume_command
from rollout.verify.compare import Comparison

log = logging.getLogger("rollout.verify")  # __name__ is __main__ in the command

_ROWS = 32
_USED = ("model", "hardware")  # groups of the config
_MAY_CHANGE = (
    *("data.path", "model.path", "model.tokenizer", "model.chat_template", "model.lora"),
    "sampling.structured_outputs.json",
)
"""Groups and keys, beside `hardware`, that do not change the experiment: the input, the model and a schema may have
moved.
"""


def main(arguments: list[str]) -> None:
    """The command. Exit code 0 when all samples match, 1 when some do not or after a mistake, 130 after Ctrl-C."""
    with one_line_errors():
        show_help(arguments, lambda: text(["verify"]))
        trusted, overrides = trust.asked(arguments[1:])
        found = verify(run_folder(arguments[0]), overrides, trusted)
        sys.exit(0 if found.matches == found.samples else 1)


def verify(run_dir: Path, arguments: list[str], trusted: bool = False) -> Comparison:
    """Generate rows of the run in `run_dir` again, print how they compare, and return the comparison.

    Raises UserError if there is no result, the input is not the run's, the engine cannot start, or the model or the
    hardware needs to be `trusted`.
    """
    from rollout.engine.cache import release
    from rollout.preflight import preflight

    before = run_record.read(run_dir)
    asked, overrides = _parse(arguments)
    run, recorded = saved_config.load(run_dir, overrides, trusted, _USED), _open_result(run_dir)
    run.output = None
    run.postprocess = PostprocessConfig(steps=[])  # no step is done here, so nothing for a step can be missing
    table = preflight(run)
    if table.num_rows != recorded.num_rows:
        raise UserError(
            f"data.path={table.path}: {counted(table.num_rows, 'row')}, and the run has {recorded.num_rows}; "
            "give the run's input"
        )
    try:
        with _scratch_folder() as scratch:
            rows = min(asked or table.num_rows, table.num_rows)
            return _compare(run_dir, run, table, recorded, rows, before, scratch)
    finally:
        release()


def _parse(arguments: list[str]) -> tuple[int | None, list[str]]:
    """How many rows (None: all), and the overrides. Raises UserError for one that would change the experiment."""
    rows, overrides, wrong = str(_ROWS), list[str](), list[str]()
    for word in arguments:
        key, _, value = word.lstrip("+~").partition("=")
        if key == "rows":
            rows = value
        elif key.split(".")[0] == "hardware" or key in _MAY_CHANGE:
            overrides.append(word)
        else:
            wrong.append(f"{word}: the run is verified as it was made; leave it out, or see `python -m rollout replay`")
    if rows != "all" and not (rows.isascii() and rows.isdigit() and int(rows) > 0):
        wrong.append(f"rows={rows}: must be a whole number of at least 1, or all")
    if wrong:
        raise UserError(*wrong)
    return None if rows == "all" else int(rows), overrides


def _open_result(run_dir: Path) -> Table:
    from rollout.verify.regenerate import COMPARED

    path = run_dir / OUTPUT
    if not path.exists():
        raise UserError(f"{path}: there is no result yet; {how_to_finish(run_dir)}")
    try:
        result = open_table(path, OUTPUT)
    except UserError as error:
        raise UserError(f"{path}: cannot be read; write it again with `{resume_command(run_dir)}`") from error
    if missing := set(COMPARED) - set(result.schema.names):
        raise UserError(f"{path}: has no column {sorted(missing)[0]}; delete it and `{resume_command(run_dir)}`")
    return result


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder for the engine's output; it stays if an error refers to it."""
    folder, failed = Path(tempfile.mkdtemp(prefix="rollout-verify-")), False
    try:
        yield folder
    except Exception:
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(folder)


def _compare(
    run_dir: Path, run: RunConfig, table: Table, recorded: Table, rows: int, before: RunRecord, scratch: Path
) -> Comparison:
    from rollout.engine.content import content_of
    from rollout.process.signals import stop_on_signal
    from rollout.store import provenance
    from rollout.store.digest import digest
    from rollout.verify.regenerate import regenerate

    with stop_on_signal() as stop, screen(scratch / LOG) as console:
        log.info("verifying %s: %d of %d rows", short(run_dir), rows, table.num_rows)
        unscored = dataclasses.replace(run, adaptive=AdaptiveConfig())  # nothing is scored, so scorers cannot differ
        now = Made(digest(unscored, table) | content_of(run.model), provenance.collect(run.model))
        for line in lineage.differences(Made.of(before), now):
            log.warning("not as in the run: %s", line)
        found = regenerate(run, table, recorded, rows, scratch, console, stop)
        _show(console, found, before.reproducibility or provenance.reproducibility(before.config))
    return found


def _show(console: Console, found: Comparison, reproducibility: Reproducibility) -> None:
    """Print the differences, the count, and what was expected."""
    for one in found.differences:
        console.print(f"row {one.row_id}, sample {one.sample_idx}: differs at {one.unit} {one.offset}", soft_wrap=True)
        console.print(Text(f"  recorded     {one.recorded!r}"), soft_wrap=True)
        console.print(Text(f"  regenerated  {one.regenerated!r}"), soft_wrap=True)
    differing = found.samples - found.matches
    if differing > len(found.differences):
        console.print(f"... and {differing - len(found.differences):,} more", soft_wrap=True)
    console.print(f"{found.matches:,} of {counted(found.samples, 'sample')} match ({found.share()})", soft_wrap=True)
    if differing:
        console.print(Text(f"the run is {reproducibility.level}: {reproducibility.means}"), soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
