"""Prompts as text."""

import pytest
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


@pytest.mark.parametrize("prefix", ["A: ", "\nAnswer:  ", "A:", "\n", " ", ""])
def test_spaces_before_an_answer_belong_to_it(prefix):
    """The query ends before them, and the answer begins with them: no text is lost."""
    template = icl.PromptTemplate(target_prefix=prefix)
    query = template.render([], "a cat")
    shown = template.render([icl.Example("a cat", "un chat")], "a dog")
    text = "".join(span.text for span in query)
    assert not text.endswith(" ") and text == "Q:a cat" + prefix.rstrip(" ")
    together = text + template.answer("un chat")
    assert "".join(s.text for s in shown).startswith(together + template.separator)


def test_answers_end_at_the_next_example_or_at_a_blank_line():
    assert icl.PromptTemplate(separator="\n\n").stops == ("Q:", "\n\n")
    assert icl.PromptTemplate(source_prefix="", separator="\n\n").stops == ("\n\n",)
    assert icl.PromptTemplate(source_prefix="", separator="").stops == ()
    assert icl.PromptTemplate(separator="\n\n", stop=("END",)).stops == ("END",)
