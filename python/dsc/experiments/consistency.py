"""Every way to keep the bank in step with the encoder: is staleness why small batches fail?"""

from dsc.experiments.experiment import ORL, Arm, Experiment
from dsc.experiments.figures import bars
from dsc.methods import BDSCMethod
from dsc.methods.bdsc import CONSISTENCIES

WORDS = {
    "lr": "rate by 1 / k",
    "momentum": "momentum encoder",
    "ema": "averaged rows",
    "refresh": "bank anew every epoch",
    "fresh": "bank anew every step",
    "exact": "exact gradient in chunks",
    "none": "nothing",
}

EXPERIMENT = Experiment(
    name="consistency",
    title="Is a stale bank the cause?",
    question="""With many small batches and the full batch's learning rate BDSC fails. Rows of the bank come from an
encoder that has moved since: is that why? "Bank anew every step" has no stale row at all; "exact gradient" is
the full batch in the activation memory of a chunk, one step an epoch.""",
    arms=tuple(
        Arm(f"{k} batches, {WORDS[way]}", ORL, BDSCMethod(consistency=way), k, {"preset": "orl"})  # type: ignore[arg-type]
        for k in (4, 20)
        for way in CONSISTENCIES
    ),
    seeds=3,
    figure=lambda records: bars(records, ("orl",)),
)
