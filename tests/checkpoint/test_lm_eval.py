"""lm-evaluation-harness's model ``hf`` loads what we write, without edge-transact, and scores it right."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from tests.support.checkpoints import narrowed, odd_plan
from tests.support.patience import HANG_S

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
PROGRAM = """
import json, lm_eval, sys
from lm_eval.tasks import TaskManager
model, tasks = sys.argv[1:]
own = TaskManager(include_path=tasks, include_defaults=False)  # the index of lm-eval's own takes 15 s
options = {"pretrained": model, "trust_remote_code": True, "dtype": "float32"}
result = lm_eval.simple_evaluate(
    "hf", options, tasks=["two_cities"], device="cpu", batch_size=2, task_manager=own, log_samples=True
)
print(json.dumps([[sample["doc"], sample["resps"]] for sample in result["samples"]["two_cities"]]))
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


@pytest.mark.soak
def test_lm_eval_scores_a_written_checkpoint(tiny_model, tmp_path):
    source = Checkpoint.open(tiny_model)
    plan = odd_plan(source.plan)
    written = write_checkpoint(source, plan, narrowed(source, plan), {}, tmp_path / "odd")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "two_cities.yaml").write_text(TASK.replace("DATA", str(tmp_path / "rows.jsonl")))
    command = [sys.executable, "-c", PROGRAM, str(written.path), str(tasks)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, env=environment)
    assert done.returncode == 0, done.stderr

    model = AutoModelForCausalLM.from_pretrained(written.path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(written.path)
    samples = json.loads(done.stdout.splitlines()[-1])
    assert len(samples) == len(ROWS)
    for row, responses in samples:
        scores = [float(response[0][0]) for response in responses]
        expected = [log_likelihood(model, tokenizer, row["question"], f" {choice}") for choice in row["choices"]]
        assert scores == pytest.approx(expected, abs=1e-3)
