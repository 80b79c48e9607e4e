"""Extends a model to data whose vocabularies have grown, by adding rows for the new values.

In: a model, and data that `prepare --grow` made with the model's ids. Out: a model with the data's
ids. A new value starts with the weights of *unknown*, the id that new values had before. So vectors
of users without new values stay the same, and vectors of other users start close to their old
vectors. `pretrain --from` then trains the new rows.
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
    """Returns a copy of the model with rows for the data's new values.

    In tables, a new value gets the vector of *unknown*. In heads, a new value gets the weights of
    *unknown*, and *unknown* and the new values share the probability of *unknown* equally, so that
    the probabilities of all other values stay the same. Raises `ModelError` if the data's ids are
    not the model's ids followed by new ids.
    """
    if not _extends(data.vocabularies, model.vocabularies):
        raise ModelError(
            f"the ids in {data.path} are not the model's ids followed by new ids. Prepare the "
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
    unchanged = {
        name: weight for name, weight in model.state_dict().items() if weight.shape == sizes[name]
    }
    extended.load_state_dict(unchanged, strict=False)
    with torch.no_grad():
        for old, new in zip(model.modules(), extended.modules(), strict=True):
            if isinstance(old, AttributeTables) and isinstance(new, AttributeTables):
                _grow_tables(old, new)
            elif isinstance(old, AttributeHead) and isinstance(new, AttributeHead):
                _grow_head(old, new)
    return extended.train(model.training)


def _sizes(shape: InputShape) -> dict[str, int]:
    """Returns the number of ids of each table."""
    attributes = [attribute for segment in shape.segments for attribute in segment.attributes]
    return {attribute.table: attribute.size for attribute in (*attributes, *shape.profile)}


def _extends(new: Vocabularies, old: Vocabularies) -> bool:
    """Returns whether `new` is `old` with values appended; bins of numbers must be equal."""
    new_by_place, old_by_place = _by_place(new), _by_place(old)
    return list(new_by_place) == list(old_by_place) and all(
        new_by_place[place].names[: vocabulary.size] == vocabulary.names
        if vocabulary.is_categorical
        else new_by_place[place] == vocabulary
        for place, vocabulary in old_by_place.items()
    )


def _by_place(vocabularies: Vocabularies) -> dict[tuple[str, str], Vocabulary]:
    """Returns all vocabularies by segment (or `profile`) and attribute."""
    groups = {**vocabularies.segments, "profile": vocabularies.profile}
    return {
        (segment, name): vocabulary
        for segment, group in groups.items()
        for name, vocabulary in group.items()
    }


def _grow_tables(old: AttributeTables, new: AttributeTables) -> None:
    """Copies the rows of `old` to `new`; new values get the row of *unknown*."""
    for number in range(len(old.row_offsets) - 1):
        first, last = old.row_offsets[number : number + 2] + 1
        start, end = new.row_offsets[number : number + 2] + 1
        new.weight[start:end] = old.weight[first]  # row of id 1, *unknown*
        new.weight[start : start + last - first] = old.weight[first:last]
    new.weight[0] = 0


def _grow_head(old: AttributeHead, new: AttributeHead) -> None:
    """Copies the weights of `old` to `new`; *unknown* and new values share its probability."""
    old_size, new_size = old.project.out_features, new.project.out_features
    new.project.weight[:] = old.project.weight[0]  # row of id 1, *unknown*
    new.project.weight[:old_size] = old.project.weight
    new.project.bias[:old_size] = old.project.bias
    divided_bias = old.project.bias[0] - math.log(1 + new_size - old_size)
    new.project.bias[0] = divided_bias
    new.project.bias[old_size:] = divided_bias
