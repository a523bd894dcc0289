"""COCO's own annotation files, ``captions_train2017.json`` and ``captions_val2017.json``.

COCO publishes no captions of its test images. The official validation images are therefore the test split here, and
validation images are drawn from the training images.
"""

from rayvldd.config.settings import CocoData
from rayvldd.data.drawn_splits import FEWEST_IMAGES, drawn_splits
from rayvldd.data.record_reader import RecordReader, SplitName, read_json, shown
from rayvldd.user_paths import user_path


def read_coco(settings: CocoData, reader: RecordReader) -> None:
    """Add the images of both files.

    Args:
        settings: Files and folders.
        reader: Its folder of images is ``data.root``.
    """
    train = _captions_by_image(settings.annotations, settings.images, "data.annotations", reader)
    test = {}
    if settings.test_annotations is not None:
        test = _captions_by_image(settings.test_annotations, settings.test_images, "data.test_annotations", reader)
    if reader.faults:
        return
    if len(train) < FEWEST_IMAGES:
        reader.fault("data.annotations", f"has {len(train)} images to split", f"at least {FEWEST_IMAGES} images")
        return
    missing: tuple[SplitName, ...] = ("val",) if settings.test_annotations is not None else ("val", "test")
    splits = drawn_splits(list(train), settings.held_out, settings.split_seed, missing)
    for image, (where, captions) in train.items():
        reader.add(where, image, captions, splits[image])
    for image, (where, captions) in test.items():
        reader.add(where, image, captions, "test")


def _captions_by_image(
    file: str, folder: str, setting: str, reader: RecordReader
) -> dict[str, tuple[str, list[object]]]:
    """Name of each image with a caption -> place of its entry, and its captions in the order of the file."""
    path = reader.root / user_path(file)
    content = read_json(path, setting, reader, "coco")
    if content is None:
        return {}
    images = content.get("images") if isinstance(content, dict) else None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(images, list) or not isinstance(annotations, list):
        reader.fault(
            setting, f"{path} has no lists 'images' and 'annotations'", "a file such as captions_train2017.json"
        )
        return {}
    found: dict[object, tuple[str, str, list[object]]] = {}
    for number, image in enumerate(images):
        where = f"{path} images[{number}]"
        name, key = (image.get("file_name"), image.get("id")) if isinstance(image, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(key, int | str):
            reader.fault(where, f"is {shown(image)}", "an object with id and file_name")
        elif key in found:
            reader.fault(where, f"duplicate id {key!r}; first at {found[key][0]}", "each id once")
        else:
            found[key] = (where, f"{folder}/{name}", [])
    for number, annotation in enumerate(annotations):
        values = annotation if isinstance(annotation, dict) else {}
        key = values.get("image_id")
        where = f"{path} annotations[{number}]"
        if not isinstance(key, int | str) or key not in found:
            reader.fault(where, f"is {shown(annotation)}", "an object with caption and the image_id of an image")
        else:
            found[key][2].append(values.get("caption"))
    return {name: (where, captions) for where, name, captions in found.values() if captions}
