"""A small OpenID provider of our own: discovery, sign-in without questions, signed tokens."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest


class Provider:
    """Signs everybody in as `claims` say; `base` is its address."""

    client, secret = "remelt-dashboard", "only-for-tests"

    def __init__(self) -> None:
        from joserfc.jwk import RSAKey

        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.claims: dict[str, Any] = {"sub": "1", "email": "eve@example.org"}
        self.nonces: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.get(self)

            def do_POST(self) -> None:
                provider.token(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def secrets_toml(self, dashboard: str) -> str:
        """What Streamlit is told of it."""
        return (
            f'[auth]\nredirect_uri = "{dashboard}/oauth2callback"\n'
            f'cookie_secret = "{secrets.token_hex(32)}"\nclient_id = "{self.client}"\n'
            f'client_secret = "{self.secret}"\n'
            f'server_metadata_url = "{self.base}/.well-known/openid-configuration"\n'
        )

    def get(self, request: BaseHTTPRequestHandler) -> None:
        """Discovery, keys, and the page on which people would sign in."""
        parts = urlsplit(request.path)
        if parts.path == "/.well-known/openid-configuration":
            places = {
                "authorization_endpoint": "authorize", "token_endpoint": "token",
                "jwks_uri": "keys", "userinfo_endpoint": "userinfo",
            }  # fmt: skip
            self.answer(
                request,
                {name: f"{self.base}/{path}" for name, path in places.items()}
                | {
                    "issuer": self.base,
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256"],
                },
            )
        elif parts.path == "/keys":
            self.answer(request, {"keys": [self.key.as_dict(private=False)]})
        elif parts.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            code = secrets.token_hex(8)
            self.nonces[code] = asked.get("nonce", "")
            back = urlencode({"code": code, "state": asked["state"]})
            request.send_response(302)
            request.send_header("Location", f"{asked['redirect_uri']}?{back}")
            request.end_headers()
        else:
            request.send_error(404)

    def token(self, request: BaseHTTPRequestHandler) -> None:
        """A signed id token for a code that this provider gave out, to the client it knows."""
        from joserfc import jwt

        length = int(request.headers["Content-Length"])
        form = {k: v[0] for k, v in parse_qs(request.rfile.read(length).decode()).items()}
        basic = base64.b64encode(f"{self.client}:{self.secret}".encode()).decode()
        known = request.headers.get("Authorization") == f"Basic {basic}"
        if not known or form.get("code") not in self.nonces:
            request.send_error(401)
            return
        now = int(time.time())
        claims = {
            "iss": self.base, "aud": self.client, "iat": now, "exp": now + 600,
            "nonce": self.nonces.pop(form["code"]), **self.claims,
        }  # fmt: skip
        header = {"alg": "RS256", "kid": "one"}
        self.answer(
            request,
            {
                "access_token": secrets.token_hex(8),
                "token_type": "Bearer",
                "expires_in": 600,
                "id_token": jwt.encode(header, claims, self.key),
            },
        )

    def answer(self, request: BaseHTTPRequestHandler, data: Any) -> None:
        """JSON."""
        body = json.dumps(data).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def oidc() -> Iterator[Provider]:
    """A provider that runs while the test does; skipped without Authlib (extra `auth`)."""
    pytest.importorskip("authlib", reason="pip install 'remelt[auth]'")
    provider = Provider()
    yield provider
    provider.close()
