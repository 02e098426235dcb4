import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refine.config.choices import AUGMENTATIONS
from refine.datasets import augmentation, digits, downloads
from refine.datasets.image_folder import image_folder
from refine.datasets.images import Images, Loader, Normalization, resized
from refine.datasets.prepare import balanced
from refine.errors import SettingError


def pictures(count=20, height=8, width=12):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % 4)


def test_digits_have_the_papers_shape_and_a_split_that_no_seed_moves():
    data = digits("", 32)
    assert data.train.pixels.shape == (1437, 32, 32, 3)
    assert data.test.pixels.shape == (360, 32, 32, 3)
    torch.manual_seed(5)
    assert digits("", 32).test.pixels.equal(data.test.pixels)
    assert torch.bincount(data.test.labels).min() >= 34
    assert digits("", None).train.pixels.shape == (1437, 8, 8, 3)


@pytest.mark.parametrize("count", [1, 10, 37, 99])
def test_subsets_are_balanced_and_follow_the_seed(count):
    labels = torch.arange(200) % 10
    draw = lambda seed: balanced(labels, count, torch.Generator().manual_seed(seed))  # noqa: E731
    chosen = draw(1)
    assert len(chosen.unique()) == count
    classes = torch.bincount(labels[chosen], minlength=10)
    assert classes.max() - classes.min() <= 1
    assert draw(1).equal(chosen)
    assert count > 90 or not draw(2).equal(chosen)


def test_a_class_that_is_too_small_is_filled_up_from_the_others():
    labels = torch.tensor([0] * 50 + [1] * 3)
    chosen = balanced(labels, 20, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[chosen]).tolist() == [17, 3]


def test_batches_are_normalised_channels_last_and_whole():
    images = pictures()
    normalization = Normalization.of(images)
    flat = images.pixels.reshape(-1, 3).float()
    assert torch.allclose(normalization.mean, flat.mean(0), rtol=1e-5)
    assert torch.allclose(normalization.std, flat.std(0, correction=0), rtol=1e-5)
    batches = list(Loader(images, normalization, 8))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    x = torch.cat([batch for batch, _ in batches])
    naive = (images.pixels.permute(0, 3, 1, 2).float() - flat.mean(0)[:, None, None]) / flat.std(
        0, correction=0
    )[:, None, None]
    assert torch.allclose(x, naive, atol=1e-5)
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_training_batches_cover_all_follow_the_seed_and_change_every_pass():
    images = pictures()
    normalization = Normalization(torch.zeros(3), torch.ones(3))
    make = lambda: Loader(  # noqa: E731
        images, normalization, 7,
        augment=augmentation.crop_flip, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    loader = make()
    first, second = list(loader), list(loader)
    assert sorted(torch.cat([labels for _, labels in first]).tolist()) == sorted(images.labels)
    assert not first[0][0].equal(second[0][0])
    assert all(a.equal(b) for (a, _), (b, _) in zip(first, make(), strict=True))


def test_a_training_batch_of_one_image_is_left_out():
    images, normalization = pictures(9), Normalization(torch.zeros(3), torch.ones(3))
    training = Loader(images, normalization, 4, generator=torch.Generator())
    assert [len(labels) for _, labels in training] == [4, 4]
    assert len(training) == 2
    assert [len(labels) for _, labels in Loader(images, normalization, 4)] == [4, 4, 1]
    assert len(list(Loader(pictures(1), normalization, 4, generator=torch.Generator()))) == 1


def test_shifts_mirror_the_picture_at_its_edge():
    pixels = pictures(50, 16, 8).pixels
    shifted = augmentation.shift_flip(pixels, torch.Generator().manual_seed(0))
    padded = np.pad(pixels.numpy(), ((0, 0), (2, 2), (1, 1), (0, 0)), mode="reflect")
    for picture, source in zip(shifted.numpy(), padded, strict=True):
        windows = [source[y : y + 16, x : x + 8] for y in range(5) for x in range(3)]
        assert any(
            (window == way).all() for window in windows for way in (picture, picture[:, ::-1])
        )


def test_crop_is_a_window_of_the_picture_padded_with_black():
    pixels = pictures(50, 16, 8).pixels
    cropped = augmentation.crop(pixels, torch.Generator().manual_seed(0))
    padded = np.pad(pixels.numpy(), ((0, 0), (2, 2), (1, 1), (0, 0)))
    seen = set()
    for picture, source in zip(cropped.numpy(), padded, strict=True):
        windows = {
            (y, x): source[y : y + 16, x : x + 8] for y in range(5) for x in range(3)
        }  # fmt: skip
        seen |= {place for place, window in windows.items() if (window == picture).all()}
        assert any((window == picture).all() for window in windows.values())
    assert len(seen) > 10


def test_flip_mirrors_about_half():
    pixels = pictures(200).pixels
    flipped = augmentation.flip(pixels, torch.Generator().manual_seed(0))
    mirrored = [bool(a.equal(b.flip(1))) for a, b in zip(flipped, pixels, strict=True)]
    same = [bool(a.equal(b)) for a, b in zip(flipped, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_and_type(name):
    pixels = pictures().pixels
    out = getattr(augmentation, name)(pixels, torch.Generator().manual_seed(0))
    assert (out.shape, out.dtype) == (pixels.shape, torch.uint8)


def test_resizing_keeps_constants_and_makes_grey_three_channels():
    grey = torch.full((3, 28, 28, 1), 77, dtype=torch.uint8)
    assert resized(grey, 32).unique().tolist() == [77]
    assert resized(grey, 32).shape == (3, 32, 32, 3)
    assert resized(grey, None).shape == (3, 28, 28, 3)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            home = tmp_path / "pets" / part / label
            home.mkdir(parents=True)
            for number in range(3):
                pixels = generator.integers(256, size=(6, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / f"{number}.png")
    return tmp_path / "pets"


def test_class_folders_are_read_like_torchvision_does(folder):
    from torchvision.datasets import ImageFolder

    data = image_folder(str(folder), None)
    for part in ("train", "test"):
        theirs = ImageFolder(folder / part)
        ours = getattr(data, part)
        assert ours.labels.tolist() == theirs.targets
        for pixels, (picture, _) in zip(ours.pixels.numpy(), theirs, strict=True):
            assert (pixels == np.asarray(picture)).all()
    assert data.classes == theirs.classes
    assert image_folder(str(folder), 16).train.pixels.shape == (6, 16, 16, 3)


def test_sixteen_bit_pictures_keep_their_range(folder):
    ramp = np.linspace(0, 65535, 54).reshape(6, 9).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "train" / "cat" / "0.png")
    pixels = image_folder(str(folder), None).train.pixels[0]
    assert pixels[..., 0].tolist() == (ramp / 257).round().astype(int).tolist()
    Image.fromarray(ramp.astype(np.float32)).save(folder / "train" / "cat" / "1.tiff")
    with pytest.raises(SettingError, match="32-bit"):
        image_folder(str(folder), None)


def test_pictures_are_decoded_once_until_the_folder_changes(folder, monkeypatch):
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or original(path))
    first = image_folder(str(folder), None)
    assert len(opened) >= 12
    opened.clear()
    again = image_folder(str(folder), None)
    assert opened == []
    assert again.train.pixels.equal(first.train.pixels)
    changed = folder / "train" / "dog" / "1.png"
    Image.new("RGB", (9, 6), (1, 2, 3)).save(changed)
    os.utime(changed, ns=(1, 1))
    assert image_folder(str(folder), None).train.pixels[4, 0, 0].tolist() == [1, 2, 3]
    assert opened


def test_a_broken_cache_is_ignored(folder):
    first = image_folder(str(folder), None)
    (cache,) = folder.glob("refine-cache*")
    cache.write_bytes(cache.read_bytes()[:100])
    assert image_folder(str(folder), None).test.pixels.equal(first.test.pixels)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda home: (home / "train/cat/1.png").write_text("no picture"), "1.png cannot be read"),
        (lambda home: Image.new("RGB", (5, 5)).save(home / "train/cat/1.png"), "differ in size"),
        (lambda home: (home / "test").rename(home / "tst"), "no images in"),
        (lambda home: (home / "train/cat").rename(home / "train/cow"), r"lacks: \['cat'\]"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, spoil, says):
    spoil(folder)
    with pytest.raises(SettingError, match=says):
        image_folder(str(folder), None)
    assert not list(folder.glob("*cache*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_torchvisions_data_sets(name, monkeypatch):
    import torchvision.datasets

    grey = name == "fashion_mnist"

    def made(root, train, download):
        shape = (10, 28, 28) if grey else (10, 32, 32, 3)
        data = np.full(shape, 9 if train else 8, np.uint8)
        return types.SimpleNamespace(
            data=torch.from_numpy(data) if grey else data,
            targets=torch.arange(10) if grey else list(range(10)),
            classes=[*"abcdefghij"],
        )

    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}[name]
    monkeypatch.setattr(torchvision.datasets, kind, made)
    data = getattr(downloads, name)("nowhere", 32)
    assert data.train.pixels.shape == (10, 32, 32, 3)
    assert data.train.pixels.unique().tolist() == [9]
    assert data.test.pixels.unique().tolist() == [8]
    assert data.test.labels.tolist() == list(range(10))


def test_a_download_that_fails_names_the_two_other_ways(monkeypatch, tmp_path):
    import torchvision.datasets

    def fails(root, train, download):
        Path(root).mkdir()
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fails)
    with pytest.raises(SettingError, match=r"no route[^$]*cifar-10-python.tar.gz[^$]*image_folder"):
        downloads.cifar10(str(tmp_path / "data"), 32)
    assert not (tmp_path / "data").exists()
