"""The rungs of ASHA that studies ship: in trials of many evaluations, as recorded, and of few, as in small studies."""

from collections.abc import Iterator
from dataclasses import replace

from figures import Row
from recorded_responses import Response, Table
from search_conditions import Conditions
from search_pool import Pool, pool_search, study_of
from search_replay import Curve
from search_statistics import PerSearch, headline

RUNGS = ((1, 2), (2, 3))
"""``grace_evaluations`` and ``reduction_factor``: the defaults, and those of studies with few evaluations a trial."""
_EVERY = 3
"""Of the recorded evaluations every third one remains where trials are to have few."""


def thinned(table: Table, every: int) -> Table:
    """The table with every so many evaluations of each run, from the one at step 0 on."""

    def of_run(run: Response) -> Response:
        steps, seconds, recalls = run.outer_steps[::every], run.seconds[::every], run.val_mean_recalls[::every]
        return replace(run, outer_steps=steps, seconds=seconds, val_mean_recalls=recalls)

    return replace(table, responses=[of_run(run) for run in table.responses])


def rungs(conditions: Conditions) -> Iterator[Row]:
    """Budgets by the rungs of ASHA, with published points and two workers."""
    for label, every, words in (("", 1, "all recorded evaluations"), ("_few", _EVERY, "every third evaluation")):
        pools = {task: Pool(thinned(pool.table, every)) for task, pool in conditions.pools.items()}
        tables = {task: pool.table for task, pool in pools.items()}
        for grace, factor in RUNGS:
            for sampler in ("tpe", "random"):
                found = {task: _searches(conditions, task, pools[task], sampler, grace, factor) for task in pools}
                name = f"rungs_{grace}_{factor}_{sampler}{label}{conditions.suffix}"
                what = f"{sampler} + ASHA({grace}, {factor}), {words}"
                yield from headline(name, what, PerSearch.budgets(tables, found.__getitem__))


def _searches(conditions: Conditions, task: str, pool: Pool, sampler: str, grace: int, factor: int) -> list[Curve]:
    found, settings = [], {"grace_evaluations": grace, "reduction_factor": factor}
    for seed in range(conditions.seeds):
        study = study_of(pool, seed, 2, published=True)
        study = study.model_copy(update={"search": study.search.model_copy(update=settings)})
        found.append(pool_search(pool, sampler, study, conditions.until(task)))
    return found
