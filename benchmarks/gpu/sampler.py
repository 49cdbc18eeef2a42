"""The seeded sampler by itself, beside vLLM's: the same tokens, the right frequencies, rows alone, and its time.

    python -m benchmarks.gpu.sampler [--draws 1000000] [--only mask,alone,timing] [--flashinfer]

Logits are normal with a standard deviation of 6 (`peaked`, about two nats of choice), of 3 (`broad`) or nearly equal
(`flat`); `peaked+` has a flat row in every hundred. Where the tokens differ, the exact mass before both says whose was
in the nucleus: vLLM 0.26 halves its range for the edge 18 times at most. FlashInfer, which vLLM takes without seeds,
compiles for about 100 s on a new machine.

On a CPU (TRITON_INTERPRET=1, `--tiny`) the definition in torch stands for vLLM's functions.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import median

import torch

from rollout.engine import nucleus
from rollout.engine.nucleus_kernel import Draw, NucleusSampler

Sampling = Callable[[torch.Tensor, Draw], torch.Tensor]
"""From logits, which it may change, to a token for each row."""

_STD = {"peaked": 6.0, "broad": 3.0, "flat": 0.001}
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_LOOKED_INTO = 500
_SHOWN = 8
"""For draws that differ: how many of a case are explained, and how many are printed."""
_DEFINED = 96
"""Rows in which the mask is compared with the definition's, which takes memory."""
_EDGE = 2e-6
"""The error of sums in float32, as a share of the whole."""


@dataclass(frozen=True)
class Case:
    """Logits and parameters of a batch in which all rows are alike."""

    rows: int
    vocabulary: int
    kind: str
    dtype: str
    top_p: float = 0.95
    top_k: int | None = None

    def __str__(self) -> str:
        k = "-" if self.top_k is None else self.top_k
        return f"{self.rows:>5} x {self.vocabulary:>6} {self.kind:<6} {self.dtype} p={self.top_p:<4} k={k:<3}"

    def logits(self, device: str, number: int = 0) -> torch.Tensor:
        """The logits of a batch: always the same for one number."""
        generator = torch.Generator(device).manual_seed(number)
        shape = (self.rows, self.vocabulary)
        drawn = torch.randn(shape, generator=generator, device=device) * _STD[self.kind.removesuffix("+")]
        if self.kind.endswith("+"):
            drawn[::100] *= 0.001
        return drawn.to(_DTYPES[self.dtype])

    def draw(self, device: str, number: int = 0) -> Draw:
        """Seeds and positions of a batch; requests are not in the order of rows."""
        generator = torch.Generator(device).manual_seed(number)
        rows, k = self.rows, self.vocabulary if self.top_k is None else self.top_k

        def same(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.full((rows,), value, dtype=dtype, device=device)

        return Draw(
            states=torch.randperm(rows, generator=generator, device=device).to(torch.int32),
            positions=torch.randint(0, 8192, (rows,), generator=generator, device=device),
            temperature=same(1.0),
            top_p=same(self.top_p),
            top_k=same(k, torch.int32),
            seeds=torch.randint(0, 2**62, (rows,), generator=generator, device=device),
        )


def vllms(case: Case) -> Sampling:
    """VLLM's path for requests with seeds."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    def sample(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
        logits = apply_top_k_top_p(logits, *_k_and_p(case, draw))
        return gumbel_sample(logits, draw.states, draw.temperature, draw.seeds, draw.positions, apply_temperature=False)

    return sample


def flashinfers(case: Case) -> Sampling:
    """VLLM's path for requests without seeds."""
    from vllm.v1.sample.ops.topk_topp_sampler import flashinfer_sample

    return lambda logits, draw: flashinfer_sample(logits, *_k_and_p(case, draw)).to(torch.int64)


def _k_and_p(case: Case, draw: Draw) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """top_k and top_p for vLLM's functions: one value per row, or None if nothing is cut off."""
    k = draw.top_k[draw.states] if case.top_k is not None else None
    return k, draw.top_p[draw.states] if case.top_p < 1 else None


def defined(_case: Case) -> Sampling:
    """The definition, in torch."""

    def sample(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
        t, p, k, seeds = (value[draw.states.long()] for value in (draw.temperature, draw.top_p, draw.top_k, draw.seeds))
        return nucleus.draw(logits, t, p, k, seeds, draw.positions)

    return sample


def main() -> None:
    """Do what was asked for, and print a line for each finding."""
    options = _parse()
    device = "cpu" if options.tiny else "cuda"
    theirs = defined if options.tiny else vllms
    if not options.tiny:
        import vllm

        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, vLLM {vllm.__version__}")
    steps: dict[str, Callable[[], None]] = {
        "tokens": lambda: _tokens(options, device, theirs),
        "frequencies": lambda: _frequencies(options, device),
        "alone": lambda: _alone(options, device),
        "mask": lambda: _masks(options, device),
        "timing": lambda: _timing(options, device, theirs),
        "profile": lambda: _profile(options, device),
    }
    for name in options.only or steps:
        start = time.monotonic()
        try:
            steps[name]()
        except Exception as error:  # the other findings are still useful
            print(f"{name} FAILED: {type(error).__name__}: {str(error)[:1500]}")
        print(f"-- {name}: {time.monotonic() - start:.1f} s", flush=True)


def _tokens(options: argparse.Namespace, device: str, theirs: Callable[[Case], Sampling]) -> None:
    """How many draws give another token than vLLM's path, and why."""
    large, rows, draws = options.vocabulary, options.rows, options.draws
    plan = [
        (Case(rows, large, "peaked", "fp32"), draws),
        (Case(rows, large, "broad", "fp32"), draws // 5),
        (Case(rows, large, "flat", "fp32"), draws // 20),
        (Case(rows, large, "peaked", "bf16"), draws // 5),
        (Case(rows, large, "peaked", "fp32", top_p=1.0), draws // 20),
        (Case(rows, large, "peaked", "fp32", top_p=1.0, top_k=20), draws // 20),
        (Case(rows, large, "peaked", "fp32", top_k=20), draws // 20),
        (Case(rows, large, "peaked", "fp32", top_k=200), draws // 50),
        (Case(rows, options.second_vocabulary, "peaked", "fp32"), draws // 5),
    ]
    for case, number in plan:
        _compare(case, number, device, theirs(case))


def _compare(case: Case, draws: int, device: str, theirs: Sampling) -> None:
    sampler, found, shown = NucleusSampler(case.rows, case.vocabulary, device), Counter[str](), list[str]()
    batches = max(1, round(draws / case.rows))
    for number in range(batches):
        logits, draw = case.logits(device, number), case.draw(device, number)
        mine, other = sampler.draw(logits, draw), theirs(logits.clone(), draw)
        for row in (mine != other).nonzero().flatten().tolist():
            if len(shown) == _LOOKED_INTO:
                found["not looked into"] += 1
                continue
            why, line = _reason(case, logits[row], draw, row, int(mine[row]), int(other[row]))
            found[why] += 1
            shown.append(f"     batch {number} row {row}: {line}: {why}")
    total, differ = batches * case.rows, sum(found.values())
    print(f"{case}: {total:,} draws, {differ} differ ({differ / total:.1e}) {dict(found)}", flush=True)
    for line in shown[:_SHOWN]:
        print(line)


def _reason(case: Case, logits: torch.Tensor, draw: Draw, row: int, mine: int, other: int) -> tuple[str, str]:
    """Why two tokens differ: the mass before each (of the tokens that top_k keeps) and their scores."""
    k = case.vocabulary if case.top_k is None else case.top_k
    before_mine, before_other = (_before(logits, token, k) for token in (mine, other))
    state = draw.states[row].long()
    noise = nucleus.noise(draw.seeds[state][None], draw.positions[row][None], case.vocabulary)[0]
    scores = [float(logits[token].float() + noise[token]) for token in (mine, other)]
    line = (
        f"ours {mine} has {before_mine[0]:.8f} and {before_mine[1]} before it, score {scores[0]:.6f}; "
        f"vLLM's {other} has {before_other[0]:.8f} and {before_other[1]}, score {scores[1]:.6f}"
    )
    return _verdict(case, k, before_mine, before_other, scores), line


def _verdict(case: Case, k: int, mine: tuple[float, int], other: tuple[float, int], scores: list[float]) -> str:
    if abs(scores[0] - scores[1]) < 1e-5:
        return "equal scores"
    if min(abs(mine[0] - case.top_p), abs(other[0] - case.top_p)) < _EDGE:
        return "rounding at the edge"
    inside = [before < case.top_p and number < k for before, number in (mine, other)]
    return {
        (True, False): "vLLM kept too much",
        (True, True): "vLLM cut off too much" if scores[0] > scores[1] else "OURS CUT OFF TOO MUCH",
        (False, True): "OURS KEPT TOO MUCH",
        (False, False): "BOTH OUTSIDE",
    }[inside[0], inside[1]]


def _before(logits: torch.Tensor, token: int, k: int) -> tuple[float, int]:
    """The share of the mass before this token, and how many tokens come before it; the whole is the mass of the first
    k.
    """
    ordered, tokens = logits.float().sort(descending=True, stable=True)
    place = int((tokens == token).nonzero())
    mass = torch.softmax(ordered[:k].double(), dim=0)
    return float(mass[:place].sum()), place


def _frequencies(options: argparse.Namespace, device: str) -> None:
    """Chi-square test of many draws from one row against exact probabilities, for nuclei with and without top_k."""
    for case in (
        Case(options.rows, options.vocabulary, "peaked", "bf16"),
        Case(options.rows, options.vocabulary, "peaked", "fp32", top_p=0.9, top_k=20),
        Case(options.rows, options.vocabulary, "peaked", "fp32", top_p=1.0),
    ):
        sampler = NucleusSampler(case.rows, case.vocabulary, device)
        logits, draw = case.logits(device)[:1].expand(case.rows, -1), case.draw(device)
        counts = torch.zeros(case.vocabulary, device=device)
        batches = max(1, options.draws // 2 // case.rows)
        one = torch.ones(case.rows, device=device)
        for number in range(batches):
            draw.positions.copy_(case.draw(device, number + 1).positions)
            draw.seeds.copy_(case.draw(device, number + 1).seeds)
            counts.index_add_(0, sampler.draw(logits, draw), one)
        _chi_square(case, logits[:1], draw, counts)


def _chi_square(case: Case, logits: torch.Tensor, draw: Draw, counts: torch.Tensor) -> None:
    kept = nucleus.kept(logits, draw.top_p[:1], draw.top_k[:1])[0]
    exact = torch.softmax(logits[0].double().masked_fill(~kept, -torch.inf), dim=0)
    expected, counts = exact * counts.sum(), counts.double()
    often = expected >= 5
    cells = [(counts[often], expected[often]), (counts[~often].sum()[None], expected[~often].sum()[None])]
    statistic = sum(float(((seen - mean) ** 2 / mean.clamp(min=1e-9)).sum()) for seen, mean in cells if mean.sum() > 5)
    freedom = int(often.sum()) - (0 if float(expected[~often].sum()) > 5 else 1)
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5  # Wilson and Hilferty
    outside = int(counts[~kept].sum())
    print(
        f"{case}: {int(counts.sum()):,} draws of one row, {int(kept.sum())} kept, outside {outside}; "
        f"chi2 {statistic:.1f} with {freedom} degrees of freedom, z={z:+.2f}"
    )


def _alone(options: argparse.Namespace, device: str) -> None:
    """Whether rows of a mixed batch (greedy, top_k, top_p=1, all kinds of logits) get equal tokens alone and again."""
    cases = [Case(options.rows, options.vocabulary, kind, "bf16") for kind in _STD]
    logits = torch.cat([case.logits(device)[: options.rows // 3] for case in cases])
    rows = logits.shape[0]
    draw = _mixed(Case(rows, options.vocabulary, "peaked", "bf16").draw(device))
    sampler = NucleusSampler(rows, options.vocabulary, device)
    together, again = sampler.draw(logits, draw), sampler.draw(logits, draw)
    left = logits.clone()
    masked = sampler.draw(left, draw, mask=True)
    found = {"again": again != together, "with mask": masked != together}
    if options.tiny:
        found["defined"] = defined(cases[0])(logits, draw) != together
    differ = {name: int(rows_that_differ.sum()) for name, rows_that_differ in found.items()}
    half = rows // 2
    differ["in half a batch"] = int((sampler.draw(logits[:half], _some(draw, 0, half)) != together[:half]).sum())
    differ |= {"alone": 0, "alone with mask": 0}
    for row in range(0, rows, max(1, rows // 200)):
        one, its_logits = _some(draw, row, row + 1), logits[row : row + 1].clone()
        differ["alone"] += int(sampler.draw(its_logits, one)[0] != together[row])
        same = sampler.draw(its_logits, one, mask=True)[0] == together[row] and torch.equal(its_logits[0], left[row])
        differ["alone with mask"] += int(not same)
    print(f"mixed batch of {rows}, rows that differ: {differ}")


def _some(draw: Draw, start: int, end: int) -> Draw:
    """The draw for these rows; copies, as Triton compiles again for each alignment."""
    return replace(draw, states=draw.states[start:end].clone(), positions=draw.positions[start:end].clone())


def _mixed(draw: Draw) -> Draw:
    """In turn, rows that are greedy, with top_p=1, a small top_k, a large top_k, a small top_p, and unchanged."""
    kinds = torch.arange(len(draw.states), device=draw.states.device) % 6
    draw.temperature[kinds == 0] = 0.0
    draw.top_p[(kinds == 0) | (kinds == 1)] = 1.0
    draw.top_k[kinds == 2] = 20
    draw.top_k[kinds == 3] = 200
    draw.top_p[kinds == 4] = 0.5
    return draw


def _masks(options: argparse.Namespace, device: str) -> None:
    """Whether the mask for log-probabilities is the definition's, in some rows, and keeps the drawn token, in all."""
    for kind, dtype in product(_STD, _DTYPES):
        case = Case(options.rows, options.vocabulary, kind, dtype)
        logits, draw = case.logits(device), _mixed(case.draw(device))
        some = draw.states[:_DEFINED].long()
        kept = nucleus.kept(logits[:_DEFINED], draw.top_p[some], draw.top_k[some])
        tokens = NucleusSampler(case.rows, case.vocabulary, device).draw(logits, draw, mask=True)
        left = logits > -torch.inf
        lost = int((~left.gather(1, tokens[:, None])).sum())
        off = (left[:_DEFINED] != kept).sum(dim=1)
        print(
            f"{case}: kept otherwise than defined: {int((off > 0).sum())} of {len(off)} rows, {int(off.max())} tokens "
            f"at most; tokens of all rows that were cut off {lost}"
        )


def _timing(options: argparse.Namespace, device: str, theirs: Callable[[Case], Sampling]) -> None:
    """Milliseconds of a step: vLLM's with seeds, ours, ours with the mask and, if asked for, FlashInfer's."""
    large, rows = options.vocabulary, options.rows
    cases = [Case(rows, large, kind, "bf16") for kind in _STD]
    cases += [Case(rows, large, "peaked+", "bf16"), Case(rows, large, "peaked", "fp32")]
    cases += [Case(rows, large, "peaked", "bf16", top_p=1.0)]
    cases += [Case(rows, large, "peaked", "bf16", top_k=20), Case(rows, options.second_vocabulary, "peaked", "bf16")]
    cases += [Case(rows, 49152, "peaked", "bf16")] if not options.tiny else []
    cases += [Case(few, large, "peaked", "bf16") for few in (256, 64, 8) if few < rows]
    for case in cases:
        sampler, draw = NucleusSampler(case.rows, case.vocabulary, device), case.draw(device)
        ways: dict[str, Sampling] = {"vLLM": theirs(case), "ours": sampler.draw}
        ways["ours+mask"] = partial(sampler.draw, mask=True)
        if options.flashinfer:
            ways["FlashInfer"] = flashinfers(case)
        times = {name: _milliseconds(way, case.logits(device), draw) for name, way in ways.items()}
        print(f"{case} ms: " + ", ".join(f"{name} {value:.3f}" for name, value in times.items()), flush=True)


def _milliseconds(way: Sampling, logits: torch.Tensor, draw: Draw, repeats: int = 15) -> float:
    """The median time, without the copy of the logits that each call gets."""
    if logits.device.type == "cpu":
        start = time.monotonic()
        way(logits.clone(), draw)
        return 1000 * (time.monotonic() - start)
    found = list[float]()
    for _ in range(repeats + 3):
        given, begin, end = logits.clone(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        way(given, draw)
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return median(found[3:])


def _profile(options: argparse.Namespace, device: str) -> None:
    """Print the microseconds of each kernel."""
    if device == "cpu":
        return
    for kind, k, mask in (("peaked", None, True), ("broad", None, True), ("flat", None, True), ("peaked", 20, False)):
        case = Case(options.rows, options.vocabulary, kind, "bf16", top_k=k)
        sampler, draw = NucleusSampler(case.rows, case.vocabulary, device), case.draw(device)
        batches = [case.logits(device) for _ in range(6)]
        sampler.draw(batches.pop(), draw, mask)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for logits in batches:
                sampler.draw(logits, draw, mask)
            torch.cuda.synchronize()
        times = {event.key: event.device_time_total / 5 for event in profiler.key_averages() if event.device_time_total}
        print(f"{case} us: " + ", ".join(f"{name} {value:.0f}" for name, value in times.items()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--second-vocabulary", type=int, default=128_256)
    parser.add_argument("--only", type=lambda text: text.split(","), help="for example tokens,timing")
    parser.add_argument("--flashinfer", action="store_true", help="time it too")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, with the definition in the place of vLLM's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
