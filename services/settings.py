"""Settings of one Remelt process: environment variables `REMELT_*`, or files of the same names.

Anything left out is served by the embedded stack under `home`, so a laptop needs no settings.
Secrets may be given as files (`REMELT_SECRETS_DIR=/run/secrets`, file `remelt_database_url` …).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One field per setting; the name in the environment is `REMELT_` + the field, upper case."""

    model_config = SettingsConfigDict(env_prefix="REMELT_", extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path.home() / ".remelt",
        description="folder of everything kept on this machine: embedded servers, caches, logs",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Postgres, postgresql://user:password@host:port/name; unset: embedded",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="amqp:// (RabbitMQ), redis:// or redis+socket:// (Valkey); unset: embedded",
    )
    store_url: str | None = Field(
        default=None,
        description="where artefacts are published, file:///dir or s3://bucket/prefix; "
        "unset: home/store",
    )
    s3_endpoint: str | None = Field(
        default=None, description="URL of the S3 server; unset: AWS. Never taken from a user"
    )
    s3_region: str = Field(default="us-east-1", description="region sent in S3 signatures")
    s3_access_key: SecretStr | None = Field(
        default=None, description="S3 access key id; unset: boto3's own chain"
    )
    s3_secret_key: SecretStr | None = Field(
        default=None, description="S3 secret key; unset: boto3's own chain"
    )
    s3_buckets: str = Field(
        default="",
        description="comma-separated buckets that users may name; the store's own is always in",
    )
    pool_folders: str = Field(
        default="",
        description="comma-separated folders below which people who signed in may name checkpoints",
    )
    admins: str = Field(
        default="",
        description="comma-separated e-mail addresses, or @domain, of who may do everything",
    )
    submitters: str = Field(
        default="",
        description="comma-separated e-mail addresses, or @domain, of who may submit studies",
    )
    default_role: Literal["none", "viewer", "submitter", "admin"] = Field(
        default="viewer", description="role of everybody else who signed in; none: sent away"
    )
    local_role: Literal["viewer", "submitter", "admin"] = Field(
        default="admin", description="role of everybody at a dashboard without sign-in"
    )
    sign_in_file: Path | None = Field(
        default=None,
        description="TOML file with the section [auth] of Streamlit's st.login; set: nobody is let "
        "in without signing in",
    )
    lease_seconds: float = Field(default=60, gt=0, description="how long a claim holds unrenewed")
    sweep_seconds: float = Field(default=5, gt=0, description="pause between two sweeps")
    max_attempts: int = Field(default=3, ge=1, description="tries before a trial is abandoned")
    engine_ranks: int = Field(default=1, ge=1, description="processes of one engine group")
    engine_parallel: Literal["auto", "tensor", "zero3", "zero3-offload"] = Field(
        default="auto",
        description="how a model is spread over the ranks: tensor (DeepSpeed AutoTP), zero3, or "
        "zero3-offload (at home in host memory); auto: tensor where it works, else zero3",
    )
    engine_device: str = Field(default="auto", description="auto, cpu or cuda")
    engine_threads: int = Field(default=1, ge=1, description="torch threads per rank on a CPU")
    engine_compile: bool = Field(
        default=False, description="compile the model's layers in an engine of one rank"
    )
    engine_hang_seconds: float = Field(
        default=600, gt=0, description="engine silence after which it is killed and restarted"
    )
    pool_tier: Literal["auto", "device", "host", "mapped"] = Field(
        default="auto", description="where an engine keeps its pool: auto, device, host or mapped"
    )
    batch_tokens: int = Field(
        default=8192, ge=128, description="tokens in one forward pass of an evaluation"
    )
    activation_bytes: int = Field(
        default=4 * 2**30,
        ge=0,
        description="host memory per rank for what leaves skipped blocks; the rest goes to files "
        "under home/activations",
    )
    carbon_country: str | None = Field(
        default=None,
        pattern="^[A-Za-z]{3}$",
        description="ISO 3166 code of three letters of the country whose electricity workers use; "
        "unset: no energy is measured",
    )


@lru_cache(maxsize=1)
def settings() -> Settings:
    """This process's settings, read once from the environment (tests: `settings.cache_clear()`)."""
    return Settings(_secrets_dir=os.environ.get("REMELT_SECRETS_DIR"))  # type: ignore[call-arg]
