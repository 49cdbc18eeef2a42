"""`python -m rollout merge FOLDER [FOLDER ...] OUT`: the results of a job array as one.

The runs are the shards of one input (`data.num_shards`, `data.shard_index`), all of them and finished. A folder that
holds runs, such as a sweep's, stands for those. Writes OUT/rollouts.parquet, with the rows that one run over the whole
input would have, OUT/scores.parquet where all runs have scores that were made alike, and OUT/merge.json, which says
what was merged. The runs stay as they are. The last folder is OUT, unless output=OUT names it.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rollout.cli.arguments import show_help
from rollout.cli.help import text
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import RunConfig, trust
from rollout.data.text import counted
from rollout.errors import UserError, did_you_mean, nearest
from rollout.files import as_argument, disk_full_explained, holds_keys, short, user_path, write_json
from rollout.merge.results import open_results, write_merged
from rollout.merge.scores import open_scores, write_scores
from rollout.merge.shards import Shard, differences, named, problems, shards_in, unsharded
from rollout.process.signals import stop_on_signal
from rollout.records import Totals
from rollout.store.digest import Digest
from rollout.store.layout import MERGED, OUTPUT, SCORES
from rollout.store.provenance import Provenance
from rollout.store.run_record import Throughput
from rollout.store.times import now

_OF_FILES = (".parquet", ".jsonl", ".csv", ".gz", ".zst")
"""With one of these endings, OUT was meant as a file of rows, as in the commands on files."""


@dataclass(frozen=True)
class ShardRecord:
    """The entry of one run in merge.json."""

    shard_index: int
    run_dir: str
    started: str
    ended: str | None
    totals: Totals
    throughput: Throughput | None
    provenance: Provenance


@dataclass(frozen=True)
class MergeRecord:
    """The content of merge.json."""

    merged: str
    """Time of the merge, ISO 8601."""
    totals: Totals
    config: RunConfig
    """The config of a run over the whole input, like `digest`."""
    digest: Digest
    differences: list[str]
    """Differences between the runs that do not prevent a merge."""
    shards: list[ShardRecord]


def main(arguments: list[str]) -> None:
    """The command. Exit codes as for `python -m rollout`."""
    with one_line_errors(), stop_on_signal():
        show_help(arguments, lambda: text(["merge"]))
        _, arguments = trust.asked(arguments)  # a merge only reads data, so trust makes no difference
        folders, output = _parse(arguments)
        for line in _report_lines(merge(folders, output), output):
            print(line)


@dataclass(frozen=True)
class Merged:
    """The parts of a merge."""

    shards: list[Shard]
    """By number."""
    scores_left_out: str | None
    """Why scores that some of the shards have are left out; None if nothing is left out."""


def merge(folders: list[Path], output: Path) -> Merged:
    """Write rollouts.parquet, merge.json and the scores, if any, to the folder `output`.

    `folders` are runs, or contain runs. Raises UserError with all problems of them.
    """
    shards, wrong = list[Shard](), [*_output_problems(output)]
    for folder in folders:
        try:
            shards += shards_in(folder)
        except UserError as error:
            wrong += error.problems
    shards.sort(key=lambda shard: shard.index)
    if wrong := [*wrong, *problems(shards)]:
        raise UserError(*wrong)
    tables, scores = open_results(shards), open_scores(shards)
    output.mkdir(parents=True, exist_ok=True)
    with disk_full_explained(f"output={output}", "free some space"):
        write_json(output / MERGED, asdict(_description(shards)))
        (output / SCORES).unlink(missing_ok=True)  # from a merge that was killed
        if scores.tables:
            write_scores(output / SCORES, scores.tables)
        write_merged(output / OUTPUT, tables, unsharded(shards[0].record.digest))  # the last file: if it exists, all do
    return Merged(shards, scores.left_out)


def _parse(arguments: list[str]) -> tuple[list[Path], Path]:
    """The folders to merge and the one to write. Raises UserError with all problems of the arguments."""
    slips = [word for word in arguments if _is_slip(word)]
    outputs = [word.removeprefix("output=") for word in arguments if word.startswith("output=")]
    folders = [word for word in arguments if not word.startswith("output=") and word not in slips]
    if not outputs and len(folders) > 1:
        outputs = [folders.pop()]
    keys = [word.partition("=")[0] for word in slips]
    wrong = [f"{key}: no such key, {did_you_mean(key, ['output'])}" for key in keys]
    if len(outputs) != 1 or not outputs[0]:
        given = f"={','.join(outputs)}: must be given once" if any(outputs) else ": must be given"
        wrong.append(f"output{given}; give it as the last path, or write output=FOLDER")
    if not folders:
        wrong.append("RUN_DIR: no runs to merge; give their folders, or the folder that holds them")
    if wrong:
        raise UserError(*wrong)
    return [user_path(word) for word in folders], user_path(outputs[0])


def _is_slip(word: str) -> bool:
    """Whether `word` is unlikely to be a folder, but was meant as output=FOLDER."""
    key, equals, _ = word.partition("=")
    is_near = key == "--output" or (bool(equals) and bool(nearest(key, ["output"])) and key != "output")
    return is_near and not user_path(word).exists()


def _output_problems(output: Path) -> Iterator[str]:
    """Problems of the output folder: only the files of a merge that was killed are overwritten."""
    if output.suffix in _OF_FILES:
        yield f"output={output}: is the name of a file, a merge is a folder; leave {output.suffix} out"
    elif output.exists() and not output.is_dir():
        yield f"output={output}: is a file; choose a folder"
    elif output.is_dir():
        leftovers = {
            f".{MERGED}.partial",
            f".{OUTPUT}.partial",
            f".{SCORES}.partial",
            *([MERGED, SCORES] if holds_keys(output / MERGED, {"merged", "shards"}) else []),
        }
        if found := sorted({path.name for path in output.iterdir()} - leftovers):
            yield f"output={output}: has {found[0]} in it already; choose another folder"


def _description(shards: list[Shard]) -> MergeRecord:
    first = shards[0].record
    return MergeRecord(
        merged=now(),
        totals=_totals(shards),
        config=replace(first.config, data=replace(first.config.data, num_shards=1, shard_index=0)),
        digest=unsharded(first.digest),
        differences=list(differences(shards)),
        shards=[_described(shard) for shard in shards],
    )


def _described(shard: Shard) -> ShardRecord:
    run, run_dir = shard.record, str(shard.run_dir.absolute())
    return ShardRecord(shard.index, run_dir, run.started, run.ended, shard.totals, run.throughput, run.provenance)


def _totals(shards: list[Shard]) -> Totals:
    return sum((shard.totals for shard in shards), Totals())


def _report_lines(merged: Merged, output: Path) -> Iterator[str]:
    shards, totals, result = merged.shards, _totals(merged.shards), short(output / OUTPUT)
    for line, odd in differences(shards).items():
        yield f"warning: not the same in all shards: {line} (in {named(odd)})"
    if merged.scores_left_out is not None:
        yield f"warning: the scores are left out: {merged.scores_left_out}; score the merge, or the shards alike"
    yield f"merged {counted(len(shards), 'shard')}: {result}"
    yield ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in asdict(totals).items())
    yield f"go on with: python -m rollout analyze {as_argument(output)}"


if __name__ == "__main__":
    main(sys.argv[1:])
