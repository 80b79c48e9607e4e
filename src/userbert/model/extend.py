"""A model for data whose vocabularies have grown: rows for the new values, all else kept.

In: a model, and data that `prepare --grow` made with its ids. Out: a model of the data's ids. A new
value begins as the unknown value, which it was until now: the vectors of users without new values
stay the same, those of others begin where they were, and `pretrain --from` learns the difference.
"""

import math

import torch

from userbert.data.batches import InputShape
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies, Vocabulary
from userbert.errors import ModelError
from userbert.model.heads import AttributeHead
from userbert.model.tables import AttributeTables
from userbert.model.userbert import UserBert


def extend(model: UserBert, data: PreparedData) -> UserBert:
    """Give a model rows for the values that data have behind its own.

    In tables a new value gets the vector of *unknown*. In heads it gets its weights, and *unknown*
    and the new values share what was expected of *unknown*, so that nothing else is expected more
    or less often than before. Raises `ModelError` if the data's ids are not the model's with others
    behind them.
    """
    if not _begin(data.vocabularies, model.vocabularies):
        raise ModelError(
            f"the ids in {data.path} are not the model's with new ones behind them. Prepare its "
            "logs with: userbert prepare schema.yaml -o DATA --vocabulary MODEL --grow"
        )
    shape = data.input_shape(model.hidden)
    new_values = sum(_sizes(shape).values()) - sum(_sizes(model.shape).values())
    extended = UserBert(
        model.config,
        shape,
        schema=data.schema,
        vocabularies=data.vocabularies,
        hidden=model.hidden,
        record={**model.record, "extended_by": new_values},
    )
    sizes = {name: weight.shape for name, weight in extended.state_dict().items()}
    same = {
        name: weight for name, weight in model.state_dict().items() if weight.shape == sizes[name]
    }
    extended.load_state_dict(same, strict=False)
    with torch.no_grad():
        for old, new in zip(model.modules(), extended.modules(), strict=True):
            if isinstance(old, AttributeTables) and isinstance(new, AttributeTables):
                _grow_tables(old, new)
            elif isinstance(old, AttributeHead) and isinstance(new, AttributeHead):
                _grow_head(old, new)
    return extended.train(model.training)


def _sizes(shape: InputShape) -> dict[str, int]:
    """The number of each table's ids."""
    attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
    return {attribute.table: attribute.size for attribute in (*attributes, *shape.profile)}


def _begin(new: Vocabularies, old: Vocabularies) -> bool:
    """Whether vocabularies are others with values behind theirs; bins of numbers never grow."""
    mine, theirs = _places(new), _places(old)
    return list(mine) == list(theirs) and all(
        mine[place].names[: one.size] == one.names if one.is_categorical else mine[place] == one
        for place, one in theirs.items()
    )


def _places(vocabularies: Vocabularies) -> dict[tuple[str, str], Vocabulary]:
    """All vocabularies, by segment (or `profile`) and name."""
    everywhere = {**vocabularies.segments, "profile": vocabularies.profile}
    return {
        (place, name): one for place, found in everywhere.items() for name, one in found.items()
    }


def _grow_tables(old: AttributeTables, new: AttributeTables) -> None:
    for number in range(len(old.before_first) - 1):
        first, last = old.before_first[number : number + 2] + 1
        start, end = new.before_first[number : number + 2] + 1
        new.weight[start:end] = old.weight[first]  # of id 1, unknown
        new.weight[start : start + last - first] = old.weight[first:last]
    new.weight[0] = 0


def _grow_head(old: AttributeHead, new: AttributeHead) -> None:
    known, all_ids = old.project.out_features, new.project.out_features
    new.project.weight[:] = old.project.weight[0]  # of id 1, unknown
    new.project.weight[:known] = old.project.weight
    new.project.bias[:known] = old.project.bias
    share = old.project.bias[0] - math.log(1 + all_ids - known)
    new.project.bias[0] = share
    new.project.bias[known:] = share
