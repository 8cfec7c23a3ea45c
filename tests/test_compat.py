"""``compat="sia2024"``: the columns of the authors' code, one by one; scopes; skipped attention."""

from dataclasses import replace

import oracle
import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.shared.decoding import generate_many
from icl_locate.engine.shared.scoring import score_many
from icl_locate.errors import MaskError, TaskError
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.conditions import SKIPPED_ATTENTION
from icl_locate.interventions.hidden import extend_segments, hidden_keys
from icl_locate.interventions.layers import LayerRange, masked_layers
from icl_locate.masking.sia2024 import sia2024_columns, sia2024_mask, sia2024_prompts
from icl_locate.tasks.translation import translation_template

TASK = icl.load_task("pseudo-translation")
PAPER = {condition.name: condition for condition in icl.PAPER_CONDITIONS}
SHORT = {"n_shots": 2, "n_queries": 3, "seeds": [0], "max_new_tokens": 4}

# methods of the published code: header h, header + examples p, query q, in tokens of their own
TABLE = {
    ("examples", False): lambda h, p, q: (h, p + 1),
    ("instructions+examples", False): lambda h, p, q: (0, p + 1),
    ("query", False): lambda h, p, q: (p, p + q),
    ("everything", False): lambda h, p, q: (0, p + q),
    ("examples", True): lambda h, p, q: (h + 2, p + 3),
    ("instructions+examples", True): lambda h, p, q: (1, p + 3),
    ("query", True): lambda h, p, q: (p + 2, p + q + 3),
    ("everything", True): lambda h, p, q: (1, p + q + 3),
}


@pytest.mark.parametrize(("name", "bos"), TABLE)
def test_every_column_is_theirs(name, bos):
    model, condition = tiny.boot("llama"), PAPER[name]
    template = translation_template("English", "Python")
    if not condition.instruction:
        template = template.without_instruction()
    prompts = icl.build_prompts(
        model,
        TASK.test[:3],
        examples=TASK.train,
        n_shots=2,
        template=template,
        prepend_bos=bos,
    )
    assert not prompts.attention_mask.all(), "padding must not shift the columns"
    relabelled, beyond = sia2024_prompts(model.tokenizer, prompts, condition)
    segments = extend_segments(relabelled.segments, prompts.tokens.shape[1] + 3)
    for i in range(len(prompts)):
        query = f"Q:{prompts.sources[i]}A:"
        before = prompts.texts[i].removesuffix(query).removesuffix("\n")
        header = template.instruction or ""
        h, p, q = (
            len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
            for text in (header, before, query)
        )
        start, till = TABLE[name, bos](h, p, q)
        first = int((~prompts.attention_mask[i]).sum())
        mask = sia2024_mask(icl.from_layer(0), beyond[i])
        columns = hidden_keys(mask, segments)[i, first:].nonzero()[:, 0].tolist()
        assert columns == list(range(start, till))
    assert beyond == (int(bos and name in ("query", "everything")),) * 3


def test_their_code_has_no_other_condition():
    with pytest.raises(MaskError, match="hides nothing like {INSTRUCTIONS}"):
        sia2024_columns(1, 2, 3, frozenset({Segment.INSTRUCTIONS}), bos=False)
    with pytest.raises(TaskError, match="compat is 'sia2023'"):
        icl.sweep(tiny.boot("llama"), TASK, compat="sia2023", **SHORT)


def merging():
    """Byte-level BPE that has learnt tokens over the line's end, as Llama-3's has " \n"."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" \n", "ti \n"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def answer_by_hand(model, tokens, till, start, layer, n_new):
    """Greedy tokens of one prompt whose columns [start, till) are hidden from a layer on."""
    tokens = list(tokens)
    for _ in range(n_new):
        n = len(tokens)
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        columns = torch.tensor([start <= j < till for j in range(n)])
        visible = [(causal & ~(columns & (at >= layer)))[None, None] for at in range(tiny.N_LAYERS)]
        real = torch.ones(1, n, dtype=torch.bool)
        found = oracle.logits(model, torch.tensor([tokens]), real, visible)
        tokens.append(int(found[0, -1].argmax()))
    return tokens[-n_new:]


@pytest.mark.parametrize("name", ["query", "everything", "examples"])
@pytest.mark.parametrize("engine", ["shared", "hooks"])
def test_generation_hides_their_columns_prompt_by_prompt(name, engine, tmp_path):
    """Merges over the borders make a prompt shorter than its parts, each prompt by its own."""
    condition, n_new = PAPER[name], 6
    merging().save_pretrained(tmp_path)
    plain, bridge = tiny.build("llama"), tiny.boot_fresh("llama")
    bridge.tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    pairs = [icl.Example(f"k{x}{y}", "ti" if x in "ace" else "o") for x in "abcdef" for y in "yz"]
    template = translation_template("English", "French")
    task = icl.Task("pairs", tuple(pairs), tuple(pairs[::2]), template, "token_accuracy")
    options = {"n_shots": 2, "seeds": [0], "max_new_tokens": n_new}
    found = icl.sweep(
        bridge, task, conditions=[condition], compat="sia2024", engine=engine, **options
    )
    prompts = icl.build_prompts(
        bridge,
        task.test,
        examples=task.train,
        n_shots=2,
        template=task.template_for(instruction=condition.instruction),
        prepend_bos=True,
    )
    beyond = set()
    for i, body in enumerate(prompts.bodies):
        query = f"Q:{prompts.sources[i]}A:"
        before = prompts.texts[i].removesuffix(query).removesuffix("\n")
        header = prompts.template.instruction or ""
        h, p, q = (
            len(bridge.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
            for text in (header, before, query)
        )
        start, till = TABLE[name, True](h, p, q)
        beyond.add(max(0, till - len(body) - 1))
        for layer in range(tiny.N_LAYERS + 1):
            by_hand = answer_by_hand(plain, [1, *body], till, start, layer, n_new)
            by_hand = by_hand[: by_hand.index(2)] if 2 in by_hand else by_hand
            text = bridge.tokenizer.decode(by_hand, skip_special_tokens=True).split("Q:")[0]
            assert found.texts[0][layer][0][i] == text.strip(), (i, layer)
    assert beyond == ({0} if name == "examples" else {2, 4})


@pytest.mark.parametrize(
    ("architecture", "bos"),
    [("gpt_neo", False), ("bloom", False), ("starcoder2", False), ("llama", True)],
)
def test_compat_prepends_bos_as_they_do(architecture, bos):
    model = tiny.boot(architecture)
    options = SHORT | {"conditions": "examples", "metric": "log_prob", "compat": "sia2024"}
    found = icl.sweep(model, TASK, **options)
    assert found.provenance["bos"] is bos
    told = icl.sweep(model, TASK, prepend_bos=bos, **options)
    assert told.scores.equal(found.scores)
    words = f"prepend_bos is {not bos}, but .* {'with' if bos else 'without'} BOS"
    with pytest.raises(MaskError, match=words):
        icl.sweep(model, TASK, prepend_bos=not bos, **options)


def test_compat_asks_whose_columns_where_they_ran_no_such_model():
    options = SHORT | {"conditions": "examples", "metric": "log_prob", "compat": "sia2024"}
    with pytest.raises(MaskError, match="ran no GPT2LMHeadModel.*True for the columns of Llama"):
        icl.sweep(tiny.boot("gpt2"), TASK, **options)
    for bos in (True, False):
        found = icl.sweep(tiny.boot("gpt2"), TASK, prepend_bos=bos, **options)
        assert found.provenance["bos"] is bos


def test_compat_changes_the_masks_alone_and_runs_on_both_engines():
    model = tiny.boot("llama")
    options = SHORT | {"metric": "token_accuracy", "compat": "sia2024"}
    ours, theirs = (icl.sweep(model, TASK, engine=e, **options) for e in ("shared", "hooks"))
    assert ours.texts == theirs.texts and ours.provenance["compat"] == "sia2024"
    plain = icl.sweep(model, TASK, metric="token_accuracy", **SHORT)
    assert [by_layer[-1] for by_layer in ours.texts] == [by_layer[-1] for by_layer in plain.texts]
    assert ours.texts[-1] == plain.texts[-1], "all but self is the same in both"
    assert ours.texts[0] != plain.texts[0]


def test_scopes():
    assert [masked_layers("from", layer, 3) for layer in (0, 3)] == [LayerRange(0), LayerRange(3)]
    assert masked_layers("only", 1, 3) == LayerRange(1, 2)
    assert masked_layers("window:2", 2, 3) == LayerRange(2, 3)
    for scope in ("only", "window:2"):
        assert not masked_layers(scope, 3, 3).resolve(3), "the last point masks nothing"
    for scope in ("window", "window:0", "window:x", "last"):
        with pytest.raises(MaskError, match="expected 'from', 'only', or 'window:W'"):
            masked_layers(scope, 0, 3)


@pytest.mark.parametrize("scope", ["only", "window:2"])
def test_a_sweep_in_a_scope_equals_its_masks(scope):
    model = tiny.boot("gpt2")
    results = [
        icl.sweep(model, TASK, scope=scope, metric="log_prob", engine=engine, **SHORT)
        for engine in ("shared", "hooks")
    ]
    torch.testing.assert_close(results[0].scores, results[1].scores, atol=1e-4, rtol=0)
    prompts = icl.build_prompts(
        model, TASK.test[:3], examples=TASK.train, n_shots=2, template=TASK.template
    )
    for layer in range(tiny.N_LAYERS):
        width = 1 if scope == "only" else 2
        layers = set(range(layer, min(layer + width, tiny.N_LAYERS)))
        mask = icl.ContextMask({Segment.QUERY}, layers)
        expected = icl.score_targets(model, prompts, mask).double().mean()
        found = results[1].scores[icl.PAPER_CONDITIONS.index(PAPER["query"]), layer, 0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_skipped_attention_is_an_attention_sublayer_that_adds_nothing(architecture):
    """The oracle: the same Hugging Face model whose output projection at that layer is zero."""
    model, layer = tiny.boot(architecture), 1
    prompts = icl.build_prompts(
        model, TASK.test[:3], examples=TASK.train, n_shots=2, template=TASK.template
    )
    mask = SKIPPED_ATTENTION[0].mask(icl.only_layer(layer))
    silent = tiny.boot_fresh(architecture)
    projection = silent.blocks[layer].attn.o.original_component
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.zero_()
    expected = icl.score_targets(silent, prompts)
    torch.testing.assert_close(icl.score_targets(model, prompts, mask), expected, atol=1e-4, rtol=0)
    shared = icl.sweep(
        model,
        TASK,
        conditions=SKIPPED_ATTENTION[:1],
        scope="only",
        metric="log_prob",
        engine="shared",
        **SHORT,
    )
    assert abs(float(shared.scores[0, layer, 0]) - float(expected.double().mean())) < 1e-4
    clean = icl.score_targets(model, prompts)
    assert (clean - expected).abs().max() > 1e-3
    assert icl.generate(model, prompts, mask, 4, ()) == icl.generate(silent, prompts, None, 4, ())


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "gpt_neox", "llama", "starcoder2"])
def test_skipping_some_heads_leaves_the_bias_and_skipping_all_takes_it(architecture):
    """In both engines: rows that some heads leave empty have others that give an output.

    Oracles: heads ablated to zero, and a model whose output projection gives nothing.
    """
    model, layer = tiny.boot(architecture), 1
    prompts = icl.build_prompts(
        model, TASK.test[:3], examples=TASK.train, n_shots=2, template=TASK.template
    )
    skipped = SKIPPED_ATTENTION[0].mask(icl.only_layer(layer))
    everyone = {(layer, head) for head in range(tiny.N_HEADS)}
    some, others = {(layer, 0), (layer, 2)}, {(layer, 1), (layer, 3)}
    masks = [
        replace(skipped, heads=some),
        replace(skipped, heads=everyone),
        replace(skipped, heads=some) | replace(skipped, heads=others),
        replace(skipped, heads=everyone, without_bias=False),
    ]
    silent = tiny.boot_fresh(architecture)
    with torch.no_grad():
        for parameter in silent.blocks[layer].attn.o.original_component.parameters():
            parameter.zero_()

    def run(model, intervention=None):
        scores = icl.score_targets(model, prompts, intervention)
        return scores, icl.generate(model, prompts, intervention, 4, ())

    nothing = run(silent)
    expected = [
        run(model, HeadAblation(some, "zero")), nothing, nothing,
        run(model, HeadAblation(everyone, "zero")),
    ]  # fmt: skip
    assert (expected[0][0] - nothing[0]).abs().max() > 1e-3
    has_bias = any("bias" in name for name, _ in model.blocks[layer].attn.o.named_parameters())
    assert has_bias == ((expected[3][0] - nothing[0]).abs().max() > 1e-3)
    scores = score_many(model, prompts, masks)
    answers = generate_many(model, prompts, masks, 4, ())
    for i, (mask, (right, texts)) in enumerate(zip(masks, expected, strict=True)):
        torch.testing.assert_close(
            icl.score_targets(model, prompts, mask), right, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(scores[i], right, atol=1e-4, rtol=0)
        assert icl.generate(model, prompts, mask, 4, ()) == texts == answers[i]


def test_skipped_attention_needs_no_examples():
    options = SHORT | {"n_shots": 0, "scope": "only", "metric": "log_prob"}
    result = icl.sweep(tiny.boot("llama"), TASK, conditions=SKIPPED_ATTENTION, **options)
    assert result.scores.shape == (2, tiny.N_LAYERS + 1, 1)
    assert result.scores[:, -1].isfinite().all()


def test_a_task_may_lay_out_prompts_without_instruction_in_its_own_way():
    bare = icl.PromptTemplate(source_prefix="Q:", target_prefix="\nA:", separator="\n")
    task = replace(TASK, bare_template=bare)
    assert task.template_for(instruction=False) is bare
    assert task.template_for(instruction=True) is task.template
    assert TASK.template_for(instruction=False) == TASK.template.without_instruction()
