"""Scores, selections and controls of induction heads."""

import re
from dataclasses import replace
from itertools import combinations

import anova
import planted_induction as planted
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens.head_detector import (
    compute_head_attention_similarity_score,
    detect_head,
    get_induction_head_detection_pattern,
)

import icl_locate as icl
from icl_locate import induction
from icl_locate.errors import MaskError, ModelError, PromptError
from icl_locate.induction.attention import matching_cells
from icl_locate.induction.random_tokens import random_tokens, usable_tokens
from icl_locate.induction.scores import INDUCTION
from icl_locate.induction.sequences import Sequences, fit_lengths
from icl_locate.report.heads import found_heads, scored_on
from icl_locate.savings.memory import peak_bytes


@pytest.fixture(scope="module")
def circuit():
    return planted.boot()


def best(scores):
    return divmod(int(scores.argmax()), scores.shape[1])


def test_the_planted_heads_are_named(circuit):
    scores = induction.head_scores(circuit)
    assert best(scores.induction) == planted.INDUCTION_HEAD
    assert best(scores.previous_token) == planted.PREVIOUS_HEAD
    assert best(scores.copying) == planted.INDUCTION_HEAD
    assert scores.induction[planted.INDUCTION_HEAD] > 0.95
    assert scores.previous_token[planted.PREVIOUS_HEAD] > 0.99
    assert scores.copying[planted.INDUCTION_HEAD] > 0.99
    others = torch.ones(2, 4, dtype=torch.bool)
    others[planted.INDUCTION_HEAD] = False
    assert scores.induction[others].abs().max() < 0.01
    assert torch.equal(scores.induction, induction.prefix_matching_scores(circuit))
    frame = scores.to_dataframe()
    assert tuple(frame.loc[0, ["layer", "head"]]) == planted.INDUCTION_HEAD
    assert len(frame) == 8


def test_false_friends_are_told_apart(circuit):
    """At one length a fixed offset looks like induction; the positional head at all of them."""
    published = induction.prefix_matching_scores(circuit, lengths=(50,), control=False)
    assert published[planted.FIXED_OFFSET_HEAD] > 0.99
    positional = induction.head_scores(circuit).prefix_matching[:, *planted.POSITIONAL_HEAD]
    assert (positional > 0.2).all()
    several = induction.prefix_matching_scores(circuit, control=False)
    assert several[planted.FIXED_OFFSET_HEAD] < 0.1 < several[planted.POSITIONAL_HEAD]
    scores = induction.prefix_matching_scores(circuit)
    for head in (planted.FIXED_OFFSET_HEAD, planted.POSITIONAL_HEAD):
        assert scores[head].abs() < 0.01


def test_scores_stand_beside_causal_effects(circuit):
    """What a score says and what the model needs are two things: the previous-token head shows."""
    effects = induction.head_effects(circuit, induction.repeated_prompts(circuit, n_sequences=4))
    table = induction.head_scores(circuit).to_dataframe(effects)
    by_head = table.set_index(["layer", "head"])
    assert by_head.loc[planted.PREVIOUS_HEAD, "induction"] < 0.01
    needed = by_head.index[by_head["loss_low"] > 1.0]
    assert set(needed) == planted.CIRCUIT
    assert (by_head["loss_low"] <= by_head["loss"]).all()
    some = induction.head_effects(
        circuit, induction.repeated_prompts(circuit, n_sequences=4), planted.CIRCUIT
    )
    assert some.heads == tuple(sorted(planted.CIRCUIT))
    everything = dict(zip(effects.heads, effects.losses, strict=True))
    for head, losses in zip(some.heads, some.losses, strict=True):
        assert torch.equal(losses, everything[head])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_scores_equal_loops_over_hugging_face_attention(architecture):
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    length, n_copies, n_sequences = 6, 3, 3
    sizes = {"n_sequences": n_sequences, "seed": 4, "batch_size": 2}

    def patterns(tokens):
        with torch.no_grad():
            found = plain(tokens, output_attentions=True).attentions
        return torch.stack(found)  # layer, sequence, head, query, key

    def match(length, *, repeats=True, normalize=False):
        once = random_tokens(model, n_sequences, 1 + n_copies * length, seed=4)
        repeated = torch.cat([once[:, :1], once[:, 1 : 1 + length].repeat(1, n_copies)], dim=1)
        attention = patterns(repeated if repeats else once)
        total = torch.zeros(tiny.N_LAYERS, tiny.N_HEADS)
        n = 0
        for sequence, text in enumerate(repeated.tolist()):
            for i in range(1 + length, len(text)):
                if (i - 1) % length == length - 1:
                    continue  # a copy's last token
                paid = torch.zeros(tiny.N_LAYERS, tiny.N_HEADS)
                for j in range(2, i + 1):
                    if text[j - 1] == text[i] and j - 1 < i and (j - 1) % length != 0:
                        paid += attention[:, sequence, :, i, j]
                if normalize:
                    paid = paid / (1 - attention[:, sequence, :, i, 0])
                total, n = total + paid, n + 1
        return total / n

    def score(lengths=(length,), **options):
        return induction.prefix_matching_scores(
            model, lengths=lengths, n_copies=n_copies, **sizes, **options
        )

    raw = {n: match(n) for n in (6, 4)}
    control = {n: match(n, repeats=False) for n in (6, 4)}
    shares = {n: match(n, normalize=True) for n in (6, 4)}
    shares_of_control = {n: match(n, repeats=False, normalize=True) for n in (6, 4)}
    assert torch.allclose(score(control=False), raw[6], atol=1e-5)
    assert torch.allclose(score(), raw[6] - control[6], atol=1e-5)
    assert torch.allclose(score(control=False, normalize=True), shares[6], atol=1e-4)
    less = {n: shares[n] - shares_of_control[n] for n in (6, 4)}
    assert torch.allclose(score(normalize=True), less[6], atol=1e-4)
    assert torch.allclose(score((6, 4), normalize=True), torch.minimum(less[6], less[4]), atol=1e-4)
    least = torch.minimum(raw[6] - control[6], raw[4] - control[4])
    assert torch.allclose(score((6, 4)), least, atol=1e-5)
    least_raw = torch.minimum(raw[6], raw[4])
    assert torch.allclose(score((6, 4), control=False), least_raw, atol=1e-5)
    found = induction.head_scores(model, lengths=(4, 6), n_copies=n_copies, **sizes)
    for i, n in enumerate((4, 6)):
        assert torch.allclose(found.prefix_matching[i], raw[n], atol=1e-5)
        assert torch.allclose(found.control[i], control[n], atol=1e-5)
        assert torch.allclose(found.normalized[i], shares[n], atol=1e-4)
    assert torch.allclose(found.induction, least, atol=1e-5)
    frame = found.to_dataframe().set_index(["layer", "head"]).sort_index()
    for name, expected in (("induction", least), ("normalized", found.normalized.amin(dim=0))):
        assert frame[name].tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    longest = {"length": 6, **sizes}
    assert torch.equal(found.copying, induction.copying_scores(model, **longest))
    assert torch.equal(found.previous_token, induction.previous_token_scores(model, **longest))

    single = random_tokens(model, n_sequences, 1 + length, seed=4)
    attention = patterns(single)
    naive = torch.stack([attention[..., i, i - 1].mean(dim=1) for i in range(2, 1 + length)]).mean(
        dim=0
    )
    ours = induction.previous_token_scores(model, length=length, **sizes)
    assert torch.allclose(ours, naive, atol=1e-5)


def values_and_output(plain, layer, entering):
    """Each head's value vectors, and its part of the output projection, from the weights alone."""
    d_head = tiny.D_MODEL // tiny.N_HEADS
    if hasattr(plain, "model"):  # llama, qwen2
        block = plain.model.layers[layer]
        values = block.self_attn.v_proj(block.input_layernorm(entering))
        projection = block.self_attn.o_proj.weight.T
        per_group = tiny.N_HEADS // plain.config.num_key_value_heads
    else:
        block = plain.transformer.h[layer]
        normal = block.ln_1(entering)
        if hasattr(block.attn, "c_attn"):  # gpt2
            values = block.attn.c_attn(normal)[..., 2 * tiny.D_MODEL :]
            projection = block.attn.c_proj.weight
        else:  # gpt_neo
            values = block.attn.attention.v_proj(normal)
            projection = block.attn.attention.out_proj.weight.T
        per_group = 1
    values = values.unflatten(-1, (-1, d_head)).repeat_interleave(per_group, dim=2)
    return values, projection.unflatten(0, (tiny.N_HEADS, d_head))


@pytest.mark.parametrize("own", [None, [[50, 60, 70, 60, 80], [90, 90, 100, 110, 90]]])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama", "qwen2"])
def test_copying_equals_a_loop_over_the_weights(architecture, own):
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    length, n_sequences = 5, 2
    tokens = random_tokens(model, n_sequences, 1 + length, seed=3)
    if own is not None:
        tokens[:, 1:] = torch.tensor(own)
    norm = plain.model.norm if hasattr(plain, "model") else plain.transformer.ln_f
    naive = torch.zeros(tiny.N_LAYERS, tiny.N_HEADS)
    with torch.no_grad():
        run = plain(tokens, output_attentions=True, output_hidden_states=True)
        for layer in range(tiny.N_LAYERS):
            values, projection = values_and_output(plain, layer, run.hidden_states[layer])
            for head in range(tiny.N_HEADS):
                for text in range(n_sequences):
                    for i in range(1, 1 + length):
                        paid = run.attentions[layer][text, head, i, 1:]
                        j = 1 + int(paid.argmax())
                        written = values[text, j, head] @ projection[head]
                        chances = plain.lm_head(norm(written)).softmax(-1)
                        words = dict.fromkeys(tokens[text, 1:].tolist())  # each counts once
                        mean = sum(chances[word] for word in words) / len(words)
                        raised = {word: (chances[word] - mean).relu() for word in words}
                        naive[layer, head] += raised[int(tokens[text, j])] / sum(raised.values())
    naive /= n_sequences * length
    for batch_size in (1, 8):
        ours = induction.copying_scores(
            model, length=length, n_sequences=n_sequences, seed=3, batch_size=batch_size,
            sequences=own,
        )  # fmt: skip
        assert torch.allclose(ours, naive, atol=1e-4)


def test_scores_agree_with_the_head_detector_of_transformer_lens(embedded):
    """Where it measures the same: the attention on given cells, as a share of all rows."""
    words = icl.load_task("pseudo-translation").train[0].source.split()
    words = [*dict.fromkeys(words), "zero", "one"][:5]
    text = " ".join(words * 3)
    tokens = embedded.to_tokens(text)
    length = len(words)
    assert tokens.shape == (1, 1 + 3 * length)
    wanted = get_induction_head_detection_pattern(tokens.cpu())
    for i in range(1, tokens.shape[1]):
        for j in range(tokens.shape[1]):
            if (i - 1) % length == length - 1 or i == j:  # pairs across a copy's end, itself
                wanted[i, j] = 0
    theirs = detect_head(embedded, text, wanted)
    from icl_locate.induction.attention import attention_to, matching_cells

    cells = matching_cells(1, length, 3)
    ours = attention_to(embedded, tokens, *cells, 2 * (length - 1), 1).raw
    n_rows = 2 * (length - 1)
    assert torch.allclose(ours, theirs * tokens.shape[1] / n_rows, atol=1e-5)

    single = random_tokens(embedded, 1, 1 + 20, seed=0)
    found = {}
    from icl_locate.hooks import watch_attention

    with watch_attention(embedded, "hook_pattern", found.__setitem__), torch.no_grad():
        embedded(single)
    before = torch.zeros(21, 21)
    for i in range(2, 21):
        before[i, i - 1] = 1
    theirs = torch.tensor(
        [
            [
                compute_head_attention_similarity_score(
                    found[layer][0, head], before, exclude_bos=False,
                    exclude_current_token=False, error_measure="mul",
                )
                for head in range(embedded.cfg.n_heads)
            ]
            for layer in range(embedded.cfg.n_layers)
        ]
    )  # fmt: skip
    ours = induction.previous_token_scores(embedded, length=20, n_sequences=1)
    assert torch.allclose(ours, theirs * 21 / 19, atol=1e-5)


@pytest.fixture(scope="module")
def without_bos():
    """A model whose tokenizer prepends nothing; TransformerLens names EOS its BOS all the same."""
    from tempfile import TemporaryDirectory

    from tokenizers import processors
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    from icl_locate.embedded.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.bos_token = None
    with TemporaryDirectory() as weights, TemporaryDirectory() as words:
        tiny.build("qwen2").save_pretrained(weights)
        tokenizer.save_pretrained(words)
        found = AutoTokenizer.from_pretrained(words)
        return TransformerBridge.boot_transformers(weights, device="cpu", tokenizer=found).eval()


def test_nothing_stands_before_a_text_where_the_tokenizer_prepends_nothing(without_bos):
    prompts = icl.build_prompts(without_bos, [icl.Example("sort", "dode")], n_shots=0)
    prepends = bool((prompts.segments == icl.Segment.BOS).any())
    tokens = random_tokens(without_bos, 2, 9)
    assert tokens.shape == (2, 9)
    special = torch.tensor(without_bos.tokenizer.all_special_ids)
    assert bool(torch.isin(tokens[:, 0], special).any()) == prepends
    assert not torch.isin(tokens[:, prepends:], special).any()
    scores = induction.head_scores(without_bos, lengths=(9, 7), n_copies=3)
    assert scores.induction.isfinite().all()
    repeated = induction.repeated_prompts(without_bos, length=9, n_sequences=2)
    assert repeated.tokens.shape == (2, prepends + 10)
    assert icl.score_targets(without_bos, repeated).isfinite().all()


def test_other_lengths(circuit):
    scores = induction.head_scores(circuit, lengths=9)
    assert scores.lengths == (9,) and best(scores.induction) == planted.INDUCTION_HEAD
    assert best(scores.copying) == planted.INDUCTION_HEAD
    with pytest.raises(PromptError, match="no lengths were given"):
        induction.head_scores(circuit, lengths=())


@given(st.integers(0, 80), st.integers(2, 8))
def test_no_fixed_offset_fits_two_default_lengths(most, n_copies):
    found = fit_lengths(most, n_copies)
    if most >= 50:
        assert found == (50, 37, 29), "the published length, wherever it fits"
    assert found or most < (7 if n_copies <= 4 else 16)
    assert all(4 <= length <= most for length in found) and len(found) in (0, 3)
    offsets = [
        {
            int(row - column)
            for row, column in zip(*matching_cells(1, length, n_copies), strict=True)
        }
        for length in found
    ]
    for one, other in combinations(offsets, 2):
        assert not one & other


@pytest.mark.parametrize(
    ("sizes", "lengths", "n_copies"),
    [
        ({"n_ctx": 201}, (50, 37, 29), 4),
        ({"n_ctx": 200}, (49, 36, 28), 4),
        ({"n_ctx": 128}, (31, 23, 18), 4),
        ({"n_ctx": 64}, (15, 11, 9), 4),
        ({"n_ctx": 32}, (7, 5, 4), 4),
        ({"n_ctx": 22}, (7, 5, 4), 3),
        ({"n_ctx": 20}, (9, 7, 5), 2),
        ({"n_words": 30}, (30, 22, 17), 4),
    ],
)
def test_default_lengths_fit_small_contexts_and_vocabularies(sizes, lengths, n_copies):
    model = planted.boot(**sizes)
    scores = induction.head_scores(model)
    assert scores.lengths == lengths and scores.provenance["n_copies"] == n_copies
    assert best(scores.induction) == planted.INDUCTION_HEAD
    assert scores.induction[planted.INDUCTION_HEAD] > 0.8
    others = torch.ones(2, 4, dtype=torch.bool)
    others[planted.INDUCTION_HEAD] = False
    assert scores.induction[others].abs().max() < 0.1
    assert torch.equal(scores.induction, induction.prefix_matching_scores(model))
    assert torch.equal(scores.copying, induction.copying_scores(model, length=lengths[0]))
    longest = min(50, sizes.get("n_words", 50), sizes.get("n_ctx", 256) - 1)
    by_hand = induction.previous_token_scores(model, length=longest)
    assert torch.equal(induction.previous_token_scores(model), by_hand)
    prompts = induction.repeated_prompts(model, n_sequences=2)
    n_target = len(prompts.target_tokens[0])
    assert prompts.tokens.shape[1] == n_target + 3 and n_target >= 8


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"n_ctx": 64}, {"lengths": (50, 37, 29)}, "4 copies of 50 tokens take 201 positions"),
        ({"n_ctx": 64}, {"lengths": 20}, "the model's context holds 64.*at most 15 tokens"),
        ({"n_ctx": 64}, {"lengths": (40,), "n_copies": 3}, "3 copies of 40 tokens"),
        ({"n_words": 30}, {"lengths": (31, 20)}, "expected 2 to 30 distinct tokens"),
        ({"n_words": 30}, {"lengths": 9, "tokens": range(5, 13)}, "only 8 different tokens were"),
        ({}, {"lengths": 9, "sequences": [range(5, 13)] * 2}, "the shortest of .* has 8 tokens"),
    ],
)
def test_lengths_that_do_not_fit_are_told_lengths_that_do(sizes, options, message):
    model = planted.boot(**sizes)
    for speech, form in (("python", r"lengths=\(([\d, ]+)\)"), ("command", r"--lengths ([\d ]+)")):
        with pytest.raises(PromptError, match=message) as caught:
            Sequences.fit(model, **options, speech=speech)
        offered = re.search(form, str(caught.value)).group(1).replace(",", " ").split()
        fitting = tuple(map(int, offered))
        assert len(set(fitting)) == 3
        assert Sequences.fit(model, **options | {"lengths": fitting}).lengths == fitting


def test_models_too_small_for_three_lengths():
    for sizes, options in (({"n_ctx": 14}, {}), ({}, {"tokens": range(9, 15)})):
        with pytest.raises(
            PromptError, match="no three default lengths fit: .* in 2 copies .*lengths="
        ):
            induction.prefix_matching_scores(planted.boot(**sizes), **options)
        small = induction.prefix_matching_scores(
            planted.boot(**sizes), lengths=(3,), n_copies=2, **options
        )
        assert small.shape == (2, 4)
    with pytest.raises(PromptError, match=r"lengths is \(9, 9\): expected .* each once"):
        induction.head_scores(planted.boot(), lengths=(9, 9))


def test_normalized_scores_and_their_control(circuit):
    scores = induction.head_scores(circuit, lengths=(11,))
    plain = induction.prefix_matching_scores(circuit, lengths=11, control=False, normalize=True)
    assert torch.equal(scores.normalized[0], plain)
    assert not torch.equal(scores.normalized, scores.control)
    less = induction.prefix_matching_scores(circuit, lengths=11, normalize=True)
    assert less[planted.FIXED_OFFSET_HEAD].abs() < 1e-6 < (plain - less).abs().max()


def test_values_that_come_head_by_head():
    """DeepSeek's attention gives its values with heads before positions."""
    import transformers as hf

    config = hf.DeepseekV2Config(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=8,
        q_lora_rank=None, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
        first_k_dense_replace=2, n_routed_experts=2, num_experts_per_tok=1, n_group=1, topk_group=1,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny.bridge(hf.DeepseekV2ForCausalLM(config).eval())
    scores = induction.copying_scores(model, length=9)
    assert scores.shape == (2, 4) and (scores > 0).any() and (scores <= 1).all()


def test_a_model_that_gives_nan_is_refused():
    from icl_locate.errors import NumericalError

    model = tiny.boot_fresh("llama")
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="gave NaN"):
        induction.copying_scores(model, length=9)


def test_effects_by_hand(circuit):
    prompts = induction.repeated_prompts(circuit, length=10, n_sequences=6)
    reference = induction.head_reference(circuit, n_texts=8, length=20)
    heads = [[1, 1], (0, 2)]
    found = induction.head_effects(
        circuit, prompts, heads, method="resample", reference=reference, seed=3
    )
    clean = icl.score_targets(circuit, prompts)
    for head, losses in zip(found.heads, found.losses, strict=True):
        act = induction.HeadAblation({head}, "resample", reference, 3)
        assert torch.allclose(losses, clean - icl.score_targets(circuit, prompts, act))
    low, high = found.interval(0.9)
    errors = found.losses.double().std(dim=1) / 6**0.5
    assert torch.allclose(high - low, 2 * 2.015 * errors, rtol=1e-3), "of 5 degrees of freedom"
    assert torch.allclose((low + high) / 2, found.mean.double(), atol=1e-6)
    for place, losses in enumerate(found.losses.tolist()):
        wanted = anova.interval(anova.of_mean([losses]))
        assert found.interval()[:, place].tolist() == pytest.approx(wanted)
    one = replace(found, clean=found.clean[:1], losses=found.losses[:, :1])
    assert one.interval().isnan().all() and one.mean.isfinite().all()


def test_scores_are_seeded_and_do_not_depend_on_the_batch():
    model = tiny.boot("llama")
    options = {"lengths": (8, 5), "n_copies": 3}
    scores = induction.prefix_matching_scores(model, **options)
    assert torch.equal(scores, induction.prefix_matching_scores(model, **options))
    single = induction.prefix_matching_scores(model, **options, batch_size=1)
    assert torch.allclose(scores, single, atol=1e-6)
    assert not torch.allclose(scores, induction.prefix_matching_scores(model, **options, seed=1))


def test_no_attention_pattern_is_kept():
    """Of a model of many layers, no more than a few patterns exist at a time."""
    from planted import attention_only_in

    model = tiny.bridge(attention_only_in(set(range(12)), n_layers=12))
    length, n_copies, n_sequences = 29, 4, 4
    pattern = n_sequences * 4 * (1 + length * n_copies) ** 2 * 4
    peak = peak_bytes(
        lambda: induction.prefix_matching_scores(
            model, lengths=(length,), n_sequences=n_sequences, control=False
        )
    )
    assert pattern < peak < 7 * pattern


def test_random_tokens():
    model = tiny.boot("llama")
    usable = usable_tokens(model)
    size, special = tiny.VOCABULARY, set(model.tokenizer.all_special_ids)
    assert not special & set(usable.tolist())
    assert usable.min() >= round(0.04 * size) and usable.max() < size - round(0.04 * size)
    texts = random_tokens(model, 3, 21, seed=5)
    assert (texts[:, 0] == model.tokenizer.bos_token_id).all()
    for row in texts.tolist():
        assert len(set(row[1:])) == 20 and set(row[1:]) <= set(usable.tolist())
    assert len({tuple(row) for row in texts.tolist()}) == 3
    long = random_tokens(model, 1, 1 + 2 * len(usable))[0, 1:].tolist()
    assert sorted(long) == sorted(usable.tolist() * 2), "every token once before any twice"
    with pytest.raises(PromptError, match="0 texts of 5 tokens"):
        random_tokens(model, 0, 5)


def test_induction_on_words_is_found_among_tokens_that_no_text_holds():
    """Of 160 tokens 96 are bytes and reserved: drawing from all of them hides the head."""
    model = planted.boot(planted.DEAD)
    scores = induction.head_scores(model)
    assert scores.provenance["n_tokens"] == 58 and scores.provenance["drawn_from"] == "vocabulary"
    assert best(scores.induction) == planted.INDUCTION_HEAD
    assert scores.induction[planted.INDUCTION_HEAD] > 0.9
    assert best(scores.copying) == planted.INDUCTION_HEAD
    everything = induction.head_scores(model, tokens=range(6, 154))
    assert everything.induction[planted.INDUCTION_HEAD] < 0.4, "what drawing from all says"
    assert everything.provenance["n_tokens"] == 148
    assert "drawn from the vocabulary's 58 tokens" in scored_on(scores)
    assert "4 copies of 50, 37 and 29 tokens, drawn from 148 given" in scored_on(everything)
    prompts = induction.repeated_prompts(model)
    assert not (prompts.tokens >= planted.D).any()


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("<0x0A>", False), ("<0xff>", False), ("<0x0A", True), ("0x0A", True),
        ("[unused1]", False), ("<unused99>", False), ("<extra_id_0>", False), ("<pad>", False),
        ("[PAD]", False), ("[CLS]", False), ("<mask_1>", False), ("<|im_start|>", False),
        ("<|reserved_special_token_7|>", False), ("<reserved_106>", False), ("▁<s>", False),
        ("<SPECIAL_12>", False), ("[control_8]", False), ("<dummy00007>", False),
        ("madeupword0001", False), ("<|placeholder3|>", False),
        ("Ċ", True), ("Ġ", True), ("Ġspecial", True), ("▁reserved", True), ("<", True),
        ("<div>", True), ("[0]", True), ("[i", True), ("<=", True), ("|>", True), ("Q:", True),
    ],
)  # fmt: skip
def test_names_of_tokens_that_no_text_holds(name, usable):
    from icl_locate.induction.random_tokens import _may_stand_in_text

    assert _may_stand_in_text(name) == usable


def test_a_byte_level_vocabulary_keeps_its_single_bytes():
    """Added tokens and ids that the tokenizer does not know are left out."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = pre_tokenizers.ByteLevel.alphabet()
    ids = {character: i for i, character in enumerate(sorted(characters))}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("  "), AddedToken("<|end|>", special=True)])
    model = tiny.boot_fresh("llama")
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|end|>", eos_token="<|end|>", padding_side="left"
    )
    model.cfg.d_vocab = tiny.VOCABULARY  # a new tokenizer changes it, but not the embeddings
    rare = round(0.04 * tiny.VOCABULARY)
    assert usable_tokens(model).tolist() == list(range(rare, 256))
    assert induction.head_scores(model).provenance["n_tokens"] == 256 - rare


def test_tokens_and_sequences_of_ones_own(circuit):
    own = induction.task_tokens(circuit, planted.TASK)
    words = {f"w{i}" for i in (*range(30, 50), *range(10, 14), *range(20, 24))}
    assert set(circuit.tokenizer.convert_ids_to_tokens(own.tolist())) == words
    scores = induction.head_scores(circuit, tokens=own)
    assert scores.provenance["n_tokens"] == 28 and scores.provenance["drawn_from"] == "tokens"
    assert scores.lengths == (28, 21, 16), "as many as there are tokens"
    assert best(scores.induction) == planted.INDUCTION_HEAD

    rows = [[9, 4, 30, 12, 4, 51, 7, 20], [40, 41, 5, 6, 13, 14, 15, 16, 17]]
    ran = []

    def watch(tokens, hook):
        ran.append(tokens)

    with circuit.hooks(fwd_hooks=[("embed.hook_in", watch)]):
        found = induction.head_scores(circuit, sequences=rows, lengths=(8, 5))
    copies = [torch.tensor([[1, *row[:n] * 4] for row in rows]) for n in (8, 5)]
    assert torch.equal(ran[0], copies[0]) and torch.equal(ran[2], copies[1])
    known = {token for row in rows for token in row[:8]}
    for control in (ran[1], ran[3]):
        assert set(control[:, 1:].flatten().tolist()) <= known
    assert found.provenance["n_tokens"] == len(known) == 15
    assert found.provenance["drawn_from"] == "sequences" and found.provenance["n_sequences"] == 2
    assert "the first of given sequences of 15 different tokens" in scored_on(found)
    whole = induction.head_scores(circuit, sequences=torch.arange(4, 62)[None])
    assert whole.lengths == (58, 43, 34), "the whole sequence, and two shorter"
    assert best(whole.induction) == planted.INDUCTION_HEAD
    prompts = induction.repeated_prompts(circuit, sequences=rows)
    assert prompts.tokens[:, 1:].tolist() == [[*row[:8], row[0]] for row in rows]
    for options, message in (
        ({"tokens": [5]}, "two different token ids or more"),
        ({"tokens": [5, 64]}, r"tokens\[1\] is 64: expected a whole number from 0 to 63"),
        ({"sequences": [[5, 6], [7]]}, "each of two or more"),
        ({"sequences": []}, "sequences of token ids"),
    ):
        with pytest.raises(PromptError, match=message):
            induction.prefix_matching_scores(circuit, **options)


def test_what_the_scores_say_in_words(circuit):
    said = found_heads(induction.head_scores(circuit))
    assert said == "1 of 8 heads scores 0.1 or more; the best is layer 1, head 1: 0.975."
    random = induction.head_scores(tiny.boot("llama"))
    assert found_heads(random).startswith("No head of this model is an induction head: the")
    for architecture in ("llama", "gpt2", "gpt_neox"):
        model = tiny.boot(architecture)
        for n_sequences, chance in ((5, 0.03), (50, INDUCTION / 20)):
            shortest = induction.head_scores(model, lengths=(7, 5, 4), n_sequences=n_sequences)
            assert shortest.induction.max() < chance, "chance is far below the threshold"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": ()}, "no lengths were given"),
        ({"lengths": (1,)}, r"lengths\[0\] is 1"),
        ({"lengths": 1}, "length is 1"),
        ({"lengths": 70}, "4 copies of 70 tokens take 281 positions.*lengths=.63,"),
        ({"lengths": (5,), "n_sequences": 0}, "n_sequences is 0"),
        ({"lengths": (5,), "n_copies": 1}, "n_copies is 1"),
    ],
)
def test_sizes_are_checked(options, message):
    with pytest.raises(PromptError, match=message):
        induction.prefix_matching_scores(tiny.boot("llama"), **options)


def test_other_sizes_are_checked(circuit):
    with pytest.raises(PromptError, match="length is 60.*expected 2 to 58 distinct tokens"):
        induction.copying_scores(circuit, length=60)
    with pytest.raises(PromptError, match="only 58 tokens of the vocabulary"):
        induction.prefix_matching_scores(circuit, lengths=(59,))
    with pytest.raises(PromptError, match="length is 59: expected 2 to 58 distinct"):
        induction.repeated_prompts(circuit, length=59)
    with pytest.raises(PromptError, match="no heads were given"):
        induction.head_effects(circuit, induction.repeated_prompts(circuit), heads=())
    circuit.train()
    try:
        for score in (induction.prefix_matching_scores, induction.copying_scores):
            with pytest.raises(ModelError, match="call model.eval"):
                score(circuit)
    finally:
        circuit.eval()


def test_selection_takes_the_best_share():
    scores = torch.arange(32 * 32).view(32, 32).flip(0).float()
    assert len(induction.select_heads(scores, 0.01)) == 11
    assert len(induction.select_heads(scores, 0.03)) == 31
    assert len(induction.select_heads(torch.rand(10, 10), 0.07)) == 7
    chosen = induction.select_heads(scores, 0.002)
    assert list(chosen) == [(0, 31), (0, 30), (0, 29)], "the best first"
    assert (0, 31) in chosen and (1, 31) not in chosen
    assert chosen & {(0, 31), (5, 5)} == {(0, 31)}
    for fraction in (0.0, 1.1):
        with pytest.raises(MaskError, match=f"fraction is {fraction}"):
            induction.select_heads(scores, fraction)
    with pytest.raises(MaskError, match="a score is NaN"):
        induction.select_heads(scores.fill_(torch.nan), 0.1)


def test_random_heads_are_matched_by_layer_and_never_selected():
    generator = torch.Generator().manual_seed(0)
    chosen = induction.select_heads(torch.rand(6, 8, generator=generator), 0.25)
    counts = [sum(layer == at for at, _ in chosen) for layer in range(6)]
    draws = [induction.random_heads(chosen, seed=seed) for seed in range(200)]
    for control in draws:
        assert [sum(layer == at for at, _ in control) for layer in range(6)] == counts
        assert not set(control) & set(chosen)
    assert induction.random_heads(chosen, seed=3).heads == draws[3].heads
    drawn = {head for control in draws for head in control}
    layers = {layer for layer, _ in chosen}
    assert drawn == {(i, j) for i in layers for j in range(8)} - set(chosen), "each one is drawn"
    plain = induction.random_heads({(0, 1), (2, 0)}, seed=0, n_heads=4)
    assert [layer for layer, _ in plain] == [0, 2]
    twice = induction.HeadSet(((0, 1), (0, 1), (1, 2)), 2, 4)
    assert len(twice) == 2 and len(induction.random_heads(twice)) == 2
    with pytest.raises(MaskError, match="n_heads is not known"):
        induction.random_heads({(0, 1)})
    with pytest.raises(MaskError, match="layer 0 has 4 heads, of which 3 are selected"):
        induction.random_heads({(0, 1), (0, 2), (0, 3)}, n_heads=4)
    with pytest.raises(MaskError, match=r"head \(layer 0, head 9\)"):
        induction.HeadSet(((0, 9),), 2, 4)
