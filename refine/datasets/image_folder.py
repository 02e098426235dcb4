"""How are a user's own images read from class folders?"""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from refine.datasets.images import Images, RawData, resized
from refine.errors import SettingError
from refine.records.files import written_whole

log = logging.getLogger(__name__)
ENDINGS = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_folder(root: str, image_size: int | None) -> RawData:
    """Reads ``root/train/CLASS/*`` and ``root/test/CLASS/*``, torchvision's ImageFolder layout.

    The pictures are decoded once and then kept in a cache file beside the folders, or in the user's
    cache directory if those are read-only. The cache is used as long as every file's name, size and
    time are the same. Without ``image_size`` all pictures must have one size.
    """
    home = Path(root).expanduser().absolute()
    if not home.is_dir():
        raise SettingError("dataset.root", f"there is no directory {home}; set it or $REFINE_DATA")
    listing = {part: _listing(home / part) for part in ("train", "test")}
    classes = sorted({file.label for file in listing["train"]})
    unknown = {file.label for file in listing["test"]} - set(classes)
    if unknown:
        raise SettingError(
            "dataset.root", f"{home / 'test'} has classes that train/ lacks: {sorted(unknown)}"
        )
    key = _digest(f"{image_size} {listing}")
    name = f"refine-cache-{image_size or 'native'}.safetensors"
    places = [home / name, _cache_directory() / f"{_digest(str(home))[:16]}-{name}"]
    counts = {part: len(files) for part, files in listing.items()}
    arrays = next((found for place in places if (found := _cached(place, key, counts))), None)
    if arrays is None:
        arrays = {}
        for part, files in listing.items():
            log.info("decoding %s images of %s (once)", f"{len(files):,}", home / part)
            paths = [home / part / file.label / file.name for file in files]
            arrays[part] = _decode(paths, image_size)
        _keep(places, arrays, key)
    number = {name: label for label, name in enumerate(classes)}
    images = {}
    for part, files in listing.items():
        labels = torch.tensor([number[file.label] for file in files])
        images[part] = Images(arrays[part], labels)
    if images["train"].pixels.shape[1:] != images["test"].pixels.shape[1:]:
        raise SettingError(
            "dataset.image_size", "train/ and test/ differ in image size; set a size for both"
        )
    return RawData(images["train"], images["test"], classes)


class File(NamedTuple):
    """An image file of a class folder; size and time change when the file does."""

    label: str
    name: str
    size: int
    modified_ns: int


def _listing(folder: Path) -> list[File]:
    """The image files in the class folders of ``folder``, in the order of their names."""
    found = []
    labels = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    empty, others = [], []
    for label in sorted(label for label in labels if not _foreign(label)):
        if (folder / label).is_dir():
            with os.scandir(folder / label) as entries:
                files = sorted(entries, key=lambda entry: entry.name)
            chosen = [entry for entry in files if _is_image(entry)]
            others += [
                e.path for e in files if e.is_file() and not (_is_image(e) or _foreign(e.name))
            ]
            for entry in chosen:
                try:
                    stat = entry.stat()
                except OSError as error:  # such as a link to nothing
                    problem = f"{entry.path} cannot be read ({error.strerror}); remove it"
                    raise SettingError("dataset.root", problem) from None
                found.append(File(label, entry.name, stat.st_size, stat.st_mtime_ns))
            empty += [] if chosen else [label]
    if found and empty:
        raise SettingError(
            "dataset.root",
            f"no images in {folder / empty[0]}; fill or remove it: a folder there is a class",
        )
    if others:
        log.warning("%d files are no pictures and left out, such as %s", len(others), others[0])
    if not found:
        raise SettingError("dataset.root", f"no images in {folder}/CLASS/; expected .png, .jpg, …")
    return found


def _foreign(name: str) -> bool:
    """Whether an entry is hidden, or one that a system or an archive has left."""
    return name.startswith(".") or name == "__MACOSX"


def _is_image(entry: "os.DirEntry[str]") -> bool:
    named = entry.name.lower().endswith(ENDINGS) and not _foreign(entry.name)
    return named and not entry.is_dir()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refine"


def _cached(place: Path, key: str, counts: dict[str, int]) -> dict[str, torch.Tensor] | None:
    """The decoded pictures, if ``place`` holds those of ``key``: ``counts`` of each part."""
    try:
        with safe_open(place, framework="pt") as file:
            if json.loads((file.metadata() or {}).get("refine", "{}")).get("key") != key:
                return None
            arrays = {part: file.get_tensor(part) for part in counts}
        for part, array in arrays.items():
            if array.dtype != torch.uint8 or array.dim() != 4 or len(array) != counts[part]:
                raise ValueError(f"{part} is not made of the {counts[part]} pictures")
        return arrays
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with the cache, the pictures can be read
        log.warning("ignoring the cache %s (%s)", place, error)
        return None


def _keep(places: list[Path], arrays: dict[str, torch.Tensor], key: str) -> None:
    """Writes the decoded pictures to the first of ``places`` that can be written."""
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(place) as part:
                save_file(arrays, part, metadata={"refine": json.dumps({"key": key})})
            return
        except Exception as error:  # such as read-only or full; the next start decodes again
            log.info("no cache in %s (%s)", place.parent, error)


def _decode(paths: list[Path], image_size: int | None) -> torch.Tensor:
    """uint8 (N, H, W, 3) of the pictures at ``paths``."""
    first = _read(paths[0], image_size)
    pixels = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + 500, len(paths))):
            picture = _read(paths[index], image_size)
            if picture.shape != first.shape:
                sizes = " and ".join(f"{s[1]}x{s[0]}" for s in (first.shape, picture.shape))
                raise SettingError(
                    "dataset.image_size",
                    f"the images differ in size ({sizes}); set it, such as dataset.image_size=32",
                )
            pixels[index] = picture

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, len(paths), 500)))
    return torch.from_numpy(pixels)


def _read(path: Path, image_size: int | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            eight_bit: Image.Image = picture
            if picture.mode.startswith("I;16"):  # convert() would clip 16 bits to white
                eight_bit = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            elif picture.mode in ("I", "F"):
                raise ValueError("32-bit pictures have no defined white; save it with 8 bits")
            pixels = np.asarray(eight_bit.convert("RGB"))
    except Exception as error:  # PIL passes on what the format's reader raises
        raise SettingError(
            "dataset.root", f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from error
    if image_size is None:
        return pixels
    return resized(torch.from_numpy(pixels.copy()).unsqueeze(0), image_size)[0].numpy()
