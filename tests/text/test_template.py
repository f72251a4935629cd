"""Templates: where they come from, what they are given, and what becomes of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmkit.errors import DataError, TokenizerError
from lmkit.prompts import Message, Part
from lmkit.text import chat
from lmkit.text.encodings import CHAT_TOKENS
from lmkit.text.template import ChatTemplate, packaged
from lmkit.text.tokenizer import Byte, Tiktoken, load_tokenizer

TALK = (Message("user", " Hi "), Message("assistant", "<think>hm</think>Yo"))

# the names and the manner that models on the Hugging Face hub use, with their tag for training
HUB = """\
{%- if tools %}{{ raise_exception('no tools here') }}{% endif %}
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}
{%- for message in messages if message['role'] != 'system' %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('roles are user and assistant') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {%- set first = system + '\\n' if loop.first and system else '' %}
        {{- '<|im_start|>user\\n' + first + message['content'] | trim + '<|im_end|>' }}
    {%- else %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1] %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}{{ content + '<|im_end|>' }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def rendered(template: ChatTemplate, *messages: Message) -> str:
    return "".join(piece.text for piece in template.render(messages))


def test_a_template_of_the_hub_works(tmp_path: Path) -> None:
    (tmp_path / "hub.jinja").write_text(HUB)
    tokenizer = Tiktoken("gpt2", chat="hub.jinja", folder=str(tmp_path))
    assert tokenizer.chat.name == "hub"
    ids, mask = chat.render(tokenizer, (Message("system", "Hm"), *TALK))
    said = "<|im_start|>user\nHm\nHi<|im_end|><|im_start|>assistant\nYo<|im_end|>"
    assert tokenizer.decode(ids) == "<|endoftext|>" + said  # it writes no bos itself
    assert tokenizer.decode(i for i, flag in zip(ids, mask, strict=True) if flag) == "Yo<|im_end|>"


def test_contents_answer_by_their_text_and_print_as_placeholders() -> None:
    source = "{% for m in messages %}" + "|".join(
        "{{ " + expression + " }}"
        for expression in (
            "m.content | trim",
            "m.content.upper()",
            "m.content[1:3]",
            "m.content | replace('H', '<|bos|>')",
            "m.content | length",
            "m.content == ' Hi '",
            "'H' in m.content",
            "m.content is string",
            "('yes' if m.content.strip('Hi ') else 'empty')",
            "m.parts[0].type ~ m.parts[0]['text']",
        )
    )
    pieces = ChatTemplate(source + "{% endfor %}").render(TALK[:1])
    assert "".join(piece.text for piece in pieces) == (
        "Hi| HI |Hi| <|bos|>i |4|True|True|True|empty|text Hi "
    )
    assert [piece.text for piece in pieces if piece.kind == "text"] == [
        *("Hi", " HI ", "Hi", " <|bos|>i ", " Hi ")
    ]


@pytest.mark.parametrize("spelled", ["_text", "_all", "__class__", "_wrap('x')"])
def test_a_template_cannot_reach_the_text_nor_the_program(spelled: str) -> None:
    source = "{% for m in messages %}{{ m.content." + spelled + " }}{% endfor %}"
    with pytest.raises(TokenizerError, match="inline template:1: .*SecurityError"):
        ChatTemplate(source).render(TALK)


def test_a_tools_output_is_not_trained_whatever_the_template_says() -> None:
    source = "{% generation %}{% for p in messages[1].parts %}{{ p.text }}{% endfor %}"
    called = Message("assistant", (Part("python", "1+1"), Part("python_output", "2")))
    pieces = ChatTemplate("{{ messages[0].content }}" + source + "{% endgeneration %}").render(
        (TALK[0], called)
    )
    flags = {piece.text: piece.trained for piece in pieces if piece.text}
    assert flags == {" Hi ": False, "1+1": True, "2": False}


def test_where_templates_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(packaged()) == {"nanochat", "plain", "chatml", "llama3", "prompt_truth"}
    assert ChatTemplate.open("chatml") is packaged()["chatml"]
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    mine = ChatTemplate.open("mine.jinja", tmp_path)
    assert (mine.name, mine.source) == ("mine", "{{ messages[0].content }}")
    monkeypatch.chdir(tmp_path)
    assert ChatTemplate.open("mine.jinja", "elsewhere") == mine
    inline = ChatTemplate.open("{{ messages[0].content }}")
    assert inline == mine
    assert hash(inline) == hash(mine)
    assert ChatTemplate(packaged()["plain"].source).name == "plain"
    with pytest.raises(TokenizerError, match="no chat template 'chatlm'; did you mean 'chatml'"):
        ChatTemplate.open("chatlm")
    with pytest.raises(TokenizerError, match="there are chatml, llama3.*or name a .jinja file"):
        ChatTemplate.open("vicuna")
    with pytest.raises(TokenizerError, match="^none.jinja: cannot read the template: No such"):
        ChatTemplate.open("none.jinja")
    (tmp_path / "latin.jinja").write_bytes(b"\xe9")
    with pytest.raises(TokenizerError, match="latin.jinja: the template is not UTF-8"):
        ChatTemplate.open("latin.jinja")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for m in messages %}", "x.jinja:1: the chat template is wrong: .*endfor"),
        ("a\n{% generation %}\n{{ 1 }", "x.jinja:3: the chat template is wrong: "),
        ("a\n\n{{ messages[7].content }}", "x.jinja:3: the chat template fails: UndefinedError"),
        ("a\n{{ message.contnet }}", "x.jinja:2: .*'message' is undefined"),
        ("{{ messages[0].contnet }}", "x.jinja:1: .*no attribute 'contnet'"),
        ("a\n{{ 1 / 0 }}", "x.jinja:2: the chat template fails: ZeroDivisionError"),
        ("{% include 'other' %}", "x.jinja:1: the chat template fails"),
        ("{{ '\\x00a\\x00' }}", "x.jinja: the chat template writes a NUL"),
    ],
)
def test_wrong_templates_name_their_line(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "x.jinja").write_text(source)
    with pytest.raises(TokenizerError, match=said):
        Tiktoken("gpt2", chat=str(tmp_path / "x.jinja"))


@pytest.mark.parametrize("name", packaged())
def test_which_templates_have_a_place_for_tools(name: str) -> None:
    assert packaged()[name].shows_tools == (name == "nanochat")


def test_a_place_for_tools_needs_no_special_tokens() -> None:
    own = "{% for m in messages %}{% for p in m.parts %}<{{ p.text }}>{% endfor %}{% endfor %}"
    assert ChatTemplate(own).shows_tools
    refuses = own + "{% if messages[1].parts | length > 1 %}{{ raise_exception('no') }}{% endif %}"
    assert not ChatTemplate(refuses).shows_tools


def test_a_template_may_refuse_a_conversation() -> None:
    source = packaged()["chatml"].source
    refusing = ChatTemplate(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + source
    )
    assert rendered(refusing, *TALK) == rendered(packaged()["chatml"], *TALK)
    with pytest.raises(DataError, match="the chat template refuses the conversation: no system"):
        refusing.render((Message("system", "x"), *TALK))
    tokenizer = Tiktoken("gpt2", chat=refusing.source)  # none the less it can be used
    with pytest.raises(DataError, match="no system"):
        chat.render(tokenizer, (Message("system", "x"), *TALK))


def test_special_tokens_are_found_in_what_it_writes() -> None:
    by_role = ChatTemplate(
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}{{ m.content }}{% endfor %}"
    )
    assert by_role.special_tokens == ("<|system|>", "<|user|>", "<|assistant|>")
    assert set(packaged()["nanochat"].special_tokens) == set(CHAT_TOKENS)
    assert packaged()["plain"].special_tokens == ()


def test_which_template_a_tokenizer_has() -> None:
    assert Byte().chat.name == Tiktoken().chat.name == "plain"
    some = dict(zip(CHAT_TOKENS[:10], range(50257, 50267), strict=True))
    assert Tiktoken(special_tokens=some).chat.name == "plain"
    every = {**some, CHAT_TOKENS[10]: 50267}
    assert Tiktoken(special_tokens=every).chat.name == "nanochat"
    assert Tiktoken(special_tokens=every, chat="plain").chat.name == "plain"


@pytest.mark.parametrize("chat_format", [*packaged(), HUB])
def test_the_template_is_saved_with_the_tokenizer(chat_format: str, tmp_path: Path) -> None:
    tokenizer = Tiktoken("python4k", chat=chat_format)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat == tokenizer.chat
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    assert chat.render(loaded, TALK) == chat.render(tokenizer, TALK)


def test_plain_is_saved_where_it_is_not_the_default(tmp_path: Path) -> None:
    every = dict(zip(CHAT_TOKENS, range(4096, 4107), strict=True))
    plain = Tiktoken("python4k", special_tokens=every, chat="plain")
    plain.save(tmp_path)
    assert load_tokenizer(tmp_path).chat.name == "plain"
    assert plain.fingerprint != Tiktoken("python4k", special_tokens=every).fingerprint


def test_other_templates_are_other_tokenizers() -> None:
    every = dict(zip(CHAT_TOKENS, range(4096, 4107), strict=True))
    formats = [*(name for name in packaged() if name not in ("chatml", "llama3")), None]
    found = {Tiktoken("python4k", special_tokens=every, chat=name).fingerprint for name in formats}
    assert len(found) == len(formats) - 1  # nanochat is the default


def test_text_is_the_same_in_every_template_of_the_same_special_tokens() -> None:
    every = dict(zip(CHAT_TOKENS, range(4096, 4107), strict=True))
    formats = [*(name for name in packaged() if name not in ("chatml", "llama3")), None]
    tokenizers = [Tiktoken("python4k", special_tokens=every, chat=name) for name in formats]
    assert len({tokenizer.text_fingerprint for tokenizer in tokenizers}) == 1
    others = [Tiktoken("python4k", special_tokens=every, chat="chatml"), Tiktoken("python4k")]
    others += [Tiktoken("gpt2"), Byte()]
    assert len({tokenizer.text_fingerprint for tokenizer in [*others, tokenizers[0]]}) == 5


TURN = "{{ message.role }}: {{ message.content }}{{ eos_token }}"


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (TURN, "does not mark what the assistant says.*; put {% generation %}...{% endgeneration"),
        (
            "{% generation %}{{ 'U' if message.role == 'user' else 'A' }}{{ cut }}"
            "{{ message.content }}{{ eos_token }}{% endgeneration %}",
            "does not train just what the assistant says",
        ),
        (
            "{% generation %}" + TURN + "{% endgeneration %}",
            "writes a turn otherwise.*add_generation_prompt gives stands before {% generation %}",
        ),
        (
            "{% if message.role == 'user' %}U{{ message.content }}{% else %}A"
            "{% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}{% endif %}",
            "does not train a special token that ends.*would never learn to stop",
        ),
        (
            "{% if message.role == 'user' %}U{{ message.content }}{% else %}A"
            "{% generation %}{{ message.content }}!{% endgeneration %}{% endif %}",
            "does not train a special token that ends",
        ),
        (
            "{% if message.role == 'user' %}U{{ message.content }}{% else %}A{% generation %}"
            "{{ message.content }}{{ eos_token }}{% endgeneration %}{% endif %}"
            "{{ messages|length }}",
            "writes a turn otherwise when the conversation goes on",
        ),
        (
            "{{ bos_token }}{% if message.role == 'user' %}U{{ message.content }}{% else %}A"
            "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% endif %}",
            "writes bos more than once",
        ),
        ("{{ message.role }}", "cannot render a plain conversation: .* leaves out turn 1, the us"),
        (
            "{{ message.content|tojson }}",
            "cannot render a plain conversation: .* leaves out turn 1, the us",
        ),
        ("{{ raise_exception('no system') }}", "cannot render .*conversation: no system"),
    ],
)
def test_templates_that_break_a_rule_are_refused_at_once(loop: str, said: str) -> None:
    source = (
        "{{ bos_token }}{% for message in messages %}" + loop + "{% endfor %}"
        "{% if add_generation_prompt %}A{% endif %}"
    )
    with pytest.raises(TokenizerError, match=f"^inline template: the chat template .*{said}"):
        Tiktoken("gpt2", chat=source)


def test_a_tokenizer_without_the_templates_tokens() -> None:
    tokenizer = Byte()
    tokenizer.chat = packaged()["chatml"]
    with pytest.raises(
        TokenizerError, match=r"chatml.jinja: .*<\|im_start\|>, which is no special"
    ):
        chat.end_ids(tokenizer)
