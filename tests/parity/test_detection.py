"""The detector against recordings of the released classes (specification detection.md 8).

Every recording in the folder is replayed, and of each every tensor is compared; one more needs no change here.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from m2mkd import upstream
from m2mkd.data.detection_stream import Target
from m2mkd.detection import names
from m2mkd.detection.detector import Detector, Losses, sizes
from m2mkd.detection.pooling import region_levels
from m2mkd.detection.sampling import NEGATIVE, POSITIVE, match_anchors, match_regions
from m2mkd.detection.targets import mask_targets
from tests.conftest import ROOT
from tests.parity.released import outlines

DOUBLE, LOSS = 2e-7, 1e-6
"""Largest difference over largest value; the recordings are rounded to single precision, losses are not, but some of their targets are."""
SINGLE = 5e-5
LOSSES = Losses("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
GROUPS = ("input", "tokens", "gate", "pyramid", "anchors", "rpn", "train", "roi", "mask", "test")
FOLDER = (ROOT / os.environ.get("M2MKD_FIXTURES", "../shared/fixtures")).resolve() / "detection"
RECORDED = [path.name.removesuffix(".meta.json") for path in sorted(FOLDER.glob("*.meta.json")) if "losses" in json.loads(path.read_text())]
"""Every recording of a network."""


class Recording:
    """One recording, and the same computed here."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype) -> None:
        self.ours: dict[str, Tensor] = {}
        self.meta = json.loads((folder / f"{name}.meta.json").read_text())
        self.tensors = load_file(folder / f"{name}.safetensors")
        owners = [path.name.removesuffix(".weights.safetensors") for path in folder.glob("*.weights.safetensors")]
        self.owner = max((owner for owner in owners if name.startswith(owner)), key=len)
        state = load_file(folder / f"{self.owner}.weights.safetensors")
        self.detector: Detector = upstream.load("vmoe_detector", state, self.meta["config"]).to(dtype)
        grads = folder / f"{name}.grads.safetensors"
        self.grads = load_file(grads) if grads.exists() else {}
        number = range(len(self.meta["images"]))
        self.images = [self.tensors[f"input.image.{n}"] for n in number]
        self.targets = [
            Target(self.tensors[f"input.boxes.{n}"], self.tensors[f"input.classes.{n}"], outlines(self.meta["polygons"][n])) for n in number
        ]
        self.ours["input.batched"] = self.detector.batched(self.images)
        self._train()
        self._test()

    def sampler(self, stage: str, image: int, labels: Tensor, number: int, positive: int) -> tuple[Tensor, Tensor]:
        """What the released code drew, after a look at what it drew from."""
        if stage == "anchors":
            self.ours[f"rpn.labels_positive.{image}"] = (labels == POSITIVE).nonzero().flatten()
            self.ours[f"rpn.labels_ignored.{image}"] = ((labels != POSITIVE) & (labels != NEGATIVE)).nonzero().flatten()
            chosen = [self.tensors[f"rpn.sampled_{kind}.{image}"].long() for kind in ("positive", "negative")]
        else:
            drawn, front = self.tensors[f"roi.sampled.{image}"].long(), int(self.tensors[f"roi.sampled_foreground.{image}"])
            chosen = [drawn[:front], drawn[front:]]
        for kind, label, most in zip(chosen, (POSITIVE, NEGATIVE), (positive, number), strict=True):
            assert (labels[kind] == label).all()
            assert len(kind) <= most
        # As many as there are, as long as they are wanted.
        assert len(chosen[0]) == min(positive, int((labels == POSITIVE).sum()))
        assert len(chosen[1]) == min(number - len(chosen[0]), int((labels == NEGATIVE).sum()))
        return chosen[0], chosen[1]

    def _train(self) -> None:
        ours, detector = self.ours, self.detector
        captured: dict[str, list[Tensor]] = {}
        heads = detector.heads
        watched = {
            "head": heads.box_head,
            "scores": heads.class_logits,
            "deltas": heads.box_deltas,
            "masks": heads.mask_head,
            "logits": heads.mask_logits,
        }
        hooks = [
            module.register_forward_hook(lambda _, args, out, name=name: captured.update({name: (args[0], out)}))
            for name, module in watched.items()
        ]
        blocks = [block for stage in detector.backbone.stages for block in stage.blocks]
        for i, block in enumerate(blocks):
            hooks.append(block.register_forward_hook(lambda _, __, out, i=i: ours.update({f"tokens.block{i}": out})))
            if hasattr(block.mlp, "route"):
                hooks.append(block.mlp.register_forward_hook(lambda moe, args, _, i=i: self._gate(i, moe, args[0].flatten(0, 1))))
        hooks.append(detector.pyramid.register_forward_hook(lambda _, __, out: captured.update(maps=out)))
        hooks.append(detector.rpn.register_forward_hook(lambda _, __, out: captured.update(scored=out)))

        self.losses = detector.losses(self.images, self.targets, self.sampler, averaging="batch")
        self.losses.total.backward()
        for hook in hooks:
            hook.remove()

        self._maps(captured["maps"], captured["scored"])
        proposed = detector.rpn.propose(captured["scored"], sizes(self.images), detector.config.train_proposals)
        regions = heads.sample(proposed, self.targets, self.sampler)
        classes = torch.cat([mine.classes for mine in regions])
        front = (classes < detector.num_classes).nonzero().flatten()
        for n, (mine, target, proposals) in enumerate(zip(regions, self.targets, proposed, strict=True)):
            ours[f"train.proposals.{n}.boxes"], ours[f"train.proposals.{n}.logits"] = proposals.boxes, proposals.logits
            every = torch.cat([proposals.boxes, target.boxes])
            ours[f"roi.labels.{n}"] = match_regions(target.boxes, target.classes, every, detector.num_classes)[0]
            ours[f"roi.sampled.{n}"] = self.tensors[f"roi.sampled.{n}"]
            ours[f"roi.sampled_foreground.{n}"] = torch.tensor(mine.foreground)
            ours[f"roi.boxes.{n}"], ours[f"roi.classes.{n}"] = mine.boxes, mine.classes
            if len(target):
                ours[f"roi.gt_boxes.{n}"] = target.boxes[mine.instances]
            anchors = torch.cat(captured["scored"].anchors)
            for kind in ("positive", "negative"):
                ours[f"rpn.sampled_{kind}.{n}"] = self.tensors[f"rpn.sampled_{kind}.{n}"]
            instances = match_anchors(target.boxes, anchors, detector.switches)[1]
            ours[f"rpn.positive_gt.{n}"] = instances[self.tensors[f"rpn.sampled_positive.{n}"].long()]
        ours["roi.levels"] = region_levels(torch.cat([mine.boxes for mine in regions]), detector.config.canonical_size)
        ours["roi.features"], ours["roi.head"] = captured["head"]
        ours["roi.scores"], ours["roi.deltas"] = captured["scores"][1], captured["deltas"][1]
        ours["mask.features"], ours["mask.logits"] = captured["masks"][0], captured["logits"][1]
        instances = [mine.instances[: mine.foreground] for mine in regions]
        ours["mask.targets"] = mask_targets(self.targets, instances, [mine.boxes[: mine.foreground] for mine in regions])
        assert len(front) == len(ours["mask.targets"])

    def _gate(self, block: int, moe, tokens: Tensor) -> None:
        chosen, weights = moe.route(tokens)
        by_index = chosen.argsort(dim=-1)
        self.ours[f"gate.moe{block}.logits"] = moe.gate(tokens)
        self.ours[f"gate.moe{block}.experts"] = chosen.gather(1, by_index)
        self.ours[f"gate.moe{block}.weights"] = weights.gather(1, by_index)

    def _maps(self, maps, scored) -> None:
        for level, (features, anchors, logits, deltas) in enumerate(
            zip(maps, scored.anchors, scored.logits, scored.deltas, strict=True), 2
        ):
            height, width = features.shape[-2:]
            self.ours[f"pyramid.p{level}"], self.ours[f"anchors.p{level}"] = features, anchors
            self.ours[f"rpn.logits.p{level}"] = logits.unflatten(1, (height, width, -1)).permute(0, 3, 1, 2)
            self.ours[f"rpn.deltas.p{level}"] = deltas.unflatten(1, (height, width, -1)).flatten(3).permute(0, 3, 1, 2)

    def _test(self) -> None:
        detector, ours = self.detector, self.ours
        with torch.no_grad():
            maps = detector.maps(self.images)
            proposed = detector.rpn.propose(detector.rpn(maps), sizes(self.images), detector.config.test_proposals)
        for n, found in enumerate(detector.predict(self.images)):
            ours[f"test.proposals.{n}.boxes"], ours[f"test.proposals.{n}.logits"] = proposed[n].boxes, proposed[n].logits
            about = self.meta["images"][n]
            original = about["output_height"], about["output_width"]
            final = found.resized((about["height"], about["width"]), original)
            for kind, of in (("raw", found), ("final", final)):
                ours |= {f"test.{kind}.{n}.{part}": getattr(of, part) for part in ("boxes", "scores", "classes", "masks")}
            bits = np.packbits(final.bitmaps(*original).flatten(1).numpy(), axis=1)
            ours[f"test.final.{n}.mask_bits"] = torch.from_numpy(bits)

    def of(self, key: str) -> Tensor:
        """What is computed here, cut to what is recorded under ``key``."""
        if match := re.fullmatch(r"(.+)_every_(\d)\w\w", key):
            whole, step = self.ours[match[1]], int(match[2])
            return whole[::step] if key.startswith("roi.") else whole[..., ::step, ::step]
        if match := re.fullmatch(r"(anchors\.p\d)\.first(\d+)", key):
            return self.ours[match[1]][: int(match[2])]
        whole, rows = self.ours[key], len(self.tensors[key]) if self.tensors[key].dim() else 0
        if key.startswith("tokens."):
            return whole.reshape(self.tensors[key].shape)
        return whole[:rows] if key.endswith((".masks", ".mask_bits")) else whole


@cache
def replayed(name: str, dtype: torch.dtype = torch.float64) -> Recording:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Recording(FOLDER, name, dtype)
    finally:
        torch.set_num_threads(threads)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over largest value."""
    assert ours.shape == theirs.shape
    if not theirs.numel():
        return 0.0
    return ((ours.detach().double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-30)).item()


def worst(recording: Recording, keys: list[str]) -> dict[str, float]:
    """Difference of each tensor of floats; those of whole numbers are equal."""
    found = {}
    for key in keys:
        ours, theirs = recording.of(key), recording.tensors[key]
        if theirs.is_floating_point():
            found[key] = difference(ours, theirs)
        else:
            assert ours.shape == theirs.shape, key
            assert torch.equal(ours.long(), theirs.long()), key
    return found


def test_recordings_are_there(fixtures_dir):
    assert (fixtures_dir / "detection").resolve() == FOLDER
    assert {"released", "released_crop", "released_empty_image", "vitdet"} <= set(RECORDED)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_tensor(name, group):
    recording = replayed(name)
    inputs = re.compile(r"input\.(image|boxes|classes)\.\d+")
    keys = [key for key in recording.tensors if key.split(".")[0] == group and not inputs.fullmatch(key)]
    assert set(recording.tensors) == {key for key in recording.tensors if key.split(".")[0] in GROUPS}
    found = worst(recording, keys)
    assert all(value <= DOUBLE for value in found.values()), max(found.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", RECORDED)
def test_losses(name):
    recording = replayed(name)
    for key, loss in zip(LOSSES, recording.losses, strict=True):
        assert loss.item() == pytest.approx(recording.meta["losses"][key], rel=LOSS), key
    assert recording.losses.total.item() == pytest.approx(recording.meta["total_loss"], rel=LOSS)


def released_gradients(recording: Recording) -> dict[str, Tensor]:
    """Gradients of the sum of the losses by released names; zeros where nothing came back."""
    by_name = {}
    for name, parameter in recording.detector.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        ways = names.sources(recording.detector.config, name, tuple(parameter.shape))
        way = next(way for way in ways if set(way.names) <= recording.meta["gradient_norms"].keys())
        by_name |= dict(zip(way.names, gradient.chunk(len(way.names)), strict=True))
    return by_name


@pytest.mark.parametrize("name", RECORDED)
def test_gradients(name):
    recording = replayed(name)
    ours, norms = released_gradients(recording), recording.meta["gradient_norms"]
    assert ours.keys() == norms.keys()
    none = {key for key, gradient in ours.items() if not gradient.any()}
    assert none == set(recording.meta["zero_gradient"]) | set(recording.meta["no_gradient"])
    for key, norm in norms.items():
        assert ours[key].norm().item() == pytest.approx(norm, rel=1e-9, abs=1e-12), key
    for key, gradient in recording.grads.items():
        mine = ours[key].flatten()[::5] if recording.meta.get("gradients") else ours[key]
        assert difference(mine, gradient) <= DOUBLE, key


@pytest.mark.parametrize("name", RECORDED)
def test_single_precision(name):
    recording = replayed(name, torch.float32)
    keys = [key for key in recording.tensors if key.startswith(("tokens.", "pyramid.", "rpn.logits", "rpn.deltas"))]
    assert all(value <= SINGLE for value in worst(recording, keys).values())
    for key, loss in zip(LOSSES, recording.losses, strict=True):
        assert loss.item() == pytest.approx(recording.meta["losses"][key], rel=1e-5), key
