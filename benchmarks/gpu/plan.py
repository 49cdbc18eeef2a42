"""The steps to measure, the most important ones first; each step is a separate process."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Step:
    """A module of this package, or pytest, with its arguments; `seconds` is its expected time on an H200."""

    name: str
    seconds: int
    module: str
    arguments: tuple[str, ...]
    gpus: int = 1


def _engine(name: str, seconds: int, *arguments: str, module: str = "benchmarks.gpu.measure", gpus: int = 1) -> Step:
    return Step(name, seconds, module, ("--shape", name.split("-")[0], *arguments), gpus)


def _throughput(name: str, seconds: int, *do: str, tuned: tuple[str, ...] = (), module: str = "measure") -> Step:
    tasks = (word for task in do for word in ("--do", task))
    return _engine(name, seconds, *tasks, "hardware=throughput", *tuned, module=f"benchmarks.gpu.{module}")


def _at_a_time(number: int) -> tuple[str, ...]:
    graphs = "hardware.engine_kwargs.compilation_config.max_cudagraph_capture_size"
    return (f"hardware.max_num_seqs={number}", f"{graphs}={number}")


def _tuned(name: str, workload: str, *overrides: str) -> Step:
    return _throughput(f"8b-{name}", 180, f"{workload}:ours:1", tuned=overrides)


def _tests(name: str, seconds: int, keyword: str, gpus: int = 1) -> Step:
    words = ("-m", "gpu", "-k", keyword, "-vv", "--durations=0", "tests/gpu")
    return Step(f"tests-{name}", seconds, "pytest", words, gpus)


def _replicas(shape: str, per_gpu: int, seconds: int, workload: str, *counts: int, tuned: tuple[str, ...] = ()) -> Step:
    ways = ",".join(f"engines_{count}" for count in counts)
    share = f"hardware.replicas_per_gpu={per_gpu}"
    return _throughput(
        f"{shape}-replicas_{per_gpu}", seconds, f"{workload}:{ways}:1", tuned=(share, *tuned), module="replicas"
    )


_DEFAULT_GRAPHS = ("~hardware.engine_kwargs.compilation_config",)
_ASYNC = "equal:async_llm,async_stream:1"

_EXACT = ("hardware=single_gpu", "sampling.top_p=1")

PLAN = (
    Step("limits", 20, "benchmarks.gpu.limits", ()),
    _throughput("8b", 480, "equal:ours,one_call:2", "tail:ours,one_call:2", "tail:chunked:1"),
    Step("sampler", 100, "benchmarks.gpu.sampler", ()),
    _throughput("8b_qwen-seeded", 420, "seeded:typed,ours,ours_by_vllm:5", module="seeded"),
    _throughput("8b_llama-seeded", 400, "seeded:typed,ours,ours_by_vllm:5", module="seeded"),
    _throughput("0.5b_qwen-seeded", 330, "replicas:typed,ours:3", tuned=("--weights",), module="seeded"),
    _replicas("0.5b_qwen", 4, 320, "shared", 1, 3, 4, tuned=("--weights",)),
    _replicas("0.5b_qwen", 6, 400, "shared", 1, 4, 5, 6, tuned=("--weights",)),
    _throughput("8b-async", 210, "equal:async_llm:2", module="asynchronous"),
    _throughput("8b-async_graphs_512", 220, _ASYNC, tuned=_DEFAULT_GRAPHS, module="asynchronous"),
    _engine("8b-single_gpu", 160, "--do", "equal:ours:1", "hardware=single_gpu"),
    _engine(
        "0.5b", 290, "--do", "equal:ours,one_call:2", "--do", "tail:ours,one_call:2", "--profile", "hardware=throughput"
    ),
    _throughput("8b-one_engine", 210, "equal:ours:1", "long_prompts:ours:1"),
    _throughput("0.5b-one_engine", 200, "equal:one_call,ours:2"),
    _replicas("0.5b", 8, 240, "replicas", 8, 4, 2, 1, 8),
    _replicas("8b", 2, 290, "equal", 2, 1),
    _replicas("8b", 4, 320, "equal", 4),
    _engine("8b-order", 380, "--do", "spread:ours,longest_first:3", "hardware=single_gpu", "hardware.max_num_seqs=256"),
    _throughput("8b_llama-crowded", 480, "crowded:ours,at_most_768,at_most_512,at_most_384:1"),
    _throughput("8b_llama-card", 540, "card:run:1", tuned=("--weights",), module="card"),
    _tests("kill", 260, "killed"),
    _tests("sampler", 140, "test_sampler"),
    _tests("replicas", 200, "share_a_gpu"),
    _tests("memory", 300, "test_memory and not sweep"),
    _tests("sweep", 130, "sweep"),
    _engine("8b-low_mem", 95, "--do", "waves:ours:1", "hardware=low_mem"),
    _engine("8b-debug", 65, "--do", "waves:ours:1", "hardware=debug"),
    _engine("8b-fp8", 125, "--do", "equal:ours:1", "hardware=fp8", "model.quantization=fp8"),
    _engine("0.5b-invariance", 280, "--do", "exact:run:1", *_EXACT, module="benchmarks.gpu.invariance"),
    _engine(
        "8b-reload",
        280,
        "--do",
        "reload:run:1",
        *_EXACT,
        "hardware.batch_invariant=true",
        module="benchmarks.gpu.reload",
    ),
    _throughput("0.5b-async", 130, "equal:async_llm:2", module="asynchronous"),
    _tuned("graphs_512", "equal", *_DEFAULT_GRAPHS),
    _tuned("no_prefix_caching", "long_prompts", "hardware.enable_prefix_caching=false"),
    _tuned("tokens_8192", "long_prompts", "hardware.max_num_batched_tokens=8192"),
    _tuned("seqs_1536", "equal", *_at_a_time(1536)),
    _tuned("seqs_768", "equal", *_at_a_time(768)),
    _engine(
        "8b_llama-sharded",
        210,
        *("--do", "seeded:ours_unsharded,ours:5", "hardware=dual_gpu"),
        module="benchmarks.gpu.seeded",
        gpus=2,
    ),
    _engine("8b-dual_gpu", 180, "--do", "equal:ours:2", "hardware=dual_gpu", gpus=2),
    _tests("start_up", 330, "test_loading", gpus=2),
    _tests("two_gpus", 260, "two_gpus or every_gpu", gpus=2),
)
"""The other engines of a shape are compared with the step that is named after the shape alone, or with `one_engine`."""

_ON_A_CPU = (
    "hardware=cpu",
    "hardware.max_num_seqs=8",
    "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'",
    "model.max_model_len=512",
)


_TINY_SAMPLER = (
    *("--tiny", "--only", "tokens,frequencies,alone", "--draws", "40", "--rows", "6"),
    *("--vocabulary", "4100", "--second-vocabulary", "3000"),
)


def tried_here(step: Step) -> Step:
    """The step with a tiny shape and small workloads on the CPU, for trying the benchmark itself."""
    if step.module == "benchmarks.gpu.limits":
        return replace(step, arguments=("--device", "cpu"))
    if step.module == "benchmarks.gpu.sampler":
        return replace(step, arguments=_TINY_SAMPLER)
    if "--shape" not in step.arguments:
        return step
    kept = [word for word in step.arguments[2:] if not word.startswith(("hardware", "~hardware", "model."))]
    # the CPU has no memory to divide, but room for two engines
    kept += ["hardware.replicas=8" for word in step.arguments if word.startswith("hardware.replicas_per_gpu")]
    words = [f"tiny_{word}" if ":" in word else word for word in kept]
    return replace(step, arguments=("--shape", "tiny", *words, *_ON_A_CPU))
