"""Threads that share a model: each gets the numbers that it would get alone, or an error."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment, induction
from icl_locate.errors import IclLocateError, ModelError
from icl_locate.hooks import ablate_heads, holding
from icl_locate.tasks import Task

N_THREADS = 8
WORDS = ("rano", "dode", "lava", "miro", "pele")
PAIRS = tuple(icl.Example(f"sort {word}", word) for word in WORDS)


def prompts_for(model, n_queries=2):
    return icl.build_prompts(model, PAIRS[:n_queries], examples=PAIRS, n_shots=2)


def hidden(layer):
    return icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(layer))


def forward(model, prompts):
    with torch.no_grad():
        return model(prompts.tokens, attention_mask=prompts.attention_mask)


def masked_forward(model, layer):
    prompts = prompts_for(model)
    with icl.mask_attention(model, prompts, hidden(layer)):
        return forward(model, prompts)


def ablated_forward(model, layer):
    prompts = prompts_for(model)
    with ablate_heads(model, {(layer, 0)}, prompts=prompts):
        return forward(model, prompts)


def swept(model, layer):
    task = Task("t", PAIRS, PAIRS, icl.PromptTemplate(), "log_prob")
    conditions = [icl.Condition("examples", {Segment.EXAMPLES}, instruction=False)]
    engine = "hooks" if layer else "shared"
    options = {"n_shots": 1, "n_queries": 2, "seeds": layer, "engine": engine}
    return icl.sweep(model, task, conditions=conditions, **options).scores


JOBS = [
    masked_forward,
    ablated_forward,
    swept,
    lambda model, layer: icl.score_targets(model, prompts_for(model), hidden(layer)),
    lambda model, layer: icl.score_targets(model, prompts_for(model)),
    lambda model, layer: icl.generate(model, prompts_for(model), hidden(layer), 3),
    lambda model, layer: icl.generate(
        model, prompts_for(model), max_new_tokens=3, drop_context_from=layer
    ),
    lambda model, layer: induction.previous_token_scores(model, length=8, n_sequences=2),
]


@contextmanager
def quick_switches():
    """Threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_thread(job):
    """What a job gives, or raises, in a thread of its own; the caller waits."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(job).result(timeout=60)


# what a thread ignores, another one that ends such a block takes back: filters are the process's
@pytest.mark.filterwarnings("ignore:A hook on .* returned a modified tensor:UserWarning")
@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
def test_many_threads_get_what_one_gets(architecture):
    model = tiny.boot_fresh(architecture)
    layers = range(tiny.N_LAYERS)
    work = [(job, layer) for job in JOBS for layer in layers]
    if architecture == "gpt_neo":  # its context cannot be dropped
        work = [(job, layer) for job, layer in work if job is not JOBS[-2]]
        work = [(job, layer) for job, layer in work if job is not swept or layer]
    together = threading.Barrier(N_THREADS)

    def run(number):
        together.wait(timeout=60)
        return [job(model, layer) for job, layer in work[number:] + work[:number]]

    with quick_switches(), ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(run, range(N_THREADS)))
    alone = [job(model, layer) for job, layer in work]
    for number, results in enumerate(found):
        wanted = alone[number:] + alone[:number]
        for result, expected in zip(results, wanted, strict=True):
            same = torch.equal(result, expected) if torch.is_tensor(result) else result == expected
            assert same


CONTEXTS = {
    "mask": lambda model, prompts: icl.mask_attention(model, prompts, hidden(0)),
    "ablation": lambda model, prompts: ablate_heads(model, {(0, 0)}, prompts=prompts),
    "dropped": lambda model, prompts: icl.drop_context(model, prompts, 1),
    "held": lambda model, prompts: holding.hold(model),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_bare_run_of_another_thread_is_refused(context):
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    with CONTEXTS[context](model, prompts):
        before = forward(model, prompts)
        with pytest.raises(ModelError, match="was run in the thread .*, but it carries hooks of"):
            in_thread(lambda: forward(model, prompts))
        assert forward(model, prompts).equal(before)
    assert in_thread(lambda: forward(model, prompts)).equal(forward(model, prompts))


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
@pytest.mark.parametrize("context", ["mask", "ablation"])
def test_a_run_that_is_under_way_does_not_pass_through_anothers_hooks(architecture, context):
    model = tiny.boot_fresh(architecture)
    prompts = prompts_for(model)
    wanted = masked_forward(model, 0) if context == "mask" else ablated_forward(model, 0)
    begun, masked = threading.Event(), threading.Event()

    def pause(tokens, hook):
        begun.set()
        assert masked.wait(timeout=60)
        return tokens

    def bare():
        return model.run_with_hooks(
            prompts.tokens,
            attention_mask=prompts.attention_mask,
            fwd_hooks=[("embed.hook_in", pause)],
        )

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(bare)
        assert begun.wait(timeout=60)
        with CONTEXTS[context](model, prompts):
            masked.set()
            with pytest.raises(ModelError, match="carries hooks of the thread 'MainThread'"):
                other.result(timeout=60)
            assert forward(model, prompts).equal(wanted)


def test_hooks_belong_to_the_thread_that_made_them():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    hooks = icl.attention_hooks(model, prompts, hidden(0))
    run = {"attention_mask": prompts.attention_mask, "fwd_hooks": hooks}
    with pytest.raises(ModelError, match="open masks in the thread that runs"):
        in_thread(lambda: model.run_with_hooks(prompts.tokens, **run))
    model.run_with_hooks(prompts.tokens, **run)


@pytest.mark.parametrize("job", JOBS)
def test_others_wait_until_a_context_ends(job):
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    alone = job(model, 1)
    asked, order = threading.Event(), []

    def other():
        asked.set()
        found = job(model, 1)
        order.append("other")
        return found

    with ThreadPoolExecutor(1) as pool:
        with icl.mask_attention(model, prompts, hidden(0)):
            waiting = pool.submit(other)
            assert asked.wait(timeout=60)
            for _ in range(3):
                forward(model, prompts)
            order.append("mine")
        found = waiting.result(timeout=60)
    assert order == ["mine", "other"]
    assert torch.equal(found, alone) if torch.is_tensor(found) else found == alone


def test_contexts_of_one_thread_nest_and_let_go():
    model = tiny.boot("llama")
    prompts = prompts_for(model)

    def nested():
        with icl.mask_attention(model, prompts, hidden(1)):
            icl.score_targets(model, prompts)
            icl.generate(model, prompts, hidden(0), 2)
            with icl.mask_attention(model, prompts, hidden(2)):
                forward(model, prompts)
            with ablate_heads(model, {(0, 0)}, prompts=prompts):
                forward(model, prompts)
        return True

    assert in_thread(nested)
    assert in_thread(nested)


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_exception_lets_the_model_go(context):
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    clean = forward(model, prompts)
    with pytest.raises(ZeroDivisionError), CONTEXTS[context](model, prompts):
        raise ZeroDivisionError
    with pytest.raises(IclLocateError), CONTEXTS["mask"](model, prompts):
        model(prompts.tokens[:, 1:], attention_mask=prompts.attention_mask[:, 1:])
    assert in_thread(lambda: forward(model, prompts)).equal(clean)
    assert in_thread(lambda: masked_forward(model, 0)).equal(masked_forward(model, 0))
    assert not model.original_model._forward_pre_hooks


def test_a_long_wait_says_for_whom(monkeypatch):
    """The warning is an error in these tests, and ends the wait."""
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    monkeypatch.setattr(holding, "PATIENCE", 0.0)
    with (
        icl.mask_attention(model, prompts, hidden(0)),
        pytest.raises(UserWarning, match="a model that the thread 'MainThread' holds"),
    ):
        in_thread(lambda: icl.score_targets(model, prompts))
    in_thread(lambda: icl.score_targets(model, prompts))
