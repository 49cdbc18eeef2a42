"""The quick reference card: each of its lines is a command here, none longer, and each does what the card says.

The card is that of a set of scripts. `LINES` has what stands on it behind the name of a script, and what is typed here
behind `rollout`. Counted are the characters of both, blanks too, without the names of models and files. A command's own
word (`flatten`) counts here and not on the card, where it is the script's name; that of a shortcut counts on both.

The line with own sampling has 86 characters to the card's 83, as bash and zsh expand `sampling.{...}`; written out it
has 102. A single key by itself is longer by its group's name: `--seed 1` is `sampling.seed=1`.

No commands are on the card: file formats (the input here is made with pandas, and the output read with it), throughput
and documents, which are on our own page of it, `docs/quick-reference.md`. Its commands are run here too.
"""

import ast
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

from rollout.cli.commands import named
from rollout.cli.compose import compose_run
from rollout.config import RunConfig
from rollout.config.check import check
from rollout.config.keys import shown
from rollout.config.overrides import as_typed
from tests.commands import ECHO
from tests.conftest import chat, write_input
from tests.documents import ROOT, as_arguments, code_blocks, commands
from tests.in_process import run_here
from tests.one_process import do_all
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IO = "--input input.parquet --output output.parquet"
OURS = "data.path=input.parquet output=output.parquet"


@dataclass(frozen=True)
class Line:
    """A line of the card and the same here."""

    section: str
    card: str
    ours: str
    sets: str = ""
    """The values that it gives, in full."""
    most: float = 1.0
    """How many times as long ours may be."""


RUNS = [
    Line("one-minute start", "test", "test"),
    Line("one-minute start", f"--model_path MODEL {IO}", f"model.path=MODEL {OURS}"),
    Line("shortcuts", "rollout-demo", "demo"),
    Line(
        "main script",
        f"--model_path MODEL {IO} --n_samples 16 --max_tokens 4096 --temperature 0.8",
        f"model.path=MODEL {OURS} sampling.{{n_samples=16,max_tokens=4096,temperature=0.8}}",
        "sampling.n_samples=16 sampling.max_tokens=4096 sampling.temperature=0.8",
        most=1.15,
    ),
    Line(
        "whole workflow",
        f"--model_path MODEL {IO} --n_samples 8 --max_tokens 2048",
        f"model.path=MODEL {OURS}",
        "sampling.n_samples=8 sampling.max_tokens=2048",
    ),
]
"""What samples, with a real model."""

_LOW_MEM = "hardware.gpu_memory_utilization=0.7 hardware.max_num_seqs=64"
_TWO = "hardware.tensor_parallel_size=2 hardware.gpu_memory_utilization=0.95"
SETTINGS = [
    Line(
        "main script",
        f"--model_path MODEL {IO} --tensor_parallel_size 2 --gpu_memory_utilization 0.95",
        f"model.path=MODEL {OURS} hardware=dual_gpu",
        _TWO,
    ),
    Line(
        "sampling",
        "--n_samples 8 --max_tokens 2048 --temperature 1.0 --top_p 0.95 --seed 42",
        "",
        "sampling.n_samples=8 sampling.max_tokens=2048 sampling.temperature=1.0 sampling.top_p=0.95 sampling.seed=42",
    ),
    Line(
        "presets",
        "--tensor_parallel_size 1 --gpu_memory_utilization 0.95 --max_num_seqs 256",
        "hardware=single_gpu",
        "hardware.tensor_parallel_size=1 hardware.gpu_memory_utilization=0.95 hardware.max_num_seqs=256",
    ),
    Line(
        "presets",
        "--tensor_parallel_size 2 --gpu_memory_utilization 0.95 --max_num_seqs 512",
        "hardware=dual_gpu",
        f"{_TWO} hardware.max_num_seqs=512",
    ),
    Line("presets", "--gpu_memory_utilization 0.7 --max_num_seqs 64", "hardware=low_mem", _LOW_MEM),
    Line(
        "presets",
        "--enforce_eager --gpu_memory_utilization 0.5",
        "hardware=debug",
        "hardware.enforce_eager=true hardware.gpu_memory_utilization=0.5",
    ),
    Line("out of memory", "--gpu_memory_utilization 0.7 --max_num_seqs 64", "hardware=low_mem", _LOW_MEM),
    Line(
        "too slow",
        "--max_num_seqs 512 --enable_prefix_caching",
        "hardware.max_num_seqs=512",
        "hardware.max_num_seqs=512 hardware.enable_prefix_caching=true",
    ),
    Line("several GPUs do not work", "--tensor_parallel_size 2", "hardware=dual_gpu", _TWO),
    Line("not reproducible", "--seed 42", "", "sampling.seed=42"),
    Line("CUDA error", "--max_num_seqs 64", "hardware=low_mem", _LOW_MEM),
    Line("CUDA error", "--gpu_memory_utilization 0.7", "hardware=low_mem", _LOW_MEM),
    Line("best practices", "--seed 42", "", "sampling.seed=42"),
]
"""What is about a GPU or a default: tried with `dry_run=true`."""

AFTER = [
    Line("results", "--input output.parquet --output flat.parquet", "flatten output.parquet flat.parquet"),
    Line("results", "--input output.parquet", "analyze output.parquet"),
    Line("results", "--input output.parquet --output output.jsonl", "export output.parquet output.jsonl"),
    Line(
        "results",
        "--input flat.parquet --output filtered.parquet --min_length 100 --max_length 5000",
        "filter flat.parquet filtered.parquet min_length=100 max_length=5000",
    ),
    Line("shortcuts", "analyze output.parquet", "analyze output.parquet"),
    Line("shortcuts", "flatten output.parquet flat.parquet", "flatten output.parquet flat2.parquet"),
    Line(
        "whole workflow",
        "--input flat.parquet --output filtered.parquet --min_length 100",
        "filter flat.parquet kept.parquet min_length=100",
    ),
    Line("whole workflow", "--input filtered.parquet --output output.jsonl", "export kept.parquet kept.jsonl"),
]
"""What is done with the responses, in this order."""

HELP = [
    Line("one-minute start", "--help", "--help"),
    Line("shortcuts", "help", "help"),
    *(Line("help", f"{name} --help", f"{name} --help") for name in ("flatten", "analyze", "filter", "export")),
]

LINES = [*RUNS, *SETTINGS, *AFTER, *HELP]


def ids(lines: list[Line]) -> list[str]:
    return [f"{line.section}: {line.ours or 'nothing to type'}" for line in lines]


def counted(line: str) -> int:
    """The characters of a line, without the names of models and files."""
    return len(re.sub(r"MODEL|\b[\w/]+\.(parquet|jsonl)\b", "", line))


@pytest.mark.parametrize("line", LINES, ids=ids(LINES))
def test_no_line_is_longer_than_on_the_card(line: Line) -> None:
    assert counted(line.ours) <= line.most * counted(line.card)


def arguments_of(line: Line, model: Path | str = "Qwen/Qwen3-8B") -> list[str]:
    """As bash gives them to the program."""
    (arguments,) = as_arguments([f"rollout {line.ours}".replace("MODEL", str(model))])
    return [word for word in arguments if word]


@pytest.mark.parametrize("line", [line for line in LINES if line.sets], ids=lambda line: line.section)
def test_a_line_sets_what_the_card_sets(line: Line) -> None:
    run = compose_run(*arguments_of(line))
    keys = [word.partition("=")[0] for word in line.sets.split()]
    assert " ".join(f"{key}={shown(reduce(getattr, key.split('.'), run))}" for key in keys) == line.sets


def test_the_defaults_of_the_hardware_are_those_of_the_card() -> None:
    hardware = RunConfig().hardware
    assert (hardware.tensor_parallel_size, hardware.gpu_memory_utilization) == (1, 0.9)
    assert (hardware.max_num_seqs, hardware.enable_prefix_caching) == (256, True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input as the card makes it, with pandas."""
    folder = tmp_path_factory.mktemp("card")
    texts = ["the quick brown fox", "北京 你好"]
    frame = pd.DataFrame({"prompt": [chat(text) for text in texts], "answer": ["1", "2"]})
    frame.to_parquet(folder / "input.parquet")
    return folder


DIFFERENT = list({line.ours: line for line in SETTINGS}.values())


@pytest.mark.parametrize("line", DIFFERENT, ids=ids(DIFFERENT))
def test_a_line_about_gpus_passes_a_dry_run(line: Line, here: Path) -> None:
    words = arguments_of(line, "embedded:SmolLM2-135M-Instruct")
    result = run_here(*words, "dry_run=true", "dry_run_tokens=false", cwd=here)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"tensor_parallel_size {2 if 'dual' in line.ours else 1}" in result.stdout


@pytest.mark.parametrize("line", HELP, ids=ids(HELP))
def test_help_is_there(line: Line, here: Path) -> None:
    result = run_here(*line.ours.split(), cwd=here)
    assert (result.returncode, result.stderr) == (0, "")
    assert "rollout" in result.stdout


SMALL = (
    "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'",
    "hardware.env.OMP_NUM_THREADS='1'",  # see KILLABLE_RUN in tests/tiny_model.py
    "tracking=disabled",
    "data.limit=2",
    "sampling.stop=[q,x]",
)
"""What the tests add to a line that samples: a tiny model says something without end."""


@pytest.fixture(scope="module")
def ran(here: Path) -> dict[str, Path]:
    """The folders in which the lines that sample were run, all with one engine."""
    model = write_tiny_model(here / "model", max_position_embeddings=8192)
    folders = {line.section + line.ours: here / f"run-{number}" for number, line in enumerate(RUNS)}
    asked = list[tuple[Path, list[str]]]()
    for line, folder in zip(RUNS, folders.values(), strict=True):
        folder.mkdir()
        (folder / "input.parquet").symlink_to(here / "input.parquet")
        words = arguments_of(line, model)
        asked.append((folder, [*words, *([] if "model.path" in line.ours else [f"model.path={model}"]), *SMALL]))
    do_all(asked)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("line", RUNS, ids=ids(RUNS))
def test_a_line_that_samples_does_so(line: Line, ran: dict[str, Path]) -> None:
    folder = ran[line.section + line.ours]
    (result,) = folder.glob("outputs/*/*/rollouts.parquet")
    n_samples = {"test": 2, "demo": 4}.get(line.ours, 16 if "n_samples=16" in line.ours else 8)
    rows = pq.read_table(result)
    assert [len(texts) for texts in rows["responses"].to_pylist()] == [n_samples] * 2
    assert rows["error"].null_count == 2
    if "output=" in line.ours:
        assert (folder / "output.parquet").read_bytes() == result.read_bytes()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_samples(ran: dict[str, Path]) -> None:
    first, again = (ran[line.section + line.ours] / "output.parquet" for line in RUNS if line.ours == RUNS[1].ours)
    assert first != again
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_the_lines_about_results_work_on_them(ran: dict[str, Path]) -> None:
    folder = ran[RUNS[1].section + RUNS[1].ours]
    for line in AFTER:
        result = run_here(*line.ours.split(), cwd=folder)
        assert (result.returncode, result.stderr) == (0, ""), line
        written = [word for word in line.ours.split()[2:] if "=" not in word]
        assert [name for name in written if not (folder / name).exists()] == []
    responses = pd.read_parquet(folder / "output.parquet")["responses"]
    assert pd.read_parquet(folder / "flat.parquet")["response"].tolist() == [text for row in responses for text in row]
    assert not {"kept.parquet", "kept.jsonl"} - {path.name for path in folder.iterdir()}


ENGLISH, CHINESE, TROUBLES = (
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("quick-reference.md", "zh/quick-reference.md", "troubleshooting.md")
)
PAGE = pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=["en", "zh"])


def inline(page: str) -> list[list[str]]:
    """The commands in the page's sentences; words in capitals stand for something."""
    found = re.findall(r"`(rollout [^`]+)`", page)
    return as_arguments([line for line in dict.fromkeys(found) if not re.search(r"\b[A-Z]{2,}\b", line)])


def test_both_pages_have_the_same_commands() -> None:
    assert commands(ENGLISH, "bash") == commands(CHINESE, "bash")
    assert inline(ENGLISH) == inline(CHINESE)
    assert [ast.dump(ast.parse(block)) for block in code_blocks(ENGLISH, "python")] == [
        ast.dump(ast.parse(block)) for block in code_blocks(CHINESE, "python")
    ]


def test_both_pages_have_the_same_tables_and_figures() -> None:
    def hard(page: str) -> list[str]:
        rows = [line for line in page.splitlines() if line.startswith("|")]
        return [word for line in rows for word in re.findall(r"`[^`]+`|\b[\d.]+\b", line)]

    assert hard(ENGLISH) == hard(CHINESE)
    figures = re.findall(r"\d\d,\d00", ENGLISH)
    assert figures == re.findall(r"\d\d,\d00", CHINESE)
    assert len(figures) == 4


_SHEET = """<!doctype html><meta charset="utf-8"><style>@page { size: A4; margin: 10mm } body { margin: 0 }
body, table { font: 8.5pt/1.25 sans-serif } pre, code { font: 7.2pt/1.2 monospace } pre { white-space: pre-wrap }
table { border-collapse: collapse } td, th { border: 1px solid; padding: 0 4pt } p, pre, table { margin: 4pt 0 }
</style>"""


@PAGE
def test_a_page_fits_on_a_sheet_of_paper(page: str, browser: "Browser") -> None:
    sheet = browser.new_page()
    sheet.set_content(_SHEET + MarkdownIt().enable("table").render(page))
    assert len(re.findall(rb"/Type /Page\b", sheet.pdf(prefer_css_page_size=True))) == 1


def test_every_command_of_the_pages_works(tmp_path: Path) -> None:
    rows = [{"question": "What is 17 + 25?", "answer": "42"}, {"question": "Name a colour.", "answer": "red"}]
    pd.DataFrame(rows).to_csv(tmp_path / "questions.csv", index=False)
    write_input(tmp_path / "input.parquet", [{"prompt": chat(row["question"]), **row} for row in rows])
    on_pages = [*commands(ENGLISH, "bash"), *inline(ENGLISH)]
    do_all([(tmp_path, [*words, *added_to(words)]) for words in on_pages])
    (block,) = code_blocks(ENGLISH, "python")
    *_, shown_last = ast.parse(block).body
    names = dict[str, Any]()
    with contextlib.chdir(tmp_path):
        exec(block, names)
        responses = eval(ast.unparse(shown_last), names)
    assert [len(texts) for texts in responses] == [8, 8]
    assert pd.read_parquet(tmp_path / "input.parquet")["prompt"].map(len).tolist() == [1, 1]


def added_to(words: list[str]) -> list[str]:
    """What makes a command of a page one without a model: a run is one of the echo engine, one for GPUs is dry."""
    if any(word.startswith("hardware=") for word in words):
        return ["model.path=embedded:SmolLM2-135M-Instruct", "dry_run=true", "dry_run_tokens=false"]
    command = named(words[0])
    is_new_run = command is None or command.name in ("test", "demo")
    return [*ECHO, "engine.echo.max_model_len=10000", "data.limit=2"] if is_new_run else []


def overrides_in(page: str) -> Iterator[list[str]]:
    """What the page's sentences and tables say to add to a command."""
    groups = "|".join(vars(RunConfig()))
    for code in re.findall(r"`([^`\n]+)`", page):
        if re.fullmatch(rf"\$?'?({groups})[.\w]*=[^;&|()<>]*[^=]", code) and not re.search(r"\.\.\.|[A-Z]{4}", code):
            yield as_arguments([f"rollout {code}"])[0]


def test_what_the_pages_say_to_add_is_right() -> None:
    found = {tuple(words) for page in (ENGLISH, CHINESE, TROUBLES) for words in overrides_in(page)}
    assert len(found) >= 35
    for words in found:
        on_a_gpu = [] if any(word.startswith("hardware=") for word in words) else ["hardware=single_gpu"]
        assert list(check(compose_run(*as_typed([*on_a_gpu, *words])))) == []


@PAGE
def test_the_tables_of_a_page_are_what_the_config_says(page: str) -> None:
    run = RunConfig()
    defaults = [(name, value) for name, value in re.findall(r"`(\w+)` \| ([\d.]+|true|false) \|", page)]
    known = {name: value for group in (run.sampling, run.hardware) for name, value in vars(group).items()}
    assert {name: value for name, value in defaults if name in known} == {
        name: shown(known[name]) for name, _ in defaults if name in known
    }
    presets = re.findall(r"^\| `(\w+)` \| (\d) \| ([\d.]+) \| (\d+) \|", page, re.MULTILINE)
    assert len(presets) == 5
    for preset, *values in presets:
        hardware = compose_run(f"hardware={preset}").hardware
        assert values == [
            str(hardware.tensor_parallel_size),
            str(hardware.gpu_memory_utilization),
            str(hardware.max_num_seqs),
        ]
