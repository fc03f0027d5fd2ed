"""Roles: who gets which, and what each may do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access import ROLES, User, allow, local_user, signed_in, unsigned_user
from services.errors import Forbidden
from services.settings import Settings


def config(**values: Any) -> Settings:
    """Settings with these roles."""
    return Settings(admins="Ada@Example.org", submitters="@lab.example, bob@example.org", **values)


@pytest.mark.parametrize(
    ("claims", "name", "role"),
    [
        ({"email": "ada@example.org"}, "ada@example.org", "admin"),
        ({"email": "ADA@example.ORG ", "email_verified": True}, "ada@example.org", "admin"),
        ({"email": "bob@example.org"}, "bob@example.org", "submitter"),
        ({"email": "eve@lab.example"}, "eve@lab.example", "submitter"),
        # of no listed domain, though it ends like one
        ({"email": "eve@not-lab.example"}, "eve@not-lab.example", "viewer"),
        ({"email": "eve@lab.example@evil.example"}, "eve@lab.example@evil.example", "viewer"),
        # anybody could say so
        ({"email": "ada@example.org", "email_verified": False, "sub": "7"}, "7", "viewer"),
        ({"email": "ada@example.org", "email_verified": "false", "sub": "7"}, "7", "viewer"),
        ({"sub": "ada@example.org"}, "ada@example.org", "viewer"),
    ],
)
def test_the_settings_say_who_is_what(claims: dict[str, Any], name: str, role: str) -> None:
    assert signed_in(claims, config()) == User(name, role)  # type: ignore[arg-type]


def test_the_default_role_is_a_setting() -> None:
    assert signed_in({"email": "x@y.z"}, config(default_role="submitter")).role == "submitter"
    with pytest.raises(Forbidden, match=r"x@y.z has no role here.*REMELT_SUBMITTERS"):
        signed_in({"email": "x@y.z"}, config(default_role="none"))
    assert signed_in({"email": "bob@example.org"}, config(default_role="none")).role == "submitter"
    with pytest.raises(Forbidden, match="names nobody"):
        signed_in({}, config(default_role="admin"))


def test_without_sign_in_it_is_this_machines_user() -> None:
    assert local_user().role == "admin"
    assert local_user().local
    assert unsigned_user(config()) == local_user()
    assert unsigned_user(config(local_role="viewer")) == User(local_user().name, "viewer")


@given(st.sampled_from(ROLES), st.sampled_from(ROLES), st.sampled_from(["me", "you", "", None]))
def test_a_higher_role_may_all_that_a_lower_may(low: str, high: str, owner: str | None) -> None:
    if ROLES.index(low) <= ROLES.index(high):  # type: ignore[arg-type]
        lower, higher = User("me", low), User("me", high)  # type: ignore[arg-type]
        for role in ROLES:
            assert not lower.may(role, owner=owner) or higher.may(role, owner=owner)


def test_refusals_name_who_and_the_mend() -> None:
    viewer, submitter = User("eve", "viewer"), User("bob", "submitter")
    with pytest.raises(Forbidden, match=r"eve is a viewer and may not cancel.*REMELT_SUBMITTERS"):
        allow(viewer, "cancel study 1", owner="eve")
    with pytest.raises(Forbidden, match=r"bob may not cancel study 1: it belongs to ada.*an admin"):
        allow(submitter, "cancel study 1", owner="ada")
    # a study that nobody owns is nobody's but the admins'
    with pytest.raises(Forbidden, match="belongs to nobody"):
        allow(submitter, "cancel study 1", owner="")
    assert allow(submitter, "cancel study 1", owner="bob") is submitter
    assert allow(None, "cancel study 1", owner="ada") == local_user()
