"""Neighbours have the largest cosines: exactly, or nearly so with an index."""

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userbert.benchmarks.lookalike import make_vectors
from userbert.errors import InputError
from userbert.search import neighbours
from userbert.search.neighbours import Neighbours, unit_vectors


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """Return rows and cosines of the k nearest, ties by lower row, one vector at a time."""
    wide, unit_query = (
        unit_vectors(vectors).astype(np.float64),
        unit_vectors(query[None])[0].astype(np.float64),
    )
    cosines = np.array([float((row * unit_query).sum()) for row in wide], np.float32)
    order = [row for row in np.lexsort((np.arange(len(wide)), -cosines)) if wide[row].any()][:k]
    return order, cosines[order]


@st.composite
def some_vectors(draw: st.DrawFn) -> np.ndarray:
    """Draw vectors, of which several may be equal, zero or broken."""
    count, width = draw(st.integers(1, 80)), draw(st.sampled_from([1, 3, 40]))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    scales = np.arange(1, width + 1) ** -draw(st.sampled_from([0.0, 1.0, 3.0]))
    vectors = (generator.standard_normal((count, width)) * scales).astype(np.float32)
    vectors = vectors[generator.integers(0, count, count)] if draw(st.booleans()) else vectors
    vectors[generator.random(count) < draw(st.sampled_from([0, 0.2]))] = 0
    vectors[generator.random(count) < draw(st.sampled_from([0, 0.1])), 0] = np.nan
    return vectors * np.float32(draw(st.sampled_from([1e-30, 1, 1e30])))


@given(some_vectors(), st.integers(1, 100), st.booleans())
def test_exact_search_equals_brute_force(vectors: np.ndarray, k: int, is_screened: bool) -> None:
    query = np.random.default_rng(1).standard_normal((2, vectors.shape[1])).astype(np.float32)
    query[1] = vectors[0] if unit_vectors(vectors[:1]).any() else query[1]
    if not unit_vectors(vectors).any():
        with pytest.raises(InputError, match=r"none of .* vectors has a direction"):
            Neighbours.of(vectors)
        return
    collection = Neighbours.of(vectors, "exact", min_screened=0 if is_screened else 1 << 22)
    rows, cosines = collection.search(query, k)
    for number in range(2):
        expected, values = brute_force(vectors, query[number], k)
        assert rows[number].tolist() == expected
        np.testing.assert_array_equal(cosines[number], values)


def test_the_screen_excludes_most_vectors_and_none_of_the_nearest() -> None:
    vectors, queries = make_vectors(20_000)
    exact: Any = Neighbours.of(vectors, "exact", min_screened=0)._exact
    assert exact.leading is not None
    wide = unit_vectors(vectors).astype(np.float64)
    for query in unit_vectors(queries[:20]).astype(np.float64):
        passed = exact.candidates(query, 50)
        assert len(passed) < 100
        assert set(np.argsort(-(wide @ query))[:50]) <= set(passed)
    noise = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    assert neighbours._ExactSearch.of(unit_vectors(noise), 0).leading is None


def test_a_vector_is_its_own_nearest_and_ties_come_in_row_order() -> None:
    vectors = make_vectors(1000)[0]
    vectors[[900, 20, 500]] = vectors[7]
    rows, cosines = Neighbours.of(vectors).search(vectors[7:8] * 5, 5)
    assert rows[0, :4].tolist() == [7, 20, 500, 900]
    assert np.ptp(cosines[0, :4]) == 0
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)


def test_a_large_k_returns_all_vectors_that_have_a_direction() -> None:
    vectors = np.array([[1, 0], [0, 0], [0, 1], [np.inf, 1], [-1, 0]], np.float32)
    collection = Neighbours.of(vectors)
    assert len(collection) == 3
    rows, cosines = collection.search(np.array([[2, 0]], np.float32), 10)
    assert rows.tolist() == [[0, 2, 4]]
    assert cosines.tolist() == [[1, 0, -1]]
    assert Neighbours.of(vectors[:1]).search(vectors[:1], 3)[0].tolist() == [[0]]
    assert collection.search(np.zeros((0, 2), np.float32), 2)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        ([[0.0, 0.0]], 1, "query 0 has no direction"),
        ([[1.0, 0.0], [np.nan, 0.0]], 1, "query 1 has no direction"),
        ([[1.0]], 1, r"expected queries \(Q, 2\)"),
        ([[1.0, 0.0]], 0, "k = 0"),
    ],
)
def test_invalid_queries_are_refused(query: Any, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Neighbours.of(np.eye(2, dtype=np.float32)).search(np.array(query, np.float32), k)


def test_several_threads_get_the_results_of_one() -> None:
    vectors, queries = make_vectors(5000)
    for how in ("exact", "index"):
        search = Neighbours.of(vectors, how).search
        alone = [search(query[None], 10)[0].tolist() for query in queries]
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(search, queries[:, None], repeat(10))
            together = [rows.tolist() for rows, _ in results]
            assert together == alone


def test_an_index_finds_nearly_all_nearest_and_is_deterministic() -> None:
    vectors, queries = make_vectors(20_000)
    exact = Neighbours.of(vectors, "exact").search(queries, 100)
    index = Neighbours.of(vectors, "index")
    assert not index.is_exact
    rows, cosines = index.search(queries, 100)
    recall = np.mean(
        [np.isin(true, near).mean() for true, near in zip(exact[0], rows, strict=True)]
    )
    assert recall >= 0.98
    assert (np.diff(cosines, axis=1) <= 0).all()
    lists: Any = index._index
    assert lists.probes < lists.index.nlist
    again = Neighbours.of(vectors, "index").search(queries, 100)
    np.testing.assert_array_equal(again[0], rows)


def test_a_search_with_a_large_k_is_exact_even_with_an_index() -> None:
    vectors, queries = make_vectors(3000)
    exact, index = (Neighbours.of(vectors, how) for how in ("exact", "index"))
    expected, rows = (
        collection.search(queries[:5], 500, max_index_k=20)[0] for collection in (exact, index)
    )
    np.testing.assert_array_equal(rows, expected)


def test_an_index_of_few_or_equal_vectors_returns_k_rows() -> None:
    for vectors in (np.eye(3, dtype=np.float32), np.ones((500, 4), np.float32)):
        rows, _ = Neighbours.of(vectors, "index").search(vectors[:1], 3)
        assert len(set(rows[0].tolist())) == 3


def test_many_vectors_get_an_index_and_without_faiss_an_exact_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, queries = make_vectors(2000)
    assert Neighbours.of(vectors).is_exact
    assert not Neighbours.of(vectors, max_exact=1000).is_exact
    monkeypatch.setattr(neighbours, "find_spec", lambda _: None)
    collection = Neighbours.of(vectors, max_exact=1000)
    assert collection.is_exact
    assert "pip install 'userbert[lookalike]'" in capsys.readouterr().err
    assert collection.search(queries, 3)[0].shape == (len(queries), 3)
    with pytest.raises(InputError, match=r"an index needs faiss\. Install it with: pip install"):
        Neighbours.of(vectors, "index")


def test_vectors_are_not_changed() -> None:
    vectors = make_vectors(100)[0]
    before = vectors.copy()
    Neighbours.of(vectors)
    np.testing.assert_array_equal(vectors, before)
