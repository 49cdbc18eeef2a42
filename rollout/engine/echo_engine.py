"""An engine without a model, for tests of logic: deterministic, fast, and as slow or broken as a test needs.

A response depends only on the prompt's tokens and the request's seed, as with a real engine. So the text shows if a
sample was shifted, dropped or doubled.
"""

import heapq
import json
import math
import time
import zlib
from collections import deque
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np

from rollout.config import EchoConfig, HardwareConfig, ModelConfig, SamplingConfig
from rollout.engine.protocol import EngineStats, GpuShare, Rendered
from rollout.errors import EngineDied, PromptError
from rollout.records import Logprobs, Message, Request, Sample, TokenIds

_MADE_UP = np.random.default_rng(0)
_TOKEN_IDS: TokenIds = _MADE_UP.integers(0, 150_000, 1 << 16, np.int32)
_LOGPROBS: Logprobs = -_MADE_UP.standard_exponential(1 << 16, np.float32)


class EchoEngine:
    """Answers `echo PROMPT_CHECKSUM-SEED` after a number of steps drawn from the seed.

    Token ids and log-probabilities are a section of made-up ones; both choose where it begins.
    """

    def __init__(self, echo: EchoConfig, hardware: HardwareConfig) -> None:
        self.max_num_seqs = hardware.max_num_seqs
        self.max_model_len = echo.max_model_len
        self.bos_token_id: int | None = None
        self.share_of_next: GpuShare | None = None
        self.kv_cache_tokens: int | None = None
        self.sampler = "echo"
        self._echo = echo
        self._waiting = deque[Request]()
        self._running: list[tuple[int, int, Request]] = []  # a heap of (last step, tie-breaker, request)
        self._most_running = self.max_num_seqs if echo.token_steps else math.inf
        self._max_tokens, self._logprobs = SamplingConfig.max_tokens, SamplingConfig.logprobs
        self._splits = False
        self.steps = self._begun = self._finished = self._tokens = 0

    def use(self, model: ModelConfig) -> None:
        self._splits = model.reasoning_parser is not None

    def reload(self, model: ModelConfig) -> None:
        """Nothing to do: it has no weights."""

    def configure(self, sampling: SamplingConfig) -> None:
        self._max_tokens, self._logprobs = sampling.max_tokens, sampling.logprobs

    def prepare(self, sampling: SamplingConfig, key: str) -> Any:
        """Accepts only parameters that have keys of their own."""
        if unknown := sorted(sampling.extra):
            raise PromptError(f"{key}.{unknown[0]}: the echo engine has no such parameter")

    def describe(self) -> str:
        return f"max_tokens={self._max_tokens}"

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Rendered:
        lines = [f"tool: {json.dumps(tool)}" for tool in tools or ()]
        text = "\n".join([*lines, *(f"{message['role']}: {message['content'] or ''}" for message in messages)])
        words = text.split()
        if self._echo.refuse_word in words:
            raise PromptError(f"refused: {self._echo.refuse_word}")
        return Rendered(text, [zlib.crc32(word.encode()) for word in words])

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[Sample]:
        if self._echo.step_seconds:
            time.sleep(self._echo.step_seconds)
        while self._waiting and len(self._running) < self._most_running:
            self._begin(self._waiting.popleft())
        self.steps += 1
        samples: list[Sample] = []
        while self._running and self._running[0][0] <= self.steps and len(samples) < self.max_num_seqs:
            samples.append(self._answer(heapq.heappop(self._running)[2]))
        return samples

    def stats(self) -> EngineStats:
        unfinished = len(self._running) + len(self._waiting)
        running = min(unfinished, self.max_num_seqs)
        return EngineStats(running, unfinished - running, self._tokens)

    def abort(self) -> None:
        self._waiting.clear()
        self._running.clear()

    def shutdown(self) -> None:
        self.abort()

    def _begin(self, request: Request) -> None:
        in_tokens = min(self._words(request), request.max_tokens) if self._echo.token_steps else 0
        steps = in_tokens or 1 + request.seed % self._echo.max_steps
        heapq.heappush(self._running, (self.steps + steps, self._begun, request))
        self._begun += 1

    def _words(self, request: Request) -> int:
        """The response's length in words if max_tokens does not cut it off."""
        if self._echo.length_spread:
            answer = _lognormal(request, self._echo)
        else:
            answer = self._echo.response_tokens or 2 + (request.seed >> 16) % 30
        return answer + (self._echo.think_tokens or 0)

    def _answer(self, request: Request) -> Sample:
        if self._finished == self._echo.die_after:
            raise EngineDied("the echo engine died, as engine.echo.die_after asks")
        self._finished += 1
        thought, words = self._echo.think_tokens or 0, self._words(request)
        num_tokens = min(words, request.max_tokens)
        checksum = zlib.crc32(repr(request.prompt_token_ids).encode())
        said = ["echo", f"{checksum:08x}-{request.seed:016x}", *["word"] * (words - thought - 2)]
        text = self._text([*["hm"] * thought, *said][:num_tokens], thought, never_closes=request.seed % 5 == 0)
        self._tokens += num_tokens
        first = (checksum ^ request.seed) % (len(_TOKEN_IDS) - num_tokens)
        keeps_ids, keeps_logprobs = request.kept_prompt is not None, self._logprobs != "none"
        reason = "length" if words > request.max_tokens else "stop"
        return Sample(
            request.row_id,
            request.sample_idx,
            request.seed,
            finish_reason=reason,
            num_prompt_tokens=len(request.prompt_token_ids),
            num_generated_tokens=num_tokens,
            truncated_prompt=request.truncated_prompt,
            prompt_token_ids=request.kept_prompt,
            response_token_ids=_TOKEN_IDS[first : first + num_tokens] if keeps_ids else None,
            response_logprobs=_LOGPROBS[first : first + num_tokens] if keeps_logprobs else None,
            **text,
        )

    def _text(self, words: list[str], thought: int, never_closes: bool) -> dict[str, Any]:
        """The fields of a Sample that hold its text; the first `thought` words are the thinking."""
        closed = len(words) > thought and not (thought and never_closes)
        thought = thought if closed else len(words)
        thinking, answer = " ".join(words[:thought]), " ".join(words[thought:])
        if not self._splits:
            end = "</think>" if closed else ""
            return {"response": f"<think>{thinking}{end}{answer}" if thought else answer}
        told = {"num_reasoning_tokens": thought, "reasoning_closed": closed}
        return {"response": answer, "reasoning": thinking, **told}


def _lognormal(request: Request, echo: EchoConfig) -> int:
    """A length drawn from the prompt and the seed."""
    of_row = _normal(blake2b(repr(request.prompt_token_ids).encode(), digest_size=8).digest())
    of_sample = _normal(request.seed.to_bytes(8) + b"length")
    deviation = math.sqrt(echo.row_share) * of_row + math.sqrt(1 - echo.row_share) * of_sample
    return max(2, round((echo.response_tokens or 64) * math.exp(echo.length_spread * deviation)))


def _normal(source: bytes) -> float:
    """A number drawn from the standard normal distribution with `source` as the seed."""
    drawn = int.from_bytes(blake2b(source, digest_size=6).digest())
    return NormalDist().inv_cdf((drawn + 0.5) / (1 << 48))
