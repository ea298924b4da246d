"""The cache of CUDA graphs: when a shape is recorded, and which graph is given up."""

from spoter_runtime.gpu.graph_cache import GraphCache


def test_the_least_recently_used_is_given_up_and_handed_over():
    given_up: list[int] = []
    cache: GraphCache[str, int] = GraphCache(2, discard=given_up.append)
    cache["a"], cache["b"] = 1, 2
    assert cache.get("a") == 1  # now the last one used
    cache["c"] = 3
    assert given_up == [2]
    assert [*cache] == ["a", "c"]
    assert cache.get("b") is None
    cache["a"] = 4
    assert given_up == [2, 1]
    cache.clear()
    assert given_up == [2, 1, 3, 4]
    cache.clear()
    assert len(given_up) == 4


def test_a_size_of_zero_keeps_nothing_and_records_nothing():
    given_up: list[int] = []
    cache: GraphCache[str, int] = GraphCache(0, discard=given_up.append)
    assert not cache.is_due("a")
    cache["a"] = 1
    assert given_up == [1]
    assert "a" not in cache


def test_a_shape_is_due_after_so_many_calls_and_only_until_it_is_recorded():
    cache: GraphCache[str, int] = GraphCache(calls_before=1)
    assert [cache.is_due("a"), cache.is_due("b"), cache.is_due("a"), cache.is_due("b")] == [
        False,
        False,
        True,
        True,
    ]
    cache["a"] = None  # it could not be recorded
    assert not cache.is_due("a")
    assert "a" in cache


def test_a_cache_that_evicts_nothing_records_no_more_when_it_is_full():
    cache: GraphCache[str, int] = GraphCache(2, evicts=False)
    cache["a"], cache["b"] = 1, 2
    assert not cache.is_due("c")
    assert cache.get("a") == 1
    assert sorted(cache) == ["a", "b"]
