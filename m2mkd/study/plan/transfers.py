"""Runs of a transfer: students of other experiments on other data."""

from m2mkd.config.compat import Profile
from m2mkd.config.experiment import StudentExperiment, TransferExperiment
from m2mkd.config.models import NACConfig, VMoEConfig
from m2mkd.errors import InputError
from m2mkd.study.phases import ImportWeights, TrainProbe, TrainStudent
from m2mkd.study.plan.ablations import Ablations


class Transfers(Ablations):
    """Plans transfers, and the students that they start from."""

    def add_transfer(self, name: str, transfer: TransferExperiment, profile: Profile) -> None:
        for selector in transfer.students:
            experiment, variant = self.student(selector, f"experiment {name}: students")
            trained = self.students(experiment, variant, profile)
            if transfer.probe is None:
                measured = tuple(self.evaluation(experiment, run, profile) for run in trained)
            else:
                measured = tuple(self.probe(transfer, experiment, run, seeds, profile) for run in trained for seeds in self.seeds(run))
            self.row(name, selector, profile, trained, measured)

    def probe(
        self, transfer: TransferExperiment, experiment: StudentExperiment, trained: str, seeds: tuple[int, ...], profile: Profile
    ) -> str:
        config, probe, student = self.study.runs[trained].config, transfer.probe, self.model(experiment.model, VMoEConfig, NACConfig)
        assert isinstance(config, TrainStudent | ImportWeights) and probe is not None
        recipe = self.recipe(probe.recipe)
        if probe.way * probe.shots % 2 and (recipe.augmentation.mixup or recipe.augmentation.cutmix):
            odd = f"way {probe.way} x shots {probe.shots} is odd; the episode is one batch, and mixup needs an even one"
            off = f"set mixup and cutmix of recipes.{probe.recipe}.augmentation to 0"
            raise InputError(f"experiment {self.user}: probe: {odd}; change either, or {off}")
        return self.run(
            TrainProbe,
            profile,
            student,
            {"student": (trained,)},
            student=student,
            prior=experiment.prior,
            student_data=self.data(experiment.data),
            stitch_width=config.stitch_width,
            data=self.data(probe.data),
            published_data=probe.data,
            way=probe.way,
            shots=probe.shots,
            episodes=probe.episodes,
            recipe=recipe,
            replicates=seeds,
        )
