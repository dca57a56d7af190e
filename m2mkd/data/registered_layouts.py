"""Layouts of the registered sets. What reads them is imported only when something is read."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from m2mkd.config.datasets import DatasetConfig
from m2mkd.config.layout import Layout, SourcePaths


def _archives(source: SourcePaths) -> list[Any]:
    from m2mkd.data.archives import open_archive

    return [open_archive(path, source.scratch) for path in source.paths]


class TinyImageNet(Layout):
    """Tiny-ImageNet: ``train/<wnid>/images``, and ``val/images`` with its labels in ``val_annotations.txt``, or a regrouped ``val``."""

    kind: Literal["tiny_imagenet"] = "tiny_imagenet"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import tiny_imagenet

        return tiny_imagenet(_archives(source))


class TinyImageNetR(Layout):
    """The images of ImageNet-R in the classes of Tiny-ImageNet; the archives of both."""

    SOURCES: ClassVar = (2,)
    kind: Literal["tiny_imagenet_r"] = "tiny_imagenet_r"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import tiny_imagenet_r

        return tiny_imagenet_r(_archives(source))


class TinyImageNetRendition(Layout):
    """Validation photographs of Tiny-ImageNet, from which renditions are made."""

    kind: Literal["tiny_imagenet_rendition"] = "tiny_imagenet_rendition"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import tiny_imagenet_rendition

        return tiny_imagenet_rendition(_archives(source))


class ImageFolder(Layout):
    """Archive with folders ``train/<class>`` and ``val/<class>``."""

    kind: Literal["image_folder"] = "image_folder"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import image_folder

        return image_folder(_archives(source))


class ImageNet(Layout):
    """ImageNet-1k in its published layout: training images, validation images, and the development kit."""

    SOURCES: ClassVar = (3,)
    kind: Literal["imagenet"] = "imagenet"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.imagenet import imagenet

        return imagenet(_archives(source))


class ImageNetR(Layout):
    """Folders named by WordNet id, with files named after their rendition; there is no training split."""

    kind: Literal["imagenet_r"] = "imagenet_r"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import imagenet_r

        return imagenet_r(_archives(source))


class CUB(Layout):
    """CUB-200-2011: tables of images, their classes and the official split."""

    kind: Literal["cub"] = "cub"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.layouts import cub

        return cub(_archives(source))


class CIFAR100(Layout):
    """CIFAR-100 in its original form: pickles of arrays."""

    kind: Literal["cifar100"] = "cifar100"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.cifar import read_cifar

        return read_cifar(_archives(source))


class COCO(Layout):
    """COCO: archives of images, and one of annotation files; or everything in one archive."""

    SOURCES: ClassVar = (1, 2, 3)
    HAS_SUBSETS: ClassVar = False
    kind: Literal["coco"] = "coco"

    def read(self, source: SourcePaths) -> Any:
        from m2mkd.data.coco_layout import coco

        return coco(_archives(source), source.scratch)


class MadeLayout(Layout):
    """Base of layouts whose images are made here."""

    MADE_HERE: ClassVar = True
    HAS_SUBSETS: ClassVar = False

    def make(self, name: str, dataset: DatasetConfig, image_size: int) -> Any:
        return self.maker()(name, dataset, image_size)

    def maker(self) -> Callable[[str, DatasetConfig, int], Any]:
        """Function that prepares the content."""
        raise NotImplementedError


class Digits(MadeLayout):
    """Handwritten digits that come with scikit-learn."""

    kind: Literal["digits"] = "digits"

    def maker(self) -> Callable[[str, DatasetConfig, int], Any]:
        from m2mkd.data.digits import prepare_digits

        return prepare_digits


class DigitsRendition(MadeLayout):
    """Renditions of the validation digits."""

    kind: Literal["digits_rendition"] = "digits_rendition"

    def maker(self) -> Callable[[str, DatasetConfig, int], Any]:
        from m2mkd.data.renditions import prepare_renditions

        return prepare_renditions


class DigitsScenes(MadeLayout):
    """Scenes of digits, with boxes and masks."""

    kind: Literal["digits_scenes"] = "digits_scenes"

    def maker(self) -> Callable[[str, DatasetConfig, int], Any]:
        from m2mkd.data.digits_scenes import prepare_scenes

        return prepare_scenes
