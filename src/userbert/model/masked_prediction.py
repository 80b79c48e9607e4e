"""Predicts the values of a masked word with the heads of pretraining.

In: a model, prepared data and the address of a word in it. Out: for each attribute, the likeliest
values in the word. The report and the explorer show them next to the true values.
"""

import numpy as np
import torch
from torch import Tensor

from userbert.data.batches import UserBatch, drop_actions
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import UNKNOWN
from userbert.errors import InputError
from userbert.model.heads import SegmentHeads
from userbert.model.userbert import UserBert


def predict_masked_word(  # noqa: PLR0917 - a word's address: the user, the instant, the segment, the number
    model: UserBert,
    data: PreparedData,
    row: int,
    cutoff: int,
    segment: str,
    number: int,
    best: int = 5,
) -> dict[str, list[tuple[str, float]]]:
    """Hides a word and returns, for each attribute, the `best` likeliest values in the word.

    The word has index `number`, from 0, oldest first, among the words of `segment` that the user in
    `row` of the data has before `cutoff` (µs since 1970). If the model was pretrained on masked
    words (paper §3.2), the word's input vector is zeroed, position included, and the heads read the
    word's final vector. If the model was pretrained on hidden actions only, the word is removed and
    the heads read [CLS]. Each attribute has pairs of value and probability, likeliest first. Raises
    `InputError` if there is no word with this index, or the model was pretrained on neither.
    """
    batch = cut(data, np.array([row]), np.array([cutoff]), model.hidden)
    names = [words.name for words in batch.segments]
    count = len(batch.segments[names.index(segment)].positions) if segment in names else 0
    if not 0 <= number < count:
        raise InputError(
            f"the user in row {row} of {data.path} has {count} words of segment {segment!r} before "
            f"the cut-off, so there is no word {number}: words are counted from 0."
        )
    segment_index = names.index(segment)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        heads, vector = _heads_and_vector(model, batch, segment_index, number)
        predicted = {}
        for name, head in zip(heads.names, heads.attributes, strict=True):
            probabilities = head(vector).float().softmax(dim=1)[0]  # (V,)
            likely = probabilities.topk(min(best, len(probabilities)))
            values = model.vocabularies.segments[segment][name].names
            predicted[name] = [
                # The heads have no output for id 0, *none*.
                (values[int(index) + UNKNOWN], float(probability))
                for probability, index in zip(likely.values, likely.indices, strict=True)
            ]
    model.train(was_training)
    return predicted


def predicts_masked_words(model: UserBert) -> bool:
    """Returns whether a model was pretrained on masked words or hidden actions.

    A model whose record names no objectives counts as pretrained on masked words.
    """
    return _learned_masked_words(model) or "hidden" in model.user_heads


def _learned_masked_words(model: UserBert) -> bool:
    """Returns whether the objective `words` had a weight; without a record, its default is 1."""
    weights = model.record.get("config", {}).get("objectives", {})
    return bool(weights.get("words", 1) > 0)


def _heads_and_vector(
    model: UserBert, batch: UserBatch, segment_index: int, number: int
) -> tuple[SegmentHeads, Tensor]:
    """Returns the heads that predict a hidden word, and the vector (1, H) that the heads read.

    `segment_index` is the index of the word's segment, `number` the word's index in the segment.
    """
    if _learned_masked_words(model):
        zeroed = tuple(np.zeros(len(words.positions), bool) for words in batch.segments)
        zeroed[segment_index][number] = True
        encoded = model(batch, zeroed)
        return model.heads[segment_index], encoded.tokens[
            encoded.word_index[segment_index][number]
        ][None]
    if not predicts_masked_words(model):
        raise InputError(
            "the model was pretrained on neither masked words nor hidden actions, so it cannot "
            "predict a word. Pretrain one that can: userbert pretrain DATA -o MODEL"
        )
    dropped = [np.zeros(words.ids.shape[1], bool) for words in batch.segments]
    dropped[segment_index][
        slice(*batch.segments[segment_index].action_offsets[number : number + 2])
    ] = True
    encoded = model(drop_actions(batch, dropped))
    return model.user_heads["hidden"].segments[segment_index], encoded.tokens[encoded.cls_index]
