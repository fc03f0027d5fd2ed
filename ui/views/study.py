"""One study: how far it is, what it found, and the way to every candidate."""

from __future__ import annotations

import streamlit as st

from ui import badges, guard, reading
from ui.study import cards, costs, front, head, near_best, splits, table


def main() -> None:
    """Draw the page."""
    number = guard.number_in_url("study")
    if number is None:
        badges.hint("**No study is named.** Open one from the list of studies.")
        st.page_link(badges.STUDIES, label="Studies")
        return
    with guard.explained():
        shown = reading.snapshot(number)
        head.draw(shown)
        cards.title(shown, reading.trials(shown, splits.best_open(shown)))
        findings = st.container()
        trials, split = front.draw(shown)
        table.draw(shown, trials, split)
        table.descents(shown)
        judged = st.container()
        table.events(shown)
        # last: of a large study these take longer than all that is drawn
        with judged, guard.explained():
            near_best.draw(shown)
            costs.draw(shown)
        with findings:
            badges.findings(reading.findings(shown))


if __name__ == "__main__":
    main()
