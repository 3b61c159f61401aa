"""Batch size against learning rate, with the drift of the bank: where mini-batches break."""

from dsclust.experiments.experiment import ORL, Arm, Experiment
from dsclust.experiments.figures import heat_map
from dsclust.methods.bdsc import BDSCMethod

EXPERIMENT = Experiment(
    name="figure4",
    title="Batch size and learning rate",
    question="""How far may the networks move in a step? Their learning rate as a multiple of C's, which stays 1e-3,
over the number of batches; no rule couples the two here. BDSC's rule, a rate in proportion to 1 / k, is the descending
diagonal.""",
    arms=tuple(
        Arm(
            f"{k} batches, rate × {rate:g}",
            ORL,
            BDSCMethod(consistency="none", network_rate=rate),
            k,
            {"preset": "orl"},
        )
        for k in (1, 4, 20)
        for rate in (4.0, 1.0, 0.25, 0.05)
    ),
    seeds=3,
    figure=lambda records: heat_map(records, "orl", "network_rate"),
    reading="""Up to four batches any of these rates will do, an eightyfold range. At twenty the rate has to come down:
.60 at the full batch's, .39 at four times that, .84 at a quarter and .83 at BDSC's twentieth. The drift does not tell a
failing run from a sound one: it is .32 at .60, but .02 both at .39 and at .84.""",
)
