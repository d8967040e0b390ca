"""The examples of help and pages: found, and run as a shell would, on small inputs where they name a user's own."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.testing import CliRunner

from edge_transact.cli import COMMANDS, app, load_command

ROOT = Path(__file__).resolve().parents[2]
LAB = sorted((ROOT / "docs" / "lab").glob("*.md"))
"""The lab notebook: how figures were measured, at length and once. Its examples are read, not run."""
GUIDES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PAGES = [*GUIDES, *LAB]
GROUP = typer.main.get_command(app)
# With the options and examples of each command; the group itself imports only the command that is called.
GROUP.commands = {name: load_command(name) for name in COMMANDS}


def joined(text: str) -> str:
    """The text with lines that end in a backslash joined to the next ones."""
    return re.sub(r" \\\n *", " ", text)


def lines_in(text: str) -> list[str]:
    """Examples in lines of their own: in the blocks of a page, or between the backticks of a help text."""
    text = joined(text)
    found = re.findall(r"^(?:\$ |`)?((?:[\w\"' ]+\| )?edge-transact [^`\n]*)`?$", text, re.MULTILINE)
    return [line for line in found if "COMMAND" not in line]


EXAMPLES = {str(page.relative_to(ROOT)): lines_in(page.read_text()) for page in GUIDES}
EXAMPLES |= {f"{name} --help": lines_in(command.help or "") for name, command in GROUP.commands.items()}
"""By where they stand, in order."""


def examples_with(text: str) -> list[str]:
    """The examples that hold a text, each once."""
    return list(dict.fromkeys(line for lines in EXAMPLES.values() for line in lines if text in line))


def split(line: str) -> list[str]:
    """The words of a shell line, operators among them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def calls_in(line: str) -> Iterator[list[str]]:
    """The ``edge-transact`` calls of a shell line, as argument lists without the program's name."""
    call: list[str] = []
    for word in [*split(line), ";"]:
        if not set(word) <= set("|&;<>"):
            call.append(word)
            continue
        if call[:1] == ["edge-transact"]:
            yield call[1:]
        call = []


def run_line(line: str) -> None:
    """Runs a line in the working directory, where what it writes isn't there yet but for ``--force`` and ``--update``.

    ``|``, ``&&`` and ``>`` mean what they mean to a shell. Every command must end well, and all but ``run`` must print
    something.
    """
    printed, operator, words = "", "", []
    for word in [*split(line), "&&"]:
        if word not in ("|", "&&", ">"):
            words.append(word)
            continue
        if operator == ">":
            Path(*words).write_text(printed)
        else:
            printed = _run(words, printed if operator == "|" else "")
            # What random weights answer can be blank.
            assert printed.strip() or words[:2] == ["edge-transact", "run"], line
        operator, words = word, []


def _run(words: list[str], text: str) -> str:
    if words[0] != "edge-transact":
        return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout
    command, *options = words[1:]
    output = Path(options[options.index("-o") + 1] if "-o" in options else "dist" if command == "build" else "none")
    if not {"--force", "--update"} & {*options}:
        is_file = output.is_symlink() or output.is_file()
        output.unlink() if is_file else shutil.rmtree(output, ignore_errors=True)
    # To a `run` without a prompt, somebody says something.
    result = CliRunner().invoke(app, words[1:], input=text or "Once upon a time")
    # That a job can't be done here is what `doctor --for` is there to find out.
    assert result.exit_code in ((0, 1) if command == "doctor" else (0,)), (words, result.output)
    if "-o" in options and "--dry-run" not in options:
        assert output.is_file() or any(output.iterdir()), words
    return result.stdout


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_model(directory: Path, seed: int = 0, **changed: int) -> Path:
    """SmolLM2's shape but for one layer, narrow heads and 260 tokens, the bytes first; random weights, with ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = {word: index for index, word in enumerate([*SPECIAL, *bytes_to_unicode().values(), "th"])}
    tokenizer = Tokenizer(models.BPE(words, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT, **special).save_pretrained(directory)
    shape = {
        "vocab_size": len(words), "hidden_size": 288, "intermediate_size": 1536, "num_hidden_layers": 1,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16, "max_position_embeddings": 1024,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True, "initializer_range": 0.1,
        # GGUF has it in fp32: a model from there is the same to the compiler if that is exact.
        "rms_norm_eps": 2**-20,
    }  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**{**shape, **changed})).save_pretrained(directory)
    return directory
