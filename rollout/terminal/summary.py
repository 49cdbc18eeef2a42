"""The end of a run on screen: results, speed, warnings, and paths."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from rollout.data.text import counted, have
from rollout.files import short
from rollout.postprocess.analyze import Analysis
from rollout.postprocess.second_place import path_of
from rollout.postprocess.shares import share_of_reason
from rollout.records import Totals
from rollout.scoring.distribution import Distribution
from rollout.scoring.intervals import Estimate
from rollout.scoring.summary import PLAIN, ScoreSummary
from rollout.store.layout import OUTPUT, REPORT
from rollout.store.run_record import EngineRecord, RunRecord, Saving, Throughput
from rollout.store.samples import ShownSample
from rollout.terminal.console import show_table
from rollout.terminal.estimates import INTERVAL, interval_cell, legend, passing_line, percent, value_cell
from rollout.terminal.text import duration, postprocess_command, printable, replay_command

_LONGEST_NAME = 15  # characters of a group's name
_MAX_RATES = 8  # rates that fit into a line
_TRUNCATION_WARNING = 0.05  # a few long responses are normal; a larger share cut off needs a line


def show_summary(
    console: Console, run_dir: Path, record: RunRecord, analysis: Analysis | None, first: ShownSample | None
) -> None:
    """Print the `first` sample that has a response, the closing tables, warnings and paths."""
    console.print()
    if first is not None:
        console.print(Text.assemble(("prompt    ", "bold"), _one_line(first.prompt)), soft_wrap=True)
        console.print(Text.assemble(("response  ", "bold"), _one_line(first.response or "")), soft_wrap=True)
        console.print()
    if analysis is not None:
        show_analysis(console, analysis, "postprocess.score.pass_score")
    show_totals(console, run_dir, record, analysis)
    console.print(Text(f"results: {short(run_dir / OUTPUT)}"), soft_wrap=True)
    if (elsewhere := path_of(record.config)) is not None:
        console.print(Text(f"output:  {short(elsewhere)}"), soft_wrap=True)
    if (run_dir / REPORT).exists():
        console.print(Text(f"report:  {short(run_dir / REPORT)}"), soft_wrap=True)
    console.print(Text(f"repeat:  {replay_command(run_dir, record.config)}"), soft_wrap=True)


def show_totals(console: Console, run_dir: Path, record: RunRecord, analysis: Analysis | None) -> None:
    """Print how much was generated, how fast, and what needs attention."""
    totals = record.totals or Totals()
    whole = f"{counted(totals.samples, 'sample')} of {counted(totals.rows, 'prompt')}"
    if record.sessions:
        console.print(f"{whole}, {counted(totals.generated_tokens, 'token')}", soft_wrap=True)
        whole = "in this session: "
        whole += "none" if record.throughput is None else counted(record.throughput.samples, "sample")
    if record.throughput is not None:
        whole += f", {_speed(record.throughput, record.seconds)}"
    console.print(whole, soft_wrap=True)
    for line in _saving(record.adaptive):
        console.print(line, soft_wrap=True)
    if (replicas := _replicas(record.engine)) is not None:
        console.print(replicas, soft_wrap=True)
    for warning in [*_warnings(analysis, record), *_missing(run_dir, record)]:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _saving(saving: Saving | None) -> Iterator[str]:
    """What a rule that stops rows has saved."""
    if saving is None:
        return
    yield (
        f"at the full budget: {counted(saving.full_samples, 'sample')}, about {counted(saving.full_tokens, 'token')}; "
        f"[bold]{saving.saved:.0%} saved[/bold] ({saving.saved_samples:.0%} of the samples)"
    )
    yield f"rows stopped by: {', '.join(f'{reason} {rows:,}' for reason, rows in saving.stopped.items())}"
    if saving.rows_without_truth:
        rows = saving.rows_without_truth
        whose = "its" if rows == 1 else "their"
        yield f"{counted(rows, 'row')} {have(rows)} no ground truth and got {whose} full budget"


def show_analysis(console: Console, analysis: Analysis, pass_key: str = "pass_score") -> None:
    """Print the tables of lengths, of how responses ended, and of scores if there are any.

    `pass_key` is the key that says from which score on a response passes.
    """
    rows = [
        _distribution_row("characters", analysis.characters),
        _distribution_row("tokens", analysis.tokens),
    ]
    if analysis.thinking is not None:
        rows.append(_distribution_row("of thinking", analysis.thinking.tokens))
    show_table(console, "Response length", ["", "mean", "std", "min", "p50", "p90", "p99", "max"], rows)
    console.print()
    shown = _show_shares(console, analysis)
    if analysis.groups:
        _show_groups(console, analysis)
    if analysis.scores is not None:
        shown += _show_scores(console, analysis.scores, analysis, pass_key)
        shown += _show_scores_of_groups(console, analysis)
    for line in legend(shown, leans=analysis.scores is not None and analysis.scores.note == PLAIN):
        console.print(line, soft_wrap=True)
        console.print()


def _show_shares(console: Console, analysis: Analysis) -> list[list[str]]:
    """How responses ended: shares of the responses or, for failed samples, of the samples. Returns the cells."""
    counts = {name: (share_of_reason(name), count) for name, count in analysis.finish_reasons.items()}
    counts |= {"empty": ("empty_fraction", analysis.empty), "duplicate": ("duplicate_fraction", analysis.duplicates)}
    if analysis.thinking is not None:
        counts["never closed"] = "unclosed_fraction", analysis.thinking.unclosed
    counts |= {"looping": ("looping_fraction", analysis.looping), "failed": ("failed_fraction", analysis.failed)}
    rows = []
    for name, (share, count) in counts.items():
        found = analysis.estimates.get(share)
        rows.append([name, f"{count:,}", value_cell(found, percent), interval_cell(found, percent)])
    show_table(console, "Responses", ["", "count", "share", INTERVAL], rows, left=[INTERVAL])
    console.print()
    return rows


def _show_groups(console: Console, analysis: Analysis) -> None:
    rows = [
        [
            _cut(name),
            f"{part.rows:,}",
            f"{part.samples - part.failed:,}",
            *("-" if values is None else f"{values.mean:,.0f}" for values in (part.characters, part.tokens)),
            percent(part.truncated_fraction),
            f"{part.failed:,}",
        ]
        for name, part in analysis.groups.items()
    ]
    names = ["", "rows", "responses", "characters", "tokens", "cut off", "failed"]
    show_table(console, f"By {analysis.by}, means", names, rows)
    console.print()


def _show_scores(console: Console, scores: ScoreSummary, analysis: Analysis, pass_key: str) -> list[list[str]]:
    """A line for each number; the pass rate only if it differs from pass@1, which it does not with equally many
    responses per row.
    """
    cells = {name: [value_cell(it), interval_cell(it), f"{it.n:,}"] for name, it in scores.estimates.items()}
    if cells.get("pass_rate") == cells.get("pass@1"):  # compared as shown: two sums round differently
        cells.pop("pass_rate", None)
    rows = [[name, *shown] for name, shown in cells.items()]
    if rows:
        show_table(console, "Scores", ["", "value", INTERVAL, analysis.clusters], rows, left=[INTERVAL])
    cut_off = "" if analysis.truncated_fraction is None else f" and {scores.cut_off:,} cut off"
    of_them = f", {scores.no_answer:,} of them without an answer{cut_off}" if scores.scored else ""
    console.print(f"{scores.scored:,} scored{of_them}; {scores.unscored:,} not scored", soft_wrap=True)
    for line in passing_line(scores.pass_score, scores.is_graded, pass_key):
        console.print(line, soft_wrap=True)
    if scores.note is not None:
        console.print(Text(scores.note, style="yellow"), soft_wrap=True)
    console.print()
    return rows


def _show_scores_of_groups(console: Console, analysis: Analysis) -> list[list[str]]:
    scores = {name: part.scores for name, part in analysis.groups.items() if part.scores is not None}
    if not scores or analysis.scores is None:
        return []
    shown = ["mean", *[f"pass@{k}" for k in analysis.scores.pass_at_k][-1:]]
    rows = [
        [_cut(group), f"{of.scored:,}", *(cell for name in shown for cell in _cells(of.estimates.get(name)))]
        for group, of in scores.items()
    ]
    columns = [cell for name in shown for cell in (name, INTERVAL)]
    show_table(console, f"Scores by {analysis.by}", ["", "scored", *columns], rows, left=[INTERVAL])
    console.print()
    return rows


def _cells(estimate: Estimate | None) -> list[str]:
    return [value_cell(estimate), interval_cell(estimate)]


def _cut(name: str) -> str:
    """A group's name, cut for a table of 80 columns."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _speed(throughput: Throughput, seconds: dict[str, float]) -> str:
    """How much this session of the run generated, and how fast."""
    return (
        f"{counted(throughput.generated_tokens, 'token')} in {duration(seconds['generate'])}: "
        f"[bold]{throughput.output_tok_s:,.0f} tok/s[/bold] (loading took {duration(seconds['load'])}, not counted)"
    )


def _replicas(engine: EngineRecord | None) -> str | None:
    """The speed of each of several engines; with many, of the slowest, the median and the fastest."""
    replicas = [] if engine is None else engine.replicas
    if len(replicas) < 2:
        return None
    rates = sorted((replica.output_tok_s or 0.0 for replica in replicas), reverse=True)
    if len(rates) > _MAX_RATES:
        speed = f"{rates[-1]:,.0f} to {rates[0]:,.0f} tok/s, median {median(rates):,.0f}"
    else:
        *most, last = (f"{rate:,.0f}" for rate in rates)
        speed = f"{', '.join(most)} and {last} tok/s"
    restarts = sum(replica.restarts for replica in replicas)
    again = f", {counted(restarts, 'restart')}" if restarts else ""
    return f"{len(replicas)} replicas: {speed}{again}"


def _distribution_row(name: str, values: Distribution | None) -> list[str]:
    if values is None:
        return [name, *["-"] * 7]
    numbers = (values.mean, values.std, values.min, values.p50, values.p90, values.p99, values.max)
    return [name, *(f"{number:,.0f}" for number in numbers)]


def _warnings(analysis: Analysis | None, record: RunRecord) -> list[str]:
    warnings = []
    cut_off = None if analysis is None else analysis.truncated_fraction
    if cut_off is not None and cut_off > _TRUNCATION_WARNING:
        run = record.config
        own = "" if run.data.sampling_key is None else f", or by what column {run.data.sampling_key} says instead"
        warnings.append(
            f"{cut_off:.0%} of the responses were cut off by sampling.max_tokens={run.sampling.max_tokens}{own}"
        )
    if analysis is not None and analysis.thinking is not None:
        unclosed, answered = analysis.thinking.unclosed, analysis.samples - analysis.failed
        if unclosed > _TRUNCATION_WARNING * answered:
            warnings.append(
                f"{unclosed / answered:.0%} of the responses never closed their thinking and have no answer"
            )
    if analysis is not None and analysis.errors:
        reason, count = next(iter(analysis.errors.items()))
        have = "has" if analysis.rows_with_errors == 1 else "have"
        rows = f"{counted(analysis.rows_with_errors, 'row')} {have} errors"
        warnings.append(f"{rows}; the most frequent ({counted(count, 'sample')}): {reason}")
    return warnings


def _missing(run_dir: Path, record: RunRecord) -> list[str]:
    """The parts of the second stage that could not be done, and how to do them."""
    if record.missing is None:
        return []
    steps = ", ".join(record.missing.steps)
    return [f"{record.missing.reason}; then do what is missing ({steps}) with\n  {postprocess_command(run_dir)}"]


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
