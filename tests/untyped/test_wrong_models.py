"""What is no bridge, given in a model's place: every function says how to make one of it."""

import pytest
import tiny

import icl_locate as icl
from icl_locate import gates, induction, savings
from icl_locate.context_heads import HeadStudy
from icl_locate.engine.choice import choose_engine
from icl_locate.errors import ModelError, TaskError
from icl_locate.hooks import ablate_heads, find_route, replace_inputs, scale_heads, watch_attention
from icl_locate.induction.random_tokens import random_tokens
from icl_locate.induction.reference import head_reference


class HookedTransformer:
    """What TransformerLens's old models look like."""

    def run_with_hooks(self): ...


FUNCTIONS = {
    "sweep": lambda m: icl.sweep(m, None),
    "sweep_shots": lambda m: icl.sweep_shots(m, None),
    "mask_attention": lambda m: icl.mask_attention(m, None, None).__enter__(),
    "attention_hooks": lambda m: icl.attention_hooks(m, None, None),
    "intervene": lambda m: icl.intervene(m, None, None).__enter__(),
    "score_targets": lambda m: icl.score_targets(m, None),
    "score_labels": lambda m: icl.score_labels(m, None, None),
    "generate": lambda m: icl.generate(m, None),
    "drop_context": lambda m: icl.drop_context(m, None, 0).__enter__(),
    "find_route": find_route,
    "choose_engine": lambda m: choose_engine(m, "hooks"),
    "ablate_heads": lambda m: ablate_heads(m, None).__enter__(),
    "watch_attention": lambda m: watch_attention(m, "hook_z", print).__enter__(),
    "replace_inputs": lambda m: replace_inputs(m, {}).__enter__(),
    "scale_heads": lambda m: scale_heads(m, None).__enter__(),
    "head_reference": head_reference,
    "random_tokens": lambda m: random_tokens(m, 1, 2),
    "head_scores": induction.head_scores,
    "prefix_matching_scores": induction.prefix_matching_scores,
    "previous_token_scores": induction.previous_token_scores,
    "copying_scores": induction.copying_scores,
    "head_effects": lambda m: induction.head_effects(m, None),
    "repeated_prompts": induction.repeated_prompts,
    "ablation_study": lambda m: induction.ablation_study(m, None),
    "train_gates": lambda m: gates.train_gates(m, None),
    "measure_savings": lambda m: savings.measure_savings(m, None),
    "HeadStudy": lambda m: HeadStudy(m, None),
}


@pytest.fixture(scope="module")
def hugging_face():
    return tiny.build("llama")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_how_to_make_a_bridge(name, hugging_face):
    wrong = {
        "boot_transformers": hugging_face,
        r"load_model\('gpt2'\)": "gpt2",
        r"load_model\(\)": None,
        "since version 4": HookedTransformer(),
        "a list": [1, 2],
    }
    if name in ("sweep", "sweep_shots"):  # these load a model by its name
        del wrong[r"load_model\('gpt2'\)"]
    for hint, model in wrong.items():
        with pytest.raises(ModelError, match=f"^model is .*{hint}") as caught:
            FUNCTIONS[name](model)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("task", [None, 3, ["mine.jsonl"]])
def test_sweeps_say_what_a_task_is(task):
    for function in (icl.sweep, icl.sweep_shots):
        with pytest.raises(TaskError, match="^task is .*: expected a Task, or a name or file"):
            function("gpt2", task)


@pytest.fixture(scope="module")
def left_by_a_trainer():
    """A bridge whose own flag says nothing: a part of the model inside is in training mode."""
    model = tiny.boot_fresh("gpt2")
    model.blocks[1].mlp.train()
    assert not model.training and not model.original_model.training
    return model


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_refuses_a_part_in_training_mode(name, left_by_a_trainer):
    with pytest.raises(ModelError, match=r"training mode.*call model\.eval\(\) first"):
        FUNCTIONS[name](left_by_a_trainer)


def test_load_model_takes_names_and_bridges_alone(hugging_face):
    for model in (hugging_face, HookedTransformer(), 7):
        with pytest.raises(ModelError, match="^model is a"):
            icl.load_model(model)


@pytest.mark.parametrize("model", ["gpt2", None, 7])
def test_prompts_need_a_model_with_a_tokenizer(model):
    with pytest.raises(ModelError, match="^model is .*load_model"):
        icl.build_prompts(model, [icl.Example("a", "b")])


def test_prompts_of_a_hugging_face_model(hugging_face):
    with pytest.raises(ModelError, match="^model is a LlamaForCausalLM.*load_model"):
        icl.build_prompts(hugging_face, [icl.Example("a", "b")])


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        (3, "device_map is 3: expected one of 'auto', 'balanced'"),
        ({3: "cpu"}, "device_map has the key 3: expected one of 'auto'"),
        ({"": None}, "device_map has None for '': expected one of 'auto'"),
        ({"": 1.0}, "device_map has 1.0 for '': expected one of 'auto'"),
    ],
)
def test_a_device_map_of_other_types(device_map, message):
    with pytest.raises(ModelError) as caught:
        icl.load_model(device_map=device_map)
    assert str(caught.value).startswith(message)
