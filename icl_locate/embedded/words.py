"""The words of the pattern tasks: their labels, letters, categories and instruction."""

from collections.abc import Mapping
from types import MappingProxyType

LABELS = ("Foo", "Bar", "Mur", "Res")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
PATTERN_INSTRUCTION = (
    "Below is a list of various sequences. Your task is to classify each sequence. Use the "
    "examples provided to understand how to classify each sequence correctly."
)

CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in {
            "fruit": "apple pear plum cherry peach mango lemon grape melon fig kiwi lime banana "
            "orange apricot papaya",
            "animal": "horse tiger rabbit sheep goat wolf camel otter zebra lion monkey donkey "
            "panda mouse beaver squirrel",
            "furniture": "chair table sofa desk bed shelf stool bench wardrobe cupboard dresser "
            "couch cradle bookcase armchair mattress",
            "profession": "doctor lawyer baker farmer nurse pilot painter plumber teacher tailor "
            "butcher judge dentist waiter carpenter engineer",
            "vegetable": "carrot onion potato spinach cabbage celery leek turnip radish garlic "
            "lettuce broccoli pumpkin cucumber beetroot zucchini",
            "vehicle": "car truck bus train bicycle tram ship plane van taxi ferry scooter tractor "
            "canoe helicopter ambulance",
            "body part": "arm leg knee elbow shoulder ankle wrist finger neck thumb chin nose ear "
            "stomach heel forehead",
            "instrument": "piano violin flute guitar drum trumpet harp cello clarinet banjo "
            "accordion oboe tuba saxophone mandolin xylophone",
        }.items()
    }
)
"""Sixteen words of each category."""
