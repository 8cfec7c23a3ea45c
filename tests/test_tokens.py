"""Prompts as tokens: one tokenisation, every token in exactly one segment (law 9)."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import icl_locate as icl
from icl_locate import Part, Segment
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import PromptError, TaskError
from icl_locate.prompts.alignment import align
from icl_locate.prompts.template import choose_examples
from icl_locate.tasks.task import DEFAULT_TEMPLATE

GPT2 = Path(__file__).parents[2] / "shared" / "data" / "gpt2_tokenizer"
CORPUS = [
    "Q:the cat sat A:le chat assis\nQ:the dog A:le chien\n",
    "Translate English to French:\nQ:a house A:une maison\n",
    "QA: A:le A:la A:un\n\nQ:the Q:a :le :la nA: tA: éà",
] * 20


def wrap(backend, **extra):
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", **extra)


def byte_level(words=False):
    """By default without a regex: merges run across spaces, prefixes and line breaks."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return wrap(backend)


def sentencepiece_like(words=False):
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=words)
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def with_specials(single, **extra):
    """The same pieces between special tokens that the tokenizer adds by itself."""
    tokenizer = sentencepiece_like()
    backend = tokenizer.backend_tokenizer
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>", "<unk>")]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return wrap(backend, eos_token="</s>", unk_token="<unk>", **extra)


def word_level():
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return wrap(backend, unk_token="<unk>")


@cache
def gpt2():
    from transformers import GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast(vocab=str(GPT2 / "vocab.json"), merges=str(GPT2 / "merges.txt"))
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trimming():
    """Byte-level with trimmed offsets: a token of white space covers no characters."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrap(backend)


def test_trimmed_white_space_stays_with_what_precedes_it():
    template = icl.PromptTemplate("Do", "\nQ:", "A:", "  ")
    prompt = align(trimming(), template.render([icl.Example("cat", "le")], "dog"))
    pieces = trimming().convert_ids_to_tokens(prompt.tokens)
    spaces = [i for i, piece in enumerate(pieces) if set(piece) == {"Ġ"}]
    owners = [prompt.segments[i] for i in spaces]
    assert owners == sorted(owners)
    assert {Segment.INSTRUCTIONS, Segment.EXAMPLES} == set(owners)


TOKENIZERS = {
    "byte-level BPE": byte_level(),
    "sentencepiece-like": sentencepiece_like(),
    "word-level": word_level(),
    "embedded": build_tokenizer(),
}
NAMES = [*TOKENIZERS, "GPT-2"]


def get_tokenizer(name):
    if name == "GPT-2":
        if not GPT2.is_dir():
            pytest.skip(f"GPT-2's vocabulary is not at {GPT2}")
        return gpt2()
    return TOKENIZERS[name]


texts = st.text(alphabet="the cat QA:\n\tleéàß日🙂.", min_size=1, max_size=9).filter(str.strip)
affixes = st.sampled_from(["Q:", "A:", "\nA:", " ", "Input: ", "->", "\n\n", "", ":"])
templates = st.builds(icl.PromptTemplate, st.none() | texts, affixes, affixes, affixes.filter(bool))
examples = st.builds(icl.Example, texts, texts)


def model_with(tokenizer, n_ctx=512):
    return SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=n_ctx))


@pytest.mark.parametrize("name", NAMES)
@given(shots=st.lists(examples, max_size=3), query=texts, template=templates)
def test_law_9_segments_partition_one_tokenisation(name, shots, query, template):
    tokenizer = get_tokenizer(name)
    spans = template.render(shots, query)
    text = "".join(span.text for span in spans)
    encoding = tokenizer(text, return_offsets_mapping=True)
    if not [o for o in encoding["offset_mapping"] if o[1] > o[0]]:
        return  # nothing but characters that this tokenizer drops
    prompt = align(tokenizer, spans)
    assert prompt.tokens == encoding["input_ids"], "the whole prompt, tokenised once"
    owner = [span for span in spans for _ in span.text]  # character by character
    n_bos = prompt.segments.count(Segment.BOS)
    assert n_bos == (1 if name in ("sentencepiece-like", "embedded") else 0)
    for i, (start, end) in enumerate(encoding["offset_mapping"]):
        if i < n_bos:
            assert prompt.segments[i] is Segment.BOS
            continue
        inked = [c for c in range(start, end) if not text[c].isspace()]
        expected = owner[min(inked[0] if inked else start, len(text) - 1)]
        assert prompt.segments[i] is expected.segment
        assert prompt.parts[i] is expected.part
        assert prompt.shots[i] == expected.shot


def test_a_token_across_a_border_goes_where_its_first_ink_is():
    tokenizer = TOKENIZERS["byte-level BPE"]
    spans = icl.PromptTemplate().render([icl.Example("the cat", "le")], "a")
    prompt = align(tokenizer, spans)
    pieces = tokenizer.convert_ids_to_tokens(prompt.tokens)
    assert pieces[0] == "Q:theĠ", "one token over a prefix and a source"
    assert prompt.parts[0] is Part.DELIMITER
    assert "ĊQ:" in pieces, "one token over a separator of the example and the query's prefix"
    assert prompt.segments[pieces.index("ĊQ:")] is Segment.QUERY


def test_a_separator_belongs_to_the_segment_before_it():
    template = icl.PromptTemplate("Translate English to Python:", "Q:", "A:", "\n")
    prompt = align(build_tokenizer(), template.render([icl.Example("sort", "zimo")], "thin"))
    newline = build_tokenizer().convert_tokens_to_ids("▁\n")
    ends = [prompt.segments[i] for i, token in enumerate(prompt.tokens) if token == newline]
    assert ends == [Segment.INSTRUCTIONS, Segment.EXAMPLES]
    names = [part.name for part in prompt.parts]
    assert names[-3:] == ["DELIMITER", "SOURCE", "DELIMITER"]
    assert prompt.shots[:7] == [0] * 7 and set(prompt.shots[7:-3]) == {1}


def test_left_padding_and_slices():
    bank = [icl.Example("sort thin", "zimo dode"), icl.Example("thin", "dode")]
    queries = [icl.Example("zero", "rovu"), icl.Example("zero one count sort", "rovu zimo")]
    model = model_with(build_tokenizer())
    prompts = icl.build_prompts(model, queries, examples=bank, n_shots=2)
    assert prompts.tokens.dtype == torch.long and prompts.segments.dtype == torch.int8
    assert prompts.attention_mask.dtype == torch.bool
    assert (prompts.segments == Segment.PAD).equal(~prompts.attention_mask)
    padding = ~prompts.attention_mask
    assert set(prompts.tokens[padding].tolist()) == {model.tokenizer.pad_token_id}
    assert not prompts.shots[padding].any() and (prompts.parts[padding] == Part.NONE).all()
    assert (prompts.words[padding] == -1).all()
    n_pad = (~prompts.attention_mask).sum(1).tolist()
    assert n_pad == [3, 0]
    assert prompts.attention_mask[0].tolist() == [False] * 3 + [True] * (len(prompts.tokens[0]) - 3)
    alone = prompts[:1]
    assert alone.attention_mask.all() and alone.targets == ["rovu"]
    assert alone.tokens[0].tolist() == prompts.tokens[0, 3:].tolist()
    assert [len(batch) for batch in prompts.batches(1)] == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_target_tokens_continue_the_prompt(name):
    tokenizer = get_tokenizer(name)
    bank = [icl.Example("the cat", "le chat")]
    prompts = icl.build_prompts(
        model_with(tokenizer), [icl.Example("the dog", "le chien")], examples=bank, n_shots=1
    )
    assert prompts.target_tokens[0]
    whole = tokenizer(prompts.texts[0] + "le chien")["input_ids"]
    joined = prompts.tokens[0].tolist() + prompts.target_tokens[0]
    if whole[: prompts.tokens.shape[1]] == prompts.tokens[0].tolist():
        assert joined == whole
    assert "chien" in tokenizer.decode(joined) or "<unk>" in tokenizer.decode(joined)


@pytest.mark.parametrize("name", ["GPT-2", "byte-level of words", "sentencepiece of words"])
def test_an_answer_is_the_same_tokens_in_an_example_and_behind_the_query(name):
    """With the space in front, in the layout of a task of one's own."""
    ours = {"byte-level of words": byte_level, "sentencepiece of words": sentencepiece_like}
    tokenizer = ours[name](words=True) if name in ours else get_tokenizer(name)
    bank = [icl.Example("the cat", "le"), icl.Example("the dog", "le")]
    prompts = icl.build_prompts(
        model_with(tokenizer), bank[:1], examples=bank, n_shots=1, template=DEFAULT_TEMPLATE
    )
    tokens, parts = prompts.tokens[0].tolist(), prompts.parts[0].tolist()
    answer = [t for t, part in zip(tokens, parts, strict=True) if part == Part.TARGET]
    assert answer == prompts.target_tokens[0]
    assert tokenizer.decode(tokens).endswith("A:")
    assert tokenizer.decode(tokens + answer).endswith("A: le")


@pytest.mark.parametrize(
    ("name", "prefixes", "keeps_the_prompt"),
    [
        ("sentencepiece-like", ("A:", " A"), True),  # alone, the target would begin a word
        ("byte-level BPE", ("Q:the ", " A:"), False),  # the prompt's last token takes its start
    ],
)
def test_a_target_is_cut_from_the_whole_text_where_that_keeps_the_prompt(
    name, prefixes, keeps_the_prompt
):
    def encode(text):
        return TOKENIZERS[name](text, add_special_tokens=False)["input_ids"]

    template = icl.PromptTemplate(None, *prefixes)
    queries = [icl.Example("dog", "le chat")]
    model = model_with(TOKENIZERS[name])
    prompts = icl.build_prompts(model, queries, n_shots=0, template=template)
    text = prompts.texts[0]
    begun, whole, alone = encode(text), encode(text + "le chat"), encode("le chat")
    assert (whole[: len(begun)] == begun) == keeps_the_prompt and begun + alone != whole
    assert prompts.target_tokens == [whole[len(begun) :] if keeps_the_prompt else alone]


def test_the_template_that_was_given_is_the_one_that_is_used():
    template = icl.PromptTemplate("Do:", "X:", "Y:", "; ")
    model = model_with(build_tokenizer())
    prompts = icl.build_prompts(model, GOOD[:1], examples=GOOD, n_shots=1, template=template)
    assert prompts.texts == ["Do:; X:thinY:dode; X:sortY:"] and prompts.template is template
    plain = icl.build_prompts(model, GOOD[:1], n_shots=0)
    assert plain.template == icl.PromptTemplate()
    nothing = prompts[1:]
    assert len(nothing) == 0 and nothing.tokens.shape == (0, 0) and nothing.texts == []


def test_disjoint_examples_share_no_word_with_the_query():
    bank = [icl.Example(text, "t") for text in ("ab ef", "ef cd", "abcd ef", "a b", "ef gh")]
    drawn = choose_examples(icl.Example("ab cd", "t"), bank, 3, choice="disjoint")
    assert {example.source for example in drawn} == {"abcd ef", "a b", "ef gh"}
    for choice in ("random", "balanced", "disjoint"):
        assert choose_examples(bank[0], [], 0, choice=choice) == []


def test_bos_can_be_forced_or_left_out():
    queries = [icl.Example("zero", "rovu")]
    with_bos = model_with(build_tokenizer())
    assert icl.build_prompts(with_bos, queries, n_shots=0).segments[0, 0] == Segment.BOS
    none = icl.build_prompts(with_bos, queries, n_shots=0, prepend_bos=False)
    assert not (none.segments == Segment.BOS).any()
    plain = model_with(TOKENIZERS["word-level"])
    with pytest.raises(PromptError, match="no BOS token"):
        icl.build_prompts(plain, queries, n_shots=0, prepend_bos=True)


@pytest.mark.parametrize(
    ("single", "n_before"),
    [("$A </s>", 0), ("<s> $A </s>", 1), ("<s> <unk> $A </s> <unk>", 2), ("$A", 0)],
)
def test_special_tokens_in_front_are_kept_and_those_behind_are_not(single, n_before):
    """Behind an EOS that the tokenizer appends, no model would go on with its answer."""
    tokenizer = with_specials(single, bos_token="<s>")
    spans = icl.PromptTemplate().render([icl.Example("the cat", "le chat")], "the dog")
    text = "".join(span.text for span in spans)
    body = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer(text)["input_ids"][:n_before]
    prompt = align(tokenizer, spans)
    assert prompt.tokens == before + body
    assert prompt.segments.count(Segment.BOS) == n_before == prompt.words.count(-1)
    assert prompt.segments[-1] is Segment.QUERY and prompt.parts[-1] is Part.DELIMITER
    assert {len(prompt.parts), len(prompt.shots), len(prompt.words)} == {len(prompt.tokens)}
    assert align(tokenizer, spans, prepend_bos=False).tokens == body
    forced = before or [tokenizer.bos_token_id]
    assert align(tokenizer, spans, prepend_bos=True).tokens == forced + body
    model = model_with(tokenizer)
    prompts = icl.build_prompts(model, [icl.Example("the dog", "le chien")], n_shots=0)
    target = prompts.target_tokens[0]
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(target)
    assert tokenizer.decode(prompts.tokens[0].tolist() + target).endswith("le chien")


def test_a_prompt_and_its_target_fill_the_context_to_the_last_token():
    """The prompt that breaks the limit need not be the longest one: its target counts, too."""
    tokenizer = build_tokenizer()
    long_source = icl.Example("sort thin sort thin", "dode")
    long_target = icl.Example("thin", "zimo dode zimo dode zimo dode zimo")
    queries = [long_source, long_target, icl.Example("sort", "zimo")]
    prompts = icl.build_prompts(model_with(tokenizer), queries, n_shots=0)
    lengths = prompts.attention_mask.sum(dim=1).tolist()
    totals = [n + len(t) for n, t in zip(lengths, prompts.target_tokens, strict=True)]
    assert max(lengths) == lengths[0] < max(totals) == totals[1] > totals[0] + 1
    whole = icl.build_prompts(model_with(tokenizer, n_ctx=totals[1]), queries, n_shots=0)
    assert whole.tokens.equal(prompts.tokens)
    message = f"prompt 1 takes {lengths[1]} tokens, {totals[1]} with its target.*{totals[1] - 1}:"
    with pytest.raises(PromptError, match=message):
        icl.build_prompts(model_with(tokenizer, n_ctx=totals[1] - 1), queries, n_shots=0)
    del queries[1]
    icl.build_prompts(model_with(tokenizer, n_ctx=totals[1] - 1), queries, n_shots=0)


def test_examples_are_seeded_and_never_the_query():
    bank = [icl.Example(f"w{i}", str(i % 3)) for i in range(12)]
    for seed in range(20):
        drawn = choose_examples(bank[4], bank, 11, seed=seed)
        assert bank[4] not in drawn and len(set(drawn)) == 11
    first = choose_examples(bank[0], bank, 5, seed=1)
    assert first == choose_examples(bank[0], bank, 5, seed=1)
    assert first != choose_examples(bank[0], bank, 5, seed=2)


@given(st.integers(0, 12), st.integers(0, 99))
def test_balanced_choice_gives_each_target_its_share(n_shots, seed):
    bank = [icl.Example(f"w{i}", "abc"[i % 3]) for i in range(18)]
    query = icl.Example("q", "a")
    drawn = choose_examples(query, bank, n_shots, seed=seed, choice="balanced")
    counts = [sum(example.target == target for example in drawn) for target in "abc"]
    assert sum(counts) == n_shots and len(set(drawn)) == n_shots
    assert min(counts) >= n_shots // 3


@pytest.mark.parametrize("choice", ["random", "balanced", "disjoint"])
def test_each_query_is_shown_examples_of_its_own(choice):
    """One draw for all queries would make every item's luck the same."""
    bank = [icl.Example(f"w{i}", "abc"[i % 3]) for i in range(60)]
    queries = [icl.Example(f"q{i}", "abc"[i % 3]) for i in range(20)]
    drawn = [tuple(choose_examples(query, bank, 6, seed=3, choice=choice)) for query in queries]
    assert len({frozenset(shown) for shown in drawn}) == len(queries)
    assert len(set().union(*drawn)) > 40, "the whole bank is drawn from"
    again = choose_examples(queries[7], bank, 6, seed=3, choice=choice)
    assert tuple(again) == drawn[7], "in whatever company the query stands"
    if choice != "random":  # each target's examples are drawn, too, not only their order
        for target in "abc":
            of_target = {frozenset(e for e in shown if e.target == target) for shown in drawn}
            assert len(of_target) > 15
    model = model_with(build_tokenizer())
    spoken = [icl.Example(f"{a} {b}", "dode") for a in ("sort", "thin") for b in ("zero", "one")]
    shown = [icl.Example(word, "dode") for word in ("reverse", "double", "unique", "repeat")]
    prompts = icl.build_prompts(model, spoken, examples=shown, n_shots=3, choice=choice)
    contexts = {
        text.removesuffix(f"Q:{example.source}A:")
        for text, example in zip(prompts.texts, spoken, strict=True)
    }
    assert len(contexts) > 1


@pytest.mark.parametrize("choice", ["random", "balanced", "disjoint"])
def test_no_example_has_the_querys_source_whatever_its_target(choice):
    """The same source with another answer would be shown as an example of what is asked."""
    bank = [
        *(icl.Example("the query", target) for target in "abcabc"),
        *(icl.Example(f"w{i}", "abc"[i % 3]) for i in range(6)),
    ]
    for seed in range(30):
        query = icl.Example("the query", "b")
        drawn = choose_examples(query, bank, 6, seed=seed, choice=choice)
        assert {example.source for example in drawn} == {f"w{i}" for i in range(6)}
    with pytest.raises(PromptError, match="only 6 of the 12 examples differ from the query"):
        choose_examples(query, bank, 7, choice=choice)


@pytest.mark.parametrize("choice", ["balanced", "disjoint"])
def test_balanced_examples_are_shuffled(choice):
    """Sorted by class the last examples' class would always be the same: recency decides then."""
    bank = [icl.Example(f"w{i}", "abc"[i // 20]) for i in range(60)]
    orders = [
        "".join(
            e.target
            for e in choose_examples(icl.Example(f"q{i}", "a"), bank, 6, seed=i % 2, choice=choice)
        )
        for i in range(120)
    ]
    assert len(set(orders)) > 50, "of 90 orders of two of each"
    for place in range(6):
        counts = [sum(order[place] == target for order in orders) for target in "abc"]
        assert min(counts) > 20, "each class stands in each place about as often"


def test_what_shares_leave_over_is_drawn_from_every_target():
    bank = [icl.Example(f"w{i}", "abc"[i % 3]) for i in range(9)]
    extra = set()
    for seed in range(30):
        drawn = choose_examples(icl.Example("q", "a"), bank, 4, seed=seed, choice="balanced")
        targets = [example.target for example in drawn]
        assert set(targets) == set("abc")
        extra.add(max(targets, key=targets.count))
    assert extra == set("abc")


GOOD = [icl.Example("sort", "zimo"), icl.Example("thin", "dode")]


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        ([], {}, "no queries"),
        (GOOD, {"n_shots": 1}, "only 0 of the 0 examples"),
        (GOOD[:1], {"examples": GOOD, "n_shots": 2}, "n_shots is 2, but only 1 of the 2"),
        (GOOD, {"n_shots": -1}, "n_shots is -1"),
        ([icl.Example("sort", " ")], {"n_shots": 0}, "empty target"),
        ([icl.Example("", "zimo")], {"n_shots": 0}, "empty source"),
        (GOOD, {"examples": [*GOOD, icl.Example("one", "")], "n_shots": 2}, "empty target"),
        (
            GOOD,
            {"examples": GOOD, "n_shots": 1, "choice": "best"},
            "choice is 'best': expected one of",
        ),
        ([icl.Example("sort " * 300, "zimo")], {"n_shots": 0}, "context holds 64: use fewer"),
    ],
)
def test_bad_input_says_what_came_and_what_to_do(queries, options, message):
    with pytest.raises(PromptError, match=message):
        icl.build_prompts(model_with(build_tokenizer(), n_ctx=64), queries, **options)


def test_a_tokenizer_without_offsets_or_padding_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(PromptError, match="no padding token: set one"):
        icl.build_prompts(model_with(tokenizer), GOOD, n_shots=0)
    with pytest.raises(PromptError, match="no tokenizer"):
        icl.build_prompts(model_with(None), GOOD, n_shots=0)
    from transformers import ByT5Tokenizer

    with pytest.raises(PromptError, match="no character offsets: expected a fast tokenizer"):
        icl.build_prompts(model_with(ByT5Tokenizer()), GOOD, n_shots=0)


def test_shots_may_be_given_for_each_query():
    model = SimpleNamespace(tokenizer=build_tokenizer(), cfg=SimpleNamespace())
    task = icl.load_task("pseudo-translation")
    queries, shots = task.test[:2], [task.train[3:1:-1], task.train[5:7]]
    asked = {"template": task.template, "n_shots": 9, "examples": ()}
    given_ones = icl.build_prompts(model, queries, shots=shots, **asked)
    for query, shown, text in zip(queries, shots, given_ones.texts, strict=True):
        spans = task.template.render(list(shown), query.source)
        assert text == "".join(span.text for span in spans)
    drawn = [choose_examples(query, task.train, 2, seed=7) for query in queries]
    built = icl.build_prompts(
        model, queries, examples=task.train, n_shots=2, template=task.template, seed=7
    )
    again = icl.build_prompts(model, queries, shots=drawn, **asked)
    assert again.texts == built.texts and torch.equal(again.tokens, built.tokens)
    with pytest.raises(PromptError, match="shots are of 1 queries, but there are 2"):
        icl.build_prompts(model, queries, shots=drawn[:1], **asked)
    with pytest.raises(TaskError, match="shots are given, but the task"):
        icl.Task.from_prompts(built).build(
            model, n_queries=2, n_shots=2, instruction=True, seed=0, choice="random",
            prepend_bos=None, shots=drawn,
        )  # fmt: skip
