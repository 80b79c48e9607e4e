"""Facts of a task for people, and the card in its folder.

In: the content of `task.json`. Out: facts by name, or the text of `README.md`; see
`model/model_card.py`. The card repeats the question, but only the number of classes, because
classes are values of the logs.
"""

from collections.abc import Mapping
from typing import Any

from userbert.model.model_card import Facts, card, facts_table

_USE = """```sh
userbert predict task data -o scores.parquet
```

Prepare data with the ids of its network:
`userbert prepare schema.yaml -o data --vocabulary {network}`."""
"""Text of the card on use; `{network}` is the path of the network's model folder."""
_LIMITS = """- The quality above was measured on the users that chose the best epoch (early
  stopping), so it is a little too high. Use `userbert evaluate` for an unbiased figure.
- Scores at cut-offs before those of the training labels may leak the future.
- Check which users a decision based on the scores would exclude, and make no decision
  about a person by scores alone."""
"""Text of the card on limits."""


def task_facts(about: Mapping[str, Any]) -> Facts:
    """Returns facts about a task and its training, by name."""
    facts = {
        "question": about["question"],
        "kind": about["kind"],
        "classes": f"{len(about['classes']):,}" if about["classes"] else None,
        "horizon": about["horizon"],
        "hidden fields": ", ".join(about["hide"]) or None,
    }
    record = about["record"]
    if not record:
        return {**facts, "training": "none: its head has random weights"}
    return {
        **facts,
        "labels": f"{record['labels']:,}, and {record['validation_labels']:,} for validation",
        "validation quality": f"{record['quality']:.3f}",
        "best epoch": f"{record['best_epoch']} of {record['epochs']}",
        "started from": "new weights" if record["from_scratch"] else "the pretrained network",
        "training": f"seed {record['seed']}, batches of {record['batch_size']}, "
        f"learning rate {record['learning_rate']:g}, {record['precision']}",
    }


def fused_facts(record: Mapping[str, Any]) -> Facts:
    """Returns the validation quality of a fused model and of each of its members, by name."""
    member_facts = {f"{name} alone": f"{value:.3f}" for name, value in record["qualities"].items()}
    return {"validation quality": f"{record['quality']:.3f}", **member_facts}


def task_card(
    about: Mapping[str, Any], network: str, fused_record: Mapping[str, Any] | None = None
) -> str:
    """Returns the text of a task's card.

    `about` is the content of `task.json`, `network` is the path of the network's
    model folder, `fused_record` the record of a fused task.
    """
    blend_note = (
        "" if fused_record is None else " It is the mean of this network, a regression and trees."
    )
    sections = {
        "How to use it": _USE.format(network=network),
        "The network": facts_table(task_facts(about)),
        "The fused model": "" if fused_record is None else facts_table(fused_facts(fused_record)),
        "Limits": _LIMITS,
    }
    summary = (
        f"This model reads what a user did before a cut-off and predicts: *{about['question']}*"
    )
    return card("A task about users", summary + blend_note, sections, (about["kind"],))
