"""The dashboard's entry: names the pages and runs the one that the address asks for.

`python -m streamlit run ui/app.py`, or `remelt ui`. Pages read and write through `services` only.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ui import badges, sign_in, theme

st.set_page_config(
    page_title="Remelt",
    # a file of our own: Streamlit would fetch a named icon from the internet
    page_icon=str(Path(__file__).with_name("icon.svg")),
    layout="wide",
    initial_sidebar_state=220,
)
st.html(theme.STYLE)

PAGES = {
    "": [
        st.Page(badges.STUDIES, title="Studies", icon=":material/science:", default=True),
        st.Page(badges.NEW_STUDY, title="New study", icon=":material/add:", url_path="new"),
        st.Page(badges.STUDY, title="Study", url_path="study", visibility="hidden"),
        st.Page(badges.CANDIDATE, title="Candidate", url_path="candidate", visibility="hidden"),
        st.Page(badges.COMPARE, title="Compare", url_path="compare", visibility="hidden"),
        st.Page(badges.REPORT, title="Report", url_path="report", visibility="hidden"),
    ],
    "Registered": [
        st.Page(badges.POOLS, title="Pools", icon=":material/layers:", url_path="pools"),
        st.Page(badges.SUITES, title="Suites", icon=":material/checklist:", url_path="suites"),
    ],
    "Machines": [
        st.Page(badges.WORKERS, title="Workers", icon=":material/memory:", url_path="workers"),
    ],
}

SHORT = ("study", "trial", "trials")
page = st.navigation(PAGES)
sign_in.gate()
if page.url_path == "" and not st.query_params and (link := sign_in.followed_link()):
    known = {p.url_path: p for group in PAGES.values() for p in group}
    if link[0] in known and any(link):
        st.switch_page(known[link[0]], query_params=link[1])
if page.url_path == "" and "study" in st.query_params:
    # short permalinks: /?study=1, /?study=1&trial=42 and /?study=1&trials=1,2,3
    ids = {name: st.query_params[name] for name in SHORT if name in st.query_params}
    to = badges.COMPARE if "trials" in ids else badges.STUDY
    st.switch_page(badges.CANDIDATE if "trial" in ids else to, query_params=ids)
page.run()
