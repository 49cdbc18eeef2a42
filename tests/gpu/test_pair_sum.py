"""The kernel with which two GPUs add their tensors, against vLLM's."""

from pathlib import Path

import pytest

from rollout.store.layout import LOG
from tests.engine.test_pair_sum import assert_both_get_the_sum
from tests.gpu.conftest import assert_complete, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_two_gpus]


def test_two_gpus_get_what_vllms_kernel_gives_also_if_one_is_late(tmp_path: Path) -> None:
    assert_both_get_the_sum(tmp_path, "cuda")


def test_a_run_on_two_gpus_adds_with_it(tmp_path: Path) -> None:
    fused = "hardware.engine_kwargs.compilation_config.pass_config.fuse_allreduce_rms=false"
    assert_complete(rows_of(tmp_path, "run", write_model(tmp_path / "model"), "hardware=dual_gpu", fused))
    assert "the two GPUs add what each has computed with rollout's kernel" in (tmp_path / "run" / LOG).read_text()
