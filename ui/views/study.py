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
        judged_on = reading.trials(shown, splits.best_open(shown))
        cards.title(shown, judged_on)
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
            found = reading.findings(shown)
            cards.unmet(shown, judged_on, found)
            badges.findings(found)


if __name__ == "__main__":
    main()
