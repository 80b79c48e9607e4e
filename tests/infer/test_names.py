"""What the names of columns say: users, amounts, codes and things."""

import pytest

from userbert.infer.names import is_amount, loose_user_name_rank, names_a_thing, user_name_rank


def test_user_names_are_ranked_the_most_certain_first() -> None:
    names = ["author_id", "id_student", "visitorid", "userid", "customers"]
    ranked = sorted(names, key=lambda name: user_name_rank(name) or 0)
    assert ranked == ["userid", "customers", "visitorid", "id_student", "author_id"]
    assert user_name_rank("OwnerUserId") is None
    assert loose_user_name_rank("OwnerUserId") == user_name_rank("userid")


@pytest.mark.parametrize(
    "name", ["user_agent", "n_users", "new_user", "is_member", "user_count", "id", "product_id"]
)
def test_names_that_describe_users_are_not_user_names(name: str) -> None:
    assert user_name_rank(name) is None
    assert loose_user_name_rank(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("store_count", True), ("ms_first_response", True), ("sales_channel", False),
        ("itemid", False), ("topic", False), ("amount_paid", True), ("x", None),
        ("add_to_cart_order", None), ("course_progress", None), ("product_category_2", False),
        ("store_nbr", False),
    ],
)  # fmt: skip
def test_the_last_word_distinguishes_amounts_from_codes(name: str, expected: bool | None) -> None:
    assert is_amount(name) is expected


def test_names_of_things_and_of_groups_of_actions_are_recognized() -> None:
    assert names_a_thing("itemid")
    assert names_a_thing("order_no")
    assert not names_a_thing("c1")
