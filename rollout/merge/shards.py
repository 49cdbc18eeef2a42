"""The runs of a job array, and why they are not all the shards of one input."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.config.keys import config_fields
from rollout.files import short
from rollout.records import Totals
from rollout.store import lineage, outside
from rollout.store.digest import UNKNOWN, Digest, aligned, config_key
from rollout.store.layout import MANIFEST, OUTPUT
from rollout.store.lineage import Made
from rollout.store.run_record import RunRecord, read
from rollout.terminal.text import how_to_finish, resume_command

_NAMED = 3  # folders in one line


@dataclass(frozen=True)
class Shard:
    """A run over one part of the input."""

    run_dir: Path
    record: RunRecord

    def __str__(self) -> str:
        return short(self.run_dir)

    @property
    def totals(self) -> Totals:
        """The totals of its result; empty before there is one."""
        return self.record.totals or Totals()

    @property
    def index(self) -> int:
        """Its data.shard_index; that of a run older than the key is 0."""
        return int(self.record.digest.get("data.shard_index", 0))

    @property
    def num_shards(self) -> int:
        """Its data.num_shards."""
        return int(self.record.digest.get("data.num_shards", 1))

    @property
    def facts(self) -> Digest:
        """Config key -> value, for the keys that must be equal in all shards, and data.shard_index."""
        config = self.record.config
        more = {"sampling.n_samples": config.sampling.n_samples, "data.limit": config.data.limit}
        rule = {"adaptive.until": config.adaptive.until}
        if config.adaptive.until is not None:
            rule |= {key: field.value for key, field in config_fields(config.adaptive, "adaptive.")}
        return {**self.record.digest, **more, **rule}


def shards_in(folder: Path) -> list[Shard]:
    """The run in `folder`, or those in its folders. Raises UserError if there is none."""
    inside = [] if (folder / MANIFEST).exists() else [path.parent for path in folder.glob(f"*/{MANIFEST}")]
    return [Shard(path, read(path)) for path in sorted(inside) or [folder]]


def unsharded(digest: Digest) -> Digest:
    """`digest` as it would be for a run over the whole input."""
    return digest | {"data.num_shards": 1, "data.shard_index": 0}


def problems(shards: list[Shard]) -> Iterator[str]:
    """Why `shards` cannot be merged, one line for each reason."""
    for shard in shards:
        yield from _unfinished(shard)
    yield from _differing(shards)
    if len({shard.num_shards for shard in shards}) == 1:
        yield from _missing_or_doubled(shards)


def differences(shards: list[Shard]) -> dict[str, list[Shard]]:
    """Differences that do not prevent a merge, in the words of `lineage.differences` -> the shards with each."""
    found: dict[str, list[Shard]] = {}
    for shard in shards[1:]:
        for line in lineage.differences(Made.of(shards[0].record), Made.of(shard.record)):
            found.setdefault(line, []).append(shard)
    return found


def named(shards: list[Shard]) -> str:
    """The folders of the first shards, and how many more there are."""
    names = [str(shard) for shard in shards[:_NAMED]]
    if len(shards) > _NAMED:
        names.append(f"{len(shards) - _NAMED} more")
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _unfinished(shard: Shard) -> Iterator[str]:
    command = resume_command(shard.run_dir)
    if shard.record.status != "done":
        status = outside.look(shard.run_dir).status
        yield f"{shard}: not finished, its status is {status}; {how_to_finish(shard.run_dir)}"
    elif not (shard.run_dir / OUTPUT).exists():
        yield f"{shard}: has no {OUTPUT}; write it again with `{command}`"


def _differing(shards: list[Shard]) -> Iterator[str]:
    """One line for each value that some shards were made with, but most of the others were not."""
    for key, values in aligned(*(shard.facts for shard in shards)):
        texts = [None if value is UNKNOWN else str(value) for value in values]
        usual, *others = dict(Counter(text for text in texts if text is not None).most_common())
        for text in others if key != "data.shard_index" else ():
            odd = named([shard for shard, own in zip(shards, texts, strict=True) if own == text])
            yield f"{config_key(key)}={text}: in {odd}, and {usual} in others; {_cure(key)}"


def _cure(key: str) -> str:
    if key == "sampling.n_samples":
        return "give all as many with `python -m rollout resume`"
    if key.startswith("adaptive."):
        return "give all the same rule with `python -m rollout resume`"
    return "merge the shards of one run only"


def _missing_or_doubled(shards: list[Shard]) -> Iterator[str]:
    by_index: dict[int, list[Shard]] = {}
    for shard in shards:
        by_index.setdefault(shard.index, []).append(shard)
    num_shards = shards[0].num_shards
    if missing := [str(index) for index in range(num_shards) if index not in by_index]:
        yield (
            f"data.shard_index={','.join(missing)}: missing, with data.num_shards={num_shards}; run what is missing, "
            "or give its folder too"
        )
    for index, same in by_index.items():
        if len(same) > 1:
            yield f"data.shard_index={index}: in {named(same)}; leave out all but one"
