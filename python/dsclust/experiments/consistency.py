"""Every way to keep the bank in step with the encoder: is staleness why small batches fail?"""

from dsclust.experiments.experiment import ORL, Arm, Experiment
from dsclust.experiments.figures import bars
from dsclust.methods.bdsc import BDSCMethod

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
        for way in WORDS
    ),
    seeds=3,
    figure=lambda records: bars(records, ("orl",)),
    reading="""With four batches every way is within noise of every other. With twenty, doing nothing loses a quarter of
the accuracy (.60), and a bank without a single stale row still loses more than half of that (.69): staleness makes it
worse, but small batches fail without it as well. What works is what keeps the networks' travel between two steps of a
row of C as it is in the full batch: their rate divided by the number of batches (.83), or one exact step an epoch
(.85). A momentum encoder (.75, and .105 of spread), averaged rows or a bank encoded anew each epoch do not replace
that.""",
)
