"""The message queue: one Celery application, its settings, and how a hint is sent.

Messages carry ids only and may be lost, doubled or late without harm: Postgres holds the truth.
The tasks themselves live in `workers`; they are named here because both ends need the names.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from services.embedded import broker_url
from services.settings import Settings, settings

CONTROL, EVALUATE, PUBLISH = "remelt.control", "remelt.evaluate", "remelt.publish"
DEAD = "remelt.dead"
#: outbox topic -> (task name, queue)
TOPICS = {
    "advance": ("remelt.advance", CONTROL),
    "evaluate": ("remelt.evaluate", EVALUATE),
    "publish": ("remelt.publish", PUBLISH),
    "descend": ("remelt.descend", EVALUATE),
}
SWEEP_TASK = "remelt.sweep"
#: a message that nobody acknowledges for this long is handed out again; claims make that harmless
REDELIVER_SECONDS = 3600


def queues(url: str) -> list[Queue]:
    """The queues; on RabbitMQ quorum queues whose rejected messages are dead-lettered."""
    arguments: dict[str, Any] = {}
    if url.startswith("amqp"):
        arguments = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": DEAD,
            "x-delivery-limit": 20,
            # how long a worker may hold a message: twice the redelivery time of the other brokers
            "x-consumer-timeout": REDELIVER_SECONDS * 2000,
        }
    exchange = Exchange("remelt", type="direct", durable=True)
    return [
        Queue(name, exchange, routing_key=name, queue_arguments=arguments)
        for name in (CONTROL, EVALUATE, PUBLISH)
    ]


def transport_options(url: str) -> dict[str, Any]:
    """What the transport of this URL needs for redelivery and for confirmed publishing."""
    if url.startswith("amqp"):
        return {"confirm_publish": True}
    # kombu looks for lost messages every interval x throttle seconds; 100 by default
    return {
        "visibility_timeout": REDELIVER_SECONDS,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }


def make_app(config: Settings) -> Celery:
    """A Celery application for these settings."""
    url = broker_url(config)
    app = Celery("remelt", broker=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_detect_quorum_queues=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=10,
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        task_queues=queues(url),
        task_default_queue=CONTROL,
        task_default_exchange="remelt",
        task_default_routing_key=CONTROL,
        task_create_missing_queues=False,
        broker_transport_options=transport_options(url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        timezone="UTC",
        enable_utc=True,
        beat_schedule={
            "sweep": {
                "task": SWEEP_TASK,
                "schedule": config.sweep_seconds,
                # a sweep that waited behind others is of no use: the next one does its work
                "options": {"queue": CONTROL, "expires": config.sweep_seconds * 2},
            }
        },
    )
    if url.startswith(("amqps", "rediss")):
        app.conf.broker_use_ssl = {"cert_reqs": ssl.CERT_REQUIRED}
    return app


@lru_cache(maxsize=1)
def celery_app() -> Celery:
    """This process's application, made at first use."""
    return make_app(settings())


def declare_dead_letters(app: Celery) -> None:
    """On RabbitMQ, make the place that rejected messages go to; elsewhere there is none."""
    with app.connection_for_write() as connection:
        if connection.transport.driver_type == "amqp":
            exchange = Exchange(DEAD, type="fanout", durable=True)
            arguments = {"x-queue-type": "quorum", "x-message-ttl": 7 * 24 * 3600 * 1000}
            Queue(DEAD, exchange, queue_arguments=arguments)(connection.default_channel).declare()


def send(topic: str, subject: int) -> None:
    """Publish one hint, confirmed by the broker; raises OperationalError when that is down."""
    task, queue = TOPICS[topic]
    celery_app().send_task(
        task,
        args=[subject],
        queue=queue,
        retry=False,
        ignore_result=True,
    )
