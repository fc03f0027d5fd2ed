"""The Celery application that workers run: `celery -A workers.app worker …`.

This process never imports torch: models live in the engine's process group.
"""

from services.queue import celery_app

app = celery_app()
app.set_default()
app.conf.imports = ("workers.tasks",)
