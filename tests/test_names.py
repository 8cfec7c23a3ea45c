"""Names of answers: what is computed otherwise is called otherwise, and what is not is not."""

import functools
import json
import os
import re
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import icl_locate as icl
from icl_locate import studies
from icl_locate.errors import ModelError, TaskError
from icl_locate.hooks.registry import APPLICATIONS
from icl_locate.lora.adapters import Teacher, load_base
from icl_locate.metrics import LabelLogProbs, TargetLogProb
from icl_locate.metrics.readouts import GENERATED_TEXT
from icl_locate.models.fingerprint import fingerprint
from icl_locate.studies import kept, naming
from icl_locate.studies.place import using
from icl_locate.studies.recipe import describe_interventions, describe_value
from icl_locate.studies.workers import ModelLoader

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
OPTIONS = {"n_shots": 1, "n_queries": 2, "seeds": 0, "max_new_tokens": 4, "conditions": "examples"}
SPANS = [(0, 3, "examples"), (3, 4, "query")]


def llama(**changes):
    """The same weights under another config."""
    config = tiny.build("llama").config.to_dict() | changes
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    model.load_state_dict(tiny.build("llama").state_dict())
    model.config._attn_implementation = "eager"
    return tiny.bridge(model)


def context(model, readout=GENERATED_TEXT):
    return naming.name_of(naming.describe_context(model, readout, "hooks", 4))


def described(value):
    return json.dumps(describe_value(value), sort_keys=True, allow_nan=False)


@pytest.mark.parametrize("changes", [{"rms_norm_eps": 0.1}, {"rope_parameters": {
    "rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}])  # fmt: skip
def test_another_config_is_another_model(tmp_path, changes):
    plain, other = tiny.boot("llama"), llama(**changes)
    first = icl.sweep(plain, TASK, store=tmp_path, metric="log_prob", **OPTIONS)
    found = icl.sweep(other, TASK, store=tmp_path, metric="log_prob", **OPTIONS)
    wanted = icl.sweep(other, TASK, metric="log_prob", **OPTIONS)
    assert found.scores.equal(wanted.scores) and not found.scores.equal(first.scores)
    assert context(plain, TargetLogProb()) == context(llama(), TargetLogProb())


def test_the_config_tells_what_the_weights_do_not():
    assert fingerprint(tiny.boot("llama")) == fingerprint(llama(rms_norm_eps=0.1))


def test_the_numbers_of_modules_are_part_of_a_name():
    model = tiny.boot_fresh("llama")
    first = context(model)
    model.original_model.model.norm.original_component.variance_epsilon = 0.1
    assert context(model) != first


def test_what_ends_and_spells_a_text_is_part_of_its_name(tmp_path):
    model = tiny.boot_fresh("llama")
    config, first = model.original_model.generation_config, context(model)
    numbers, labels = (context(model, r) for r in (TargetLogProb(), LabelLogProbs(("a", "b"))))
    texts = icl.sweep(model, TASK, store=tmp_path, **OPTIONS).texts
    config.eos_token_id = [2, *range(10, 600)]
    shorter = icl.sweep(model, TASK, store=tmp_path, **OPTIONS).texts
    assert shorter == icl.sweep(model, TASK, **OPTIONS).texts != texts
    config.eos_token_id = 2
    assert context(model) == first
    model.tokenizer.add_tokens(["<new>"])
    assert context(model) != first and context(model, LabelLogProbs(("a", "b"))) != labels
    assert context(model, TargetLogProb()) == numbers, "of numbers nothing is spelled"


def test_a_call_of_the_tokenizer_changes_no_name():
    model = tiny.boot_fresh("llama")
    first = context(model)
    model.tokenizer(["a", "a a"], padding=True, truncation=True, max_length=7)
    assert context(model) == first


def test_a_directory_is_no_part_of_a_name(tmp_path):
    models = [icl.load_model(tiny.save(tiny.build("llama"), tmp_path / name)) for name in "ab"]
    one, other = map(context, models)
    assert one == other
    edits = [
        icl.StateEdit(
            "add", torch.ones(tiny.D_MODEL), 1, origin={"model": name, "fingerprint": "x"}
        )
        for name in "ab"
    ]
    assert len({*naming.name_cells(edits)}) == 1


def prompts_called(text):
    return icl.Prompts.from_tokens([[5, 6, 7, 5]], [SPANS], targets=[[6]], texts=[text])


def test_the_text_by_which_draws_go_is_part_of_a_name(tmp_path):
    """What is resampled for a prompt, and which of two equal labels wins, goes by its text."""
    model = tiny.boot("llama")
    assert len({naming.name_items(prompts_called(text))[0] for text in "abc"}) == 3
    shown = icl.build_prompts(model, TASK.test[:4], examples=TASK.train, n_shots=1)
    reference = icl.induction.head_reference(model, shown.tokens, n_samples=4)
    run = icl.HeadAblation({(0, 0), (0, 1), (1, 0)}, "resample", reference)
    found = []
    for text in "abcdef":
        task = icl.Task.from_prompts(prompts_called(text))
        with using(tmp_path):
            setting = studies.Setting.of(task, metric="log_prob")
            (cell,) = setting.run(model, setting.prompts(model, 0), [run])
        (wanted,) = setting.run(model, setting.prompts(model, 0), [run])
        assert torch.equal(torch.tensor(cell.statistics), torch.tensor(wanted.statistics))
        found.append(float(wanted.statistics.ravel()[0]))
    assert len(set(found)) > 1


NUMBER = 1


def number():
    return NUMBER


def by_helper(positions, n_rows):
    return number()


def by_inner(positions, n_rows):
    return [(lambda: number())() for _ in range(1)]


@functools.cache
def cached():
    return number()


@dataclass(frozen=True)
class Rule:
    amount: int

    def __call__(self, positions, n_rows):
        return number()

    def method(self, positions, n_rows):
        return self.amount


@pytest.mark.parametrize(
    "rule", [by_helper, by_inner, cached, Rule(1), Rule(1).method, Rule, partial(by_helper, 1)]
)
def test_what_a_function_looks_up_at_any_depth_is_part_of_its_name(monkeypatch, rule):
    if getattr(rule, "__name__", "") == "method":
        assert described(Rule(2).method) != described(rule) == described(Rule(1).method)
        return
    first = described(rule)
    assert described(rule) == first
    monkeypatch.setitem(globals(), "NUMBER", 2)
    assert described(rule) != first
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "number", lambda: 1)
    assert described(rule) != first


def with_default(amount):
    return lambda positions, n_rows, amount=amount: amount


def with_keyword(amount):
    def rule(positions, n_rows, *, amount=amount):
        return amount

    return rule


def with_attribute(amount):
    def rule(positions, n_rows):
        return rule.amount

    rule.amount = amount
    return rule


def decorated(amount):
    @functools.wraps(number)
    def rule(*args):
        return amount

    return rule


def in_module(amount):
    found = SimpleNamespace(amount=amount)
    return lambda positions, n_rows: found.amount


def in_closure_of_closure(amount):
    def inner():
        return amount

    return lambda positions, n_rows: inner()


def by_subclass(amount):
    class Own(Rule):
        def __init__(self):
            super().__init__(1)
            object.__setattr__(self, "own", amount)

    return Own()


def by_weights(amount):
    module = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(module.weight, amount)
    torch.nn.init.zeros_(module.bias)
    return lambda positions, n_rows: module(positions)


def by_words(amount):
    words = np.array([f"word {amount}"], dtype=object)
    return lambda positions, n_rows: words


def by_pattern(amount):
    pattern = re.compile("long " * 99 + str(amount))
    return lambda positions, n_rows: pattern


def by_digits(amount):
    found = SimpleNamespace(values=deque([torch.tensor(1 + amount * 1e-6)]))
    return lambda positions, n_rows: found


def by_text(amount):
    class Own:
        def __init__(self):
            self.values = torch.tensor([1 + amount * 1e-6])

        def __repr__(self):
            return f"Own({self.values})"

    found = Own()
    return lambda positions, n_rows: found


def by_builtin(amount):
    return [amount].__contains__


@pytest.mark.parametrize(
    "make",
    [with_default, with_keyword, with_attribute, decorated, in_module, in_closure_of_closure,
     by_subclass, by_weights, by_words, by_pattern, by_digits, by_text,
     by_builtin],
)  # fmt: skip
def test_what_a_function_holds_is_part_of_its_name(make):
    assert described(make(1)) == described(make(1)) != described(make(2))
    both = naming.name_cells([icl.EdgeMask(make(1)), icl.EdgeMask(make(2))])
    assert len(set(both)) == 2
    assert naming.name_cells([icl.EdgeMask(make(2))]) == both[1:], "whatever stands beside it"


def test_functions_that_call_each_other_end():
    def one():
        return other()

    def other():
        return one()

    assert described(one) == described(one) != described(other)


def test_what_is_left_out_of_a_text_does_not_say_what_it_is():
    class Table:
        def __repr__(self):
            return "0 1 ... 99"

    table = Table()
    with pytest.raises(TaskError, match="does not say what it does"):
        naming.name_cells([icl.EdgeMask(lambda positions, n_rows: table)])


@dataclass(frozen=True, eq=False)
class Anew(icl.Intervention):
    """An intervention that makes its parts whenever it is asked for them."""

    number: int

    @property
    def parts(self):
        return (icl.StateEdit("add", torch.full((8,), float(self.number)), 0),)


def test_values_that_are_made_anew_are_not_taken_for_others():
    """An array may lie where one lay that is gone."""
    names = [json.dumps(said) for said in describe_interventions(Anew(i + 1) for i in range(50))]
    assert len(set(names)) == 50


@dataclass(frozen=True)
class Silence(icl.Intervention):
    layer: int


def test_the_application_of_a_kind_of_ones_own_is_part_of_its_name(tmp_path):
    model = tiny.boot("llama")
    setting = studies.Setting.of(TASK, n_queries=2, n_shots=1, metric="log_prob")
    prompts = setting.prompts(model, 0)

    def scale(factor):
        def act(value, hook):
            return factor * value

        def put(site, parts):
            return site.hooked((f"blocks.{part.layer}.mlp.hook_out", act) for part in parts)

        return put

    try:
        for factor in (0.0, 0.5):
            icl.register_intervention(Silence)(scale(factor))
            with using(tmp_path):
                (found,) = setting.run(model, prompts, [Silence(1)])
            (wanted,) = setting.run(model, prompts, [Silence(1)])
            assert np.array_equal(found.statistics, wanted.statistics)
    finally:
        APPLICATIONS.pop(Silence, None)


def test_tables_go_by_sets_of_prompts_and_their_padding(tmp_path):
    prompts = icl.Prompts.from_tokens(
        [[5, 6, 7, 5], [8, 9, 7, 8]], [SPANS, SPANS], targets=[[6], [9]]
    )
    pad = torch.nn.functional.pad
    names = ("tokens", "attention_mask", "segments", "parts", "shots", "words")
    padded = replace(prompts, **{name: pad(getattr(prompts, name), (1, 0)) for name in names})
    assert naming.name_items(padded) == naming.name_items(prompts)
    model, count = tiny.boot("llama"), iter(range(9))

    def compute():
        return {"found": torch.tensor(next(count))}

    with using(tmp_path):
        for number, some in enumerate(([prompts], [padded], [prompts[:1], prompts[1:]])):
            for _ in range(2):
                found = kept.keep_tables(model, some, {"measured": "x"}, compute)
                assert int(found["found"]) == number


@contextmanager
def torch_hook(model):
    handle = model.original_model.lm_head.register_forward_hook(lambda module, args, out: 2 * out)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def own_forward(model):
    norm = model.original_model.model.norm.original_component
    norm.forward = partial(lambda forward, states: 2 * forward(states), norm.forward)
    try:
        yield
    finally:
        del norm.forward


@contextmanager
def autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        yield


@pytest.mark.parametrize("act", [torch_hook, own_forward, autocast])
def test_what_no_name_tells_is_refused(tmp_path, act):
    model = tiny.boot("llama")
    with act(model), pytest.raises(ModelError, match="names of its answers do not tell"):
        icl.sweep(model, TASK, store=tmp_path, engine="hooks", **OPTIONS)
    icl.sweep(model, TASK, store=tmp_path, engine="hooks", **OPTIONS)


def test_a_worker_with_another_config_or_tokenizer_is_refused():
    model, other = tiny.boot("llama"), llama(rms_norm_eps=0.1)
    assert ModelLoader.of(model, lambda: llama())() is not None
    with pytest.raises(ModelError, match="^it differs in config from the one"):
        ModelLoader.of(model, lambda: other)()
    other = tiny.boot_fresh("llama")
    other.original_model.generation_config.eos_token_id = 9
    with pytest.raises(ModelError, match="^it differs in tokenizer from"):
        ModelLoader.of(model, lambda: other)()


def test_the_answers_of_adapters_go_by_config_and_ends_too(tmp_path):
    place = tiny.save(tiny.build("llama"), tmp_path / "model")
    base, tokenizer = load_base(place, "cpu", "float32", None)
    setting = studies.Setting.of(TASK, n_queries=2, n_shots=1)
    config = replace(icl.lora.PRESETS["sia2024"], n_train=2, n_dev=1)
    teacher, found = Teacher(setting, config, base, tokenizer), []
    with using(tmp_path / "store"):
        for holder, name in ((base.generation_config, "eos_token_id"), (base.config, "head_dim")):
            found.append(teacher.slot({}).entry.path)
            setattr(holder, name, 9)
        found.append(teacher.slot({}).entry.path)
    assert len(set(found)) == 3


def test_the_training_of_gates_goes_by_the_config_too(tmp_path):
    def train(model, store):
        config = icl.gates.GateConfig(max_epochs=1)
        return icl.gates.train_gates(
            model, TASK, config, n_train=2, n_dev=2, n_curve=0, n_queries=2, n_shots=1,
            metric="log_prob", store=store,
        ).alpha  # fmt: skip

    plain, other = (train(model, tmp_path) for model in (tiny.boot("llama"), llama(rms_norm_eps=9)))
    assert other.equal(train(llama(rms_norm_eps=9), None)) and not other.equal(plain)


SCRIPT = """
import icl_locate as icl
from icl_locate.studies import naming
from icl_locate.studies.recipe import describe_value
WORDS = {"of", "what", "use"}
rule = lambda positions, n: [w in {"here", "there", "where", "nowhere"} for w in WORDS]
print(naming.name_cells([
    icl.EdgeMask(rule),
    icl.ContextMask({"examples", "query"}, {3, 1}) | icl.HeadAblation({(0, 1), (1, 0)}),
]))
"""


def test_no_order_of_sets_is_part_of_a_name():
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(said) == 1
