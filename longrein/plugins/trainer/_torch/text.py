"""Text to tokens: a byte-level BPE tokenizer of our own or a given one, and rows as conversations."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from longrein.core import folder as folders
from longrein.core.chat import Chat
from longrein.core.errors import Error
from longrein.core.training import Recipe

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# GPT-4's split, with Han runs kept short by the merges themselves: words, up to three digits, punctuation, spaces.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# `<|` inside a message is broken up, so that other servers, which do not quote (core/chat.py), are safe as well.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('the roles are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | replace('<|', '< |') -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

Message = Mapping[str, str]


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_length: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) of at most `vocabulary` tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, END, *ROLES]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder. Errors: `invalid` where it is missing, unsafe, or has no chat template."""
    folders.check(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise Error("invalid", f"{folder} holds no tokenizer that can be loaded: {error}") from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise Error("invalid", f"{folder} holds no tokenizer.json", "save the tokenizer in its fast format")
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE
    if tokenizer.eos_token_id is None:
        raise Error("invalid", f"the tokenizer in {folder} has no end token", "set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_for(recipe: Recipe, project: Path, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer that the recipe asks for: a given one, the base's, or one trained on `texts`."""
    given = recipe.tokenizer or recipe.base
    if given is not None:
        return load_tokenizer(project / given)
    return train_tokenizer(texts, recipe.vocabulary or vocabulary, recipe.max_length)


def conversation(row: Mapping[str, Any], system: str) -> list[Message]:
    """A row as messages: its own `messages`, or its input and output, with the system message before them."""
    if row.get("messages"):
        talk: list[Message] = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    else:
        talk = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["output"]}]
    if not system or talk[0]["role"] == "system":
        return talk
    return [{"role": "system", "content": system}, *talk]


class Segment(NamedTuple):
    text: str
    answer: bool  # written by the assistant


def render(tokenizer: PreTrainedTokenizerBase, talks: list[list[Message]]) -> list[list[Segment]]:
    """Each quoted conversation as what the assistant was told and what it answered, in turn, by the chat template."""
    rendered: list[list[Segment]] = [[] for _ in talks]
    done = [""] * len(talks)
    turns = [[i for i, m in enumerate(talk) if m["role"] == "assistant"] for talk in talks]
    for turn in range(max(map(len, turns), default=0)):
        at = [i for i, places in enumerate(turns) if turn < len(places)]
        asked = _apply(tokenizer, [talks[i][: turns[i][turn]] for i in at], prompt=True)
        answered = _apply(tokenizer, [talks[i][: turns[i][turn] + 1] for i in at], prompt=False)
        for i, before, after in zip(at, asked, answered, strict=True):
            if not (before.startswith(done[i]) and after.startswith(before)):
                raise Error(
                    "invalid",
                    "the chat template rewrites earlier turns, so the answers in a conversation cannot be told apart",
                    "use single-turn rows, or a tokenizer with a template that only appends",
                )
            rendered[i] += [Segment(before[len(done[i]) :], False), Segment(after[len(before) :], True)]
            done[i] = after
    return rendered


def _apply(tokenizer: PreTrainedTokenizerBase, talks: list[list[Message]], prompt: bool) -> list[str]:
    if not talks:
        return []
    try:
        return list(tokenizer.apply_chat_template(talks, tokenize=False, add_generation_prompt=prompt))
    except TemplateError as error:
        raise Error("invalid", f"the chat template refuses a row: {error}", "mend its messages") from error


def encode_talks(
    talks: list[list[Message]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], list[bool]]]:
    """Token ids of each conversation up to its last answer's end, and which of them are answers."""
    chat = Chat(tokenizer.backend_tokenizer)
    rendered = render(tokenizer, [chat.quote(talk) for talk in talks])
    ids = iter(chat.encode([s.text for segments in rendered for s in segments]))
    end = tokenizer.eos_token_id
    for segments in rendered:
        row: list[int] = []
        mask: list[bool] = []
        for segment in segments:
            piece = next(ids)
            if segment.answer and end not in piece:
                piece = [*piece, end]
            said = piece.index(end) + 1 if segment.answer else 0
            row += piece
            mask += [True] * said + [False] * (len(piece) - said)
        last = len(mask) - mask[::-1].index(True) if True in mask else 0
        yield row[:last], mask[:last]
