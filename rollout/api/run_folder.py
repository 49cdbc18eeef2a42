"""`rollout.Run`: a run folder and its contents as values."""

import os
from dataclasses import dataclass
from html import escape
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollout import lifecycle
from rollout.api.called import called
from rollout.api.hydra_apart import hydra_apart
from rollout.api.shown import ShownAnalysis, ShownComparison
from rollout.api.words import words_of
from rollout.cli import saved_config
from rollout.cli.compare import compare_sides, open_sides
from rollout.compare.notes import notes_of
from rollout.config import CompareCommand, trust
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import short
from rollout.generation.engine_start import model_name
from rollout.postprocess.analyze import read_analysis
from rollout.store import run_record
from rollout.store.layout import ANALYSIS, FLAT, OUTPUT, REPORT, SCORES
from rollout.store.run_record import RunRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Run:
    """A run, by its folder. Everything is read when it is asked for, so that it is true of a run that goes on, too."""

    path: Path
    """Its folder, absolute."""
    _was_made_here: bool = False
    """By this program, which so has named what its config runs."""

    @property
    def record(self) -> RunRecord:
        """What run.json says: status, config, totals, throughput, versions, sessions."""
        return run_record.read(self.path)

    @property
    def analysis(self) -> ShownAnalysis:
        """Lengths, how responses ended, duplicates, scores; it shows itself as tables.

        Raises UserError where the run was not analysed.
        """
        path = self._file(ANALYSIS, "analyze")
        try:
            return ShownAnalysis(**vars(read_analysis(self.path)))
        except msgspec.DecodeError as error:
            raise _damaged(path, error) from error

    def dataframe(self) -> "pd.DataFrame":
        """One row per prompt, in input order: the input's columns, `responses` and what is known of them.

        Raises UserError where the run has not come so far.
        """
        return self._frame(OUTPUT, None)

    def flat(self) -> "pd.DataFrame":
        """One row per response. Raises UserError where the run made none."""
        return self._frame(FLAT, "flatten")

    def scores(self) -> "pd.DataFrame":
        """One row per response with its score. Raises UserError where the responses were not scored."""
        return self._frame(SCORES, "score")

    def resume(self, *overrides: str, **groups: Any) -> "Run":
        """Generate what the run still owes; with `sampling.n_samples=8`, say, more of every prompt. Returns the run.

        Overrides as of `rollout.run`. Raises UserError where they would make another experiment of it, or where the
        folder is from somebody else and would run code (`trust=true`).
        """
        with called(self.path):
            if "input" in groups or "run_dir" in groups:
                raise UserError("input, run_dir: a run keeps its own; for others call rollout.run")
            trusted, words = trust.asked(words_of(overrides, groups))
            trusted |= self._was_made_here
            run_record.read(self.path)  # before a lock is made in a folder that is none
            if not trusted:
                trust.refuse_links(self.path)
            with hydra_apart():
                config = saved_config.load(self.path, words, trusted)
            if config.dry_run:
                raise UserError("dry_run=true: prints a plan, which is the command's; leave it out")
            if lifecycle.resume(config, self.path, lifecycle.Asked(is_call=True)) is None:
                print(f"{short(self.path)}: nothing to do, the run is complete")
        return self

    def compare(self, *others: "Run | str | os.PathLike[str]", **keys: Any) -> ShownComparison:
        """How others differ from this run, row by row: every difference is the later one less the earlier one.

        `others` are runs, their folders, files of responses or folders of sweeps; `keys` are those of `rollout compare`
        but for `inputs`: `clusters`, `pass_score`, `prompt_key`, `ground_truth`, ... Nothing is written. What
        it returns shows itself as the tables of the command. Raises UserError where they cannot be compared.
        """
        inputs = [str(other.path) if isinstance(other, Run) else os.fspath(other) for other in others]
        asked = CompareCommand(inputs=[str(self.path), *inputs], **keys)
        sides, notes = open_sides(asked)
        comparison = compare_sides(sides, asked)
        return ShownComparison(**vars(comparison), notes=[*notes, *notes_of(sides, comparison)])

    def __repr__(self) -> str:
        try:
            facts = ", ".join(text for name, text in self._facts() if name != "folder")
        except UserError:
            facts = "cannot be read"
        return f"Run({short(self.path)}: {facts})"

    def _repr_html_(self) -> str:
        """A small table, for a notebook."""
        try:
            facts = self._facts()
        except UserError as error:
            return f"<p>{escape(str(error))}</p>"
        rows = [f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in facts]
        if (self.path / REPORT).exists():
            link = escape(quote(relpath(self.path / REPORT)))
            rows.append(f'<tr><th>report</th><td><a href="{link}" target="_blank">{REPORT}</a></td></tr>')
        return f"<table>{''.join(rows)}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """(name, what it is), for people."""
        record = self.record
        facts = [("status", record.status), ("model", model_name(record.config)), ("folder", short(self.path))]
        if (totals := record.totals) is not None:
            is_even = record.config.data.sampling_key is None and record.config.adaptive.until is None
            n_samples = record.config.sampling.n_samples
            samples = f" x {counted(n_samples, 'sample')}" if is_even else f", {counted(totals.samples, 'sample')}"
            size = f"{counted(totals.rows, 'prompt')}{samples}"
            facts.append(("size", f"{size}, {counted(totals.generated_tokens, 'token')}"))
        if record.throughput is not None:
            facts.append(("speed", f"{record.throughput.output_tok_s:,.0f} tok/s"))
        if (score := self._mean_score()) is not None:
            facts.append(("score", f"mean score {score:.3f}"))
        return facts

    def _mean_score(self) -> float | None:
        try:
            scores = self.analysis.scores
        except UserError:
            return None
        return None if scores is None else scores.mean

    def _frame(self, name: str, step: str | None) -> "pd.DataFrame":
        path = self._file(name, step)
        try:
            with pq.ParquetFile(path) as file:
                frame: pd.DataFrame = file.read().to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error
        return frame

    def _file(self, name: str, step: str | None) -> Path:
        """A file of the run that `step` of post-processing makes, None: the run itself."""
        path, record = self.path / name, self.record
        if path.exists():
            return path
        if step is None or step in record.config.postprocess.steps:
            raise UserError(f"{short(path)}: is not there, the run is {record.status}; finish it with resume()")
        cure = (
            'resume("postprocess=score", "postprocess.score.scorer=...")'
            if step == "score"
            else (f'resume("postprocess.steps=[{",".join([step, *record.config.postprocess.steps])}]")')
        )
        raise UserError(f"{short(path)}: is not there, the run has no step {step}; make it with {cure}")


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{short(path)}: cannot be read ({str(error).splitlines()[0]}); delete it, resume() makes it again"
    )
