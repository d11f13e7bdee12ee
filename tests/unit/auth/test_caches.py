"""What is kept is bounded, whoever asks for what."""

from alauda_registry.auth.caches import Kept


def test_the_oldest_is_forgotten_for_a_new_one() -> None:
    kept: Kept[int, str] = Kept(3)
    for number in range(3):
        kept.put(number, str(number))
    kept.put(0, "again")

    kept.put(3, "3")

    assert [kept.get(number) for number in range(4)] == ["again", None, "2", "3"]
    assert len(kept) == 3


def test_there_are_never_more_than_may_be() -> None:
    kept: Kept[int, int] = Kept(10)

    sizes = set()
    for number in range(1000):
        kept.put(number, number)
        sizes.add(len(kept))

    assert max(sizes) == 10
