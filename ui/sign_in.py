"""Who looks at the dashboard: signed in by an OpenID provider (Streamlit's own `st.login`) where
one is set up, else the user of this machine. What they may do is checked in `services`; pages ask
here only to hide what would be refused.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

import streamlit as st

from services import access
from services.access import User
from services.errors import Forbidden, Unavailable
from services.settings import settings
from ui import guard, words

#: cookie of the link that somebody followed, while they are away to sign in
LINK = "remelt-link"
LINK_SECONDS = 900
#: Streamlit comes back from the provider with a new session, at its own address without a page.
#: The scripts are the same for everybody: nothing from an address stands in them.
_REMEMBER = f"""<script>
document.cookie = "{LINK}=" + encodeURIComponent(location.pathname + location.search)
  + "; path=/; max-age={LINK_SECONDS}; samesite=lax"
</script>"""
_FORGET = f"""<script>document.cookie = "{LINK}=; path=/; max-age=0; samesite=lax"</script>"""
PROVIDER_KEYS = ("client_id", "client_secret", "server_metadata_url")


def user() -> User:
    """Who acts; raises Forbidden for somebody without a role."""
    claims = st.user.to_dict()
    if "is_logged_in" not in claims:
        if settings().sign_in_file is not None:
            raise Unavailable(
                "the dashboard is set to ask who is there, but it found no provider",
                where="sign-in",
                mend="Write [auth] into the file that REMELT_SIGN_IN_FILE names, and restart it",
            )
        return access.from_settings(None)
    if not claims["is_logged_in"]:
        raise Forbidden("nobody is signed in", mend="Sign in")
    return access.from_settings(claims)


def gate() -> None:
    """Let the page be drawn for those who may see it; show the others the door."""
    claims = st.user.to_dict()
    if claims.get("is_logged_in") is False:
        _door()
    try:
        who = user()
    except (Forbidden, Unavailable) as error:
        guard.explain(error)
        _sign_out(claims)
        st.stop()
    with st.sidebar:
        st.caption(f":material/person: {words.plain(who.name)} · {who.role}")
        _sign_out(claims)
        if LINK in st.context.cookies:
            st.html(_FORGET, unsafe_allow_javascript=True)


def followed_link() -> tuple[str, dict[str, str]] | None:
    """Page, '' for the first one, and ids of the link that led to the door. Told once a session,
    to whoever has just signed in; both may be anything, since browsers can be told to say so."""
    if not st.user.to_dict().get("is_logged_in") or st.session_state.get(LINK):
        return None
    st.session_state[LINK] = True
    path, _, query = unquote(st.context.cookies.get(LINK, "")).partition("?")
    # what begins so is Streamlit's own, and may not be set by a page
    ids = {k: v for k, v in parse_qsl(query) if not k.lower().startswith("embed")}
    return path.rsplit("/", 1)[-1], ids


def _sign_out(claims: object) -> None:
    if isinstance(claims, dict) and claims.get("is_logged_in"):
        st.button("Sign out", icon=":material/logout:", type="tertiary", on_click=st.logout)


def _door() -> None:
    st.html(_REMEMBER, unsafe_allow_javascript=True)
    st.title("Remelt", anchor=False)
    st.markdown("Merges of your checkpoints, and what each of them would break.")
    for name, label in _providers():
        if st.button(label, type="primary", icon=":material/login:", key=f"sign-in-{name}"):
            st.login(name or None)
    st.stop()


def _providers() -> list[tuple[str, str]]:
    """(name for `st.login`, what the button says): named providers, or the one without a name."""
    section = st.secrets.get("auth", {})
    named = [name for name, value in section.items() if hasattr(value, "items")]
    if any(key in section for key in PROVIDER_KEYS) or not named:
        return [("", "Sign in")]
    return [(name, f"Sign in with {name}") for name in named]
