"""The first token of a target: read off one pass, and refused where it tells no answers apart."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import metrics
from icl_locate.errors import PromptError, TaskError
from icl_locate.studies import Setting

TASK = icl.load_task("pseudo-translation")
BOTH = ("first_token_accuracy", "first_token_prob")
COLOURS = tuple(icl.Example(f"Aba {i}", ("red", "blue", "green")[i % 3]) for i in range(12))


def by_hand(model, prompts, layer):
    """Probabilities of what follows each prompt, one by one, with a mask of its own."""
    rows = []
    for i in range(len(prompts)):
        one = prompts[i : i + 1]
        mask = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(layer))
        real = one.attention_mask[0]
        with icl.mask_attention(model, one, mask), torch.no_grad():
            logits = model(one.tokens, attention_mask=one.attention_mask.long())
        assert real[-1]
        rows.append(logits[0, -1].double().softmax(dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_the_next_tokens_distribution_at_the_targets_first_token(architecture):
    model = tiny.boot(architecture)
    options = {"n_shots": 2, "n_queries": 5, "seeds": 0, "conditions": "examples"}
    found = {name: icl.sweep(model, TASK, metric=name, **options) for name in BOTH}
    prompts = icl.build_prompts(
        model, TASK.test[:5], examples=TASK.train, n_shots=2, seed=0,
        template=TASK.template_for(instruction=False),
    )  # fmt: skip
    first = torch.tensor([tokens[0] for tokens in prompts.target_tokens])
    for layer in range(tiny.N_LAYERS + 1):
        wanted = by_hand(model, prompts, layer)
        prob = found["first_token_prob"].statistics[0, layer, 0, :, 0]
        assert torch.allclose(prob, wanted[torch.arange(5), first], atol=1e-6)
        right = found["first_token_accuracy"].statistics[0, layer, 0, :, 0]
        assert right.tolist() == (wanted.argmax(dim=-1) == first).double().tolist()
    assert float(found["first_token_prob"].scores.min()) > 0
    assert set(np.array(found["first_token_prob"].texts, dtype=object).ravel()) == {""}


def test_greedy_text_begins_with_it():
    model = icl.load_model()
    prompts = icl.build_prompts(
        model, TASK.test[:8], examples=TASK.train, n_shots=4, template=TASK.template, seed=0
    )
    greedy = icl.generate(model, prompts, max_new_tokens=1)
    setting = Setting.of(TASK, metric="first_token_accuracy", n_queries=8, n_shots=4)
    (cell,) = setting.run(model, prompts, [icl.ContextMask(set())])
    words = [target.split()[0] for target in prompts.targets]
    said = [text.strip() == word for text, word in zip(greedy, words, strict=True)]
    assert cell.statistics[:, 0].tolist() == [float(same) for same in said] and any(said)


def test_what_the_metrics_say_of_themselves():
    for name in BOTH:
        metric = metrics.get_metric(name)
        assert metric.name == name and metrics.is_mean(metric) and name in metric.signature
        assert not metrics.generates(metric) and not metrics.gives_text(name, None)
        assert isinstance(metrics.readout_of(metric), metrics.NextToken)
        assert metric.score(metric.statistics([1.0, 0.0], ["a", "b"]).sum(axis=0)) == 0.5
        with pytest.raises(TaskError, match=f"^{name} is read off the model"):
            metric.statistics(["a"], ["a"])
        with pytest.raises(TaskError, match="^there are 1 answers and 2 targets"):
            metric.statistics([1.0], ["a", "b"])
    with pytest.raises(TaskError, match="^reads is 'logit': expected one of 'accuracy', 'prob'"):
        metrics.FirstToken("logit")
    with pytest.raises(TaskError, match="^reads is 'logit'"):
        metrics.NextToken("logit")


def test_answers_are_known_where_they_come_back():
    bank = icl.Task("colours", COLOURS, COLOURS[:2], TASK.template)
    metric = metrics.get_metric("first_token_accuracy")
    assert metric.for_task(bank, 2).answers == ("red", "blue", "green")
    assert metric.for_task(TASK, 8).answers == (), "sentences, each another"
    given = metrics.FirstToken(answers=("a", "b"))
    assert given.for_task(bank, 2) is given


@pytest.mark.parametrize("name", BOTH)
def test_answers_that_begin_with_the_same_token_are_refused(name):
    model = tiny.boot("llama")
    words = [TASK.train[0].target.split()[0], *TASK.train[1].target.split()[:2]]
    same = (f"{words[0]} {words[1]}", f"{words[0]} {words[2]}")
    message = f"^the answers '{same[0]}' and '{same[1]}' begin with the same token, .*{words[0]}'"
    sources = [example.source for example in TASK.train[:8]]
    labels = [icl.Example(s, same[i % 2]) for i, s in enumerate(sources)]
    task = icl.Task("labels", tuple(labels), tuple(labels[:1]), TASK.template)
    options = {"n_shots": 1, "seeds": 0, "conditions": "examples", "metric": name}
    with pytest.raises(TaskError, match=message):
        icl.sweep(model, task, n_queries=1, **options)
    free = tuple(
        icl.Example(s, f"{words[0]} {t}") for s, t in zip(sources[:2], words[1:], strict=True)
    )
    alike = replace(TASK, test=free)
    with pytest.raises(TaskError, match=message):
        icl.sweep(model, alike, n_queries=2, **options)
    other = icl.Example(sources[2], words[1])
    mixed = replace(TASK, test=(*free, other))
    assert icl.sweep(model, mixed, n_queries=3, **options).metric == name
    once = replace(TASK, test=free[:1])
    assert icl.sweep(model, once, n_queries=1, **options).metric == name
    spans = [(0, 1, "BOS"), (1, 3, "EXAMPLES"), (3, 4, "QUERY")]
    ids = icl.Prompts.from_tokens(
        torch.tensor([[1, 5, 6, 7]] * 2), [spans] * 2, targets=[[9, 4], [9, 5]]
    )
    own = icl.Task.from_prompts(ids, metric=name)
    with pytest.raises(TaskError, match="^the answers '9 4' and '9 5' begin with the same token"):
        icl.sweep(model, own, conditions="examples")


def test_targets_without_tokens_are_refused():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, TASK.test[:2], n_shots=0)
    setting = Setting.of(TASK, metric="first_token_prob", n_queries=2)
    empty = replace(prompts, target_tokens=[[], [4]])
    with pytest.raises(PromptError, match="^the target of prompt 0 has no tokens"):
        setting.run(model, empty, [icl.ContextMask(set())], engine="hooks")
