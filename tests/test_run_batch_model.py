"""`quire run-batch --model`: a model served for one batch, by nobody else to be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_batch_is_answered_by_a_model_served_for_it_alone(tmp_path: Path) -> None:
    urls = {
        "/v1/completions": {"prompt": "def f(", "max_tokens": 4},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
        "/v1/responses": {"input": "x", "max_output_tokens": 16},
    }
    lines = [
        {"custom_id": f"{i}", "method": "POST", "url": url, "body": {"model": "tiny"} | body}
        for i, (url, body) in enumerate(urls.items())
    ]
    lines.append(lines[0] | {"custom_id": "wrong", "body": {"model": "other", "prompt": "x"}})
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "quire.cli", "run-batch", "-i", str(source), "-o", str(target)),
            *("--model", "tiny", "--max-num-seqs", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1, done.stderr  # one line asks for a model that is not served
    assert "4 of 4 lines done, 1 failed" in done.stdout
    found = {line["custom_id"]: line for line in map(json.loads, target.read_text().splitlines())}
    assert {name: one["response"]["status_code"] for name, one in found.items()} == {
        "0": 200,
        "1": 200,
        "2": 200,
        "wrong": 404,
    }
    assert found["0"]["response"]["body"]["usage"]["completion_tokens"] <= 4
