"""Prompts as text."""

from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import Part, Segment

words = st.text("ab Q:\n", min_size=1, max_size=5)


def test_the_papers_layout():
    template = icl.PromptTemplate("Translate English to French:", "Q:", "A:", " \n")
    spans = template.render([icl.Example("a dog", "un chien")], "a cat")
    assert "".join(s.text for s in spans) == (
        "Translate English to French: \nQ:a dogA:un chien \nQ:a catA:"
    )


@given(st.lists(st.builds(icl.Example, words, words), max_size=4), words, st.none() | words)
def test_every_character_has_one_owner(shots, query, instruction):
    template = icl.PromptTemplate(instruction)
    spans = template.render(shots, query)
    assert all(span.text for span in spans)
    by_segment = [span.segment for span in spans]
    assert by_segment == sorted(by_segment), "instructions, examples, query, in this order"
    sources = [s.text for s in spans if s.part is Part.SOURCE and s.segment is Segment.EXAMPLES]
    assert sources == [shot.source for shot in shots]
    assert [s.shot for s in spans if s.part is Part.TARGET] == list(range(1, len(shots) + 1))
    assert spans[-1].text == "A:" and spans[-1].segment is Segment.QUERY


def test_stop_strings():
    assert icl.PromptTemplate().stops == ("Q:",)
    assert icl.PromptTemplate(source_prefix=" ", separator="##").stops == ("##",)
    assert icl.PromptTemplate(stop=("END",)).stops == ("END",)
    assert icl.PromptTemplate("Do it.").without_instruction().instruction is None
