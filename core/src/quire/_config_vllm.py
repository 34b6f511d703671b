"""Settings that scripts written for vLLM pass, and that Quire has not.

Some ask for what is the case anyway, which is fine; for the others it is said what to do instead.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ELSEWHERE", "is_fulfilled"]

_DRAFT_LENGTH = "how far ahead is proposed follows acceptance and load by itself; leave it out"
_COMPILED = "Quire compiles no model, and captures graphs for max_num_seqs requests; leave it out"
_ONE_TOKENIZER = "Quire has one tokenizer mode, the fast one; leave it out"
_GENERATES = "Quire generates text; leave it out"
_LORA = "adapters are not built yet; leave it out"
_MULTIMODAL = "Quire serves text models; leave it out"
_NO_CPU_MEMORY = "Quire moves no KV cache or weights to host memory; preempted requests are recomputed"
_ONE_PROCESS = "Quire runs on one device; leave it out"

ELSEWHERE = {
    "allowed_local_media_path": _MULTIMODAL,
    "compilation_config": _COMPILED,
    "cpu_offload_gb": _NO_CPU_MEMORY,
    "cuda_graph_sizes": _COMPILED,
    "data_parallel_size": _ONE_PROCESS,
    "disable_custom_all_reduce": _ONE_PROCESS,
    "disable_log_requests": "Quire logs no requests; leave it out",
    "disable_log_stats": "Quire logs no statistics unasked; leave it out and read LLM.get_metrics()",
    "distributed_executor_backend": _ONE_PROCESS,
    "download_dir": "set the environment variable HF_HOME",
    "enable_lora": _LORA,
    "hf_token": "set the environment variable HF_TOKEN",
    "kv_transfer_config": "KV transfer is not built yet; leave it out",
    "limit_mm_per_prompt": _MULTIMODAL,
    "load_in_4bit": "choose a checkpoint in a quantized format; its format is found by itself",
    "max_context_len_to_capture": _COMPILED,
    "max_logprobs_per_token": "use max_logprobs",
    "max_lora_rank": _LORA,
    "max_loras": _LORA,
    "max_paddings": "batches are flat and never padded; leave it out",
    "max_seq_len_to_capture": _COMPILED,
    "max_seq_len": "use max_model_len",
    "mm_processor_kwargs": _MULTIMODAL,
    "num_gpu_blocks_override": "give the size of the KV cache as kv_cache_memory_bytes",
    "num_lookahead_slots": "use num_speculative_tokens in speculative_config",
    "num_scheduler_steps": "multi-step scheduling does not exist in Quire; leave it out",
    "override_generation_config": "pass SamplingParams with each request",
    "preemption_mode": "preempted requests are always recomputed; leave it out",
    "rope_scaling": 'use hf_overrides, e.g. {"rope_parameters": {...}}',
    "rope_theta": 'use hf_overrides, e.g. {"rope_theta": 10000.0}',
    "runner": _GENERATES,
    "skip_tokenizer_init": "pass token ids as prompts and SamplingParams(detokenize=False)",
    "speculative_disable_by_batch_size": _DRAFT_LENGTH,
    "speculative_draft_tensor_parallel_size": _ONE_PROCESS,
    "spec_decoding_acceptance_method": "drafts never change a token's distribution; leave it out",
    "swap_space": _NO_CPU_MEMORY,
    "task": _GENERATES,
    "tokenizer_mode": _ONE_TOKENIZER,
    "tokenizer_revision": "revision applies to the tokenizer too",
    "use_v2_block_manager": "Quire has one block manager; leave it out",
    "worker_cls": "workers are the engine's own; leave it out",
    "worker_use_ray": _ONE_PROCESS,
}
"""What to do instead of each."""

_FULFILLED: dict[str, tuple[Any, ...]] = {
    "allowed_local_media_path": ("",),
    "cpu_offload_gb": (0, 0.0),
    "data_parallel_size": (1,),
    "disable_custom_all_reduce": (False, True),
    "disable_log_requests": (True,),
    "disable_log_stats": (True,),
    "enable_lora": (False,),
    "limit_mm_per_prompt": ({},),
    "load_in_4bit": (False,),
    "num_scheduler_steps": (1,),
    "override_generation_config": ({},),
    "preemption_mode": ("recompute",),
    "runner": ("auto", "generate"),
    "skip_tokenizer_init": (False,),
    "swap_space": (0, 0.0),
    "task": ("auto", "generate"),
    "tokenizer_mode": ("auto",),
    "use_v2_block_manager": (False, True),
    "worker_cls": ("auto",),
    "worker_use_ray": (False,),
}
"""Values that ask for nothing but what Quire does."""


def is_fulfilled(name: str, value: Any) -> bool:
    """Whether a setting that Quire has not asks for what is the case; None asks for nothing."""
    if name not in ELSEWHERE:
        return False
    return value is None or any(type(value) is type(one) and value == one for one in _FULFILLED.get(name, ()))
