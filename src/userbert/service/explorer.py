"""Answers of the explorer's routes, with caches of results that do not change.

In: the population and the loaded models. Out: `Explorer`. Its methods block, so routes call them in
threads.
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
from userbert.explorer.traits import (
    Trait,
    UserValues,
    ValueIndex,
    find_shared_values,
    find_traits,
    values_of_users,
)
from userbert.explorer.user_map import LayoutProcess, UserMap, can_run_tsne, pca_map, tsne_note
from userbert.export.backend import WordLocation
from userbert.service.loaded_models import LoadedModel
from userbert.service.population import Population, UserMatches, find_users
from userbert.service.telemetry import log

T = TypeVar("T")
_COMPARISON_USERS = 20_000
"""Maximum number of random users that a group is compared with."""
_GROUP_USERS = 10_000
"""Maximum number of users of a group to read; a larger group is sampled at random."""
_EXPECTED_VALUES = 8
"""Number of most likely values to list per attribute."""


class Lazy(Generic[T]):
    """Function whose value is computed by the first call; other threads wait for the value."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute, self._lock = compute, Lock()
        self._values: list[T] = []

    def __call__(self) -> T:
        """Returns the value; computes it in the first call, and again after an error."""
        with self._lock:
            if not self._values:
                self._values.append(self._compute())
            return self._values[0]


class Explorer:
    """Computes the answers about the users of prepared data, for each model by name."""

    def __init__(self, population: Population, models: dict[str, LoadedModel]) -> None:
        self._population, self._models = population, models
        self._index = ValueIndex.of(population.data)
        self.overview: Lazy[Overview] = Lazy(lambda: overview(population.data))
        self._pca_maps = {name: Lazy(self._map_maker(name)) for name in models}
        self._tsne_maps: dict[str, UserMap] = {}
        self._without_final_map = set(models)
        self._layout_thread = ThreadPoolExecutor(1, "layout")
        self._layout_process: LayoutProcess | None = None
        self._is_closed = Event()
        self._comparison_values = Lazy(self._read_comparison_values)
        self._data_colours = {
            colour.name: Lazy(self._colour_maker(colour.name))
            for colour in colours.available_colours(self.data, {})
        }

    @property
    def data(self) -> PreparedData:
        """Prepared data of the users."""
        return self._population.data

    def begin_layout(self, model: str) -> None:
        """Makes a model's PCA map, and starts t-SNE in the background if it is possible."""
        pca = self._pca_maps[model]()
        if can_run_tsne(len(pca.points)):
            self._layout_thread.submit(self._run_tsne, model, pca)
        else:
            self._without_final_map.discard(model)

    def close(self) -> None:
        """Stops the layout in progress, and cancels the waiting layouts."""
        self._is_closed.set()
        self._layout_thread.shutdown(wait=False, cancel_futures=True)
        if self._layout_process is not None:
            self._layout_process.end()
        self._layout_thread.shutdown()

    def find(self, text: str, limit: int) -> UserMatches:
        """Finds at most `limit` users whose ids contain a text."""
        return find_users(self.data, text, limit)

    def map(self, model: str) -> dict[str, Any]:
        """Returns the map of the sampled users: the t-SNE map if it is ready, else the PCA map.

        Raises `NotReadyError` until the sampled users are embedded.
        """
        user_map = self._tsne_maps.get(model) or self._pca_maps[model]()
        return {
            "model": model,
            "method": user_map.method,
            "note": user_map.note,
            "is_final": model not in self._without_final_map,
            "users": len(self._population),
            "shown": len(user_map.points),
            "user_ids": self._population.sample_ids.to_pylist(),
            "x": np.round(user_map.points[:, 0], 5),
            "y": np.round(user_map.points[:, 1], 5),
            "colours": [asdict(colour) for colour in self._colours()],
        }

    def colour(self, model: str, name: str) -> dict[str, Any]:
        """Returns the value of a colour for each user on the map.

        Raises `InputError` if there is no such colour.
        """
        chosen = colours.find_colour(self._colours(), name)
        task_model = colours.scored_model(chosen)
        if name == colours.CLUSTER:
            values = colours.by_cluster(self._pca_maps[model]().clusters)
        elif task_model is not None:
            answer = self._population.sample_results(task_model)
            task = self._models[task_model].backend.task
            assert answer.scores is not None
            assert task is not None
            values = colours.by_score(task, answer.scores)
        else:
            values = self._data_colours[name]()
        return colours.as_json(chosen, values)

    def traits(self, user_ids: Sequence[str]) -> dict[str, Any]:
        """Returns the values that set a group of users apart from a random sample of other users.

        Counts the ids that are not in the data, and leaves them out.
        """
        rows = np.unique(self.data.rows_of(pa.array(user_ids, pa.large_string())))
        unknown = len(set(user_ids)) - int(np.count_nonzero(rows >= 0))
        rows = rows[rows >= 0]
        if len(rows) > _GROUP_USERS:
            rows = np.sort(np.random.default_rng(0).choice(rows, _GROUP_USERS, replace=False))
        sample_values, group_values = self._comparison_values(), self._values_of(rows)
        size = len(self._index)
        sample_rows = self._population.sample_rows[: len(sample_values)]
        outside = np.flatnonzero(~np.isin(sample_rows, rows))
        traits: list[Trait] = find_traits(
            self._index,
            group_values.users_by_value(None, size),
            len(group_values),
            sample_values.users_by_value(outside, size),
            len(outside),
        )
        return {
            "users": len(group_values),
            "unknown": unknown,
            "others": len(outside),
            "traits": traits,
        }

    def shared(self, user_id: str, other_id: str, cutoff: int) -> dict[str, Any]:
        """Returns the values that two users have in common before a cut-off (µs)."""
        rows = np.array([self._population.row_of(user) for user in (user_id, other_id)])
        sample_values = self._comparison_values()
        pair_values = values_of_users(self.data, self._index, rows, cutoff)
        counts = sample_values.users_by_value(None, len(self._index))
        return {"traits": find_shared_values(self._index, pair_values, counts, len(sample_values))}

    def expected(
        self, model: LoadedModel, user_id: str, segment: str, number: int, cutoff: int
    ) -> Any:
        """Returns the values that a model expects in a word, and the word's actual values.

        The word is number `number` of a segment, among the user's words before a cut-off (µs).
        Raises `InputError` if there is no such segment or word.
        """
        if segment not in self.data.schema.segments:
            raise InputError(
                f"segment: expected {' or '.join(self.data.schema.segments)}, found {segment!r}."
            )
        row = self._population.row_of(user_id)
        expected = model.expect(
            self.data, WordLocation(row, cutoff, segment, number), _EXPECTED_VALUES
        )
        (word,) = (
            word
            for word in timeline(self.data, row, cutoff)
            if (word.segment, word.number) == (segment, number)
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
                        for value, probability in likeliest
                    ],
                    "there": word.values[name],
                }
                for name, likeliest in expected.items()
            ],
        }

    def explanation(self, model: LoadedModel, user_id: str, value: str | None, cutoff: int) -> Any:
        """Returns a user's score, and the effect of each word and profile field on the score."""
        self._population.row_of(user_id)
        explanation = model.explain(self.data, user_id, cutoff, value)
        task = model.backend.task
        return {
            "model": model.name,
            "task": None if task is None else task.name,
            "value": explanation.value,
            "score": explanation.score,
            "unit": explanation.unit,
            "words": [
                {
                    "segment": effect.word.segment,
                    "number": effect.word.number,
                    "effect": effect.effect,
                    "attributes": effect.attributes,
                }
                for effect in explanation.words
            ],
            "fields": [asdict(effect) for effect in explanation.fields],
        }

    def _run_tsne(self, model: str, pca: UserMap) -> None:
        self._layout_process = LayoutProcess(pca.leading)
        points = None if self._is_closed.is_set() else self._layout_process.points()
        if points is not None:
            self._tsne_maps[model] = replace(
                pca, points=points, method="t-sne", note=tsne_note(len(points))
            )
            log.info("the t-SNE map of %s is ready", model)
        self._without_final_map.discard(model)

    def _map_maker(self, model: str) -> Callable[[], UserMap]:
        return lambda: pca_map(self._population.sample_results(model).vectors)

    def _colour_maker(self, name: str) -> Callable[[], colours.ColourValues]:
        population = self._population
        return lambda: colours.by_data(
            population.data, population.sample_rows, population.cutoff, name
        )

    def _colours(self) -> list[colours.Colour]:
        tasks = {
            name: model.backend.task
            for name, model in self._models.items()
            if model.backend.task is not None
        }
        return colours.available_colours(self.data, tasks)

    def _read_comparison_values(self) -> UserValues:
        return self._values_of(self._population.sample_rows[:_COMPARISON_USERS])

    def _values_of(self, rows: Int64) -> UserValues:
        return values_of_users(self.data, self._index, rows, self._population.cutoff)
