"""Figures of formation: ``python docs/formation_figures.py RESULT [DIRECTORY]``.

Draws what a run of ``icl-locate formation`` wrote (its formation.safetensors, with the label "all
heads"), and the toy, into a directory (docs/figures by default), and prints what docs/formation.md
says. Takes a minute.
"""

import sys
from pathlib import Path

from icl_locate import formation, plots
from icl_locate.formation import FormationStudy
from icl_locate.records.files import check_output
from icl_locate.report.formation import formation_table, formation_words
from icl_locate.report.page import write_png


def main(output: Path, result: Path = Path("runs/formation/formation.safetensors")) -> None:
    """Draw everything."""
    check_output(output)
    study = FormationStudy.load(result)
    whole = study.runs["all heads"][0]
    figures = {
        "formation_toy": plots.product_of_vectors(),
        "formation_curves": plots.formation_curves(study),
        "formation_heads": plots.head_formation(whole),
        "formation_strength": plots.strength_against_only_head(whole),
    }
    if len(study.labels) > 1:
        figures["formation_times"] = plots.formation_times(study)
    for name, figure in figures.items():
        height = int(figure.layout.height or 600)
        problem = write_png(figure, output / f"{name}.png", width=900, height=height)
        if problem is not None:
            print(name, problem)
    print(formation_table(study))
    print(*formation_words(study), sep="\n")
    model, order = whole.model(), whole.strengths[-1].argsort(descending=True).tolist()
    for n_heads in (1, 2, 3):
        strongest = [(1, head) for head in order[:n_heads]]
        print(strongest, formation.ablate(model, strongest, n=4096))


if __name__ == "__main__":
    main(Path(sys.argv[2] if len(sys.argv) > 2 else "docs/figures"), Path(sys.argv[1]))
