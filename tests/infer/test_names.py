"""A column's name says of whom it is, of what, and how much."""

import pytest

from userbert.infer.names import is_amount, is_of_a_thing, rank_as_some_user, rank_as_user


def test_who_a_log_is_about_is_told_by_names_the_plainest_first() -> None:
    names = ["author_id", "id_student", "visitorid", "userid", "customers"]
    ranked = sorted(names, key=lambda name: rank_as_user(name) or 0)
    assert ranked == ["userid", "customers", "visitorid", "id_student", "author_id"]
    assert rank_as_user("OwnerUserId") is None
    assert rank_as_some_user("OwnerUserId") == rank_as_user("userid")


@pytest.mark.parametrize(
    "name", ["user_agent", "n_users", "new_user", "is_member", "user_count", "id", "product_id"]
)
def test_what_is_said_of_users_is_none(name: str) -> None:
    assert rank_as_user(name) is None
    assert rank_as_some_user(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("store_count", True), ("ms_first_response", True), ("sales_channel", False),
        ("itemid", False), ("topic", False), ("amount_paid", True), ("x", None),
        ("add_to_cart_order", None), ("course_progress", None), ("product_category_2", False),
        ("store_nbr", False),
    ],
)  # fmt: skip
def test_the_last_word_tells_amounts_from_codes(name: str, says: bool | None) -> None:
    assert is_amount(name) is says


def test_things_and_occasions_are_not_people() -> None:
    assert is_of_a_thing("itemid")
    assert is_of_a_thing("order_no")
    assert not is_of_a_thing("c1")
