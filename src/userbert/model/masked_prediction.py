"""What a pretrained model expects where it cannot look.

In: a model, a user's sequence and one of its words. Out: for each attribute, the values that the
model thinks likely in that word. The report and the explorer show them beside what was there.
"""

import numpy as np
import torch
from torch import Tensor

from userbert.data.batches import UserBatch, without_actions
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import UNKNOWN
from userbert.errors import InputError
from userbert.model.heads import SegmentHeads
from userbert.model.userbert import UserBert


def expect(  # noqa: PLR0917 - a word's address: the user, the instant, the segment, the number
    model: UserBert,
    data: PreparedData,
    row: int,
    cutoff: int,
    segment: str,
    number: int,
    best: int = 5,
) -> dict[str, list[tuple[str, float]]]:
    """Hide one word as pretraining did, and read the heads that learned to tell what is hidden.

    Of a model that learned masked words (paper §3.2) the word's input is zero, and its heads are
    read at its place; of one that learned hidden actions the word is taken out, and they are read
    at [CLS]. The word is the `number`-th of the user's segment, counted from 0, oldest first. Each
    attribute has its `best` values with their probability among all values, likeliest first.
    Raises `InputError` if the user has no such word, or the model learned neither.
    """
    batch = cut(data, np.array([row]), np.array([cutoff]), model.hidden)
    names = [words.name for words in batch.segments]
    count = len(batch.segments[names.index(segment)].positions) if segment in names else 0
    if not 0 <= number < count:
        raise InputError(
            f"the user in row {row} of {data.path} has {count} words of segment {segment!r} before "
            f"the cut-off: there is no word {number}. They count from 0."
        )
    place = names.index(segment)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        heads, vector = _told(model, batch, place, number)
        expected = {}
        for name, head in zip(heads.names, heads.attributes, strict=True):
            probabilities = head(vector).float().softmax(dim=1)[0]  # (V,)
            likely = probabilities.topk(min(best, len(probabilities)))
            values = model.vocabularies.segments[segment][name].names
            expected[name] = [
                # The heads have no output for id 0, none.
                (values[int(index) + UNKNOWN], float(probability))
                for probability, index in zip(likely.values, likely.indices, strict=True)
            ]
    model.train(was_training)
    return expected


def expects_words(model: UserBert) -> bool:
    """Whether a model learned to tell what is hidden."""
    return _learned_words(model) or "hidden" in model.user_heads


def _learned_words(model: UserBert) -> bool:
    weights = model.record.get("config", {}).get("objectives", {})
    return bool(weights.get("words", 1) > 0)


def _told(
    model: UserBert, batch: UserBatch, place: int, number: int
) -> tuple[SegmentHeads, Tensor]:
    """The heads that tell a segment's hidden values, and the vector (1, H) that they read."""
    if _learned_words(model):
        zeroed = tuple(np.zeros(len(words.positions), bool) for words in batch.segments)
        zeroed[place][number] = True
        encoded = model(batch, zeroed)
        return model.heads[place], encoded.tokens[encoded.word_index[place][number]][None]
    if not expects_words(model):
        raise InputError(
            "the model learned from neither masked words nor hidden actions, so it expects nothing "
            "in a word. Pretrain one that does: userbert pretrain DATA -o MODEL"
        )
    left_out = [np.zeros(words.ids.shape[1], bool) for words in batch.segments]
    left_out[place][slice(*batch.segments[place].action_offsets[number : number + 2])] = True
    encoded = model(without_actions(batch, left_out))
    return model.user_heads["hidden"].segments[place], encoded.tokens[encoded.cls_index]
