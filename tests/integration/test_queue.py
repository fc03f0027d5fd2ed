"""The queue as it takes effect: what Celery really uses and what really travels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

import services.queue as queue
from services.settings import Settings


@pytest.fixture
def own_url(own_queues: Callable[[], str]) -> str:
    """A database of the broker that no worker listens to, empty."""
    return own_queues()


@pytest.fixture
def app(own_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """The application on that database."""
    config = Settings(home=tmp_path, broker_url=own_url)
    monkeypatch.setattr(queue, "settings", lambda: config)
    queue.celery_app.cache_clear()
    made = queue.celery_app()
    yield made
    made.close()
    queue.celery_app.cache_clear()


def test_a_message_carries_an_id_as_json_and_nothing_else(app: Celery, own_url: str) -> None:
    queue.send("evaluate", 41)
    path, _, number = own_url.removeprefix("redis+socket://").partition("?virtual_host=")
    with redis.Redis(unix_socket_path=path, db=int(number)) as client:
        (raw,) = client.lrange(queue.EVALUATE, 0, -1)
    message = json.loads(raw)
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "remelt.evaluate"
    assert message["headers"]["argsrepr"] == "[41]"


def test_effective_configuration(app: Celery) -> None:
    conf = app.conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.task_ignore_result
    assert app.backend.__class__.__name__ == "DisabledBackend"
    assert not conf.task_create_missing_queues
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        assert channel.visibility_timeout == queue.REDELIVER_SECONDS
        assert channel.unacked_restore_interval == 1
        assert channel.unacked_restore_throttle == 1


def test_rabbitmq_gets_quorum_queues_with_dead_letters() -> None:
    config = Settings(broker_url="amqp://user:hush@127.0.0.1:1//")
    app = queue.make_app(config)
    names = [q.name for q in app.conf.task_queues]
    assert names == [queue.CONTROL, queue.EVALUATE, queue.PUBLISH]
    for one in app.conf.task_queues:
        assert one.queue_arguments["x-queue-type"] == "quorum"
        assert one.queue_arguments["x-dead-letter-exchange"] == queue.DEAD
        assert one.queue_arguments["x-consumer-timeout"] > queue.REDELIVER_SECONDS * 1000
    assert app.conf.broker_transport_options["confirm_publish"]
    app.close()


def test_a_dead_broker_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Settings(home=tmp_path, broker_url=f"redis+socket://{tmp_path}/nobody.sock")
    monkeypatch.setattr(queue, "settings", lambda: config)
    queue.celery_app.cache_clear()
    with pytest.raises(OperationalError):
        queue.send("advance", 1)
    queue.celery_app().close()
    queue.celery_app.cache_clear()


def test_no_password_in_what_is_shown() -> None:
    app = queue.make_app(Settings(broker_url="amqp://user:hush@127.0.0.1:1//"))
    assert "hush" not in str(app.connection_for_write().as_uri())
    assert "hush" not in repr(Settings(broker_url="amqp://user:hush@127.0.0.1:1//"))
    app.close()
