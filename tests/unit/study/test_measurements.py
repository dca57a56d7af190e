"""Numbers of a run that contradict each other are refused by name."""

import copy

import pytest

from m2mkd.study.measurements import accuracies, check_last_line, check_renditions
from m2mkd.study.phases import Evaluate, MeasureHybrid, TrainProbe
from tests.tiny import of_phase, smoke

CONFUSION = {"classes": ["a", "b"], "images": [[0, 0, 3], [0, 1, 1], [1, 0, 2], [1, 1, 4]]}
GOOD = {"top1": 0.7, "top5": 1.0, "loss": 0.5, "count": 10, "per_class": {"a": 3 / 4, "b": 4 / 6}, "confusion": CONFUSION}


def read(found: dict, **how) -> list:
    return list(accuracies("iid", "digits@32", found, **how))


def with_(path: str, value: object) -> dict:
    found = copy.deepcopy(GOOD)
    *names, last = path.split(".")
    inner = found
    for name in names:
        inner = inner[name]
    inner[last] = value
    return found


def test_numbers_that_agree_are_taken():
    assert [(one.metric, one.value, one.count) for one in read(GOOD)] == [("top1", 0.7, 10), ("top5", 1.0, 10), ("loss", 0.5, 10)]
    assert read({name: GOOD[name] for name in ("top1", "top5", "loss", "count")}) == read(GOOD)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("top1", 0.75, r"top1 is 0\.75, which is not a whole number of 10 images"),
        ("top5", 0.99, r"top5 is 0\.99, which is not a whole number of 10 images"),
        ("top5", 0.6, r"top1 is 0\.7, but top5 0\.6"),
        ("top1", 0.8, r"confusion has 7 of 10 images right, but top1 is 0\.8"),
        ("count", 20, r"confusion has 10 images, but count is 20"),
        ("count", 10.0, "count is 10.0, but a whole number"),
        ("loss", -0.1, "loss is -0.1, but no cross-entropy is below 0"),
        ("per_class", {"a": 3 / 4, "b": 5 / 6}, "per_class and confusion are not of the same images"),
        ("per_class", {"a": 3 / 4}, "per_class and confusion are not of the same images"),
        ("confusion.images", [[0, 0, 7], [0, 2, 3]], "confusion has class 2, but there are 2"),
        ("confusion.images", [[0, 0, 7.5], [1, 1, 2.5]], "count is 7.5, but a whole number"),
    ],
)
def test_numbers_that_do_not_are_refused(path, value, message):
    with pytest.raises(ValueError, match=message):
        read(with_(path, value))


def test_what_is_reported_as_the_released_code_does_is_no_mean_of_images():
    assert read(with_("top1", 0.7031), whole=False)[0].value == 0.7031
    with pytest.raises(ValueError, match=r"top5 is 0\.99"):
        read(with_("top5", 0.99), whole=False)


def test_all_images_are_between_their_renditions():
    check_renditions({"top1": 0.3, "renditions": {"edges": 0.2, "rotated": 0.3}})
    with pytest.raises(ValueError, match=r"top1 is 0\.4, but its renditions have 0\.2 to 0\.3"):
        check_renditions({"top1": 0.4, "renditions": {"edges": 0.2, "rotated": 0.3}})
    check_renditions({"top1": 0.4, "renditions": {"edges": 0.2, "rotated": 0.3}}, whole=False)


def test_a_training_ends_with_what_it_reports():
    check_last_line({"val_top1": 0.5, "loss": 1.0}, {"epoch": 3, "val_top1": 0.5, "loss": 1.0})
    with pytest.raises(ValueError, match=r"val_top1 is 0\.5, but the learning curve ends with 0\.4"):
        check_last_line({"val_top1": 0.5}, {"epoch": 3, "val_top1": 0.4})


def config_of(kind: type):
    return of_phase(smoke(), kind.model_fields["phase"].default)[0].config


def test_hybrids_are_those_of_the_teacher_and_saw_the_same_images():
    config = config_of(MeasureHybrid)
    good = {"top1": 0.5, "top5": 1.0, "loss": 0.5, "count": 10}
    hybrids = {str(index): good for index in range(config.model.modules)}
    assert list(config.measurements({"meta": good, "hybrids": hybrids})) == []
    with pytest.raises(ValueError, match="measured on 10 to 20 images"):
        config.measurements({"meta": good | {"count": 20}, "hybrids": hybrids})
    with pytest.raises(ValueError, match="hybrids are 0, but the teacher has 4 modules"):
        config.measurements({"meta": good, "hybrids": {"0": good}})


def test_a_probe_reports_the_mean_of_its_episodes():
    config = config_of(TrainProbe).model_copy(update={"episodes": 2})
    found = {"val_top1": 0.3, "val_top5": 1.0, "val_loss": 1.0, "episodes": {"val_top1": [0.2, 0.4]}}
    assert next(config.measurements(found)).value == 0.3
    with pytest.raises(ValueError, match=r"val_top1 is 0\.35, which is not the mean of 2 episodes"):
        list(config.measurements(found | {"val_top1": 0.35}))


def test_left_out_images_are_counted():
    config = config_of(Evaluate)
    ood = {"top1": 0.5, "top5": 1.0, "loss": 1.0, "count": 10, "classes": 6, "left_out": -1, "renditions": {}}
    good = {"top1": 0.5, "top5": 1.0, "loss": 0.5, "count": 10, "ood": {data.name: ood for data in config.ood}}
    with pytest.raises(ValueError, match="left_out is -1, but a whole number of at least 0"):
        list(config.measurements(good))
