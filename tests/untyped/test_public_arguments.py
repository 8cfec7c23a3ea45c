"""Whatever the arguments of a public call: a result, or an error that names the argument."""

import importlib
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from public_calls import calls

import icl_locate as icl
from icl_locate.errors import IclLocateError

CALLS = calls()
MODULES = (
    "agreement", "checkpoints", "circuit", "context_heads", "formation", "gates", "induction",
    "lora",
    "metrics", "models", "plots", "prompts", "report", "sandbox", "savings", "studies", "tasks",
    "vectors",
)  # fmt: skip

MADE_BY_THE_PACKAGE = {
    "Ablated", "AblationResult", "Agreement", "Arm", "ArmCurve", "Asked", "Comparison",
    "Difference", "Disconnections", "Expected", "ForerunnerSimilarity", "FormationModel",
    "FormationRun", "FormationStudy", "FunctionVector", "GatesResult", "HeadEffects",
    "HeadIndirectEffects", "HeadMeasure", "HeadReference", "HeadScores", "HeadSetCurve",
    "HeadSweepResult", "InContextVectors", "LayerClamp", "LayerCurve", "LayerImportance",
    "LayerMeasure", "LayerScores", "Location", "LoraResult", "Measured", "MeasuredSavings",
    "Measurement", "Method", "MethodCurve", "MethodDifference", "ModelCosts", "OverCheckpoints",
    "Override", "Patched", "Peak", "PerplexityAlignment", "Positions", "Prompts",
    "QueryKeyView", "RunDifference", "SandboxResult", "Savings", "Setting", "Site", "Spread",
    "StrengthScores", "SweepResult", "TaskVectors", "TokenTypes", "Values", "Witness",
}  # fmt: skip
NO_CALLS = {
    "Clamp", "GeneratedText", "Intervention", "Metric", "Part", "Readout", "Segment", "Statistics",
    "TargetLogProb", "TextScore",
}  # fmt: skip
BETWEEN_MODULES = {
    "Agreement.of", "MethodDifference.of", "Witness.of",
    "check_statistics", "check_task", "for_task", "gives_text", "is_calibrated", "is_mean",
    "judged", "readout_of", "require_answers",
    "CopyClamp.on_logits", "FormationModel.answers", "FormationModel.embeddings",
    "FormationModel.fill", "FormationModel.forward", "FormationModel.of", "FormationModel.run",
    "FormationStudy.of", "LayerClamp.on_streams", "PatternClamp.on_pattern",
    "ValueAblation.on_value",
    "RayExecutor.run", "Setting.first_shots", "Setting.run_all",
    "Positions.behind", "Positions.of", "Positions.take", "TokenTypes.mask",
    "Spread.covariance", "Spread.covariance_of", "Spread.noise", "Spread.of", "Spread.of_means",
}  # fmt: skip
BY_OTHER_TESTS = {"save", "load"}  # of results: their files have tests of their own

OTHER_NAMES = {
    "config": "n_train", "effects": "task", "examples": "task", "n_shots": "EXAMPLES",
    "path": "the data set",
}  # fmt: skip
"""What a message may say in an argument's place: a field of it, or what it stands for."""


class Empty:
    """A class, and an instance of it, that no argument takes."""


NEVER_RIGHT = (Empty(), b"x", 1j, [[1, [2]]])
WRONG = st.sampled_from(
    [
        *NEVER_RIGHT, None, True, False, 0, -1, 1.5, float("nan"), float("inf"), "3", "", "x", [],
        {}, object(), torch.zeros(2, 2), torch.tensor(1), np.int64(1), np.float32(0.5), 10**30,
        -(10**30), "\ud800", "a\0b", {1}, {"a": 1}, ["x"], [None], [1, 1], np.array([1.5]),
    ]
)  # fmt: skip
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner),
    max_leaves=4,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Whatever a call writes to a relative path is written to a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")


def parameters_of(call) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(call.function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD and not parameter.name.startswith("_")
    ]


def outcome(call, changed) -> str:
    """What an error of ours says; nothing if there was a result."""
    try:
        call(**changed)
    except IclLocateError as error:
        return str(error)
    return ""


def names(message: str, parameter: str) -> bool:
    """Whether a message names an argument: as it is called, or one of several."""
    known = parameter, parameter.removesuffix("s"), OTHER_NAMES.get(parameter, parameter)
    return any(name in message for name in known)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_result_or_an_error_that_names_the_argument(name):
    call = CALLS[name]
    parameters = parameters_of(call)

    @settings(max_examples=max(3, int(call.cost * 6 * len(parameters))))
    @given(st.dictionaries(st.sampled_from(parameters), WRONG | NESTED, min_size=1, max_size=2))
    def law(changed):
        message = outcome(call, changed)
        assert not message or any(names(message, parameter) for parameter in changed), message

    law()


@pytest.mark.parametrize("name", CALLS)
def test_what_no_argument_takes_is_refused(name):
    for parameter in parameters_of(CALLS[name]):
        for value in NEVER_RIGHT:
            with pytest.raises(IclLocateError) as caught:
                CALLS[name](**{parameter: value})
            assert names(str(caught.value), parameter), str(caught.value)


def test_the_table_holds_every_public_call():
    public = {name: getattr(icl, name) for name in icl.__all__}
    for module in map(importlib.import_module, [f"icl_locate.{name}" for name in MODULES]):
        public |= {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    wanted = set()
    for name, thing in public.items():
        if inspect.ismodule(thing) or not callable(thing) or name in NO_CALLS | BETWEEN_MODULES:
            continue
        if name not in MADE_BY_THE_PACKAGE:
            wanted.add(name)
        if inspect.isclass(thing):
            wanted |= {f"{name}.{method}" for method in methods_of(thing)} - BETWEEN_MODULES
    there = {key.partition(".")[2] if key.split(".")[0] in MODULES else key for key in CALLS}
    assert not wanted - there


def methods_of(kind: type) -> set[str]:
    """The public methods of a class that take arguments."""
    return {
        name
        for name in vars(kind)
        if (not name.startswith("_") or name == "__getitem__")
        and name not in BY_OTHER_TESTS
        and callable(getattr(kind, name))
        and set(inspect.signature(getattr(kind, name)).parameters) - {"self"}
    }
