"""What `hardware.batch_invariant` asks of vLLM's engine beside VLLM_BATCH_INVARIANT=1: settings without which a sample
still depends on what is computed together with it (docs/performance.md has the figures).
"""

from collections.abc import Mapping
from typing import Any

from rollout.config.presets import with_defaults

CHUNKED, _COMPILATION, _PRIORITY = "enable_chunked_prefill", "compilation_config", "ir_op_priority"
WHOLE_PROMPTS = {"enable_prefix_caching": False, CHUNKED: False}
"""vLLM's kernels round the rest of a prompt, behind what was cached or computed in an earlier step, differently from a
whole prompt.
"""
_FLASH_ATTENTION_2 = {"attention_config": {"flash_attn_version": 2}}
"""On Hopper vLLM takes version 3, which sums a sample's attention in other blocks while a longer prompt is in the same
step (vLLM's issues 47069 and 51902). On other GPUs vLLM takes version 2 itself.
"""
_PYTORCHS_NORMS = {"kernel_config": {_PRIORITY: {"rms_norm": ["native"], "fused_add_rms_norm": ["native"]}}}
_UNFUSED_NORMS = {_COMPILATION: {"pass_config": {"fuse_norm_quant": False}}}
_OWN_NORM, _NO_OWN_NORM = "+rms_norm", "-rms_norm"
"""vLLM's kernels for RMS norms, alone or with fp8 behind them, sum a row in another order in steps of 256 tokens or
more (vLLM's issue 48271 and pull request 48391). Compiled models call none of them as a rule, so PyTorch's norms cost
speed with enforce_eager only.
"""


def invariant(own: Mapping[str, Any]) -> dict[str, Any]:
    """`own`, arguments for vLLM's engine, and the settings on which they say nothing."""
    norms = {} if _PRIORITY in own else _PYTORCHS_NORMS  # vLLM takes this setting in one of two places
    settings = _FLASH_ATTENTION_2 | _UNFUSED_NORMS | norms
    given = {name: value for name, value in own.items() if value is not None or name not in settings}
    if isinstance(mode := given.get(_COMPILATION), int):  # vLLM's short form
        given[_COMPILATION] = {"mode": mode}
    found = with_defaults(given, settings)
    ops = found[_COMPILATION].get("custom_ops") or []
    if {_OWN_NORM, _NO_OWN_NORM} & {*ops}:
        return found
    return found | {_COMPILATION: found[_COMPILATION] | {"custom_ops": [*ops, _NO_OWN_NORM]}}
