"""Knocking out edges of the induction pattern, for a head set, through generation."""

from dataclasses import dataclass

import oracle
import planted_induction as planted
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment, induction
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks import watch_attention
from icl_locate.interventions.edges import InductionEdges, Positions
from icl_locate.prompts.words import number_words

HEADS = {(1, 0), (1, 3), (2, 2)}
BANK = [
    icl.Example("sort reverse double", "dode zimo goza"),
    icl.Example("thin sort", "zimo dode"),
    icl.Example("double reverse", "zimo goza"),
]
QUERIES = [
    icl.Example("reverse sort", "dode"),
    icl.Example("one thin zero double", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]


def named_edges(tokens, real, words=None):
    """Bool[query, key] of one text, by the definition, cell by cell."""
    n = len(tokens)
    edges = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(1, i + 1):
            k = j - 1
            if not (real[i] and real[j] and real[k]) or k >= i:
                continue
            both = words is not None and words[i] >= 0 and words[k] >= 0
            edges[i, j] = words[k] == words[i] if both else tokens[k] == tokens[i]
    return edges


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.integers(0, 3),
    st.data(),
)
def test_edges_equal_loops(tokens, n_padding, data):
    words = [data.draw(st.integers(-1, 2)) for _ in tokens]
    real = [False] * n_padding + [True] * len(tokens)
    tokens, words = [0] * n_padding + tokens, [-1] * n_padding + words
    segments = [Segment.QUERY if r else Segment.PAD for r in real]
    positions = Positions(
        torch.tensor([segments], dtype=torch.int8), torch.tensor([tokens]), torch.tensor([words])
    )
    n_rows = data.draw(st.integers(1, len(tokens)))
    for match, some in (("token", None), ("word", words)):
        mask = icl.EdgeMask(InductionEdges(match))
        cells = mask.cells(positions, n_rows)[0]
        assert torch.equal(cells, named_edges(tokens, real, some)[-n_rows:])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_knockout_changes_the_named_edges_alone(architecture):
    """In the first masked layer each row's other weights are scaled up alike; other heads' stay."""
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=3)
    edges = torch.stack(
        [
            named_edges(tokens, real)
            for tokens, real in zip(
                prompts.tokens.tolist(), prompts.attention_mask.tolist(), strict=True
            )
        ]
    )
    assert edges.any(-1).any(-1).all()

    def patterns(mask=None):
        seen = {}
        with watch_attention(model, "hook_pattern", seen.__setitem__), torch.no_grad():
            if mask is None:
                model(prompts.tokens, attention_mask=prompts.attention_mask.long())
            else:
                with icl.mask_attention(model, prompts, mask):
                    model(prompts.tokens, attention_mask=prompts.attention_mask.long())
        return seen

    mask = induction.knockout(HEADS)
    clean, cut = patterns(), patterns(mask)
    real = prompts.attention_mask
    assert torch.equal(clean[0], cut[0])
    for head in range(tiny.N_HEADS):
        expected = clean[1][:, head]
        if (1, head) in HEADS:
            expected = expected.masked_fill(edges, 0)
            expected = expected / expected.sum(-1, keepdim=True)
            assert not cut[1][:, head][edges].any()
        assert torch.allclose(cut[1][:, head][real], expected[real], atol=1e-5)
    assert not cut[2][:, 2][edges].any()


@pytest.mark.parametrize("match", ["token", "word"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_knockout_equals_hugging_face_through_generation(architecture, match):
    """Batched and cached equals plain eager attention, each text run whole for every new token."""
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=3)
    mask, n_new = induction.knockout(HEADS, match=match), 5
    ours = icl.generate(model, prompts, mask, max_new_tokens=n_new, stop=())
    for i in range(len(prompts)):
        single = prompts[i : i + 1]
        tokens, words = single.tokens[0].tolist(), single.words[0].tolist()
        answer = []
        for _ in range(n_new):
            n = len(tokens)
            known = words + [-1] * (n - len(words))
            edges = named_edges(tokens, [True] * n, known if match == "word" else None)
            visible = []
            for layer in range(tiny.N_LAYERS):
                window = oracle.window_of(architecture, layer)
                cells = oracle.visible_cells([4] * n, set(), window=window)
                cells = cells.expand(1, tiny.N_HEADS, -1, -1).clone()
                for at, head in HEADS:
                    if at == layer:
                        cells[0, head] &= ~edges
                visible.append(cells)
            row = torch.tensor([tokens])
            logits = oracle.logits(plain, row, torch.ones_like(row), visible)
            if not answer:
                with icl.mask_attention(model, single, mask), torch.no_grad():
                    forward = model(row, attention_mask=torch.ones_like(row))
                assert torch.allclose(forward, logits, atol=1e-4)
            answer.append(int(logits[0, -1].argmax()))
            tokens.append(answer[-1])
        eos = model.tokenizer.eos_token_id
        cut = answer[: answer.index(eos)] if eos in answer else answer
        assert ours[i] == model.tokenizer.decode(cut, skip_special_tokens=True).strip()
    scores = icl.score_targets(model, prompts, mask)
    assert torch.allclose(scores, icl.score_targets(model, prompts, mask, batch_size=1), atol=1e-4)
    if architecture != "mistral":  # its window of five tokens leaves few edges to hide
        assert not torch.allclose(scores, icl.score_targets(model, prompts), atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neo", "opt"])
def test_other_tokens_of_one_shape_in_one_context(architecture):
    """The edges are those of the tokens that run, not of those that ran before."""
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=3)
    others = prompts.tokens.clone()
    for row, real in zip(others, prompts.attention_mask, strict=True):
        row[real] = row[real].flip(0)
    real, mask = prompts.attention_mask.long(), induction.knockout(HEADS)
    options = {
        "attention_mask": prompts.attention_mask, "max_new_tokens": 3, "do_sample": False,
        "verbose": False, "stop_at_eos": False,
    }  # fmt: skip

    def run(tokens):
        cache, seen, found = DynamicCache(), real, []
        for step in (tokens, tokens[:, -1:], tokens[:, -2:-1]):
            out = model(step, attention_mask=seen, past_key_values=cache, use_cache=True)
            found.append(out[:, -1])
            seen = torch.nn.functional.pad(seen, (0, 1), value=1)
        return [torch.stack(found), model.generate(tokens, **options)]

    alone = []
    for tokens in (prompts.tokens, others):
        with icl.mask_attention(model, prompts, mask), torch.no_grad():
            alone.append(run(tokens))
    with torch.no_grad():
        assert not torch.allclose(run(others)[0], alone[1][0], atol=1e-4), "the mask does something"
    with icl.mask_attention(model, prompts, mask), torch.no_grad():
        together = [run(tokens) for tokens in (prompts.tokens, others, prompts.tokens)]
        for tokens, theirs in ((prompts.tokens, alone[0]), (others, alone[1])):  # nothing between
            logits = model(tokens, attention_mask=real)[:, -1]
            assert torch.allclose(logits, theirs[0][0], atol=1e-5)
    for ours, theirs in zip(together, [*alone, alone[0]], strict=True):
        assert torch.allclose(ours[0], theirs[0], atol=1e-5) and torch.equal(ours[1], theirs[1])
    if architecture in ("llama", "gpt2"):
        hooks = icl.attention_hooks(model, prompts, mask)
        with model.hooks(fwd_hooks=hooks), torch.no_grad():
            for tokens, theirs in ((prompts.tokens, alone[0]), (others, alone[1])):
                logits = model(tokens, attention_mask=real)[:, -1]
                assert torch.allclose(logits, theirs[0][0], atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neo", "mistral"])
def test_prompts_of_one_token(architecture):
    """A step of one token is no new prompt, however short prompts are; a new prompt is no step."""
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    prompts = icl.build_prompts(
        model, [icl.Example("sort", "dode"), icl.Example("thin", "dode")], n_shots=0,
        template=icl.PromptTemplate(None, "", "", "\n"), prepend_bos=False,
    )  # fmt: skip
    assert prompts.tokens.shape == (2, 1)
    first = prompts.tokens
    following = torch.cat([first + 1, first, first + 2, first, first + 1, first], dim=1)
    texts = torch.cat([first, following], dim=1)
    n = texts.shape[1]
    visible = []
    for layer in range(tiny.N_LAYERS):
        window = oracle.window_of(architecture, layer)
        cells = oracle.visible_cells([4] * n, set(), window=window)
        cells = cells.expand(2, tiny.N_HEADS, -1, -1).clone()
        for i, text in enumerate(texts.tolist()):
            for at, head in HEADS:
                if at == layer:
                    cells[i, head] &= ~named_edges(text, [True] * n)
        visible.append(cells)
    expected = oracle.logits(plain, texts, torch.ones_like(texts), visible)
    mask = induction.knockout(HEADS)
    with icl.mask_attention(model, prompts, mask), torch.no_grad():
        for _ in range(2):  # the second run starts anew
            cache, logits = DynamicCache(), []
            for i in range(n):
                out = model(
                    texts[:, i : i + 1], attention_mask=torch.ones(2, i + 1, dtype=torch.long),
                    past_key_values=cache, use_cache=True,
                )  # fmt: skip
                logits.append(out[:, -1])
            assert torch.allclose(torch.stack(logits, dim=1), expected, atol=1e-4)
        whole = model(texts, attention_mask=torch.ones_like(texts))
    assert torch.allclose(whole, expected, atol=1e-4)
    with torch.no_grad():
        clean = model(texts, attention_mask=torch.ones_like(texts))
    assert not torch.allclose(clean, expected, atol=1e-4)
    answers = icl.generate(model, prompts, mask, max_new_tokens=6, stop=())
    assert answers == icl.generate(model, prompts, mask, max_new_tokens=6, stop=(), batch_size=1)


def test_the_planted_circuit_dies_by_knockout_and_ablation_but_not_by_random_heads():
    model = planted.boot()
    prompts = induction.repeated_prompts(model, length=12, n_sequences=4)
    wanted = [model.tokenizer.decode(row) for row in prompts.target_tokens]

    def answers(intervention):
        return icl.generate(model, prompts, intervention, max_new_tokens=11, stop=())

    assert answers(None) == wanted, "the circuit repeats what stood there"
    chosen = induction.HeadSet(tuple(planted.CIRCUIT), 2, 4)
    for heads in (planted.CIRCUIT, {planted.INDUCTION_HEAD}):
        kinds = [induction.knockout(heads), induction.HeadAblation(heads)]
        for intervention in kinds:
            for answer, right in zip(answers(intervention), wanted, strict=True):
                same = [a == b for a, b in zip(answer.split(), right.split(), strict=False)]
                assert sum(same) <= 2
    for seed in range(4):
        control = induction.random_heads(chosen, seed=seed)
        assert answers(induction.knockout(control)) == wanted
        assert answers(induction.HeadAblation(control)) == wanted
    previous = induction.knockout({planted.PREVIOUS_HEAD})
    assert answers(previous) == wanted, (
        "the token before is no induction edge: no token repeats yet"
    )


def test_words_labels_and_delimiters():
    model = tiny.boot("llama")
    template = icl.PromptTemplate(None, "", ":", "\n\n")
    bank = [icl.Example("cat dog", "Foo"), icl.Example("dog cats", "Mur")]
    prompts = icl.build_prompts(
        model, [icl.Example("cat emu", "Foo")], examples=bank, n_shots=2, template=template
    )
    words = prompts.words[0].tolist()
    pieces = [model.tokenizer.decode([t]) for t in prompts.tokens[0].tolist()]
    assert words[0] == -1, "BOS is no word"
    by_number = {}
    for word, piece in zip(words[1:], pieces[1:], strict=True):
        by_number.setdefault(word, set()).add(piece.strip())
    assert all(len(found) == 1 for found in by_number.values()), "one piece a number"
    numbers = [words[i] for i, piece in enumerate(pieces) if piece.strip() == "c"]
    assert len(numbers) == 3 and len(set(numbers)) == 2, "the c of cats is not the c of cat"


@pytest.mark.parametrize(
    ("text", "firsts", "numbers"),
    [
        ("A B A", [0, 2, 4], [0, 1, 0]),
        ("A B:Foo\n\nA", [0, 2, 3, 4, 7, 9], [0, 1, 2, 3, 4, 0]),
        ("no-one's no", [0, 3, 9], [0, 1, 2]),
        ("Foo:Foo", [0, 1, 3, 4, 5], [0, 1, 2, 0, 1]),
        ("x, y,z", [0, 1, 3, 4, 5], [0, 1, 2, 1, 3]),
        (" cat cat", [1, 5], [0, 0]),
        ("\n\n\n", [0, 2], [0, 1]),
        ("a\n\nb\nc\n\n", [0, 1, 3, 4, 5, 6], [0, 1, 2, 3, 4, 1]),
    ],
)
def test_words_are_numbered(text, firsts, numbers):
    assert number_words(text, firsts) == numbers


@given(st.text(alphabet="ab :\n'-", min_size=1, max_size=12), st.data())
def test_equal_numbers_mean_the_same_place_in_the_same_word(text, data):
    places = [i for i, c in enumerate(text) if not c.isspace()] or [0]
    firsts = sorted(data.draw(st.sets(st.sampled_from(places), min_size=1)))
    numbers = number_words(text, firsts)
    assert len(numbers) == len(firsts)
    for a, number in zip(firsts, numbers, strict=True):
        for b, other in zip(firsts, numbers, strict=True):
            if number == other and not text[a].isspace():
                assert (text[a] in "ab'-") == (text[b] in "ab'-")


def test_any_rule_makes_a_mask_and_masks_unite():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)

    def hide_examples(positions, n_rows):
        hidden = positions.segments == Segment.EXAMPLES
        return hidden[:, None].expand(-1, n_rows, -1)

    by_rule = icl.EdgeMask(hide_examples, icl.from_layer(1))
    by_segment = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    expected = icl.score_targets(model, prompts, by_segment)
    assert torch.equal(icl.score_targets(model, prompts, by_rule), expected)
    for union in (by_rule | by_segment, by_segment | by_rule, by_rule | by_rule):
        assert torch.equal(icl.score_targets(model, prompts, union), expected)
    three = by_rule | by_segment | icl.ContextMask({Segment.QUERY})
    assert not torch.equal(icl.score_targets(model, prompts, three), expected)
    answers = icl.generate(model, prompts, by_rule, max_new_tokens=4, stop=())
    assert answers == icl.generate(model, prompts, by_segment, max_new_tokens=4, stop=())

    hooks = icl.attention_hooks(model, prompts, induction.knockout(None))
    tokens, real = prompts.tokens, prompts.attention_mask.long()
    with torch.no_grad():
        with icl.mask_attention(model, prompts, induction.knockout(None)):
            inside = model(tokens, attention_mask=real)
        assert torch.equal(
            model.run_with_hooks(tokens, attention_mask=real, fwd_hooks=hooks), inside
        )


def test_rules_need_not_be_hashable():
    @dataclass
    class Nothing:
        def __call__(self, positions, n_rows):
            n_texts, n_keys = positions.segments.shape
            return torch.zeros(n_texts, n_rows, n_keys, dtype=torch.bool)

    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    mask = icl.EdgeMask(Nothing()) | icl.EdgeMask(Nothing())
    assert torch.equal(icl.score_targets(model, prompts, mask), icl.score_targets(model, prompts))
    with pytest.raises(MaskError, match=r"\(1, 2, 3\), which is no head: expected \(layer, head\)"):
        induction.knockout([(1, 2, 3)])


def test_bad_rules():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    small = icl.EdgeMask(lambda positions, n_rows: positions.segments[:, None, :3] > 0)
    with pytest.raises((MaskError, TypeCheckError), match="gave cells of shape|Type-check"):
        icl.score_targets(model, prompts, small)
    with pytest.raises(MaskError, match="match is 'letter': expected one of 'token', 'word'"):
        induction.knockout(HEADS, match="letter")
    with pytest.raises(MaskError, match="head .layer 5, head 0. is out of range"):
        icl.score_targets(model, prompts, induction.knockout({(5, 0)}))
    for half in (
        Positions(prompts.segments),
        Positions(prompts.segments, prompts.tokens),
        Positions(prompts.segments, words=prompts.words),
    ):
        with pytest.raises(MaskError, match="ask for the tokens"):
            InductionEdges()(half, 2)


def test_a_model_that_takes_no_mask_for_single_heads():
    import transformers as hf

    config = hf.XGLMConfig(
        vocab_size=tiny.VOCABULARY, max_position_embeddings=64, d_model=32, ffn_dim=32,
        num_layers=2, attention_heads=4, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny.bridge(hf.XGLMForCausalLM(config).eval())
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    with pytest.raises(ModelError, match="cannot be masked head by head"):
        icl.score_targets(model, prompts, induction.knockout({(0, 1)}))
