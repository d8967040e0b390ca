"""mlc-chat-config.json: the conversation template says what the chat template says, and every field is there."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from edge_transact.mlc.chat_config import chat_config, tokenizer_info
from edge_transact.mlc.conversation import DEFAULT_SYSTEM_MESSAGE, conversation_template, plain_note
from tests.support.json_ffi.prompt import create_prompt

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TINYLLAMA = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{# <|user|> <|assistant|> #}"
)
TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"
MESSAGES = [
    {"role": "system", "content": "Speak like a sailor."},
    {"role": "user", "content": "Hello {x}"},
    {"role": "assistant", "content": "Ahoy."},
    {"role": "user", "content": "Again"},
]


def write_tokenizer(directory, chat_template=None, add_bos=False, decoder=None, normalizer=None):
    directory.mkdir(exist_ok=True)
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4, "<|eot_id|>": 5, "a": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([token for token in vocabulary if token.startswith("<")])
    tokenizer.decoder = decoder or tokenizer.decoder
    tokenizer.normalizer = normalizer or tokenizer.normalizer
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2, "bos_token_id": 1}))
    return fast


def mlc_prompt(template: dict, messages: list[dict]) -> str:
    """A conversation as MLC's engine renders it, without the ids of tokens before it."""
    return "".join(part for part in create_prompt(template, messages) if isinstance(part, str))


@pytest.mark.parametrize(
    ("name", "chat_template"),
    [("chatml", CHATML), ("llama-3", LLAMA_3), ("llama-2", LLAMA_2), ("tinyllama_v1_0", TINYLLAMA)],
)
def test_prompts_are_those_of_the_chat_template(tmp_path, name, chat_template):
    tokenizer = write_tokenizer(tmp_path, chat_template)
    template = conversation_template(tmp_path, [2])
    assert template["name"] == name
    for messages in (MESSAGES, MESSAGES[:2]):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert mlc_prompt(template, messages) == expected


@pytest.mark.parametrize(
    ("name", "file", "cases"),
    [
        ("chatml", "qwen", (MESSAGES, MESSAGES[:2], MESSAGES[1:], MESSAGES[1:2])),
        ("chatml", "smollm3", (MESSAGES, MESSAGES[:2], MESSAGES[1:], MESSAGES[1:2])),
        # MLC puts the system message in the first turn, and this template in the last.
        ("mistral_default", "mistral-v0.3", (MESSAGES[:2],)),
        ("phi-3", "phi-3.5", (MESSAGES, MESSAGES[:2])),
        ("phi-4", "phi-4-mini", (MESSAGES, MESSAGES[:2])),
        ("deepseek_r1_qwen", "deepseek-r1", (MESSAGES, MESSAGES[:2], MESSAGES[1:2])),
    ],
)
def test_prompts_of_the_families(tmp_path, name, file, cases):
    tokenizer = write_tokenizer(tmp_path, (TEMPLATES / f"{file}.jinja").read_text())
    template = conversation_template(tmp_path, [2])
    assert template["name"] == name and template["stop_token_ids"][0] == 2
    assert template.get("strip_reasoning_in_history", False) == (name == "deepseek_r1_qwen")
    for messages in cases:
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert mlc_prompt(template, messages) == expected


def test_the_chat_templates_own_system_message_and_stop_token_are_the_default(tmp_path):
    tokenizer = write_tokenizer(tmp_path, CHATML)
    template = conversation_template(tmp_path, [2])
    assert plain_note(tmp_path) is None
    assert template["stop_token_ids"] == [2, 4] and template["stop_str"] == ["<|im_end|>"]
    assert template["system_message"] == "Be brief."
    question = MESSAGES[1:2]
    expected = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert mlc_prompt(template, question) == expected


def test_a_template_without_a_system_message_gets_a_neutral_one(tmp_path):
    write_tokenizer(tmp_path, LLAMA_3)
    assert conversation_template(tmp_path, [2])["system_message"] == DEFAULT_SYSTEM_MESSAGE


@pytest.mark.parametrize("add_bos", [False, True])
def test_a_base_model_continues_text(tmp_path, add_bos):
    write_tokenizer(tmp_path, add_bos=add_bos)
    template = conversation_template(tmp_path, [2])
    assert template["name"] == "LM"
    assert template.get("system_prefix_token_ids") == ([1] if add_bos else None)
    assert mlc_prompt(template, MESSAGES[1:2]) == "Hello {x}"
    assert "no chat template" in plain_note(tmp_path)


def test_an_unknown_chat_template_has_a_note(tmp_path):
    write_tokenizer(tmp_path, "{% for m in messages %}{{ '@@' + m['content'] }}{% endfor %}")
    assert conversation_template(tmp_path, [2])["name"] == "LM"
    assert "MLC doesn't know this chat template" in plain_note(tmp_path)


def test_tokenizer_info(tmp_path):
    write_tokenizer(tmp_path, decoder=decoders.ByteLevel())
    assert tuple(tokenizer_info(tmp_path).values()) == ("byte_level", False, False)
    decoder = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    normalizer = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    write_tokenizer(tmp_path, decoder=decoders.Sequence(decoder), normalizer=normalizers.Sequence(normalizer))
    assert tuple(tokenizer_info(tmp_path).values()) == ("byte_fallback", True, True)


def test_every_field_of_mlc_chat_config(tmp_path):
    write_tokenizer(tmp_path, CHATML)
    generation = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 4]}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    config = chat_config(
        tmp_path, model_type="edge_llama", model_lib="edge_llama_x", quantization="q4f16_0", vocab_size=8,
        model_config={"vocab_size": 8, "prefill_chunk_size": 128}, context_window_size=2048, prefill_chunk_size=128,
    )  # fmt: skip
    # Those without a default in MLC's own MLCChatConfig.
    required = ("model_type", "quantization", "model_config", "vocab_size", "context_window_size", "prefill_chunk_size")
    required += ("sliding_window_size", "attention_sink_size", "tensor_parallel_shards", "conv_template")
    assert all(config[key] is not None for key in required)
    assert config["tokenizer_files"] == ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    assert (config["temperature"], config["top_p"], config["eos_token_id"]) == (0.6, 0.9, [2, 4])
    assert config["conv_template"]["stop_token_ids"] == [2, 4]
    assert config["active_vocab_size"] == 7
    json.dumps(config)


@pytest.mark.parametrize("model_type", ["qwen2", "edge_llama"])
def test_a_family_ends_answers_with_its_own_tokens_too(tmp_path, model_type):
    """Whatever its ``generation_config.json`` leaves out; a pruned model's family is in its ``config.json``."""
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "source_model_type": "qwen2"}))
    config = chat_config(
        tmp_path, model_type="edge_llama", model_lib="edge_llama_x", quantization="q4f16_0", vocab_size=8,
        model_config={}, context_window_size=2048, prefill_chunk_size=128,
    )  # fmt: skip
    assert config["conv_template"]["name"] == "LM" and config["conv_template"]["stop_token_ids"] == [2, 4]
