"""Tasks: the embedded ones, and JSONL files."""

import csv
import io
import json

import pytest

import icl_locate as icl
from icl_locate.embedded.languages import (
    LANGUAGES,
    MAX_WORDS,
    MIN_WORDS,
    ORDERS,
    PSEUDO_LANGUAGES,
    SOURCE_WORDS,
    STATEMENTS,
    arrange,
    is_held_out,
)
from icl_locate.errors import TaskError
from icl_locate.tasks.classification import LABEL_TEMPLATE


def test_pseudo_languages_share_lexicons_and_orders():
    assert len({language.name for language in LANGUAGES}) == len(LANGUAGES) == 17
    half = len(SOURCE_WORDS) // 2
    for words in (SOURCE_WORDS[:half], SOURCE_WORDS[half:]):
        orders = {}
        for language in PSEUDO_LANGUAGES:
            orders.setdefault(tuple(language.lexicon[w] for w in words), set()).add(language.order)
        assert len(orders) == 4 and all(found == set(ORDERS) for found in orders.values()), (
            "one half of a lexicon must not tell the word order"
        )


@pytest.mark.parametrize("order", ORDERS)
def test_orders_are_permutations(order):
    for n in range(1, MAX_WORDS + 1):
        assert sorted(arrange(n, order)) == list(range(n))
    with pytest.raises(ValueError, match="unknown word order"):
        arrange(3, "random")


def test_translation_word_by_word():
    language = PSEUDO_LANGUAGES[1]
    words = ["sort", "reverse", "zero"]
    expected = [language.lexicon[words[i]] for i in arrange(3, language.order)]
    assert language.translate(words) == expected


def test_python_targets_are_executable():
    """Every statement does to a list what its name says."""
    expected = {
        "reverse": [2, -1, 3], "sort": [-1, 2, 3], "descend": [3, 2, -1], "unique": [-1, 2, 3],
        "repeat": [3, -1, 2, 3, -1, 2], "triple": [3, -1, 2] * 3, "mirror": [3, -1, 2, 2, -1, 3],
        "rotate": [-1, 2, 3], "unrotate": [2, 3, -1], "behead": [-1, 2], "curtail": [3, -1],
        "thin": [3, 2], "negate": [-3, 1, -2], "absolute": [3, 1, 2], "invert": [-4, 0, -3],
        "square": [9, 1, 4], "double": [6, -2, 4], "count": [3, -1, 2, 3], "total": [3, -1, 2, 4],
        "zero": [0, 3, -1, 2], "one": [3, -1, 2, 1], "largest": [3, 3, -1, 2],
        "smallest": [3, -1, 2, -1], "halve": [3, -1],
    }  # fmt: skip
    for word, statement in STATEMENTS.items():
        for start in ([3, -1, 2], []):
            names = {"x": list(start)}
            exec(statement, names)  # noqa: S102 - the project's own statements
            assert isinstance(names["x"], list)
            if start:
                assert names["x"] == expected[word], word


def test_embedded_tasks_hold_disjoint_sentences():
    for name in ("pseudo-translation", "pseudo-python", "pseudo-translation/Python"):
        task = icl.load_task(name)
        train, test = ({e.source for e in split} for split in (task.train, task.test))
        assert len(train) == len(test) == 512 and not train & test
        for split, held_out in ((train, False), (test, True)):
            for source in split:
                words = source.split()
                assert MIN_WORDS <= len(words) <= MAX_WORDS and is_held_out(words) == held_out
    language = PSEUDO_LANGUAGES[3]
    task = icl.load_task(f"pseudo-translation/{language.name}")
    assert language.name in task.template.instruction
    example = task.test[0]
    assert example.target == " ".join(language.translate(example.source.split()))


def write(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_jsonl_with_and_without_splits(tmp_path):
    lines = [json.dumps({"source": f"s{i}", "target": "é\u2028b"}) for i in range(3)]
    task = icl.load_task(write(tmp_path / "mine.jsonl", [*lines, ""]))
    assert task.name == "mine" and task.train == task.test and len(task.test) == 3
    assert task.test[0].target == "é\u2028b" and task.metric == "exact_match"
    lines = [
        json.dumps({"source": "a", "target": "b", "split": "train"}),
        json.dumps({"source": "c", "target": "d", "split": "test"}),
    ]
    template = icl.PromptTemplate("Do:")
    task = icl.load_task(
        str(write(tmp_path / "two.jsonl", lines)), template=template, metric="bleu"
    )
    assert task.train == (icl.Example("a", "b"),) and task.test == (icl.Example("c", "d"),)
    assert task.template is template and task.metric == "bleu"
    assert icl.load_task(task) is task


def write_as(path, records):
    """The same records as CSV or JSON lines, whichever the name says."""
    if path.suffix == ".jsonl":
        return write(path, [json.dumps(record, ensure_ascii=False) for record in records])
    text = io.StringIO()
    rows = csv.DictWriter(text, records[0])
    rows.writeheader()
    rows.writerows(records)
    return write(path, [text.getvalue()])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("columns", [("source", "target"), ("text", "label")])
def test_csv_and_jsonl_take_the_same_columns(tmp_path, columns, split):
    records = [
        dict(zip(columns, pair, strict=True)) | ({"split": part} if split else {})
        for pair, part in (
            (('good, "very"', "é"), "train"),
            (("bad", "2"), "test"),
            (("a\nb", "c"), "test"),
        )
    ]
    tasks = [
        icl.load_task(write_as(tmp_path / f"mine{end}", records)) for end in (".csv", ".jsonl")
    ]
    assert tasks[0] == tasks[1]
    assert len(tasks[0].train) == (1 if split else 3) and len(tasks[0].test) == (2 if split else 3)
    assert tasks[0].train[0] == icl.Example('good, "very"', "é")
    assert (tasks[0].template == LABEL_TEMPLATE) == (columns == ("text", "label"))


def test_labels_may_be_numbered_and_columns_are_named(tmp_path):
    task = icl.load_task(write(tmp_path / "a.jsonl", ['{"text": "fine", "label": 1}']))
    assert task.test == (icl.Example("fine", "1"),)
    for name, text in (
        ("a.jsonl", '{"review": "fine", "stars": 1}'),
        ("a.csv", "review,stars\nx,1"),
    ):
        with pytest.raises(
            TaskError, match=r"line \d holds 'review', 'stars': expected \"source\""
        ):
            icl.load_task(write(tmp_path / name, [text]))
    with pytest.raises(TaskError, match="a.csv, line 3: \"label\" is '': expected text"):
        icl.load_task(write(tmp_path / "a.csv", ["text,label", "x,1", "y,"]))
    with pytest.raises(TaskError, match="a.csv, line 2: \"split\" is 'dev'"):
        icl.load_task(write(tmp_path / "a.csv", ["text,label,split", "x,1,dev"]))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (("source", "target"), "Q: a\nA: b\n\nQ: c\nA:"),
        (("text", "label"), "Input: a\nLabel: b\n\nInput: c\nLabel:"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_the_layout_of_a_task_of_ones_own(tmp_path, columns, text, suffix):
    """The space before an answer is the answer's, as GPT-2's and Llama's tokenizers have it."""
    rows = [("a", "b"), ("c", "d")]
    lines = [",".join(columns), *map(",".join, rows)]
    if suffix == "jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    task = icl.load_task(write(tmp_path / f"mine.{suffix}", lines))
    spans = task.template.render(task.train[:1], "c")
    assert "".join(span.text for span in spans) == text
    assert task.template.answer("d") == " d" and "\n\n" in task.template.stops
    assert task.template.instruction is None


def test_the_embedded_tasks_keep_the_layout_that_their_model_was_trained_on():
    spans = icl.load_task("pseudo-translation").template.render([icl.Example("a", "b")], "c")
    assert "".join(span.text for span in spans).endswith(":\nQ:aA:b\nQ:cA:")


GOOD = '{"source": "a", "target": "b"}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], "line 2 is not JSON"),
        ([GOOD, "", "[1]"], "line 3 is a list: expected an object"),
        (['{"source": "a"}'], 'line 1: "target" is None: expected text'),
        (['{"source": " ", "target": "b"}'], "line 1: \"source\" is ' '"),
        (['{"source": 3, "target": "b"}'], 'line 1: "source" is 3'),
        (['{"source": "a", "target": "b", "split": "dev"}'], "line 1: \"split\" is 'dev'"),
        ([GOOD, '{"source": "a", "target": "b", "split": "test"}'], "to all or none"),
        (['{"source": "a", "target": "b", "split": "test"}'], 'no line with "split": "train"'),
        ([""], "holds no records"),
    ],
)
def test_malformed_files_name_their_line(tmp_path, lines, message):
    with pytest.raises(TaskError, match=message):
        icl.load_task(write(tmp_path / "bad.jsonl", lines))


def test_unknown_tasks(tmp_path):
    with pytest.raises(TaskError, match="unknown task 'translation': expected pseudo-translation"):
        icl.load_task("translation")
    with pytest.raises(TaskError, match="there is no task file"):
        icl.load_task(tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match="unknown pseudo-language 'Elvish'"):
        icl.load_task("pseudo-translation/Elvish")
    with pytest.raises(TaskError, match="brings its own template"):
        icl.load_task("pseudo-python", metric="bleu")
    (tmp_path / "latin.jsonl").write_bytes('{"source": "é"}'.encode("latin-1"))
    with pytest.raises(TaskError, match="is not UTF-8"):
        icl.load_task(tmp_path / "latin.jsonl")
