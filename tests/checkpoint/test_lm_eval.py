"""lm-evaluation-harness's ``--model hf`` loads what we write, without edge-transact, and scores it right."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import narrowed, odd_plan

TASK = """
task: two_cities
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
ROWS = [
    {"question": "It was the", "choices": ["time", "of of of", "x"], "answer": 0},
    {"question": "the old man", "choices": ["said", "zz", "..."], "answer": 0},
]


def log_likelihood(model, tokenizer, context: str, continuation: str) -> float:
    ids = tokenizer(context + continuation, return_tensors="pt").input_ids
    start = len(tokenizer(context).input_ids)
    with torch.inference_mode():
        log_probabilities = model(ids).logits[0, :-1].log_softmax(-1)
    return log_probabilities.gather(1, ids[0, 1:, None])[start - 1 :].sum().item()


@pytest.mark.slow
def test_lm_eval_scores_a_written_checkpoint(tiny_model, tmp_path):
    source = Checkpoint.open(tiny_model)
    plan = odd_plan(source.plan)
    written = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "odd")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "two_cities.yaml").write_text(TASK.replace("DATA", str(tmp_path / "rows.jsonl")))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "2"]
    command += ["--model_args", f"pretrained={written.path},trust_remote_code=True,dtype=float32"]
    command += ["--include_path", str(tasks), "--tasks", "two_cities", "--log_samples", "--output_path", str(tmp_path)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr

    model = AutoModelForCausalLM.from_pretrained(written.path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(written.path)
    (samples,) = tmp_path.rglob("samples_two_cities_*.jsonl")
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        row = sample["doc"]
        scores = [float(response[0][0]) for response in sample["resps"]]
        expected = [log_likelihood(model, tokenizer, row["question"], f" {choice}") for choice in row["choices"]]
        assert scores == pytest.approx(expected, abs=1e-3)
