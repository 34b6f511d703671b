"""lm-evaluation-harness' `local-completions`: loglikelihoods through echo and logprobs, and generation.

The task and its data are made here; nothing is fetched.
"""

import json
import os
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

here = Path.cwd()
rows = [
    {"question": "for i in range(10)", "choices": [":\n", "zebra"], "answer": 0},
    {"question": "import ", "choices": ["=== ===", "os\n"], "answer": 1},
    {"question": "def __init__(", "choices": ["self", "banana"], "answer": 0},
    {"question": "if __name__ == ", "choices": ["'__main__'", "giraffe"], "answer": 0},
]
(here / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
common = f"""
dataset_path: json
dataset_kwargs:
  data_files:
    test: {here / "data.jsonl"}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
(here / "choose.yaml").write_text(
    "task: choose\noutput_type: multiple_choice\n"
    + common
    + 'target_delimiter: ""\ndoc_to_target: answer\ndoc_to_choice: "{{choices}}"\n'
    + "metric_list:\n  - metric: acc\n"
)
(here / "write.yaml").write_text(
    "task: write\noutput_type: generate_until\n"
    + common
    + 'doc_to_target: "{{choices[answer]}}"\n'
    + 'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 8\nmetric_list:\n  - metric: exact_match\n'
)
os.environ["OPENAI_API_KEY"] = os.environ["QUIRE_KEY"]
results = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={
        "model": "tiny",
        "base_url": os.environ["QUIRE_URL"] + "/v1/completions",
        "tokenizer_backend": "remote",
        "auth_token": os.environ["QUIRE_KEY"],
        "num_concurrent": 2,
        "max_length": 2048,
    },
    tasks=["choose", "write"],
    task_manager=TaskManager(include_path=str(here), include_defaults=False),
    bootstrap_iters=0,
)
accuracy = results["results"]["choose"]["acc,none"]
assert accuracy >= 0.75, accuracy  # a model of Python's library knows which is Python
assert len(results["samples"]["write"]) == len(rows)
for sample in results["samples"]["choose"]:
    for response in sample["filtered_resps"]:
        assert response[0] < 0, sample
print("ok")
