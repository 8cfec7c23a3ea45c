"""Runs of padded prompts bring the prompts' attention mask, or they are refused."""

from contextlib import contextmanager

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import MaskError
from icl_locate.hooks import Route, ablate_heads, find_route
from icl_locate.induction.reference import head_reference

HIDDEN = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
NOWHERE = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(tiny.N_LAYERS))


def prompts_for(model, *sources):
    queries = [icl.Example(source, "dode") for source in sources]
    return icl.build_prompts(model, queries, examples=[icl.Example("dode", "lava")], n_shots=1)


@contextmanager
def hook_list(model, prompts, mask=HIDDEN):
    with model.hooks(fwd_hooks=icl.attention_hooks(model, prompts, mask)):
        yield


CONTEXTS = {
    "mask": lambda model, prompts: icl.mask_attention(model, prompts, HIDDEN),
    "mask that hides nothing": lambda model, prompts: icl.mask_attention(model, prompts, NOWHERE),
    "ablation": lambda model, prompts: ablate_heads(model, {(1, 0)}, prompts=prompts),
    "hooks": hook_list,
    "hooks that hide nothing": lambda model, prompts: hook_list(model, prompts, NOWHERE),
    "dropped": lambda model, prompts: icl.drop_context(model, prompts, 1),
}


def generate(model, tokens, *, cache, **options):
    options |= {"use_past_kv_cache": cache, "do_sample": False, "verbose": False}
    return model.generate(tokens, max_new_tokens=2, return_type="tokens", **options)


RUNS = {
    "forward": lambda model, tokens, **mask: model(tokens, **mask),
    "run_with_hooks": lambda model, tokens, **mask: model.run_with_hooks(tokens, **mask),
    "cached generation": lambda model, tokens, **mask: generate(model, tokens, cache=True, **mask),
    "generation": lambda model, tokens, **mask: generate(model, tokens, cache=False, **mask),
}


def runs(architecture, context):
    """All ways to run, but for those that would say nothing new, to save time."""
    if context == "dropped":  # cached generation needs a cache of its own
        return [RUNS["forward"], RUNS["generation"]]
    few = architecture not in ("llama", "gpt_neo") and context != "mask"
    return [RUNS["forward"]] if few else list(RUNS.values())


def supports(model, context):
    if context.startswith("hooks"):
        return find_route(model) is Route.SCORES
    return context != "dropped" or model.cfg.architecture != "GPTNeoForCausalLM"


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_padded_prompts_without_their_mask_are_refused(architecture, context):
    model = tiny.boot(architecture)
    if not supports(model, context):
        return
    prompts = prompts_for(model, "sort rano", "sort")
    assert not prompts.attention_mask.all()
    tokens, real = prompts.tokens, prompts.attention_mask.long()
    for run in runs(architecture, context):
        for wrong in ({}, {"attention_mask": torch.ones_like(real)}):
            with (
                pytest.raises(MaskError, match=r"pass attention_mask=prompts\.attention_mask"),
                CONTEXTS[context](model, prompts),
            ):
                run(model, tokens, **wrong)
        with CONTEXTS[context](model, prompts):
            run(model, tokens, attention_mask=real)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_without_padding_no_mask_is_needed(architecture, context):
    model = tiny.boot(architecture)
    if not supports(model, context):
        return
    prompts = prompts_for(model, "sort rano", "rano sort")
    assert prompts.attention_mask.all()
    for run in runs(architecture, context):
        with CONTEXTS[context](model, prompts):
            free = run(model, prompts.tokens)
        with CONTEXTS[context](model, prompts):
            assert free.equal(run(model, prompts.tokens, attention_mask=prompts.attention_mask))


def test_a_mask_that_takes_text_for_padding_is_refused():
    model = tiny.boot("llama")
    prompts = prompts_for(model, "sort rano", "rano sort")
    wrong = prompts.attention_mask.long()
    wrong[0, 0] = 0
    with pytest.raises(MaskError, match="text for padding"), CONTEXTS["mask"](model, prompts):
        model(prompts.tokens, attention_mask=wrong)


def test_every_cached_step_brings_the_mask():
    model = tiny.boot("llama")
    prompts = prompts_for(model, "sort rano", "sort")
    real = prompts.attention_mask.long()
    step = torch.full((2, 1), 5)
    for wrong in ({}, {"attention_mask": torch.ones_like(step)}):
        with icl.mask_attention(model, prompts, HIDDEN):
            _, cache = model(
                prompts.tokens, attention_mask=real, use_cache=True, return_type="logits_and_cache"
            )
            with pytest.raises(MaskError, match="attention_mask"):
                model(step, past_key_values=cache, use_cache=True, **wrong)


def test_runs_of_other_sizes_still_say_so():
    model = tiny.boot("llama")
    prompts = prompts_for(model, "sort rano", "sort")
    for wrong in (prompts.tokens[:1], prompts.tokens[:, 1:]):
        with (
            pytest.raises(MaskError, match="the model ran on .* under a mask made for prompts"),
            icl.mask_attention(model, prompts, HIDDEN),
        ):
            model(wrong, attention_mask=torch.ones_like(wrong))


def test_the_documented_snippet_gives_the_masks_numbers():
    model = tiny.boot("gpt2")
    prompts = prompts_for(model, "sort rano", "sort")
    hooks = icl.attention_hooks(model, prompts, HIDDEN)
    found = model.run_with_hooks(
        prompts.tokens, attention_mask=prompts.attention_mask, fwd_hooks=hooks
    )
    with icl.mask_attention(model, prompts, HIDDEN):
        wanted = model(prompts.tokens, attention_mask=prompts.attention_mask)
    assert found[prompts.attention_mask].equal(wanted[prompts.attention_mask])


def test_ablation_by_place_is_told_where_padding_is():
    model = tiny.boot("llama")
    prompts = prompts_for(model, "sort rano", "sort")
    reference = head_reference(model, prompts)
    run = {"attention_mask": prompts.attention_mask}
    with (
        pytest.raises(MaskError, match=r"ablate_heads\(\.\.\., prompts=prompts\)"),
        ablate_heads(model, {(1, 0)}, "mean_z", reference=reference),
    ):
        model(prompts.tokens, **run)
    with ablate_heads(model, {(1, 0)}):  # nothing at all stands in anywhere: no place to know
        model(prompts.tokens, **run)


def test_the_first_look_at_a_model_is_not_taken_for_a_run_of_padded_prompts():
    """It runs three texts without padding; here three padded ones come first."""
    model = tiny.boot_fresh("llama")
    prompts = prompts_for(model, "zero", "lava dode", "dode lava dode")
    assert len(prompts) == 3 and not prompts.attention_mask.all()
    one_head = icl.ContextMask({Segment.EXAMPLES}, heads={(1, 0)})
    with icl.mask_attention(model, prompts, HIDDEN), icl.mask_attention(model, prompts, one_head):
        model(prompts.tokens, attention_mask=prompts.attention_mask)
