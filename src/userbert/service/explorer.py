"""What the explorer's calls are answered with, made once where it does not change.

In: the population, the models that are served, a folder of runs. Out: `Explorer`, whose methods
compute; whoever calls them waits, so they are called in threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from threading import Event, Lock
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.timeline import timeline
from userbert.errors import InputError
from userbert.explorer import colours
from userbert.explorer.overview import Overview, overview
from userbert.explorer.traits import Carried, Named, Trait, carried, shared, traits
from userbert.explorer.user_map import Aside, UserMap, can_lay_out, map_of, note
from userbert.export.backend import Place
from userbert.service.loaded_models import Served
from userbert.service.population import Found, Population, find_users
from userbert.service.telemetry import log

T = TypeVar("T")
_OTHERS = 20_000
"""Users at random against whom a selection is held."""
_SELECTED = 10_000
"""Of a larger selection, so many at random."""
_EXPECTED = 8


class Once(Generic[T]):
    """What is made when it is first asked for, by one thread, while the others wait."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, Lock()
        self._made: list[T] = []

    def __call__(self) -> T:
        """Make it, or return what was made."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class Explorer:
    """Users of prepared data as the explorer shows them."""

    def __init__(self, population: Population, served: dict[str, Served]) -> None:
        self._population, self._served = population, served
        self._named = Named.of(population.data)
        self.overview: Once[Overview] = Once(lambda: overview(population.data))
        self._maps = {name: Once(self._mapper(name)) for name in served}
        self._laid_out: dict[str, UserMap] = {}
        self._unsettled = set(served)
        self._laying_out = ThreadPoolExecutor(1, "layout")
        self._aside: Aside | None = None
        self._is_closed = Event()
        self._others = Once(self._look_at_others)
        self._by_data = {
            one.name: Once(self._colourer(one.name)) for one in colours.colours_of(self.data, {})
        }

    @property
    def data(self) -> PreparedData:
        """The data."""
        return self._population.data

    def begin_layout(self, model: str) -> None:
        """Make a model's map, and begin to lay it out by neighbourhoods, which takes longer."""
        made = self._maps[model]()
        if can_lay_out(len(made.points)):
            self._laying_out.submit(self._lay_out, model, made)
        else:
            self._unsettled.discard(model)

    def close(self) -> None:
        """End what is being laid out."""
        self._is_closed.set()
        self._laying_out.shutdown(wait=False, cancel_futures=True)
        if self._aside is not None:
            self._aside.end()
        self._laying_out.shutdown()

    def find(self, text: str, limit: int) -> Found:
        """Users by a part of their id."""
        return find_users(self.data, text, limit)

    def map(self, model: str) -> dict[str, Any]:
        """Users of the sample, by neighbourhoods as soon as they are laid out so.

        Raises `NotReadyError` until they are embedded.
        """
        made = self._laid_out.get(model) or self._maps[model]()
        return {
            "model": model,
            "method": made.method,
            "note": made.note,
            "is_final": model not in self._unsettled,
            "users": len(self._population),
            "shown": len(made.points),
            "user_ids": self._population.sample_ids.to_pylist(),
            "x": np.round(made.points[:, 0], 5),
            "y": np.round(made.points[:, 1], 5),
            "colours": [asdict(one) for one in self._colours()],
        }

    def colour(self, model: str, name: str) -> dict[str, Any]:
        """What colours each user of the map."""
        chosen = colours.chosen_colour(self._colours(), name)
        task = colours.task_of(chosen)
        population = self._population
        if name == colours.CLUSTER:
            found = colours.by_cluster(self._maps[model]().clusters)
        elif task is not None:
            sampled, asked = population.sampled(task), self._served[task].backend.task
            assert sampled.scores is not None
            assert asked is not None
            found = colours.by_score(asked, sampled.scores)
        else:
            found = self._by_data[name]()
        return colours.as_json(chosen, found)

    def traits(self, user_ids: Sequence[str]) -> dict[str, Any]:
        """What users have in common against the others."""
        rows = np.unique(self.data.rows_of(pa.array(user_ids, pa.large_string())))
        unknown = len(set(user_ids)) - int(np.count_nonzero(rows >= 0))
        rows = rows[rows >= 0]
        if len(rows) > _SELECTED:
            rows = np.sort(np.random.default_rng(0).choice(rows, _SELECTED, replace=False))
        others, own = self._others(), self._of(rows)
        size = len(self._named)
        sample = self._population.sample_rows[: len(others)]
        rest = np.flatnonzero(~np.isin(sample, rows))
        found: list[Trait] = traits(
            self._named,
            own.users_by_value(None, size),
            len(own),
            others.users_by_value(rest, size),
            len(rest),
        )
        return {"users": len(own), "unknown": unknown, "others": len(rest), "traits": found}

    def shared(self, user_id: str, other: str, cutoff: int) -> dict[str, Any]:
        """Values that two users carry."""
        rows = np.array([self._population.row_of(one) for one in (user_id, other)])
        others = self._others()
        two = carried(self.data, self._named, rows, cutoff)
        everybody = others.users_by_value(None, len(self._named))
        return {"traits": shared(self._named, two, everybody, len(others))}

    def expected(self, model: Served, user_id: str, segment: str, number: int, cutoff: int) -> Any:
        """What a model thinks likely in a word, beside what is there."""
        if segment not in self.data.schema.segments:
            raise InputError(
                f"segment: expected {' or '.join(self.data.schema.segments)}, found {segment!r}."
            )
        row = self._population.row_of(user_id)
        found = model.expect(self.data, Place(row, cutoff, segment, number), _EXPECTED)
        (word,) = (
            one
            for one in timeline(self.data, row, cutoff)
            if (one.segment, one.number) == (segment, number)
        )
        return {
            "model": model.name,
            "segment": segment,
            "number": number,
            "attributes": [
                {
                    "attribute": name,
                    "expected": [
                        {
                            "value": value,
                            "probability": probability,
                            "is_there": value in dict(word.values[name]),
                        }
                        for value, probability in likely
                    ],
                    "there": word.values[name],
                }
                for name, likely in found.items()
            ],
        }

    def explanation(self, model: Served, user_id: str, value: str | None, cutoff: int) -> Any:
        """What moved a user's score."""
        self._population.row_of(user_id)
        found = model.explain(self.data, user_id, cutoff, value)
        task = model.backend.task
        return {
            "model": model.name,
            "task": None if task is None else task.name,
            "value": found.value,
            "score": found.score,
            "unit": found.unit,
            "words": [
                {
                    "segment": one.word.segment,
                    "number": one.word.number,
                    "effect": one.effect,
                    "attributes": one.attributes,
                }
                for one in found.words
            ],
            "fields": [asdict(one) for one in found.fields],
        }

    def _lay_out(self, model: str, made: UserMap) -> None:
        self._aside = Aside(made.leading)
        points = None if self._is_closed.is_set() else self._aside.points()
        if points is not None:
            self._laid_out[model] = replace(
                made, points=points, method="t-sne", note=note(len(points))
            )
            log.info("the map of %s keeps neighbourhoods now", model)
        self._unsettled.discard(model)

    def _mapper(self, model: str) -> Callable[[], UserMap]:
        return lambda: map_of(self._population.sampled(model).vectors)

    def _colourer(self, name: str) -> Callable[[], colours.Coloured]:
        known = self._population
        return lambda: colours.by_data(known.data, known.sample_rows, known.cutoff, name)

    def _colours(self) -> list[colours.Colour]:
        tasks = {
            name: one.backend.task
            for name, one in self._served.items()
            if one.backend.task is not None
        }
        return colours.colours_of(self.data, tasks)

    def _look_at_others(self) -> Carried:
        return self._of(self._population.sample_rows[:_OTHERS])

    def _of(self, rows: Int64) -> Carried:
        return carried(self.data, self._named, rows, self._population.cutoff)
