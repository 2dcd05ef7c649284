"""What a change of channels would do -> the reply's ``what_if``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pellucid.parts import side_by_side
from pellucid.parts.classes import prediction
from pellucid.parts.plan import Look
from pellucid.trust.ranks import spearman
from pellucid.types import Box, ChannelRanking, WhatIf

# How many channels are named as those that mattered most.
_NAMED: Final = 10


def what_if(found: WhatIf, box: Box, look: Look, labels: Sequence[str]) -> dict[str, Any]:
    """The part as JSON; its pictures are still Pictures."""
    edit = found.edit
    return {
        "layer": found.layer,
        "gate": edit.gate or None,
        "edit": {
            "channels": [{"channel": channel, "factor": factor} for channel, factor in edit.channels],
            "others": edit.others,
        },
        "before": [prediction(each, labels) for each in found.before],
        "after": [prediction(each, labels) for each in found.after],
        "targets": [
            {
                "before": prediction(before.target, labels),
                "after": prediction(after.target, labels),
                "change": np.float32(after.target.logit - before.target.logit),
                "maps": side_by_side.maps(before.heat, after.heat, box, look.max_side, look.signed),
            }
            for before, after in found.targets
        ],
        "ranking": None if found.ranking is None else _ranking(found.ranking),
    }


def _ranking(ranking: ChannelRanking) -> dict[str, Any]:
    did = -ranking.muted
    taken = {
        "gradient_weights": ranking.gradient_weights,
        "gradient_activation": ranking.gradient_activation,
        "gate_weights": ranking.gate_weights,
    }
    agreement = {name: None if values is None else spearman(did, values) for name, values in taken.items()}
    most = np.argsort(-np.abs(ranking.muted), kind="stable")[:_NAMED]
    return {
        "muted": ranking.muted,
        **taken,
        "most": [{"channel": int(channel), "muted": ranking.muted[channel]} for channel in most],
        "agreement": {name: None if value is None else np.float32(value) for name, value in agreement.items()},
    }
