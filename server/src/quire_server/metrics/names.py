"""Every metric there is, by the name under which PromQL finds it. Dashboards are checked against this list.

Of a histogram `x` the series are `x_bucket`, `x_sum` and `x_count`. Plain data, no library.
"""

from __future__ import annotations

METRICS: dict[str, tuple[str, str]] = {
    "quire_http_requests_total": ("counter", "HTTP requests by method, route template and status"),
    "quire_requests_finished_total": ("counter", "Requests that the engine took, by how they ended"),
    "quire_requests_rejected_total": (
        "counter",
        "Requests turned away before the engine saw them, by reason",
    ),
    "quire_time_to_first_token_seconds": ("histogram", "From a request's arrival to its first token"),
    "quire_inter_token_latency_seconds": ("histogram", "Between two deliveries of a stream's tokens"),
    "quire_time_per_output_token_seconds": ("histogram", "Mean time per token after the first, per request"),
    "quire_e2e_request_latency_seconds": ("histogram", "From a request's arrival to its last token"),
    "quire_request_queue_time_seconds": ("histogram", "From arrival to the first step that computed for it"),
    "quire_request_prefill_time_seconds": ("histogram", "From the first step to the first token"),
    "quire_request_decode_time_seconds": ("histogram", "From the first token to the last"),
    "quire_request_prompt_tokens": ("histogram", "Prompt tokens per request"),
    "quire_request_generation_tokens": ("histogram", "Generated tokens per request"),
    "quire_num_requests_running": ("gauge", "Sequences in the running batch"),
    "quire_num_requests_waiting": ("gauge", "Sequences that wait for a seat"),
    "quire_kv_blocks": ("gauge", "KV cache blocks by group and state: free, used, cached"),
    "quire_kv_cache_usage_ratio": ("gauge", "Used KV cache blocks, of 1; of the fullest group"),
    "quire_cache_config_info": ("gauge", "Size of the KV cache, in labels"),
    "quire_prefix_cache_queries_total": ("counter", "Prompt tokens looked up in the prefix cache"),
    "quire_prefix_cache_hits_total": ("counter", "Prompt tokens found in the prefix cache"),
    "quire_grammar_compile_seconds_total": ("counter", "Time spent compiling grammars, refused ones too"),
    "quire_grammar_mask_seconds_total": ("counter", "Time spent making masks of what grammars allow"),
    "quire_grammar_masks_total": ("counter", "Rows of such masks"),
    "quire_forced_tokens_total": (
        "counter",
        "Tokens that nobody need sample: a grammar leaves no choice, or thinking is ended",
    ),
    "quire_thinking_ended_total": ("counter", "Outputs whose thinking was ended: its budget was spent"),
    "quire_preemptions_total": ("counter", "Times that a sequence lost its blocks to another"),
    "quire_spec_decode_drafts_total": ("counter", "Times that a sequence had drafts in a step"),
    "quire_spec_decode_draft_tokens_total": ("counter", "Tokens that were proposed and verified"),
    "quire_spec_decode_accepted_tokens_total": ("counter", "Proposed tokens that were right"),
    "quire_spec_decode_emitted_tokens_total": (
        "counter",
        "Tokens that came of verifications: the right ones, and one more each",
    ),
    "quire_spec_decode_accepted_tokens_per_pos_total": (
        "counter",
        "Proposed tokens that were right, by how far ahead they were proposed, from 0",
    ),
    "quire_spec_decode_acceptance_ratio": (
        "gauge",
        "Share of proposed tokens that were right, since the start",
    ),
    "quire_prompt_tokens_total": ("counter", "Prompt tokens computed; cached ones are not"),
    "quire_generation_tokens_total": ("counter", "Tokens sampled"),
    "quire_step_seconds": ("histogram", "Time per step of the engine"),
    "quire_engine_ready": ("gauge", "1 if the engine takes work, else 0"),
}
"""Type and meaning of each of the server's own metrics."""

VLLM: dict[str, str] = {
    "vllm:num_requests_running": "quire_num_requests_running",
    "vllm:num_requests_waiting": "quire_num_requests_waiting",
    "vllm:kv_cache_usage_perc": "quire_kv_cache_usage_ratio",
    "vllm:gpu_cache_usage_perc": "quire_kv_cache_usage_ratio",
    "vllm:cache_config_info": "quire_cache_config_info",
    "vllm:prefix_cache_queries_total": "quire_prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total": "quire_prefix_cache_hits_total",
    "vllm:num_preemptions_total": "quire_preemptions_total",
    "vllm:spec_decode_num_drafts_total": "quire_spec_decode_drafts_total",
    "vllm:spec_decode_num_draft_tokens_total": "quire_spec_decode_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total": "quire_spec_decode_accepted_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": "quire_spec_decode_accepted_tokens_per_pos_total",
    "vllm:spec_decode_num_emitted_tokens_total": "quire_spec_decode_emitted_tokens_total",
    "vllm:spec_decode_draft_acceptance_rate": "quire_spec_decode_acceptance_ratio",
    "vllm:prompt_tokens_total": "quire_prompt_tokens_total",
    "vllm:generation_tokens_total": "quire_generation_tokens_total",
    "vllm:request_success_total": "quire_requests_finished_total",
    "vllm:time_to_first_token_seconds": "quire_time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds": "quire_inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds": "quire_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds": "quire_e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds": "quire_request_queue_time_seconds",
    "vllm:request_prefill_time_seconds": "quire_request_prefill_time_seconds",
    "vllm:request_decode_time_seconds": "quire_request_decode_time_seconds",
    "vllm:request_prompt_tokens": "quire_request_prompt_tokens",
    "vllm:request_generation_tokens": "quire_request_generation_tokens",
}
"""vLLM's names, each with the metric whose figures it shows, and the label `model_name` besides."""

METRIC_NAMES: dict[str, str] = {name: kind for name, (kind, _) in METRICS.items()} | {
    alias: METRICS[name][0] for alias, name in VLLM.items()
}
"""Name -> "counter", "gauge" or "histogram"; the `vllm:` ones exist unless `vllm_metrics` is off."""
