"""Every mistake on the command line is one line with its cure, before anything is loaded; every printed cure works."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import chat, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long


PRESETS = {
    "key": "# @package _global_\nsampling:\n  temprature: 1\n",
    "value": "# @package _global_\nsampling:\n  temperature: hot\n",
    "header": "sampling:\n  temperature: 1\n",
    "tab": "# @package _global_\nsampling:\n\ttemperature: 1\n",
    "list": "# @package _global_\n- sampling\n",
}
"""Files of values of a user's own, each wrong in its own way."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of inputs, each wrong in its own way, and one that is right."""
    folder = tmp_path_factory.mktemp("inputs")
    write_input(folder / "good.parquet", [{"prompt": chat("hello")}])
    write_input(folder / "question.parquet", [{"question": chat("hello")}])
    pd.DataFrame({"prompt": pd.Series([], dtype=str)}).to_parquet(folder / "empty.parquet")
    write_input(folder / "clash.parquet", [{"prompt": "a", "responses": ["b"], "seeds": [1]}])
    write_input(folder / "number.parquet", [{"prompt": 7}])
    (folder / "broken.parquet").write_text("PAR1 but not really")
    (folder / "empty.jsonl").write_text("")
    (folder / "gbk.csv").write_text("prompt\n你好\n", encoding="gbk")
    (folder / "utf16.csv").write_text("prompt,answer\n你好,1\n", encoding="utf-16")
    write_input(folder / "two words.parquet", [{"prompt": chat("hello")}])
    (folder / "input.xlsx").write_text("a")
    (folder / "mine/experiment").mkdir(parents=True)
    for name, text in PRESETS.items():
        (folder / f"mine/experiment/{name}.yaml").write_text(text)
    (folder / "model").mkdir()
    (folder / "weights").mkdir()
    (folder / "weights/config.json").write_text("{}")
    return folder


OWN = "--config-dir mine experiment"

BAD_COMMANDS: list[tuple[str, str, str | None]] = [
    (
        "sampling=hot",
        "sampling=hot: no such preset; choose from default, greedy, high_temp, structured, thinking",
        "sampling=greedy",
    ),
    ("experiment=none_such", "experiment=none_such: no such preset; choose from demo, quick_test", "experiment=demo"),
    ("sampling.temprature=1", "sampling.temprature: no such key, did you mean sampling.temperature?", None),
    (
        "+sampling.top=1",
        "sampling.top: no such key, did you mean sampling.top_k or sampling.top_p?",
        "sampling.top_p=1",
    ),
    ("samplin.top_p=1", "samplin.top_p=1: no such key; write sampling.top_p=1", None),
    ("hydra.run.dirr=x", "hydra.run.dirr: Hydra has no such key", None),
    ("sampling.temperature=hot", "sampling.temperature=hot: must be a number", None),
    ("sampling.n_samples=2.5", "sampling.n_samples=2.5: must be a whole number", None),
    ("hardware.enforce_eager=maybe", "hardware.enforce_eager=maybe: must be true or false", None),
    ("sampling.n_samples=null", "sampling.n_samples=null: must have a value", None),
    (
        "sampling.temperature=3",
        "sampling.temperature=3.0: must be at least 0.0 and at most 2.0",
        "sampling.temperature=2",
    ),
    ("sampling.top_p=0", "sampling.top_p=0.0: must be more than 0.0 and at most 1.0", "sampling.top_p=1.0"),
    (
        "sampling.temperature=0",
        "sampling.n_samples=8: temperature=0 makes every sample of a prompt the same",
        "sampling.temperature=0 sampling.n_samples=1",
    ),
    ("'postprocess.steps=[flaten]'", "postprocess.steps=flaten: choose from flatten, score, filter, analyze", None),
    ("nonsense", "nonsense: neither a command nor key=value", None),
    ("+sampling.foo=1", "sampling.foo: no such key, choose from sampling.extra, ", None),
    ("sampling.stp=1", "sampling.stp: no such key, did you mean sampling.stop?", None),
    (
        "+sampling.top_p=1",
        "+sampling.top_p=1: the key is there already; write sampling.top_p=1",
        "sampling.top_p=1",
    ),
    (
        "postprocess.score=1",
        "postprocess.score: is a group of keys; write postprocess.score.KEY=VALUE, see --help",
        "postprocess.score.pass_score=1",
    ),
    (
        "hardware.engine_kwargs=1",
        "hardware.engine_kwargs: must hold names with values; write hardware.engine",
        "hardware.engine_kwargs.seed=1",
    ),
    (
        "sampling.extra=[1]",
        "sampling.extra: must hold names with values; write sampling.extra.NAME=VALUE",
        "sampling.extra.ignore_eos=true",
    ),
    ("'sampling.stop={a: 1}'", "sampling.stop: must be a list; write 'sampling.stop=[a,b]'", "'sampling.stop=[a,b]'"),
    ("~sampling.top_p", "~sampling.top_p: a key cannot be taken away; leave it out", None),
    (
        "sampling。temperature=1",
        "sampling。temperature=1: has full-width characters; write sampling.temperature=1",
        "sampling.temperature=1",
    ),
    (
        "sampling.temperature＝0.7",
        "sampling.temperature＝0.7: has full-width characters; write sampling.temperature=0.7",
        "sampling.temperature=0.7",
    ),
    (
        "sampling.temperature=０．７",
        "sampling.temperature=０．７: has full-width characters; write sampling.temperature=0.7",
        "sampling.temperature=0.7",
    ),
    (
        "sampling.temperature=0.3，0.7",
        "sampling.temperature=0.3，0.7: has full-width characters; write sampling.temperature=0.3,0.7",
        "-m sampling.temperature=0.3,0.7",
    ),
    (
        "data.system_prompt=Be kind, be brief",
        "data.system_prompt=Be kind, be brief: spaces need quotes; write 'data.system_prompt=\"Be kind, be brief\"'",
        "'data.system_prompt=\"Be kind, be brief\"'",
    ),
    (
        "data.path=two words.parquet",
        "data.path=two words.parquet: spaces need quotes; write 'data.path=two words.parquet'",
        "'data.path=two words.parquet'",
    ),
    *(
        (words, f"{words}: a key and its value are one word; write sampling.n_samples=4", "sampling.n_samples=4")
        for words in (
            "sampling.n_samples 4",
            "sampling.n_samples = 4",
            "sampling.n_samples =4",
            "sampling.n_samples= 4",
        )
    ),
    ("--config-dir nowhere", "--config-dir nowhere: no such folder; give the one that holds your presets", None),
    ("--config-name other", "--config-name other: no such config; leave it out", None),
    ("'adaptive.rounds=[2,b]'", "adaptive.rounds=[2,b]: must be a list of whole numbers", None),
    ("'adaptive.rounds=[2,null]'", "adaptive.rounds=[2,null]: must be a list of whole numbers", None),
    ("'sampling.stop_token_ids=[[2]]'", "sampling.stop_token_ids=[[2]]: must be a list of whole numbers", None),
    (f"{OWN}=key", "experiment/key.yaml: sampling.temprature: no such key, did you mean sampling.temperature?", None),
    (f"{OWN}=value", "experiment/value.yaml: sampling.temperature=hot: must be a number", None),
    (f"{OWN}=header", "experiment/header.yaml: its values are found only with the first line `# @package", None),
    (f"{OWN}=tab", "mine/experiment/tab.yaml: line 3: not YAML (found character", None),
    (f"{OWN}=list", "mine/experiment/list.yaml: holds no keys with values; write it like", None),
    ("data.path=", "data.path=: names no file; give one", None),
    ("output=", "output=: names no file; give one that ends in .parquet", None),
    ("data.path=utf16.csv", "data.path=utf16.csv: the text is not UTF-8; save it as UTF-8", None),
    ("data.path=model", "data.path=model: is a folder; give a file, or make one of its files: ", None),
    ("engine.kind=vllm model.chat_template=gbk.csv", "model.chat_template=gbk.csv: the text is not UTF-8", None),
    ("data.path=*.csv", "data.path=*.csv: is a pattern; give a file", None),
    ("data.path=a=1.parquet", "data.path=a=1.parquet: no such file", None),
    ("data.path=none.parquet", "data.path=none.parquet: no such file", None),
    (
        "data.path=question.parquet",
        "data.prompt_key=prompt: question.parquet has no such column, choose from question",
        "data.path=question.parquet data.prompt_key=question",
    ),
    ("data.path=empty.parquet", "data.path=empty.parquet: has no rows", None),
    ("data.path=empty.jsonl", "data.path=empty.jsonl: has no rows", None),
    ("data.path=broken.parquet", "data.path=broken.parquet: not a readable .parquet file", None),
    ("data.path=input.xlsx", "data.path=input.xlsx: give a file that ends in .parquet, .jsonl, .csv", None),
    (
        "data.path=clash.parquet",
        "data.path=clash.parquet: column responses,seeds is a reserved output column",
        "data.path=clash.parquet 'data.drop_columns=[responses,seeds]'",
    ),
    ("data.path=number.parquet", "data.prompt_key=prompt: the column holds int64", None),
    ("data.path=good.parquet 'data.drop_columns=[x]'", "data.drop_columns=x: good.parquet has no such column", None),
    ("engine.kind=vllm model.path=./nowhere", "model.path=./nowhere: no such folder", None),
    ("engine.kind=vllm model.path=./model", "model.path=./model: has no config.json", None),
    ("engine.kind=vllm 'model.path=a b'", "model.path=a b: neither a folder here nor a hub id", None),
    ("engine.kind=vllm model.path=embedded:x", "model.path=embedded:x: no such embedded model", None),
    ("engine.kind=vllm model.chat_template=x.jinja", "model.chat_template=x.jinja: no such file", None),
    (
        "engine.kind=vllm hardware=dual_gpu",
        "hardware.tensor_parallel_size=2: needs 2 GPUs, this machine shows 0",
        "engine.kind=vllm hardware=cpu model.path=Qwen/Qwen3-8B",
    ),
    (
        "hardware.tensor_parallel_size=2",
        "hardware.tensor_parallel_size=2: device=cpu runs one process",
        "hardware.tensor_parallel_size=1",
    ),
    ("hardware.device=tpu", "hardware.device=tpu: choose from cuda, cpu", "hardware.device=cpu"),
    (
        "hardware.gpu_memory_utilization=1.5",
        "hardware.gpu_memory_utilization=1.5: must be more than 0.0 and at most 1.0",
        "hardware.gpu_memory_utilization=1.0",
    ),
    ("store.flush_seconds=0", "store.flush_seconds=0.0: must be more than 0.0", "store.flush_seconds=1"),
    ("data.limit=0", "data.limit=0: must be at least 1", "data.limit=1"),
    (
        "data.too_long=cut",
        "data.too_long=cut: choose from error, truncate_left, reduce_max_tokens",
        "data.too_long=truncate_left",
    ),
    ("data.on_error=ignore", "data.on_error=ignore: choose from record, fail", "data.on_error=record"),
    (
        "data.max_error_fraction=nan",
        "data.max_error_fraction=nan: must be at least 0.0 and at most 1.0",
        "data.max_error_fraction=1.0",
    ),
    (
        "sampling.min_tokens=3000",
        "sampling.min_tokens=3000: more than max_tokens=2048; lower it",
        "sampling.min_tokens=2048",
    ),
    ("sampling.top_k=-2", "sampling.top_k=-2: must be at least -1", "sampling.top_k=-1"),
    (
        "sampling.n_samples=10000000000",
        "sampling.n_samples=10000000000: must be at least 1 and at most 100000",
        "sampling.n_samples=100000",
    ),
    (
        "'postprocess.steps=[report]'",
        "postprocess.steps=report: shows what analyze finds; name analyze before it",
        "'postprocess.steps=[analyze,report]'",
    ),
    (
        "postprocess=score",
        "postprocess.steps=score: no scorer is set",
        "postprocess=score postprocess.score.scorer=exact_match postprocess.score.ground_truth=answer",
    ),
    (
        "postprocess.analyze.by=nowhere",
        "postprocess.analyze.by=nowhere: no such column",
        "postprocess.analyze.by=answer",
    ),
    (
        "postprocess.filter.min_length=9 postprocess.filter.max_length=3",
        "postprocess.filter.min_length=9: more than max_length=3",
        "postprocess.filter.min_length=3 postprocess.filter.max_length=3 'postprocess.steps=[filter]'",
    ),
    ("tracking=cloud", "tracking=cloud: no such preset; choose from disabled, offline, wandb", "tracking=offline"),
    ("engine.kind=vllm model.tokenizer=./nope", "model.tokenizer=./nope: neither a folder here nor a hub id", None),
    # Keys without their group, in other words, or as options
    ("n_samples=4", "n_samples=4: no such key; write sampling.n_samples=4", None),
    ("--n_samples 4", "--n_samples 4: no such option; write sampling.n_samples=4", None),
    ("--n_samples=4", "--n_samples=4: no such option; write sampling.n_samples=4", None),
    ("-n 4", "-n 4: no such option; write sampling.n_samples=4", None),
    ("--num-samples 4", "--num-samples 4: no such option; write sampling.n_samples=4", None),
    ("num_return_sequences=4", "num_return_sequences=4: no such key; write sampling.n_samples=4", None),
    ("rollout.n=4", "rollout.n=4: no such key; write sampling.n_samples=4", None),
    ("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.n=4: no such key; write sampling.n_samples=4", None),
    ("sampling.n=4", "sampling.n=4: no such key; write sampling.n_samples=4", None),
    (
        "'sampling.{n_samples=4,top_p=1}'",
        "sampling.{n_samples=4,top_p=1}: this shell does not expand it; write sampling.n_samples=4 sampling.top_p=1",
        None,
    ),
    ("max_new_tokens=64", "max_new_tokens=64: no such key; write sampling.max_tokens=64", None),
    ("data.max_response_length=64", "data.max_response_length=64: no such key; write sampling.max_tokens=64", None),
    ("--temperature 0.7", "--temperature 0.7: no such option; write sampling.temperature=0.7", None),
    ("temprature=0.7", "temprature=0.7: no such key; write sampling.temperature=0.7", None),
    ("do_sample=false", "do_sample=false: no such key; write sampling=greedy", None),
    ("--greedy", "--greedy: no such option; write sampling=greedy", None),
    ("top_k=5", "top_k=5: no such key; write sampling.top_k=5", None),
    ("--top_k -1", "--top_k -1: no such option; write sampling.top_k=-1", None),
    ("seed=7", "seed=7: no such key; write sampling.seed=7", None),
    ("stop_strings=END", "stop_strings=END: no such key; write 'sampling.stop=[END]'", None),
    ("ignore_eos=true", "ignore_eos=true: no such key; write sampling.extra.ignore_eos=true", None),
    ("--model_path Qwen/Qwen3-8B", "--model_path Qwen/Qwen3-8B: no such option; write model.path=Qwen/Qwen3-8B", None),
    ("--model Qwen/Qwen3-8B", "--model Qwen/Qwen3-8B: no such option; write model.path=Qwen/Qwen3-8B", None),
    ("model=Qwen/Qwen3-8B", "model=Qwen/Qwen3-8B: no such preset; write model.path=Qwen/Qwen3-8B", None),
    (
        "model_name_or_path=Qwen/Qwen3-8B",
        "model_name_or_path=Qwen/Qwen3-8B: no such key; write model.path=Qwen/Qwen3-8B",
        None,
    ),
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B: has no key; write model.path=Qwen/Qwen3-8B", None),
    ("model=./weights", "model=./weights: no such preset; write model.path=./weights", None),
    ("max_model_len=4096", "max_model_len=4096: no such key; write model.max_model_len=4096", None),
    ("--trust-remote-code", "--trust-remote-code: no such option; write model.trust_remote_code=true", None),
    (
        "enable_thinking=false",
        "enable_thinking=false: no such key; write model.chat_template_kwargs.enable_thinking=false",
        None,
    ),
    ("data=good.parquet", "data=good.parquet: no such preset; write data.path=good.parquet", None),
    ("input=good.parquet", "input=good.parquet: no such key; write data.path=good.parquet", None),
    ("good.parquet", "good.parquet: has no key; write data.path=good.parquet", None),
    ("data.val_files=good.parquet", "data.val_files=good.parquet: no such key; write data.path=good.parquet", None),
    ("--dataset good.parquet", "--dataset good.parquet: no such option; write data.path=good.parquet", None),
    ("--prompt_key prompt", "--prompt_key prompt: no such option; write data.prompt_key=prompt", None),
    ("num_prompts=1", "num_prompts=1: no such key; write data.limit=1", None),
    (
        "--system_prompt 'Be kind, brief'",
        "--system_prompt Be kind, brief: no such option; write 'data.system_prompt=\"Be kind, brief\"'",
        None,
    ),
    ("hardware=single_gpu tp=2", "tp=2: no such key; write hardware.tensor_parallel_size=2", None),
    ("hardware=single_gpu hardware.tp=2", "hardware.tp=2: no such key; write hardware.tensor_parallel_size=2", None),
    (
        "hardware=single_gpu hardware.num_gpus=2",
        "hardware.num_gpus=2: no such key; write hardware.tensor_parallel_size=2 (or "
        "hardware=multi_gpu: a copy of the model on each)",
        None,
    ),
    ("hardware=single_gpu tp_size=2", "tp_size=2: no such key; write hardware.tensor_parallel_size=2", None),
    (
        "hardware=single_gpu trainer.n_gpus_per_node=2",
        "trainer.n_gpus_per_node=2: no such key; write hardware.tensor_parallel_size=2 (or "
        "hardware=multi_gpu: a copy of the model on each)",
        None,
    ),
    (
        "gpu_memory_utilization=0.8",
        "gpu_memory_utilization=0.8: no such key; write hardware.gpu_memory_utilization=0.8",
        None,
    ),
    ("torch_dtype=bfloat16", "torch_dtype=bfloat16: no such key; write hardware.dtype=bfloat16", None),
    ("batch_size=64", "batch_size=64: no such key; write hardware.max_num_seqs=64", None),
    ("cpu_offload_gb=4", "cpu_offload_gb=4: no such key; write hardware.engine_kwargs.cpu_offload_gb=4", None),
    ("hardware=gpu", "hardware=gpu: no such preset; write hardware=single_gpu", None),
    ("steps=flatten", "steps=flatten: no such key; write 'postprocess.steps=[flatten]'", None),
    ("postprocess=flatten", "postprocess=flatten: no such preset; write 'postprocess.steps=[flatten]'", None),
    (
        "export.file=x.jsonl",
        "export.file=x.jsonl: no such key; write postprocess.export.file=x.jsonl",
        "postprocess.export.file=x.jsonl 'postprocess.steps=[export]'",
    ),
    (
        "postprocess.filter.where=level=easy",
        "postprocess.filter.where=level=easy: cannot be read (mismatched input '=' expecting <EOF>); write "
        "'postprocess.filter.where=[level=easy]'",
        "'postprocess.steps=[filter]' 'postprocess.filter.where=[answer=easy]'",
    ),
    ("out=o", "out=o: no such key; write hydra.run.dir=o", None),
    ("output=o", "output=o: must end in .parquet; for the run's own folder write hydra.run.dir=o", None),
    ("output_file=o.parquet", "output_file=o.parquet: no such key; write output=o.parquet", None),
    ("--output o.parquet", "--output o.parquet: no such option; write output=o.parquet", None),
    ("--output o", "--output o: no such option; write hydra.run.dir=o", None),
    ("run_dir=o", "run_dir=o: no such key; write hydra.run.dir=o", None),
    ("output_dir=o", "output_dir=o: no such key; write hydra.run.dir=o", None),
    ("wandb=true", "wandb=true: no such key; write tracking=wandb", None),
    ("--wandb_project p", "--wandb_project p: no such option; write tracking.project=p", None),
    ("tracking=none", "tracking=none: no such preset; write tracking=disabled", None),
    (
        "actor_rollout_ref.model.path=Qwen/Qwen3-8B",
        "actor_rollout_ref.model.path=Qwen/Qwen3-8B: no such key; write model.path=Qwen/Qwen3-8B",
        None,
    ),
    ("tracking=online", "tracking=online: no such preset; write tracking=wandb", None),
    ("dry-run", "dry-run: has no key; write dry_run=true", None),
    ("resume=o", "resume=o: no such key; to continue a run: python -m rollout resume o", None),
    (
        "--config my.yaml",
        "--config my.yaml: no such option; a file of values is a preset: --config-dir FOLDER "
        "experiment=NAME takes FOLDER/experiment/NAME.yaml",
        None,
    ),
    ("--nonsense 3", "--nonsense 3: no such option; keys are given as key=value, see --help", None),
    (
        "foo=1",
        "foo: no such key, choose from adaptive, data, dry_run, dry_run_tokens, engine, hardware, model, output, "
        "postprocess, sampling, store, sweep, tracking",
        None,
    ),
    ("data.limt=1", "data.limt: no such key, did you mean data.limit?", "data.limit=1"),
    # Values
    (
        "sampling.temperature=0,7",
        "sampling.temperature=0,7: a comma makes several values, which need -m (a sweep); for one "
        "value write sampling.temperature=0.7",
        None,
    ),
    (
        "sampling.max_tokens=1,024",
        "sampling.max_tokens=1,024: a comma makes several values, which need -m (a sweep); for one "
        "value write sampling.max_tokens=1024",
        None,
    ),
    ("sampling.seed=1,2", "sampling.seed=1,2: several values make a sweep; add -m", "-m sampling.seed=1,2"),
    (
        "sampling=greedy,high_temp",
        "sampling=greedy,high_temp: several values make a sweep; add -m",
        "-m sampling=greedy,high_temp",
    ),
    (
        "'data.system_prompt=Be kind, brief'",
        "data.system_prompt=Be kind, brief: a comma makes several values, which need -m (a sweep); "
        "for one value write 'data.system_prompt=\"Be kind, brief\"'",
        None,
    ),
    ("sampling.stop=END", "sampling.stop=END: must be a list; write 'sampling.stop=[END]'", None),
    (
        "sampling.stop=a,b",
        "sampling.stop=a,b: a comma makes several values, which need -m (a sweep); for one value "
        "write 'sampling.stop=[a,b]'",
        None,
    ),
    (
        "sampling.extra.x=1_000",
        "sampling.extra.x=1_000: 1_000 may be a number or a text here; write sampling.extra.x=1000 "
        "or 'sampling.extra.x=\"1_000\"'",
        None,
    ),
    (
        "tracking=offline tracking.project=a/b",
        "tracking.project=a/b: W&B takes 1 to 128 characters and none of / \\ # ? % :; choose another name",
        "tracking=offline tracking.project=a-b",
    ),
    (
        "tracking=offline 'tracking.entity= '",
        "tracking.entity= : W&B takes 1 to 128 characters and none of / \\ # ? % :; choose another name",
        "tracking=offline tracking.entity=me",
    ),
    (
        "tracking=offline tracking.tags=[aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]",
        "tracking.tags=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: W&B "
        "takes tags of 1 to 64 characters; shorten it or leave it out",
        None,
    ),
    (
        "sampling.temperature=0~7",
        "sampling.temperature=0~7: cannot be read (an unexpected character); must be a number",
        None,
    ),
    ("'sampling.stop=[a'", "sampling.stop=[a: cannot be read (", 'sampling.stop=["a"]'),
    ("'hardware.env={A'", "hardware.env={A: cannot be read (", "'hardware.env={A: \"a\"}'"),
    # Hydra's own
    (
        "hydra/launcher=foo",
        "hydra/launcher=foo: no such preset; choose from basic, joblib, submitit_local, submitit_slurm",
        "hydra/launcher=basic",
    ),
    (
        "-m hydra/launcher=submitit_slurm sampling.seed=1,2",
        "hydra/launcher=submitit_slurm: there is no SLURM here (no program srun); start it where "
        "sbatch works, or choose hydra/launcher=submitit_local or hydra/launcher=joblib",
        None,
    ),
    (
        "-m sampling.seed=1,2 hydra/sweeper=optuna",
        "hydra/sweeper=optuna: needs a number to optimize; add "
        "sweep.objective=throughput.output_tok_s, or score.mean where responses are scored",
        None,
    ),
    (
        "-m sampling.seed=1,2 hydra/sweeper=optuna sweep.objective=throughput.samples_s dry_run=true",
        "dry_run=true: hydra/sweeper=optuna needs the numbers of real jobs; leave out one of the two",
        "dry_run=true",
    ),
    (
        "-m sampling.seed=1,2 hydra.sweep.subdir=x",
        "hydra.sweep.subdir=x: is one folder for all jobs; write 'hydra.sweep.subdir=x-${hydra.job.num}'",
        "-m sampling.seed=1,2 'hydra.sweep.subdir=x-${hydra.job.num}'",
    ),
    (
        "-m 'hydra.sweeper.params={sampling.seed: \"1,2\"}'",
        'hydra.sweeper.params={sampling.seed: "1,2"}: Hydra cannot merge this; write -m sampling.seed=1,2',
        None,
    ),
    (
        "-m sampling.seed=1,2 hydra.run.dir=x",
        "hydra.run.dir=x: a sweep does not use it; set hydra.sweep.dir",
        "-m sampling.seed=1,2 hydra.sweep.dir=x",
    ),
    ("-m --cfg job", "--cfg, --multirun: Hydra does one of these at a time; leave one out", "--cfg job"),
    (
        "--cfg jobs",
        "argument --cfg/-c: invalid choice: 'jobs' (choose from 'job', 'hydra', 'all'); see --help",
        "--cfg job",
    ),
    ("--config-path", "argument --config-path/-cp: expected one argument; see --help", ""),
    (
        f"data.path={'a' * 300}",
        f"{'a' * 300}: File name too long; choose another path, or change its permissions or free space",
        "data.path=good.parquet",
    ),
    ("hydra.run.dir=", "hydra.run.dir=: names no folder; give one, or leave it out", "hydra.run.dir=other"),
    (
        "hydra.run.dir=/proc/none",
        "hydra.run.dir=/proc/none: No such file or directory; choose another path, or change its permissions or free "
        "space",
        "hydra.run.dir=other",
    ),
    (
        "hydra.run.dir=good.parquet/x",
        "hydra.run.dir=good.parquet/x: Not a directory; choose another path, or change its permissions or free space",
        "hydra.run.dir=other",
    ),
    ("'~hydra.callbacks.sweep'", "~hydra.callbacks.sweep: a sweep needs them to say how it ended; leave it out", ""),
]
"""Command, the beginning of the line about it, and what is meant where the line does not say `write ...`."""


def with_defaults(words: list[str]) -> list[str]:
    """`words` with what a quick command on a machine without a GPU needs, where they do not say otherwise."""
    of_group = {word.partition("=")[0].partition(".")[0].lstrip("+~-") for word in words}
    kind = [] if "engine.kind=vllm" in words else ["engine.kind=echo"]
    hardware = [] if any(word.startswith("hardware=") for word in words) else ["hardware=cpu"]
    tracking = [] if of_group & {"tracking", "wandb", "wandb_project"} else ["tracking=disabled"]
    return [*kind, *hardware, *tracking, *words]


def printed_cure(line: str) -> str | None:
    """The words that a line tells to write: of two ways the first."""
    match = re.search(r"; (?:for one value )?write (.+?)(?: \(or .*| or .*)?$", line)
    return None if match is None or "=" not in match[1] or "key=value" in match[1] else match[1]


@pytest.mark.parametrize(("command", "message", "cured"), BAD_COMMANDS, ids=[row[0] for row in BAD_COMMANDS])
def test_a_mistake_ends_in_one_line_before_anything_is_loaded(
    command: str, message: str, cured: str | None, inputs: Path
) -> None:
    result = run_here(*with_defaults(shlex.split(command)), cwd=inputs)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(inputs.glob("outputs/*/*"))  # nothing left behind
    if (meant := cured if cured is not None else printed_cure(line)) is not None:
        kept = [word for word in shlex.split(command) if word.startswith("hardware=") and word != "hardware=gpu"]
        words = with_defaults([*kept, *shlex.split(meant)])
        again = run_here(*words, *([] if "--cfg" in words else ["dry_run=true", "dry_run_tokens=false"]), cwd=inputs)
        assert again.stderr == ""
        assert again.returncode == 0


def test_there_are_many_of_them_and_most_have_a_cure_that_is_run() -> None:
    assert len(BAD_COMMANDS) >= 120
    assert sum(cured is not None or printed_cure(message) is not None for _, message, cured in BAD_COMMANDS) >= 90


def test_every_problem_is_reported_at_once(inputs: Path) -> None:
    overrides = ["sampling.n_samples=0", "sampling.top_p=3", "data.path=none.parquet", "model.path=./nowhere"]
    result = run_here(*overrides, "hardware=dual_gpu", cwd=inputs)
    keys = ["sampling.n_samples", "sampling.top_p", "model.path", "hardware.tensor_parallel_size", "data.path"]
    assert [line.split("=")[0].removeprefix("error: ") for line in result.stderr.splitlines()] == keys


def test_unknown_keys_presets_and_options_are_reported_beside_everything_else(inputs: Path) -> None:
    words = ["n_samples=4", "--temperature", "0.7", "sampling=hot", "sampling.top_p=7", "data=none.parquet", "nonsense"]
    lines = run_here(*with_defaults(words), cwd=inputs).stderr.splitlines()
    assert [re.split("[=: ]", line.removeprefix("error: "))[0] for line in lines] == [
        *("n_samples", "--temperature", "sampling", "data", "nonsense"),
        *("sampling.top_p", "data.path"),
    ]


def test_what_may_come_from_a_mistake_is_not_reported_beside_it(inputs: Path) -> None:
    lines = run_here(*with_defaults(["data.promt=question", "data.path=question.parquet"]), cwd=inputs).stderr
    assert lines == "error: data.promt: no such key, did you mean data.prompt_key?\n"


@pytest.mark.parametrize("module", ["resume", "replay", "postprocess", "prepare", "merge", "verify"])
def test_every_command_gives_help_behind_its_keys(module: str, tmp_path: Path) -> None:
    result = run_here("x", "a=b", "--help", cwd=tmp_path, module=f"rollout.{module}")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"rollout{'.' if module == 'postprocess' else ' '}{module}" in result.stdout
