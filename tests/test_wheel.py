"""What `pip install` of the wheel gives: commands, presets, prompts, pages and the Python API, far from a checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
ECHO = ("engine.kind=echo", "tracking=disabled")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (found,) = folder.iterdir()
    return found


class Installed:
    """A folder with the wheel in it, and nothing else of ours."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.packages, self.here = folder / "packages", folder / "here"
        self.here.mkdir()
        options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
        install = [sys.executable, "-m", "pip", "install", *options, "--target", str(self.packages), str(wheel)]
        subprocess.run(install, check=True)

    def run(self, *words: str) -> str:
        """What a command prints, which is Python's arguments or a path of a program."""
        program = [] if words[0].startswith("/") else [sys.executable]
        environment = {**os.environ, "PYTHONPATH": str(self.packages), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [*program, *words], cwd=self.here, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    found = Installed(wheel, tmp_path_factory.mktemp("installed"))
    found.run("-m", "rollout", *ECHO, "hardware=low_mem", "experiment=quick_test", "hydra.run.dir=run")
    return found


def test_the_wheel_has_every_file_of_the_package_and_every_preset(wheel: Path) -> None:
    files = {path.relative_to(ROOT) for folder in ("rollout", "conf") for path in (ROOT / folder).rglob("*.*")}
    expected = {str(path) for path in files if "__pycache__" not in path.parts}
    there = {name.removeprefix("rollout/") if "/conf/" in name else name for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in there if ".dist-info/" not in name} == expected


def test_the_package_is_the_installed_one(installed: Installed) -> None:
    said = installed.run("-c", "import rollout; print(rollout.__file__, rollout.run.__code__.co_filename, sep='\\n')")
    package = installed.packages / "rollout"
    assert said.splitlines() == [str(package / "__init__.py"), str(package / "api/calls.py")]


def test_help_names_the_presets(installed: Installed) -> None:
    said = installed.run(str(installed.packages / "bin/rollout"), "--help")
    assert "low_mem" in said
    assert "quick_test" in said


def test_a_run_has_its_presets_and_the_built_in_prompts_and_its_page_is_whole(installed: Installed) -> None:
    config = (installed.here / "run/.hydra/config.yaml").read_text(encoding="utf-8")
    low_mem = (ROOT / "conf/hardware/low_mem.yaml").read_text(encoding="utf-8")
    assert "gpu_memory_utilization" in low_mem
    assert low_mem.partition("gpu_memory_utilization: ")[2].split()[0] in config
    page = (installed.here / "run/report.html").read_text(encoding="utf-8")
    assets = ROOT / "rollout/pages/assets"
    wanted = re.findall(r'(?:src|href)="([\w.]+\.(?:js|css))"', (assets / "report.html").read_text(encoding="utf-8"))
    assert len(wanted) > 3
    assert not [name for name in wanted if (assets / name).read_text(encoding="utf-8") not in page]


def test_the_other_commands_work_on_the_run(installed: Installed) -> None:
    installed.run("-m", "rollout.resume", "run", "sampling.n_samples=3")
    said = installed.run("-m", "rollout.postprocess", "run_dir=run", "steps=[flatten,analyze,report]")
    assert "6" in said
    installed.run("-m", "rollout.postprocess", "input=run/rollouts.parquet", "output_dir=again", "steps=[analyze]")
    assert (installed.here / "again/analysis.json").exists()


def test_a_program_does_a_run_and_opens_one(installed: Installed) -> None:
    program = (
        "import rollout\n"
        f"run = rollout.run(*{ECHO}, 'sampling=greedy', input=['hi', 'there'])\n"
        "print(len(run.dataframe()), rollout.open_run('run').record.totals.rows)\n"
    )
    assert installed.run("-c", program).splitlines()[-1] == "2 2"
