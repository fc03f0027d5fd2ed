"""Where a generated answer ends."""

from __future__ import annotations

import pytest

from workers.engine.score import first_line


@pytest.mark.parametrize(
    ("text", "target", "answer"),
    [
        ("whitening", " whitening", "whitening"),
        ("whitening\nVerb", " whitening", "whitening"),
        ("whitening \n\nVerb", " whitening", "whitening"),
        ("a\nb\nc", "a\nb", "a\nb\nc"),
        ("a\nb", "a\n", "a"),
        ("", "a", ""),
    ],
)
def test_the_first_line_is_the_answer_unless_the_target_has_more(
    text: str, target: str, answer: str
) -> None:
    assert first_line(text, target) == answer
