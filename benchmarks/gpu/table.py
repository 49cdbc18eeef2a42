"""All results in a folder as Markdown, for docs/performance.md.

python -m benchmarks.gpu.table FOLDER
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu.limits import limit_seconds
from benchmarks.gpu.ratios import MIN_PAIRS, mean_ratio

Result = dict[str, Any]

REFERENCES = {
    ("8b", "equal", "one_call"): 0.99,
    ("8b", "tail", "chunked"): 1.2,
    ("8b", "tail", "one_call"): 0.98,
    ("8b_qwen", "seeded", "typed"): 0.98,
    ("8b_qwen", "seeded", "ours_by_vllm"): 1.03,
    ("0.5b", "equal", "one_call"): 0.98,
    ("0.5b", "tail", "one_call"): 0.98,
}
"""The least ratio of our tokens/s to another way's in the same process, by shape, workload and other way."""


def markdown(folder: Path) -> str:
    """Tables of the results in `folder`: speeds, ratios, engines, exactness; empty ones are left out."""
    results = [read(path) for path in sorted(folder.glob("*/*-*-[0-9]*.json"))]
    engines = [read(path) for path in sorted(folder.glob("*/engine.json"))]
    exact = [read(path) for name in ("default", "invariant") for path in folder.glob(f"*/{name}.json")]
    limits_file = folder / "limits" / "limits.json"
    limits = json.loads(limits_file.read_text()) if limits_file.exists() else None
    cards = [read(path) for path in folder.glob("*/card.json")]
    parts = [_speeds(results, limits), _ratios(results), _between_steps(results), _engines(engines), _exactness(exact)]
    parts += [_reloads([read(path) for path in folder.glob("*/reload.json")]), _cards(cards)]
    if limits:
        parts.append(
            f"Measured: copy {limits['bandwidth'] / 1e12:.2f} TB/s, matrices {limits['rate'] / 1e12:.0f} TFLOP/s."
        )
    return "\n\n".join(part for part in parts if part)


def read(path: Path) -> Result:
    """A result, with the name of its step in `step`."""
    content: Result = json.loads(path.read_text())
    return content | {"step": path.parent.name}


def _speeds(results: list[Result], limits: dict[str, float] | None) -> str:
    rows = []
    for (step, workload, way), group in _grouped(results, "step", "workload", "way"):
        speeds, first = [one["tok_s"] for one in group], group[0]
        seconds = median(one["seconds"] for one in group)
        share = f"{limit_seconds(first['demand'], limits) / seconds:.0%}" if limits and "demand" in first else ""
        size = f"{first['prompts']} x {first['n_samples']} x {first['longest']}"
        spread = f"{min(speeds):,.0f}-{max(speeds):,.0f} ({len(speeds)})"
        rows.append((step, workload, size, way, f"{median(speeds):,.0f}", spread, share, _busy(group)))
    head = (
        "step",
        "workload",
        "prompts x samples x longest",
        "way",
        "tok/s",
        "range (repeats)",
        "of the limit",
        "cores busy",
    )
    return _table(head, rows)


def _busy(group: list[Result]) -> str:
    """The two busiest processes of the middle repeat."""
    shares = sorted(group, key=lambda one: one["tok_s"])[len(group) // 2]["busy"]
    return ", ".join(f"{name.split(' (')[0]} {share:.2f}" for name, share in list(shares.items())[:2])


def _ratios(results: list[Result]) -> str:
    """Our speed against the others' in the same process, repeat by repeat."""
    rows = []
    for (step, workload), group in _grouped(results, "step", "workload"):
        speed = {(one["way"], one["repeat"]): one["tok_s"] for one in group}
        for other in sorted({way for way, _ in speed} - {"ours"}):
            repeats = [n for way, n in speed if way == other and ("ours", n) in speed]
            if not repeats:
                continue
            ratios = [speed["ours", n] / speed[other, n] for n in repeats]
            least = REFERENCES.get((group[0]["shape"], workload, other))
            asked = f"{least:.2f}" if least else ""
            spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
            rows.append((step, workload, other, f"{median(ratios):.3f}", spread, asked, _sure(ratios)))
    head = ("step", "workload", "ours against", "median ratio", "range", "at least", "geometric mean, 95% interval")
    return _table(head, rows)


def _sure(ratios: Sequence[float]) -> str:
    """The geometric mean and its interval, if there are enough ratios."""
    if len(ratios) < MIN_PAIRS:
        return ""
    middle, low, high = mean_ratio([(ratio, 1.0) for ratio in ratios])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _between_steps(results: list[Result]) -> str:
    """Our speed in the step named after the shape, or in its `one_engine`, against other engines, by medians."""
    groups = _grouped(results, "shape", "workload", "step", "way")
    speeds = {key: median(one["tok_s"] for one in group) for key, group in groups}
    rows = []
    for (shape, workload, step, way), speed in speeds.items():
        references = (shape, f"{shape}-one_engine")
        keys = ((shape, workload, name, "ours") for name in references)
        reference = next((speeds[key] for key in keys if key in speeds), None)
        if step in references or reference is None:
            continue
        asked = "1.15" if shape == "8b" and step in ("8b-async", "8b-async_graphs_512", "8b-single_gpu") else ""
        ratio = f"{reference / speed:.3f}"
        rows.append((shape, workload, f"{step}: {way}", f"{reference:,.0f}", f"{speed:,.0f}", ratio, asked))
    return _table(("shape", "workload", "other engine", "throughput: ours", "it", "ratio", "at least"), rows)


def _engines(engines: list[Result]) -> str:
    rows = [
        (
            one["step"],
            " ".join(one["overrides"]),
            f"{one['load_seconds']:.0f} s",
            " + ".join(f"{mib / 1024:.1f}" for mib in one.get("memory_mib", [])),
            f"{one['kv_tokens']:,}" if one.get("kv_tokens") else "",
        )
        for one in engines
    ]
    return _table(("step", "engine", "load", "GiB in use", "tokens in the KV cache"), rows)


def _exactness(results: list[Result]) -> str:
    rows = [
        (
            one["shape"],
            str(one["batch_invariant"]).lower(),
            ", ".join(f"{again['matches']} of {again['samples']}" for again in one["again"]),
            ", ".join(str(again["median_offset"] or "-") for again in one["again"]),
            f"{one['tok_s']:,.0f}",
            f"{one['load_seconds']:.0f} s",
        )
        for one in results
    ]
    return _table(
        ("shape", "hardware.batch_invariant", "samples that match", "part ways at character", "tok/s", "load"), rows
    )


def _reloads(results: list[Result]) -> str:
    rows = [
        (
            one["step"],
            ", ".join(one["ways"]),
            *(" and ".join(f"{seconds:.1f}" for seconds in one[f"{way}_seconds"]) for way in ("load", "reload")),
            f"{one['ratio']:.3f}",
            f"{one['responses'] - one['different']} of {one['responses']}",
            f"{one['other_than_before']} of {one['responses'] // 2}",
        )
        for one in results
    ]
    head = ("step", "weights A, B, A; B", "seconds to load A; B", "to reload B; A", "longest reload by shortest load")
    return _table((*head, "responses as of the same weights before", "of B other than of A"), rows)


def _cards(results: list[Result]) -> str:
    rows = [
        (
            one["step"],
            f"{one['totals']['rows']:,} x {one['totals']['samples'] // one['totals']['rows']}",
            f"{one['totals']['generated_tokens']:,}",
            *(f"{one['seconds'][stage]:.0f} s" for stage in ("load", "generate", "finalize", "postprocess")),
            f"{one['command_seconds']:.0f} s",
            f"{one['throughput']['output_tok_s']:,.0f}",
        )
        for one in results
    ]
    return _table(
        ("step", "samples", "tokens", "load", "generate", "finalize", "postprocess", "whole command", "tok/s"), rows
    )


def _grouped(results: Iterable[Result], *keys: str) -> list[tuple[tuple[Any, ...], list[Result]]]:
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for one in results:
        groups.setdefault(tuple(one[key] for key in keys), []).append(one)
    return list(groups.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


if __name__ == "__main__":
    print(markdown(Path(sys.argv[1])))
