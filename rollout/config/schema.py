"""Every field of a run: its name, type, default, limits and meaning. The only place where these are defined.

The string under a field is its documentation. YAML files under `conf/` hold only what differs from the defaults here.
`fields.py` fills these dataclasses from a composed config, `check.py` checks their values.
"""

from dataclasses import dataclass, field
from typing import Any

from rollout.config.adaptive import AdaptiveConfig
from rollout.config.echo import EchoConfig
from rollout.config.limits import limited as _field
from rollout.config.sampling import SamplingConfig
from rollout.config.tracking import TrackingConfig

EMBEDDED_MODEL = "embedded:SmolLM2-135M-Instruct"


@dataclass
class DataConfig:
    path: str | None = None
    """Input: .parquet, or .jsonl, .csv, .txt (also with .gz, .zst), a chat per row or line. null: built-in prompts."""
    prompt_key: str = "prompt"
    """Column that holds the chat: a list of {role, content}, the same as a JSON string, or plain text."""
    limit: int | None = _field(None, ge=1)
    """Use only the first rows of the input. null: all."""
    num_shards: int = _field(1, ge=1)
    """Split these rows into this many contiguous blocks of equal size, for job arrays; see `rollout.merge`."""
    shard_index: int = _field(0, ge=0)
    """Which of these blocks this run works on, from 0."""
    system_prompt: str | None = None
    """Put before every chat that does not begin with a system message of its own."""
    sampling_key: str | None = None
    """Column with the settings of each row: an object (struct or JSON text) with keys of `sampling`, also n_samples,
    and of vLLM's SamplingParams. If a key is missing or null, the run's value is used."""
    tools_key: str | None = None
    """Column of tool definitions for the chat template: a list of objects, or the same as JSON text."""
    drop_columns: list[str] = field(default_factory=list)
    """Input columns to leave out of the output, for example the `responses` of an earlier run."""
    too_long: str = _field("error", choices=("error", "truncate_left", "reduce_max_tokens"))
    """What to do with a prompt that leaves no room for max_tokens in the context: record an error, cut off its oldest
    tokens (the text is kept in `truncated_prompt`), or sample a shorter response."""
    on_error: str = _field("record", choices=("record", "fail"))
    """A row that cannot be sampled is recorded with its error, or stops the run."""
    max_error_fraction: float = _field(0.1, ge=0.0, le=1.0)
    """The run stops and fails when more than this share of the rows cannot be sampled."""


@dataclass
class ModelConfig:
    path: str = EMBEDDED_MODEL
    """A local folder, a hub id, or the embedded model for trying things out."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. null: the default branch."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub id. null: the model's own."""
    max_model_len: int | None = _field(None, ge=1)
    """Context length in tokens, prompt and response together. null: the model's own."""
    quantization: str | None = None
    """vLLM's quantization method. null: what the model's config says."""
    load_format: str = "auto"
    """How vLLM reads the weights; `dummy` makes random ones of the same shape."""
    trust_remote_code: bool = False
    """Allow the model's repository to run its own Python code on this machine."""
    chat_template: str | None = None
    """A jinja file. null: the tokenizer's own template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables for the template, for example {enable_thinking: false}."""
    reasoning_parser: str | None = None
    """vLLM's name of the parser that splits thinking and answer, such as qwen3 or deepseek_r1: `responses` then holds
    the answers, and separate columns the thinking. null: the whole text is the response."""
    lora: str | None = None
    """A folder with a LoRA adapter as PEFT writes it (adapter_config.json and its weights), put on the model."""


@dataclass
class HardwareConfig:
    device: str = _field("cuda", choices=("cuda", "cpu"))
    """What the engine runs on."""
    tensor_parallel_size: int = _field(1, ge=1)
    """GPUs that share every layer of one model."""
    pipeline_parallel_size: int = _field(1, ge=1)
    """Groups of GPUs that each hold some of the layers."""
    replicas: int | None = _field(1, ge=1)
    """Copies of the model side by side (through Ray), each on GPUs of its own. null: as many as there are GPUs for."""
    replicas_per_gpu: int = _field(1, ge=1, le=32)
    """Engines that share each GPU and its memory (through Ray); useful for small models, see docs/scaling.md."""
    ray_address: str | None = None
    """Ray cluster of the replicas: `auto` for that of this machine, or ray://HOST:10001. null: only this machine."""
    gpu_memory_utilization: float = _field(0.9, gt=0.0, le=1.0)
    """Share of each GPU's memory that vLLM may take."""
    max_num_seqs: int = _field(256, ge=1)
    """Most samples generated at the same time."""
    max_num_batched_tokens: int | None = _field(None, ge=1)
    """Most tokens in one engine step. null: vLLM decides."""
    enable_prefix_caching: bool = True
    """Compute the common beginning of prompts once; samples share their whole prompt. Off with batch_invariant."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, runs slower."""
    dtype: str = _field("auto", choices=("auto", "bfloat16", "float16", "float32"))
    """Number format of the weights and activations."""
    kv_cache_dtype: str = "auto"
    """Number format of the KV cache; fp8 holds twice the samples and changes them."""
    batch_invariant: bool = False
    """Ask vLLM for kernels whose result does not depend on the rest of the batch, and compute every prompt as a whole:
    slower, but exact in a replay."""
    fast_sampler: str = _field("auto", choices=("auto", "off"))
    """Draw tokens with our own sampler if vLLM and the model allow it; seeds then cost nothing. off: vLLM's."""
    fast_all_reduce: str = _field("auto", choices=("auto", "off"))
    """Where two GPUs share a model, add what they have computed with our own kernel, if vLLM and the machine allow it;
    the sums are the same. off: vLLM's."""
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    """Any other argument of vLLM's engine; one that is unknown or of another type is refused before loading."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables set before the engine starts, for vLLM's own switches."""


@dataclass
class ScoreConfig:
    scorer: str | None = None
    """`exact_match`, `numeric_match`, `regex`, `math`, or a function of yours as `module:function`."""
    ground_truth: str | None = None
    """Column of the right answers; a dotted path leads into structs and JSON, as in reward_model.ground_truth."""
    pattern: str | None = None
    """For `scorer=regex`: the first group of its last match must equal the ground truth; without a ground truth, a
    match is enough."""
    after: str | None = None
    """Score only what follows the last occurrence of this text, such as </think>; a response without it scores 0."""
    pass_score: float = _field(1.0, gt=float("-inf"))
    """A response with at least this score passes; pass@k, majority@k and pass rates count those."""
    timeout: float = _field(10.0, gt=0.0, le=86400.0)
    """Seconds that scoring one response may take; after that it has no score."""
    workers: int | None = _field(None, ge=1)
    """Processes that score. null: one per CPU core."""

    @property
    def no_truth(self) -> str | None:
        """The `score_error` of a response whose row has no ground truth; None if none is asked for."""
        return None if self.ground_truth is None else f"{self.ground_truth} is null"


@dataclass
class FilterConfig:
    min_length: int | None = _field(None, ge=0)
    """Drop responses of fewer characters."""
    max_length: int | None = _field(None, ge=0)
    """Drop responses of more characters."""
    min_tokens: int | None = _field(None, ge=0)
    """Drop responses of fewer tokens."""
    max_tokens: int | None = _field(None, ge=0)
    """Drop responses of more tokens."""
    where: list[str] = field(default_factory=list)
    """Keep only responses to rows with these values in columns of the input, for example [level=easy,source=gsm8k].
    A column that is named twice may have either value: [level=easy,level=hard]. Dotted paths as in score.ground_truth;
    values as `analyze.by` shows them."""
    finish_reasons: list[str] = field(default_factory=list)
    """Keep only responses with one of these finish reasons, for example [stop]. []: any."""
    drop_errors: bool = True
    """Drop samples that failed."""
    drop_duplicates: bool = False
    """Of equal responses to a row (thinking included) that satisfy the other rules, keep the first."""
    min_score: float | None = _field(None, gt=float("-inf"))
    """Drop responses of a lower score, or of none."""
    min_pass_rate: float | None = _field(None, ge=0.0, le=1.0)
    """Drop all responses of rows with a lower pass rate: rows that are too hard."""
    max_pass_rate: float | None = _field(None, ge=0.0, le=1.0)
    """Drop all responses of rows with a higher pass rate: rows that are too easy."""
    max_per_row: int | None = _field(None, ge=1)
    """Of what all other rules keep, keep this many per row: the highest scores; for equal scores the first ones."""


@dataclass
class AnalyzeConfig:
    by: str | None = None
    """Column whose values make groups, each analyzed by itself; dotted paths as in score.ground_truth."""
    clusters: bool = False
    """Error bars are over the groups of `by`, not over rows: for questions about a common text."""


@dataclass
class ExportFile:
    file: str = "export.jsonl"
    """Where to write, in the output folder unless absolute: .jsonl, .csv, each also with .gz or .zst, or .parquet;
    .pt for slime."""


@dataclass
class ExportFormat:
    format: str = _field(
        "responses",
        choices=("responses", "messages", "preference", "prompts", "answers", "tokens", "slime"),
        elsewhere=dict.fromkeys(("sft", "chat", "chatml", "openai", "conversational"), "messages")
        | dict.fromkeys(("dpo", "orpo", "pairs", "preferences"), "preference")
        | dict.fromkeys(("rl", "ppo", "grpo", "rlvr", "verl"), "prompts"),
    )
    """`responses`: one line per response. `messages`, for supervised fine-tuning: the chat with the response as its
    last turn. `preference`, for DPO: the chat with a better and a worse response by score (`chosen`, `rejected`).
    `prompts`, for RL: the chat of each row that has a response. `answers`: the same with the answer that most
    responses of the row have. `tokens`: token ids, log-probabilities and the score as `reward` of each response.
    `slime`: the same as the dump that slime loads."""
    columns: list[str] | None = None
    """Columns to write beside those of the format. null: all for `responses`, the input's for `prompts` and
    `answers`, else none."""
    reasoning: str = _field("drop", choices=("drop", "keep", "field"))
    """In chats, what to do with thinking that the run has split off: leave it out, put it back before the answer
    between `reasoning_marks`, or in a field `reasoning_content` of the message, for templates of thinking models."""
    reasoning_marks: list[str] = field(default_factory=lambda: ["<think>", "</think>"])
    """Text before and after the thinking with `reasoning=keep`, as the model writes it."""
    pairs_per_row: int = _field(1, ge=1)
    """With `preference`: at most this many pairs of a row: best and worst, next best and next worst, and so on; a
    response is used again only if there are not enough others. No two texts are paired twice."""
    min_margin: float | None = _field(None, gt=0.0)
    """With `preference`: the chosen score is at least this much above the rejected one. null: any difference."""
    min_chosen_score: float | None = _field(None, gt=float("-inf"))
    """With `preference`: a chosen response has at least this score, so that a wrong one is not chosen for being less
    bad than others. null: any score."""


@dataclass
class ExportConfig(ExportFormat, ExportFile):
    """The format with its file; `rollout export` has its own key for the file."""


@dataclass
class ReportConfig:
    rows: int = _field(100, ge=0)
    """Number of rows to show in the report, evenly spread over the input."""


STEPS = ("flatten", "score", "filter", "analyze", "export", "report")
"""All steps of post-processing."""


@dataclass
class PostprocessConfig:
    steps: list[str] = _field(["flatten", "analyze", "report"], choices=STEPS)
    """In this order; steps after `score` see the scores, steps after `filter` only what it kept."""
    overwrite: bool = False
    """Replace files that have an output's name and that were not written here before. An input is never replaced."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """The `score` step."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Rules of the `filter` step."""
    analyze: AnalyzeConfig = field(default_factory=AnalyzeConfig)
    """The `analyze` step."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """The `export` step."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The `report` step."""


@dataclass
class StoreConfig:
    flush_seconds: float = _field(30.0, gt=0.0)
    """At most this many seconds of finished samples are held in memory before they are durable."""
    flush_samples: int = _field(2000, ge=1)
    """At most this many finished samples are held in memory before they are durable."""
    token_ids: bool = False
    """Keep the token ids of prompts and responses too; `sampling.logprobs` keeps them in any case."""


@dataclass
class EngineConfig:
    kind: str = _field("vllm", choices=("vllm", "echo"))
    """`echo` answers without a model; it exists for tests."""
    max_restarts: int = _field(2, ge=0)
    """How often an engine that died is started again before the run fails."""
    load_timeout: float | None = _field(3600.0, gt=0.0)
    """Seconds that loading an engine may take; one that takes longer is ended. null: no limit."""
    echo: EchoConfig = field(default_factory=EchoConfig)
    """Knobs of the echo engine."""


@dataclass
class SweepConfig:
    objective: str | None = None
    """The number that a job returns to an optimizing sweeper, from run.json or analysis.json, such as score.mean."""
    direction: str | None = _field(None, choices=("maximize", "minimize"))
    """Which direction of `objective` is better. null: by its name, if known: scores up, seconds and failures down."""
    rows: int = _field(20, ge=0)
    """Number of rows of each job to compare in sweep.html: the first ones."""


@dataclass
class RunConfig:
    """One run. Groups with presets come first, then what rarely changes."""

    data: DataConfig = field(default_factory=DataConfig)
    """The prompts: where they are, and what to do with those that cannot be used."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, its tokenizer and its chat template."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How many responses each prompt gets, and how they are drawn."""
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    """Samples where they matter: when a prompt has enough before it has `sampling.n_samples`."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """The hardware that vLLM runs on, and how it is used."""
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    """What is made from the responses: scores, a selection, numbers, exports, a report."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """How the progress of a run is kept: metrics.jsonl and Weights & Biases."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """When finished samples become durable."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How an engine is loaded, and started again when it dies."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """How the jobs of a sweep are compared."""
    output: str | None = None
    """A .parquet file that gets a copy of rollouts.parquet once that is complete. null: the run folder only."""
    dry_run: bool = False
    """Check the command, the input and the model's files, say what would run and what it takes, and stop."""
    dry_run_tokens: bool = True
    """In a dry run, count the prompts' tokens with the model's tokenizer, for which vLLM is imported (5 to 15 s)."""

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The names of `rollout.records.EXTRAS` that the samples of this run have."""
        logprobs = () if self.sampling.logprobs == "none" else ("response_logprobs",)
        ids = ("prompt_token_ids", "response_token_ids") if self.keeps_token_ids else ()
        thinking = ("reasoning", "num_reasoning_tokens", "reasoning_closed") if self.model.reasoning_parser else ()
        stopped = () if self.adaptive.until is None else ("stopped",)
        return (*ids, *logprobs, *thinking, *stopped)

    @property
    def keeps_token_ids(self) -> bool:
        """Whether the samples of this run have their token ids: log-probabilities imply them."""
        return self.store.token_ids or self.sampling.logprobs != "none"
