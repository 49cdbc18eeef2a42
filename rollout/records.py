"""The records that travel between the stages, and the Arrow schemas of what is written.

    Prompt --render--> Request --engine--> Sample --> samples/part-*.parquet --finalize--> rollouts.parquet

A sample is known by (row_id, sample_idx) everywhere: never by its text, never by the order in which it finished.
"""

from collections.abc import Collection
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SCHEMA_VERSION = 1
"""Version of the files below; goes up when a column changes its meaning."""

Message = dict[str, Any]
"""One turn of a chat, in the form chat templates expect: role, content, and whatever else the template reads."""

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
"""How vLLM says that a response ended; a sample that failed has "error"."""

TokenIds: TypeAlias = npt.NDArray[np.int32]
Logprobs: TypeAlias = npt.NDArray[np.float32]

SampleKey: TypeAlias = tuple[int, int]
"""(row_id, sample_idx)."""


class ScoredWith(NamedTuple):
    """What the responses to a prompt are scored with."""

    truth: Any
    """The ground truth; None where the row has none, or the scorer needs none."""
    row: dict[str, Any]
    """The input's columns, for a function of the user's."""


@dataclass(slots=True)  # not frozen: making a frozen one takes four times as long, and there is one for each row
class Prompt:
    """One input row, never changed: its position in the input (from 0) and its chat, or why it has none.

    `sampling` holds the row's own values for it, see `rollout.data.row_sampling`; `tools` is for the chat template;
    `scored_with` is None in a run that does not score while it samples.
    """

    row_id: int
    messages: list[Message]
    error: str | None = None
    sampling: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    scored_with: ScoredWith | None = None


@dataclass(slots=True)  # as Prompt
class Request:
    """One sample to generate; never changed. The samples of a row share one list of `prompt_token_ids`.

    `truncated_prompt` is the text that was cut off the prompt to make it fit, if any was. `kept_prompt` is the prompt's
    tokens as its samples keep them; None where token ids are not kept, of the response neither. `parameters` is what
    the engine has made of the row's own sampling (`Engine.prepare`); None where it is the run's.
    """

    row_id: int
    sample_idx: int
    seed: int
    prompt_token_ids: list[int]
    max_tokens: int
    truncated_prompt: str | None = None
    kept_prompt: TokenIds | None = None
    parameters: Any = None


@dataclass(slots=True)  # as Prompt
class Sample:
    """One finished sample; never changed. With an `error`, `response` is None and `finish_reason` is "error".

    What only some runs keep is None in the others: the tokens that were read and generated, the end token among the
    latter if there was one, and a log-probability for each of those (two samples are compared without them); and what
    was thought before the answer.
    """

    row_id: int
    sample_idx: int
    seed: int
    response: str | None
    finish_reason: str
    num_prompt_tokens: int | None
    num_generated_tokens: int
    error: str | None = None
    truncated_prompt: str | None = None
    prompt_token_ids: TokenIds | None = field(default=None, compare=False)  # arrays have no single `==`
    response_token_ids: TokenIds | None = field(default=None, compare=False)
    response_logprobs: Logprobs | None = field(default=None, compare=False)
    reasoning: str | None = None
    """What it thought before it answered, if the run tells the two apart: then `response` is the answer only, which is
    empty where the thinking never closed. Not None but empty where it did not think."""
    num_reasoning_tokens: int | None = None
    """Of `num_generated_tokens`, without those that mark where thinking begins and ends."""
    reasoning_closed: bool | None = None
    """Whether the thinking came to its end, if there was any."""
    is_scored: bool | None = None
    """Whether what follows is known, in a run that scores while it samples: the score, the answer that was found, and
    why there is none of the two."""
    score: float | None = None
    extracted_answer: str | None = None
    score_error: str | None = None

    @property
    def key(self) -> SampleKey:
        return self.row_id, self.sample_idx


@dataclass(frozen=True)
class Totals:
    """The totals of a run: what rollouts.parquet holds."""

    rows: int = 0
    samples: int = 0
    failed: int = 0
    """Samples without a response."""
    prompt_tokens: int = 0
    """Each row's prompt counts once."""
    generated_tokens: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


class Outcome(NamedTuple):
    """How a sample ended, without its text: what a replica reports of it."""

    row_id: int
    sample_idx: int
    num_prompt_tokens: int | None
    num_generated_tokens: int
    error: str | None
    flags: int = 0
    """What a rule that stops rows must know of it, see `rollout.data.stopping`; 0 in a run without a rule."""
    vote: int = 0
    """The number that stands for its answer there."""

    @property
    def key(self) -> SampleKey:
        return self.row_id, self.sample_idx


def outcome_of(sample: Sample) -> Outcome:
    """The outcome of a sample in a run without a rule that stops rows."""
    told = sample.num_prompt_tokens, sample.num_generated_tokens, sample.error
    return Outcome(sample.row_id, sample.sample_idx, *told)


class Lengths(NamedTuple):
    """How many samples of a row have finished, and how many tokens they have together."""

    samples: int = 0
    tokens: int = 0


SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("sample_idx", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("response", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("num_generated_tokens", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("truncated_prompt", pa.string()),
    ]
)
"""One row per finished sample: the journal. The columns of EXTRAS follow, as far as the run has them."""

ROLLOUT_FIELDS = (
    pa.field("row_id", pa.int64(), nullable=False),
    pa.field("responses", pa.list_(pa.string()), nullable=False),
    pa.field("finish_reasons", pa.list_(pa.string()), nullable=False),
    pa.field("num_prompt_tokens", pa.int32()),
    pa.field("num_generated_tokens", pa.list_(pa.int32()), nullable=False),
    pa.field("seeds", pa.list_(pa.int64()), nullable=False),
    pa.field("error", pa.string()),
    pa.field("truncated_prompt", pa.string()),
)
"""What rollouts.parquet has after the input's own columns. Position in a list = sample_idx, in all four lists; a sample
that failed is null in `responses` and "error" in `finish_reasons`."""

ROLLOUT_COLUMNS = tuple(column.name for column in ROLLOUT_FIELDS)


FLAT_FIELDS = (
    pa.field("row_id", pa.int64(), nullable=False),
    pa.field("sample_idx", pa.int32(), nullable=False),
    pa.field("response", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("num_prompt_tokens", pa.int32()),
    pa.field("num_generated_tokens", pa.int32()),
    pa.field("seed", pa.int64()),
    pa.field("error", pa.string()),
    pa.field("truncated_prompt", pa.string()),
)
"""What flat.parquet has after the input's own columns: one row per sample. `error` is null beside a response. What a
file that others wrote does not tell is null."""

SCORE_FIELDS = (
    pa.field("score", pa.float64()),
    pa.field("pass_rate", pa.float64()),
    pa.field("extracted_answer", pa.string()),
    pa.field("score_error", pa.string()),
)
"""What `score` adds to a response: its score, the share of its row's scored responses that pass, the answer that the
scorer found in it, and why there is no score, or beside a score of 0 why there is no answer."""

BESIDE_A_SCORE = tuple(column for column in SCORE_FIELDS if column.name not in ("score", "pass_rate"))
"""What a score that others gave has beside it: null, and no pass rate."""

JUDGED_FIELDS = (
    pa.field("is_scored", pa.bool_()),
    pa.field("score", pa.float64()),
    pa.field("extracted_answer", pa.string()),
    pa.field("score_error", pa.string()),
)
"""Further columns of the journal in a run that scores while it samples: null if the sample failed, or was written
before it had its score."""

SCORES = pa.field("scores", pa.list_(pa.float64()))
"""The column of rollouts.parquet with these scores; `stopped` stands behind it."""


class Extra(NamedTuple):
    """A column that exists only if a key asks for it."""

    of_sample: pa.Field
    """In the journal and in flat.parquet."""
    of_row: pa.Field
    """In rollouts.parquet: a list with an entry for each sample, unless it is the same for all of them."""

    @property
    def is_listed(self) -> bool:
        """Whether every sample of a row has one of its own."""
        return bool(self.of_row.type != self.of_sample.type)


_IDS, _LOGPROBS = pa.list_(pa.int32()), pa.list_(pa.float32())

EXTRAS = {
    extra.of_sample.name: extra
    for extra in (
        Extra(pa.field("prompt_token_ids", _IDS), pa.field("prompt_token_ids", _IDS)),
        Extra(pa.field("response_token_ids", _IDS), pa.field("response_token_ids", pa.list_(_IDS))),
        Extra(pa.field("response_logprobs", _LOGPROBS), pa.field("response_logprobs", pa.list_(_LOGPROBS))),
        Extra(pa.field("reasoning", pa.string()), pa.field("reasonings", pa.list_(pa.string()))),
        Extra(pa.field("num_reasoning_tokens", pa.int32()), pa.field("num_reasoning_tokens", pa.list_(pa.int32()))),
        Extra(pa.field("reasoning_closed", pa.bool_()), pa.field("reasoning_closed", pa.list_(pa.bool_()))),
        Extra(pa.field("stopped", pa.string()), pa.field("stopped", pa.string())),
    )
}
"""By the name of the field of `Sample`. They stand behind our other columns, in this order; a failed sample has null.
`RunConfig.extra_columns` says which of them a run has.

`stopped` says why a row has no more samples, which is known only at the end: the journal has JUDGED_FIELDS instead, and
rollouts.parquet also SCORES."""


def extras_of(schema: pa.Schema) -> list[str]:
    """The EXTRAS that a file of ours has, flat or with a row per prompt: an input column of such a name stands before
    row_id, and they behind it.
    """
    ours = set(schema.names[schema.get_field_index("row_id") :] if "row_id" in schema.names else [])
    return [name for name, extra in EXTRAS.items() if ours & {name, extra.of_row.name}]


THINKING = ("reasoning", "num_reasoning_tokens", "reasoning_closed")
"""The EXTRAS of a run that splits responses into thinking and answer."""


def has_thinking(flat: pa.Schema) -> bool:
    """Whether responses of this flat schema have their thinking beside them, as a run of ours writes it."""
    is_there = set(THINKING) <= set(extras_of(flat)) & set(flat.names)
    return is_there and all(flat.field(name).type == EXTRAS[name].of_sample.type for name in THINKING)


def sample_schema(extras: Collection[str] = ()) -> pa.Schema:
    """SAMPLE_SCHEMA with the EXTRAS of these names, and JUDGED_FIELDS where a run has `stopped`."""
    kept = [extra.of_sample for name, extra in EXTRAS.items() if name in extras and name != "stopped"]
    return pa.schema([*SAMPLE_SCHEMA, *kept, *(JUDGED_FIELDS if "stopped" in extras else ())])


def rollout_fields(extras: Collection[str] = ()) -> list[pa.Field]:
    """ROLLOUT_FIELDS with the EXTRAS of these names, and SCORES before `stopped`."""
    fields = [extra.of_row for name, extra in EXTRAS.items() if name in extras and name != "stopped"]
    return [*ROLLOUT_FIELDS, *fields, *((SCORES, EXTRAS["stopped"].of_row) if "stopped" in extras else ())]


def flat_fields(extras: Collection[str] = ()) -> list[pa.Field]:
    """FLAT_FIELDS with the EXTRAS of these names."""
    return [*FLAT_FIELDS, *(extra.of_sample for name, extra in EXTRAS.items() if name in extras)]


RESERVED_COLUMNS = frozenset(column.name for column in (*ROLLOUT_FIELDS, *FLAT_FIELDS, *SCORE_FIELDS))
"""Names an input column can never have. The names of EXTRAS are free in a run that has none of them."""


def failed_sample(row_id: int, sample_idx: int, seed: int, error: str) -> Sample:
    """The sample that records why there is no response."""
    return Sample(row_id, sample_idx, seed, None, "error", None, 0, error)
