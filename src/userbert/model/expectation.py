"""What a pretrained model expects where it cannot look.

In: a model, a user's sequence and one of its words. Out: for each attribute, the values that the
model thinks likely in that word. The report and the explorer show them beside what was there.
"""

import numpy as np
import torch

from userbert.data.sequences import cut
from userbert.data.store import PreparedData
from userbert.data.vocabulary import UNKNOWN
from userbert.errors import InputError
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
    """Hide one word as pretraining does (paper §3.2) and read the heads at its place.

    The word is the `number`-th of the user's segment, counted from 0, oldest first. Each attribute
    has its `best` values with their probability among all values, likeliest first. Raises
    `InputError` if the user has no such word.
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
    zeroed = tuple(np.zeros(len(words.positions), bool) for words in batch.segments)
    zeroed[place][number] = True
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        encoded = model(batch, zeroed)
        vector = encoded.tokens[encoded.word_index[place][number]][None]  # (1, H)
        expected = {}
        heads = model.heads[place]
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
