"""Control tokens in the texts of a task are text, unless the template says otherwise."""

from types import SimpleNamespace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_tokens import byte_level, sentencepiece_like, word_level
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import icl_locate as icl
from icl_locate import Part, Segment
from icl_locate.engine.labels import label_tokens
from icl_locate.errors import PromptError
from icl_locate.lora.data import encode
from icl_locate.prompts.alignment import align
from icl_locate.prompts.encoding import control_tokens, count_tokens

BANK = [icl.Example("a cow", "la vache"), icl.Example("a hen", "la poule")]
CHAT = icl.PromptTemplate(
    "<|user|>Do", "<|user|>", "</s>\n<|model|>", "</s>\n", stop=("</s>",), instruction_separator=" "
)
ACTING = icl.PromptTemplate(special_tokens="control")
REFUSING = icl.PromptTemplate(special_tokens="refuse")


def chatty() -> PreTrainedTokenizerFast:
    """Byte-level, with BOS, EOS, turns, and added tokens that are not special."""
    tokenizer = byte_level()
    turns = ["<|user|>", "<|model|>"]
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": turns}
    )
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("covid")])
    return tokenizer


TOKENIZER = chatty()
SPECIAL = [TOKENIZER.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<|user|>", "<|model|>")]
BOS, EOS, USER, MODEL = SPECIAL


def prompts_of(source, target="le", template=None, tokenizer=TOKENIZER):
    model = SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=None))
    query = icl.Example(source, target)
    return icl.build_prompts(model, [query], examples=BANK, n_shots=2, template=template)


pieces = st.sampled_from(["</s>", "<s>", "<|user|>", "<", "s>", " ", "the cat", "Q:", "é", "covid"])
texts = st.lists(pieces, min_size=1, max_size=5).map("".join).filter(str.strip)


@given(texts, texts, texts)
def test_no_text_of_a_task_acts_on_the_model(source, target, query):
    """And each token still stands with the character that it begins at."""
    spans = icl.PromptTemplate("Do:").render([icl.Example(source, target)], query)
    text = "".join(span.text for span in spans)
    found = align(TOKENIZER, spans)
    assert not set(SPECIAL) & set(found.body)
    assert TOKENIZER.decode(found.body) == text
    owner = [span for span in spans for _ in span.text]
    offsets = TOKENIZER(text, return_offsets_mapping=True, split_special_tokens=True)
    for i, (start, end) in enumerate(offsets["offset_mapping"]):
        inked = [c for c in range(start, end) if not text[c].isspace()]
        expected = owner[inked[0] if inked else start]
        assert (found.segments[i], found.parts[i]) == (expected.segment, expected.part)


@given(texts, texts)
def test_no_target_acts_on_the_model(source, target):
    for template in (icl.PromptTemplate(target_prefix="A: "), CHAT):
        if template is CHAT and any(t in source for t in ("<s>", "</s>", "<|user|>")):
            continue
        prompts = prompts_of(source, target, template)
        assert not set(SPECIAL) & set(prompts.target_tokens[0])
        assert TOKENIZER.decode(prompts.target_tokens[0]) == template.answer(target)
        rows = encode(TOKENIZER, template, [icl.Example(source, target)], "target")
        assert [t for t in rows[0][1] if t == EOS] == [EOS], "its own end alone"


def test_control_tokens_act_where_the_template_lets_them():
    found = prompts_of("the</s> cat", "le</s>", ACTING)
    assert found.tokens[0].tolist().count(EOS) == 1 and found.target_tokens[0][-1] == EOS
    assert prompts_of("the</s> cat", "le</s>").tokens[0].tolist().count(EOS) == 0
    assert prompts_of("the cat", "le").tokens.equal(prompts_of("the cat", "le", ACTING).tokens)


@pytest.mark.parametrize(
    ("source", "target", "held"),
    [
        ("the</s>", "le", "the source 'the</s>' holds '</s>'"),
        ("the", "<s>le", "the target '<s>le' holds '<s>'"),
    ],
)
def test_control_tokens_are_refused_where_the_template_says_so(source, target, held):
    with pytest.raises(PromptError, match=rf"^{held}, which this tokenizer reads as a control tok"):
        prompts_of(source, target, REFUSING)
    bank = [icl.Example("a", "b"), icl.Example(source, target)]
    spans = REFUSING.render(bank, "the dog")
    with pytest.raises(PromptError, match=f"^{held}"):
        align(TOKENIZER, spans, special_tokens="refuse")
    prompts_of("the < cat", "le s>", REFUSING)  # half of one is none


def test_a_templates_own_control_tokens_act():
    prompts = prompts_of("the cow", "la vache", CHAT)
    tokens, segments = prompts.tokens[0].tolist(), prompts.segments[0].tolist()
    assert tokens.count(USER) == 4 and tokens.count(MODEL) == 3 and tokens.count(EOS) == 5
    owners = [segments[i] for i, token in enumerate(tokens) if token == MODEL]
    assert owners == [Segment.EXAMPLES, Segment.EXAMPLES, Segment.QUERY]
    assert {prompts.parts[0, i].item() for i, t in enumerate(tokens) if t == EOS} == {
        int(Part.DELIMITER)
    }
    with pytest.raises(PromptError, match="holds '<s>'.*the template itself uses such tokens"):
        prompts_of("the<s> cow", "la vache", CHAT)


def test_labels_are_text_too(tmp_path):
    model = tiny.boot_fresh("llama")
    TOKENIZER.save_pretrained(tmp_path)
    model.tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    template = icl.PromptTemplate(target_prefix="A: ")
    for source in ("the cat", "the</s> cat"):
        prompts = prompts_of(source, "le", template, model.tokenizer)
        assert EOS not in prompts.tokens
        ((le,), (end,)) = label_tokens(model, prompts, ["le", "</s>"])
        assert TOKENIZER.decode(le) == " le" and TOKENIZER.decode(end) == " </s>"
        assert EOS not in end


def test_a_tokenizer_that_cannot_spell_them_says_so():
    """A Unigram or word-level vocabulary holds its control tokens as pieces, too."""
    with pytest.raises(PromptError, match="holds '</s>', .* and cannot encode as text: take it"):
        prompts_of("the</s>", tokenizer=sentencepiece_like())
    with pytest.raises(PromptError, match="the target 'le</s>' holds '</s>', .* cannot encode"):
        prompts_of("the", "le</s>", tokenizer=sentencepiece_like())
    unknown = prompts_of("zebra quagga", "le okapi", tokenizer=word_level())
    assert word_level().unk_token_id in unknown.tokens, "an unknown word is no control token"
    prompts_of("zebra <unk>", tokenizer=word_level())


def test_added_tokens_that_are_not_special_are_vocabulary():
    text = "a    b covid"
    prompts = prompts_of(text, template=REFUSING)
    for piece in ("    ", "covid"):
        assert TOKENIZER.convert_tokens_to_ids(piece) in prompts.tokens[0]
    encoding = TOKENIZER(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert control_tokens(TOKENIZER, text, encoding) == []


def test_there_are_three_ways():
    with pytest.raises(PromptError, match="special_tokens is 'encode': expected one of 'text'"):
        icl.PromptTemplate(special_tokens="encode")


def test_the_unknown_token_is_one_where_it_is_written_out():
    """A word that a tokenizer does not know is no control token; "<unk>" itself is one."""
    tokenizer, text = word_level(), "the <unk> zebra"
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    unknown = tokenizer.unk_token_id
    assert encoding["input_ids"][1:] == [unknown, unknown]
    assert control_tokens(tokenizer, text, encoding) == [(4, 9)]


def test_tokens_are_counted_as_they_are_encoded():
    assert count_tokens(TOKENIZER, "") == 0
    assert count_tokens(TOKENIZER, "</s>") == 1 < count_tokens(TOKENIZER, "</s>", plain=True)
    with_bos = sentencepiece_like()("the cat")["input_ids"]
    assert count_tokens(sentencepiece_like(), "the cat") == len(with_bos) - 1


def test_what_control_tokens_are_is_one_of_three():
    with pytest.raises(PromptError, match="special_tokens is 'raw'"):
        icl.PromptTemplate(special_tokens="raw")
