"""Every knob: its name, type, default, limits and meaning. The only home of all five.

The string under a field is its documentation. YAML files under `conf/` hold only what differs from the defaults here.
`build` turns Hydra's composed config into these dataclasses, `check` finds what is wrong with their values.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

EMBEDDED_MODEL = "embedded:SmolLM2-135M-Instruct"


def _knob(default: Any, **limits: Any) -> Any:
    """A field with limits: `ge`, `gt`, `le`, `lt` bound a number, `choices` lists the words allowed."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


@dataclass
class DataConfig:
    path: str | None = None
    """Input file: .parquet, .jsonl or .csv, one chat per row. null: the built-in prompts."""
    prompt_key: str = "prompt"
    """Column that holds the chat: a list of {role, content}, the same as a JSON string, or plain text."""
    limit: int | None = _knob(None, ge=1)
    """Use only the first rows of the input. null: all."""
    system_prompt: str | None = None
    """Put before every chat that does not begin with a system message of its own."""
    drop_columns: list[str] = field(default_factory=list)
    """Input columns to leave out of the output, for example the `responses` of an earlier run."""
    too_long: str = _knob("error", choices=("error", "truncate_left", "reduce_max_tokens"))
    """What to do with a prompt that leaves no room for max_tokens in the context: record an error, cut off its oldest
    tokens (the text is kept in `truncated_prompt`), or sample a shorter response."""
    on_error: str = _knob("record", choices=("record", "fail"))
    """A row that cannot be sampled is recorded with its error, or stops the run."""
    max_error_fraction: float = _knob(0.1, ge=0.0, le=1.0)
    """The run stops and fails when more than this share of the rows cannot be sampled."""


@dataclass
class ModelConfig:
    path: str = EMBEDDED_MODEL
    """A local folder, a hub id, or the embedded model for trying things out."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. null: the default branch."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub id. null: the model's own."""
    max_model_len: int | None = _knob(None, ge=1)
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


@dataclass
class SamplingConfig:
    n_samples: int = _knob(8, ge=1, le=100_000)
    """Responses per prompt."""
    max_tokens: int = _knob(2048, ge=1)
    """Longest response, in tokens."""
    temperature: float = _knob(1.0, ge=0.0, le=2.0)
    """0 always takes the likeliest token."""
    top_p: float = _knob(0.95, gt=0.0, le=1.0)
    """Sample from the likeliest tokens whose probabilities add up to this."""
    seed: int = _knob(42, ge=0)
    """Every sample's own seed is a hash of this, its row and its number; see `rollout.generate.sample_seed`."""
    top_k: int = _knob(0, ge=-1)
    """Sample from the k likeliest tokens. 0 or -1: from all."""
    min_p: float = _knob(0.0, ge=0.0, le=1.0)
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = _knob(1.0, gt=0.0)
    """Above 1: tokens already in the prompt or response become less likely."""
    presence_penalty: float = _knob(0.0, ge=-2.0, le=2.0)
    """Above 0: tokens already in the response become less likely."""
    frequency_penalty: float = _knob(0.0, ge=-2.0, le=2.0)
    """Above 0: the same, growing with every repetition."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a response; not part of it."""
    stop_token_ids: list[int] = field(default_factory=list)
    """Token ids that end a response, beside the model's own end token."""
    min_tokens: int = _knob(0, ge=0)
    """No end before this many tokens."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other field of vLLM's SamplingParams; an unknown one is refused by name."""


@dataclass
class HardwareConfig:
    device: str = _knob("cuda", choices=("cuda", "cpu"))
    """What the engine runs on."""
    tensor_parallel_size: int = _knob(1, ge=1)
    """GPUs that share every layer of one model."""
    pipeline_parallel_size: int = _knob(1, ge=1)
    """Groups of GPUs that each hold some of the layers."""
    gpu_memory_utilization: float = _knob(0.9, gt=0.0, le=1.0)
    """Share of each GPU's memory that vLLM may take."""
    max_num_seqs: int = _knob(256, ge=1)
    """Most samples generated at the same time."""
    max_num_batched_tokens: int | None = _knob(None, ge=1)
    """Most tokens in one engine step. null: vLLM decides."""
    enable_prefix_caching: bool = True
    """Compute what prompts have in common once; the samples of one prompt share all of it."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, runs slower."""
    dtype: str = _knob("auto", choices=("auto", "bfloat16", "float16", "float32"))
    """Number format of the weights and activations."""
    kv_cache_dtype: str = "auto"
    """Number format of the KV cache; fp8 holds twice the samples and changes them."""
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    """Any other argument of vLLM's engine; an unknown one is refused by name."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables set before the engine starts, for vLLM's own switches."""


@dataclass
class FilterConfig:
    min_length: int | None = _knob(None, ge=0)
    """Drop responses of fewer characters."""
    max_length: int | None = _knob(None, ge=0)
    """Drop responses of more characters."""


@dataclass
class PostprocessConfig:
    steps: list[str] = _knob(["flatten", "analyze"], choices=("flatten", "filter", "analyze"))
    """What is done with the responses, in this order."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Rules of the `filter` step."""


@dataclass
class TrackingConfig:
    mode: str = _knob("offline", choices=("online", "offline", "disabled"))
    """Weights & Biases: online, offline (upload later with `wandb sync`), or not at all."""
    project: str = "rollout"
    """W&B project."""
    entity: str | None = None
    """W&B team or user. null: the logged-in user's default."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    interval_seconds: float = _knob(5.0, gt=0.0)
    """Seconds between two lines of metrics.jsonl and two points in W&B."""
    sample_rows: int = _knob(20, ge=0, le=100)
    """Rows of the W&B table of samples, one for each sample, at most four samples of a prompt."""
    artifact: bool = False
    """Log a W&B artifact that refers to the output files by their path; nothing of them is uploaded."""
    init_timeout: float = _knob(8.0, gt=0.0, le=600.0)
    """Seconds to wait for the W&B server before going on offline."""
    finish_timeout: float = _knob(8.0, gt=0.0, le=600.0)
    """Seconds to wait, at the end, for what has not been uploaded yet; `wandb sync` uploads the rest."""


@dataclass
class StoreConfig:
    flush_seconds: float = _knob(30.0, gt=0.0)
    """At most this many seconds of finished samples are held in memory before they are durable."""
    flush_samples: int = _knob(2000, ge=1)
    """At most this many finished samples are held in memory before they are durable."""


@dataclass
class EchoConfig:
    """Knobs of the engine that only tests use; see `rollout.echo_engine`."""

    max_steps: int = _knob(1, ge=1)
    """A request finishes after 1 to this many steps, by its seed, so that samples finish out of order."""
    step_seconds: float = _knob(0.0, ge=0.0)
    """How long a step takes."""
    max_model_len: int = _knob(4096, ge=1)
    """Context length in tokens (one token per word)."""
    refuse_word: str | None = None
    """A prompt that contains this word is refused by the engine."""
    die_after: int | None = _knob(None, ge=0)
    """The engine dies once it has finished this many samples."""


@dataclass
class EngineConfig:
    kind: str = _knob("vllm", choices=("vllm", "echo"))
    """`echo` answers without a model; it exists for tests."""
    max_restarts: int = _knob(2, ge=0)
    """How often an engine that died is started again before the run fails."""
    echo: EchoConfig = field(default_factory=EchoConfig)
    """Knobs of the echo engine."""


@dataclass
class RunConfig:
    """One run. Groups with presets first, then what rarely changes."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    dry_run: bool = False
    """Check the command, the input and the model's files, say what would run, and stop."""


def schema() -> DictConfig:
    """RunConfig for Hydra. The free-form dictionaries take new keys without Hydra's `+`; nothing else does."""
    root = OmegaConf.structured(RunConfig)
    for key, knob in knobs():
        if isinstance(knob.value, dict):
            OmegaConf.set_struct(OmegaConf.select(root, key), False)
    assert isinstance(root, DictConfig)
    return root


def build(cfg: DictConfig) -> RunConfig:
    """Hydra's composed config -> dataclasses, every value of its declared type.

    Merging onto the schema again makes a config that was composed without it (one saved by an earlier run) as safe as
    one composed here, and refuses keys added with `+`. Raises OmegaConfBaseException for an unknown key or wrong type.
    """
    plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    run = OmegaConf.to_object(OmegaConf.merge(schema(), plain))
    assert isinstance(run, RunConfig)
    return run


def check(run: RunConfig) -> Iterator[str]:
    """Values out of range and values that contradict each other: one line for each problem."""
    for key, knob in knobs(run):
        value = knob.value
        if value is not None:
            yield from _value_problems(key, value, knob.limits)
    yield from _cross_field_problems(run)


@dataclass(frozen=True)
class Knob:
    """One leaf of the config."""

    value: Any
    type: Any
    limits: Mapping[str, Any]


def knobs(node: Any = None, prefix: str = "") -> Iterator[tuple[str, Knob]]:
    """(key, Knob) for every leaf of `node`, by default of a RunConfig of defaults, in the order of declaration."""
    node = RunConfig() if node is None else node
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from knobs(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", Knob(value, item.type, item.metadata)


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "more than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}


def _value_problems(key: str, value: Any, limits: Mapping[str, Any]) -> Iterator[str]:
    bounds = [name for name in _BOUNDS if name in limits]
    if not all(_BOUNDS[name][0](value, limits[name]) for name in bounds):  # NaN fails every comparison
        wanted = " and ".join(f"{_BOUNDS[name][1]} {limits[name]}" for name in bounds)
        yield f"{key}={value}: must be {wanted}"
    for word in value if isinstance(value, list) else [value]:
        if "choices" in limits and word not in limits["choices"]:
            yield f"{key}={word}: choose from {', '.join(limits['choices'])}"


def _cross_field_problems(run: RunConfig) -> Iterator[str]:
    sampling, rules, hardware = run.sampling, run.postprocess.filter, run.hardware
    if sampling.temperature == 0 and sampling.n_samples > 1:
        yield (
            f"sampling.n_samples={sampling.n_samples}: temperature=0 makes every sample of a prompt the same; "
            "set sampling.n_samples=1 or a temperature above 0"
        )
    if sampling.min_tokens > sampling.max_tokens:
        yield f"sampling.min_tokens={sampling.min_tokens}: more than max_tokens={sampling.max_tokens}; lower it"
    if rules.min_length is not None and rules.max_length is not None and rules.min_length > rules.max_length:
        yield (
            f"postprocess.filter.min_length={rules.min_length}: more than max_length={rules.max_length}, "
            "which would drop everything; lower it"
        )
    if "filter" in run.postprocess.steps and rules == FilterConfig():
        yield "postprocess.steps=filter: no rule is set; set postprocess.filter.min_length or max_length"
    if hardware.device == "cpu" and hardware.tensor_parallel_size * hardware.pipeline_parallel_size > 1:
        yield f"hardware.tensor_parallel_size={hardware.tensor_parallel_size}: device=cpu runs one process; set it to 1"
