"""`dsclust fit --data FOLDER --n-clusters K` with no other word, on every data set."""

from dsclust.experiments.experiment import COIL20, COIL100, COIL100_RGB, MNIST_ALL, ORL, ORL_LARGE, Arm, Experiment
from dsclust.experiments.figures import bars

INPUTS = (ORL, ORL_LARGE, COIL20, COIL100, COIL100_RGB, MNIST_ALL)

EXPERIMENT = Experiment(
    name="auto",
    title="With no other word",
    question="""How good is what a newcomer gets, who says where the data are and how many clusters there should be?
Method and features are chosen without labels: a closed form, on the representation whose graph has the smallest
normalized cut. The baselines get the pixels. Seconds include the choice and all features.""",
    arms=tuple(Arm("dsclust fit", data, None, None) for data in INPUTS),
    seeds=1,
    figure=lambda records: bars(records, tuple(data.name for data in INPUTS), columns=3),
    baseline_seeds=1,
)
