"""The page and the command of several methods: what they write is what was found."""

import html
import json

import pandas as pd
import planted_circuit as planted
import saved_kinds

from icl_locate.agreement import Agreement
from icl_locate.cli import main
from icl_locate.report.agreement import write_agreement_report


def test_the_page_holds_the_summary_and_both_tables(tmp_path):
    agreed = saved_kinds.VALUES["agreement"]
    page = write_agreement_report(tmp_path / "page.html", agreed).read_text("utf-8")
    assert html.escape(agreed.summary) in page
    for one in agreed.witnesses:
        assert f'<th scope="row">{one.method}</th><td>{html.escape(one.label)}</td>' in page
    for one in agreed.differences:
        assert f'<th scope="row">{one.methods[0]}</th><td>{one.methods[1]}</td>' in page
        assert f"<td>{one.verdict}</td><td>{one.paired}</td>" in page


def test_the_command_runs_the_methods_on_a_file_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"text": e.source, "label": e.target, "split": split})
        for split in ("train", "test")
        for e in getattr(planted.TASK, split)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr("icl_locate.tasks.loading.LABEL_TEMPLATE", planted.TASK.template)
    monkeypatch.setattr("icl_locate.load_model", lambda *args, **options: planted.boot())
    monkeypatch.setattr("icl_locate.cli.triangulate.write_pngs", lambda *args: "not here")
    command = "triangulate mine.jsonl --n-shots 4 --n-queries 8 --seeds 0 --metric label_accuracy"
    methods = ["masking", "disconnections", "probe"]
    arguments = [*command.split(), "--output", "out", "--quiet", "--methods", *methods]
    assert main(arguments) == 0
    agreed = Agreement.load(tmp_path / "out" / "agreement.safetensors")
    assert agreed.summary in capsys.readouterr().out
    assert agreed.methods == tuple(methods)
    assert [one.layer for one in agreed.witnesses] == [
        planted.RETRIEVE_LAYER + 1, planted.RETRIEVE_LAYER + 1, planted.SUMMARY_LAYER + 1,
    ]  # fmt: skip
    assert agreed.provenance["settings"]["methods"] == methods
    table = pd.read_csv(tmp_path / "out" / "agreement.csv")
    assert table["layer"].tolist() == [one.layer for one in agreed.witnesses]
    between = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert between["verdict"].tolist() == [one.verdict for one in agreed.differences]
    assert main([*arguments, "--n-heads", "3"]) == 2
    assert "--n-heads is for function_vector, which does not run" in capsys.readouterr().err
    assert main([*arguments, "--preset", "sia2024"]) == 2
    assert "--preset is for lora, which does not run" in capsys.readouterr().err
    assert main([*arguments, "--n-queries", "6"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--methods", "probe", "probe"]) == 2
    assert "--methods is probe probe: expected each method once" in capsys.readouterr().err
