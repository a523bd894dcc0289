"""Make class folders for ``rayvldd evaluate --zero-shot`` from the captions of a data set without classes.

An image belongs to a class if at least three of its captions have a word of that class, and of no other class. Only
validation and test images are taken: no student was trained on them. Images are copied, at most 50 of a class, in the
order of the file, so that the folders are the same on every machine::

    python tests/benchmarks/caption_classes.py FLICKR8K/captions.jsonl FLICKR8K/images pictures/
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

WORDS = {
    "dog": r"dogs?|pupp(y|ies)",
    "bicycle": r"(bi)?cycl(e|es|ist|ists)|bikes?|bikers?",
    "skateboarder": r"skateboard\w*",
    "climber": r"climb\w*|rappel\w*",
    "beach": r"beach|shore",
    "swimming_pool": r"pool",
    "soccer_player": r"soccer",
    "basketball_player": r"basketball",
}
"""Classes with at least nine images among the 1,000 held-out ones of Flickr8k, and the words that name them."""
AGREEING_CAPTIONS = 3
MOST_IMAGES = 50


def class_of(captions: Iterable[str]) -> str | None:
    """The only class that enough captions name, or None."""
    texts = [caption.lower() for caption in captions]
    named = [
        name
        for name, words in WORDS.items()
        if sum(bool(re.search(rf"\b({words})\b", text)) for text in texts) >= AGREEING_CAPTIONS
    ]
    return named[0] if len(named) == 1 else None


def make_folders(captions: Path, images: Path, folder: Path) -> dict[str, int]:
    """Copy images into a folder per class; return the number of images of each."""
    counts = dict.fromkeys(WORDS, 0)
    for line in captions.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        name = class_of(entry["captions"]) if entry["split"] in ("val", "test") else None
        if name is not None and counts[name] < MOST_IMAGES:
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / entry["image"], folder / name / Path(entry["image"]).name)
            counts[name] += 1
    return counts


def main() -> None:
    """Make the folders and print how many images each class has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="captions.jsonl with image, captions and split")
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("folder", type=Path, help="folder to write")
    arguments = parser.parse_args()
    for name, count in make_folders(arguments.captions, arguments.images, arguments.folder).items():
        print(f"{count:4} {name}")


if __name__ == "__main__":
    main()
