"""Carrying out a descent's claim: checkpoints here, pool resident, steps made, states stored.

Runs in the Celery process and therefore never imports torch.
"""

from __future__ import annotations

import logging
from threading import Event

from services import descents
from services.db import Database
from services.descents import Claim
from services.errors import BadInput, IntegrityError
from services.settings import Settings
from workers import energy
from workers.engine.connection import Aborted
from workers.evaluation import EngineKeeper, Lease

log = logging.getLogger(__name__)
#: seconds of work that a crash may cost
SAVE_SECONDS = 3.0


def run_descent(
    database: Database, config: Settings, keeper: EngineKeeper, held: Claim, stopping: Event
) -> None:
    """Go down from where the claim stands to the end and write the candidate down. Raises what the
    engine raises, or Aborted when the claim is gone or the worker stops."""
    try:
        pool, suites = descents.load_job(database, held)
    except IntegrityError as error:
        # stored items do not change back: another attempt cannot help
        raise BadInput(error.what, where=error.where, mend=error.mend) from error
    if held.state is not None:
        log.info("descent %s goes on at step %s", held.descent, held.state.step)
    lease = Lease(database, config, held, stopping, descents.LEASES)
    engine = keeper.with_pool(pool, lambda *_: lease.tick(0.0))
    with energy.measured(config.carbon_country) as used:
        found = engine.descend(
            held.job,
            suites,
            state=held.state,
            save_seconds=SAVE_SECONDS,
            on_state=lambda state: descents.save(database, held, state),
            on_tick=lambda progress: lease.tick(progress.share),
        )
    ended = descents.complete(
        database,
        held,
        recipe=found.recipe,
        weights=found.weights,
        step=found.state.step,
        cost=found.cost() | used,
    )
    if not ended:
        raise Aborted("the claim was lost before the candidate could be written")
