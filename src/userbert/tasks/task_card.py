"""What a task says of itself: facts for people, and the card that lies in its folder.

In: `task.json`, or its `record`. Out: facts by name, or `README.md`; see `model/model_card.py`. The
question stands there as it was asked; classes, which are values of the logs, are counted alone.
"""

from collections.abc import Mapping
from typing import Any

from userbert.model.model_card import Facts, card, in_rows

_USE = """```sh
userbert predict task data -o scores.parquet
```

Data have the ids of its network: `userbert prepare schema.yaml -o data --vocabulary {network}`."""
_LIMITS = """- Its quality is that on the users set apart to choose when to stop, so a little too
  high. The honest figure is that of `userbert evaluate`.
- At cut-offs before those that it learned from, scores may tell what came after.
- Look at whom a decision by its scores would leave out, and take none by them alone that weighs
  on a person."""


def task_facts(about: Mapping[str, Any]) -> Facts:
    """What was asked, and how it was learned."""
    asked = {
        "question": about["question"],
        "kind": about["kind"],
        "classes": f"{len(about['classes']):,}" if about["classes"] else None,
        "horizon": about["horizon"],
        "hidden fields": ", ".join(about["hide"]) or None,
    }
    record = about["record"]
    if not record:
        return {**asked, "learning": "none: its head is as it was drawn"}
    return {
        **asked,
        "labels": f"{record['labels']:,}, and {record['validation_labels']:,} set apart",
        "quality on those": f"{record['quality']:.3f}",
        "best after": f"{record['best_epoch']} of {record['epochs']} epochs",
        "started from": "new weights" if record["from_scratch"] else "the pretrained network",
        "learning": f"seed {record['seed']}, batches of {record['batch_size']}, "
        f"learning rate {record['learning_rate']:g}, {record['precision']}",
    }


def fused_facts(record: Mapping[str, Any]) -> Facts:
    """How well several models do together, and each of them."""
    each = {f"{name} alone": f"{value:.3f}" for name, value in record["qualities"].items()}
    return {"quality on those set apart": f"{record['quality']:.3f}", **each}


def task_card(
    about: Mapping[str, Any], network: str, together: Mapping[str, Any] | None = None
) -> str:
    """A task's card; `network` is its model's folder, `together` the record of a fused task."""
    of_three = (
        "" if together is None else " It is the mean of this network, a regression and trees."
    )
    sections = {
        "How to use it": _USE.format(network=network),
        "The network": in_rows(task_facts(about)),
        "Together": "" if together is None else in_rows(fused_facts(together)),
        "Limits": _LIMITS,
    }
    told = f"This model reads what a user did before an instant, and answers: *{about['question']}*"
    return card("A task about users", told + of_three, sections, (about["kind"],))
