"""Who acts, and what they may do. Every function of `services` that changes something for a person
asks here, whichever door the person came through; pages only hide what would be refused.

Viewers look. Submitters also register pools and suites, submit studies, and steer their own.
Admins steer everybody's. Who signs in gets a role by the settings; commands, and a dashboard that
nobody signs in to, act for the user of the operating system.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from services.errors import Forbidden
from services.settings import Settings, settings

Role = Literal["viewer", "submitter", "admin"]
#: from the least to the most
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class User:
    """Somebody who acts."""

    #: e-mail address, or login name on this machine; stands in events and as a study's owner
    name: str
    role: Role
    #: works on this machine itself, so it may name any folder that the process can read
    local: bool = False

    def may(self, role: Role, *, owner: str | None = None) -> bool:
        """Whether the role is enough; of somebody else's study only an admin's is."""
        needed = role if owner is None or owner == self.name else "admin"
        return ROLES.index(self.role) >= ROLES.index(needed)


def local_user() -> User:
    """The user of the operating system whom this process runs for; the command line's."""
    return User(_login_name(), "admin", local=True)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "local"


def unsigned_user(config: Settings) -> User:
    """Everybody at a dashboard that has no sign-in."""
    return User(_login_name(), config.local_role, local=config.local_role == "admin")


def signed_in(claims: Mapping[str, Any], config: Settings) -> User:
    """The user whom an OpenID provider vouches for, with the role of the settings.

    Only an e-mail address that the provider does not call unverified counts for a role. Raises
    Forbidden where the settings give no role.
    """
    email = str(claims.get("email") or "").strip().casefold()
    known = bool(email) and claims.get("email_verified", True) in (True, "true")
    name = email if known else str(claims.get("sub") or "")
    if not name:
        raise Forbidden("the sign-in names nobody", mend="Ask the provider for the claim email")
    role: str = config.default_role
    if known and _listed(email, config.submitters):
        role = "submitter" if role != "admin" else role
    if known and _listed(email, config.admins):
        role = "admin"
    if role == "none":
        raise Forbidden(
            f"{name} has no role here",
            mend="Ask for a place in REMELT_SUBMITTERS or REMELT_ADMINS",
        )
    return User(name, role)  # type: ignore[arg-type]


def _listed(email: str, entries: str) -> bool:
    """Whether a comma-separated list holds an address, or `@` with its domain."""
    named = {entry.strip().casefold() for entry in entries.split(",") if entry.strip()}
    return email in named or f"@{email.rpartition('@')[2]}" in named


def allow(
    by: User | None, what: str, *, role: Role = "submitter", owner: str | None = None
) -> User:
    """The acting user, or Forbidden: `what` they wanted to do, in words.

    `by=None` is the user of the operating system. `owner`: whose study it is about.
    """
    user = by or local_user()
    if user.may(role, owner=owner):
        return user
    if user.may(role):
        raise Forbidden(
            f"{user.name} may not {what}: it belongs to {owner or 'nobody'}",
            mend="Ask its owner or an admin",
        )
    raise Forbidden(
        f"{user.name} is a {user.role} and may not {what}",
        mend=f"Ask an admin for the role {role} ({_setting(role)})",
    )


def _setting(role: Role) -> str:
    return "REMELT_ADMINS" if role == "admin" else "REMELT_SUBMITTERS"


def from_settings(claims: Mapping[str, Any] | None) -> User:
    """Who acts at the dashboard of this process; `claims` None where it has no sign-in."""
    config = settings()
    return unsigned_user(config) if claims is None else signed_in(claims, config)
