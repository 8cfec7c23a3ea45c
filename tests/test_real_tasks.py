"""Tasks in the published formats: files written here, and the real ones where they are."""

import gzip
import json
from pathlib import Path

import datasets
import pytest

import icl_locate as icl
from icl_locate.errors import TaskError
from icl_locate.metrics import PassRate
from icl_locate.tasks import classification_task, flores_task, human_eval_task, parallel_task
from icl_locate.tasks import files as task_files
from icl_locate.tasks.translation import translation_template

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published test data are not here")


def write_flores(folder, codes=("eng", "fra"), n_dev=210, n_test=3):
    for split, n in (("dev", n_dev), ("devtest", n_test)):
        (folder / split).mkdir(parents=True)
        for code in codes:
            lines = "".join(f"{code} {split} {i}\n" for i in range(n))
            (folder / split / f"{code}.{split}").write_text(lines, encoding="utf-8")
    return folder


@pytest.mark.parametrize("codes", [("eng", "fra"), ("eng_Latn", "fra_Latn")])
def test_flores_in_both_layouts(tmp_path, codes):
    task = flores_task("en-fr", write_flores(tmp_path, codes))
    assert len(task.train) == 200 and len(task.test) == 3
    assert task.train[0] == icl.Example(f"{codes[0]} dev 10", f"{codes[1]} dev 10")
    assert task.test[2] == icl.Example(f"{codes[0]} devtest 2", f"{codes[1]} devtest 2")
    assert task.template.instruction == "Translate English to French:" and task.metric == "bleu"
    assert icl.load_task("flores/en-fr", data=tmp_path) == task


def test_flores_from_datasets(tmp_path, monkeypatch):
    """FLORES+ has a configuration for each language; rows come in any order."""
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        rows = [{"id": i, "text": f"{config} {split} {i}"} for i in (2, 0, 1)]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = flores_task("en-zh")
    assert ("openlanguagedata/flores_plus", "zho_Hans", "devtest") in asked
    assert task.test[1] == icl.Example("eng_Latn devtest 1", "zho_Hans devtest 1")
    assert task.metric == "bleu:zh" and "Chinese" in task.template.instruction


def test_a_missing_download_says_how_to_get_it(monkeypatch):
    def load(*arguments, **options):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(TaskError, match="ConnectionError: offline.*logged in.*give its directory"):
        flores_task("en-fr")


@pytest.mark.parametrize("direction", ["en", "en-en", "en-tlh", "english-french", ""])
def test_unknown_directions(direction, tmp_path):
    with pytest.raises(TaskError, match="the direction is .* such as 'en-fr'"):
        flores_task(direction, tmp_path)


def test_parallel_files(tmp_path):
    paths = [tmp_path / name for name in ("a.en", "a.fr")]
    paths[0].write_bytes("one\r\ntwo\u2028too\r\n".encode())
    paths[1].write_bytes("\ufeffun\ndeux".encode())
    task = parallel_task(tuple(paths), tuple(map(str, paths)), metric="chrf")
    assert task.test == (icl.Example("one", "un"), icl.Example("two\u2028too", "deux"))
    paths[1].write_text("un\n")
    with pytest.raises(TaskError, match="has 2 lines, but .*a.fr has 1"):
        parallel_task(tuple(paths), tuple(paths))
    paths[1].write_text("un\n \n")
    with pytest.raises(TaskError, match="line 2 is empty"):
        parallel_task(tuple(paths), tuple(paths))
    paths[1].write_bytes("deux é".encode("latin-1"))
    with pytest.raises(TaskError, match="a.fr is not UTF-8"):
        parallel_task(tuple(paths), tuple(paths))
    with pytest.raises(TaskError, match="there is no file .*none"):
        parallel_task((tmp_path / "none", paths[1]), tuple(paths))
    with pytest.raises(TaskError, match="neither .*dev/eng_Latn.dev nor .*dev/eng.dev"):
        flores_task("en-fr", tmp_path)


def test_the_papers_prompt():
    """Header, then each example on a line that ends in a space, then the query."""
    template = translation_template("English", "French")
    shots = [icl.Example("a", "b"), icl.Example("c", "d")]
    text = "".join(span.text for span in template.render(shots, "e"))
    assert text == "Translate English to French:\nQ:aA:b \nQ:cA:d \nQ:eA:"
    assert template.stops == ("Q:",)


def test_the_papers_prompts_without_instruction(tmp_path):
    """Both end in an answer's delimiter on a line of its own."""
    flores = flores_task("en-fr", write_flores(tmp_path))
    write_code(tmp_path)
    code = human_eval_task(tmp_path)
    shots = [icl.Example("a", "b"), icl.Example("c", "d")]
    for task in (flores, code):
        template = task.template_for(instruction=False)
        text = "".join(span.text for span in template.render(shots, "e"))
        assert text == "Q:a\nA:b \nQ:c\nA:d \nQ:e\nA:"
        assert template.stops == ("Q:",)
    own = icl.PromptTemplate("Do:", separator="; ")
    task = icl.load_task("flores/en-fr", data=tmp_path, template=own)
    assert task.template_for(instruction=False) == own.without_instruction()


PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\ndef helper(x):\n    return x\n\n\n"
    'def area(r: float) -> float:\n    """ Area of a\n    circle. """\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * helper(r) ** 2\n",
    "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159) < 1e-4\n",
}
MBPP = {
    "task_id": 801,
    "text": "Write a function to add.",
    "code": "def add(a,b):\r\n\treturn a + b",
    "test_list": ["assert add(1, 2) == 3"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


def write_code(folder, problem=PROBLEM, bank=MBPP, *, packed=False):
    text = json.dumps(problem) + "\n"
    if packed:
        (folder / "HumanEval.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "HumanEval.jsonl").write_text(text, encoding="utf-8")
    (folder / "mbpp.jsonl").write_text(json.dumps(bank), encoding="utf-8")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_human_eval_and_mbpp(tmp_path, packed):
    task = icl.load_task("humaneval", data=write_code(tmp_path, packed=packed))
    assert task.metric == "pass@1" and len(task.test) == len(task.train) == 1
    assert task.test[0].source == PROBLEM["prompt"].strip()
    assert task.train[0].source == "Write a function to add.\ndef add(a, b):"
    assert task.train[0].target == "def add(a,b):\n\treturn a + b"
    bare = human_eval_task(tmp_path, signature=False)
    assert bare.test[0].source == "Area of a circle."
    assert bare.train[0].source == "Write a function to add."


GOOD_ANSWERS = {
    "whole function": "def area(r):\n    return math.pi * r * r",
    "body": "    return math.pi * r * r",
    "body without its first indent": "return math.pi * r * r",
    "body of two lines": "x = math.pi\n    return x * r * r",
    "body at the margin": "if r > 0:\n    return math.pi * r * r",
    "body that lost its indent": "for _ in range(2):\n        r = r\n    return math.pi * r * r",
    "helper used": "def area(r):\n    return math.pi * helper(r) ** 2",
    "text after a complete function": "def area(r):\n    return math.pi * r * r\n\nprint(area(2))",
}
BAD_ANSWERS = {
    "wrong": "def area(r):\n    return r",
    "empty": "",
    "another name": "def circle(r):\n    return math.pi * r * r",
    "prose": "The area is pi r squared.",
    "exit": "    import os\n    os._exit(0)",
}


def test_canonical_solutions_score_1_and_broken_ones_0(tmp_path):
    task = human_eval_task(write_code(tmp_path))
    metric = PassRate().bound_to(task.test)
    target = task.test[0].target
    for answers, expected in ((GOOD_ANSWERS, 1.0), (BAD_ANSWERS, 0.0)):
        for name, answer in answers.items():
            assert metric.statistics([answer], [target])[0, 0] == expected, name
    assert metric.statistics([target], [target])[0, 0] == 1.0
    bank = PassRate().bound_to(task.train)
    assert bank.statistics([task.train[0].target], [task.train[0].target])[0, 0] == 1.0


@pytest.mark.parametrize("field", ["prompt", "entry_point", "test", "canonical_solution"])
def test_a_line_without_a_field_is_named(tmp_path, field):
    problem = {key: value for key, value in PROBLEM.items() if key != field}
    with pytest.raises(TaskError, match=f"HumanEval.jsonl, line 1 has no '{field}'"):
        human_eval_task(write_code(tmp_path, problem))


def test_missing_code_files(tmp_path):
    with pytest.raises(TaskError, match="there is no HumanEval.jsonl"):
        human_eval_task(tmp_path)
    (tmp_path / "HumanEval.jsonl").write_text("[1]\n")
    with pytest.raises(TaskError, match="line 1 is a list"):
        human_eval_task(tmp_path)
    (tmp_path / "HumanEval.jsonl").write_text("{\n")
    with pytest.raises(TaskError, match="line 1 is not JSON"):
        human_eval_task(tmp_path)
    (tmp_path / "HumanEval.jsonl").unlink()
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(TaskError, match="cannot be read"):
        human_eval_task(tmp_path)


def test_empty_files_and_missing_paths_are_refused(tmp_path):
    for name in ("a.txt", "a.csv", "HumanEval.jsonl", "mbpp.jsonl"):
        (tmp_path / name).write_text("", encoding="utf-8")
    pair = (tmp_path / "a.txt", tmp_path / "a.txt")
    with pytest.raises(TaskError, match="there are no lines"):
        parallel_task(pair, pair)
    (tmp_path / "header.csv").write_text("text,label\n", encoding="utf-8")
    for name in ("a.csv", "header.csv"):
        with pytest.raises(TaskError, match=f"{name} holds no records"):
            classification_task(tmp_path / name)
    with pytest.raises(TaskError, match="HumanEval.jsonl holds no records"):
        human_eval_task(tmp_path)
    with pytest.raises(TaskError, match="there is no file or directory .*nowhere"):
        human_eval_task(tmp_path / "nowhere")
    write_code(tmp_path, bank=MBPP | {"task_id": 5})
    with pytest.raises(TaskError, match="no problem with a task_id from 801 to 974"):
        human_eval_task(tmp_path)


def test_classification(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"good, very",1\nbad,0\n', encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"sentence": "fine", "y": 1}\n', encoding="utf-8")
    names = {0: "negative", "1": "positive"}
    with pytest.raises(TaskError, match="label '0' has no name"):
        classification_task(tmp_path / "a.csv", names={"1": "positive"})
    task = classification_task(tmp_path / "a.csv", names={"0": "negative", "1": "positive"})
    assert task.test == task.train
    assert task.test[0] == icl.Example("good, very", "positive")
    task = classification_task(tmp_path / "a.jsonl", text="sentence", label="y", names=names)
    assert task.test == (icl.Example("fine", "positive"),)
    with pytest.raises(TaskError, match=r"line 1 has no 'text': it holds 'sentence', 'y'"):
        classification_task(tmp_path / "a.jsonl")
    assert icl.load_task(tmp_path / "a.csv").test[1] == icl.Example("bad", "0")
    saved = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list([{"text": f"{split} text", "label": 1}])
            for split in ("train", "test")
        }
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    task = classification_task(str(tmp_path / "saved"), names={1: "yes"})
    assert task.train == (icl.Example("train text", "yes"),)
    assert task.test == (icl.Example("test text", "yes"),)


def test_a_local_directory_of_json_files_loads_with_datasets(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "x"}\n', encoding="utf-8")
    (tmp_path / "test.jsonl").write_text('{"text": "b", "label": "y"}\n', encoding="utf-8")
    rows = task_files.read_dataset(str(tmp_path), "test", ["text", "label"])
    assert rows == [{"text": "b", "label": "y"}]
    with pytest.raises(TaskError, match="row 0 has no 'label_text'"):
        task_files.read_dataset(str(tmp_path), "test", ["label_text"])


def test_pseudo_python_is_scored_by_running_it():
    task = icl.load_task("pseudo-python")
    metric = PassRate().bound_to(task.test)
    right, other = task.test[0].target, task.test[1].target
    assert metric.statistics([right, other, "x=[", ""], [right] * 4)[:, 0].tolist() == [1, 0, 0, 0]
    renamed = right.replace("x=", "x = ")
    assert metric.statistics([renamed], [right])[0, 0] == 1.0, "what counts is what it does"


@needs_data
def test_the_published_files():
    flores = flores_task("en-pt", DATA / "flores200")
    assert len(flores.train) == 200 and len(flores.test) == 1012
    assert flores.test[0].source.startswith('"We now have 4-month-old mice')
    code = icl.load_task("humaneval", data=DATA)
    assert len(code.test) == 164 and len(code.train) == 174
    named = [bool(example.check.entry_point) for example in (*code.train, *code.test)]
    assert sum(named) > 0.98 * len(named), "a few problems of MBPP ask for a class"
    metric = PassRate().bound_to(code.train)
    some = code.train[::20]
    targets = [example.target for example in some]
    assert metric.statistics(targets, targets)[:, 0].all()
