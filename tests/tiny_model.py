"""A real model small enough for tests: random weights, a real tokenizer and chat template; ready in seconds."""

from pathlib import Path
from typing import Any

KILLABLE_RUN = (
    "model.path=model",
    "hardware=cpu",
    "hardware.max_num_seqs=8",
    "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'",
    # several threads wait for each other without sleeping, and where other programs run that is a hundred times slower
    "hardware.env.OMP_NUM_THREADS='1'",
    "tracking=disabled",
    "data.path=input.parquet",
    "sampling.n_samples=4",
    "sampling.max_tokens=80",
    "sampling.logprobs=processed",
    "store.flush_seconds=0.2",
)
"""Overrides of a run of the tiny model, in the folder `model`, that stores often enough to be killed half-way."""

_CONFIG: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.3,
    "dtype": "float32",
}

THINK = ["<think>", "</think>"]
"""Tokens that the model has, as Qwen3's and DeepSeek's do: not special, so that texts show them."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'robot' %}{{ raise_exception('unknown role robot') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tiny_model(folder: Path, **changes: Any) -> Path:
    """Write weights, config (with `changes`) and tokenizer to `folder`.

    The weights are wide enough for a next token to depend on those before it (about 2.6 nats of choice). vLLM's `dummy`
    ones are within 0.001 of zero: a sample of theirs is the same for every prompt, and so shows no prompt mixed up.
    """
    import torch  # here, because these take seconds, and to collect the tests needs none of them
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(**_CONFIG | changes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(config.dtype).save_pretrained(folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 4, "北京 你好 世界"], trainer)
    bpe.add_tokens(THINK)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
