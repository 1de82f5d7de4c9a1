"""Which pictures the denoiser learns, and the words it learns them by."""

import colorsys
import random
from collections.abc import Sequence

CORE = {
    "bear": "bear|bear face|brown bear",
    "panda_face": "panda|panda face",
    "koala": "koala|koala face",
    "polar_bear": "polar bear|polar bear face",
    "cat": "cat|cat face|yellow cat",
    "dog": "dog|dog face|puppy",
    "rabbit": "rabbit|rabbit face|bunny",
    "fox_face": "fox|fox face",
    "tiger": "tiger face|tiger",
    "lion_face": "lion|lion face",
    "pig": "pig|pig face",
    "mouse": "mouse face|mouse",
    "hamster": "hamster|hamster face",
    "cow": "cow face|cow",
    "frog": "frog|frog face",
    "monkey_face": "monkey face|monkey",
    "wolf": "wolf|wolf face",
    "raccoon": "raccoon|raccoon face",
    "unicorn_face": "unicorn|unicorn face",
    "penguin": "penguin",
    "hatched_chick": "chick|baby chick",
    "heart": "heart|red heart",
    "star": "star|yellow star",
    "rocket": "rocket",
    "apple": "apple|red apple",
    "car": "car|red car",
    "cake": "slice of cake|cake",
    "rose": "rose|red rose",
    "sunflower": "sunflower",
    "full_moon_with_face": "moon face|moon",
    "sun_with_face": "sun|sun face",
    "house": "house",
    "grinning": "smiley face|happy face",
    "tulip": "tulip|flower",
    "mushroom": "mushroom|red mushroom",
    "strawberry": "strawberry",
    "teddy_bear": "teddy|teddy bear toy",
}
"""Shown six times as often as the others: what the demo and its prompts are about."""

OTHERS = {
    # animals
    "horse": "horse face", "zebra_face": "zebra face", "giraffe_face": "giraffe face", "moose": "moose face",
    "boar": "boar face", "dragon_face": "dragon face", "elephant": "elephant", "whale": "whale", "fish": "fish",
    "octopus": "octopus", "crab": "crab", "turtle": "turtle", "butterfly": "butterfly", "bee": "bee",
    "ladybug": "ladybug", "bird": "bird", "duck": "duck", "owl": "owl", "chicken": "chicken face",
    "baby_chick": "chick face", "hatching_chick": "hatching chick", "cat2": "cat body|whole cat",
    "black_cat": "black cat", "dog2": "dog body|whole dog", "rabbit2": "rabbit body|whole rabbit",
    "pig2": "pig body|whole pig", "sheep": "sheep", "feet": "paw prints",
    # faces
    "smile": "laughing face", "wink": "winking face", "blush": "blushing face", "heart_eyes": "face with heart eyes",
    "sunglasses": "face with sunglasses", "cry": "crying face", "rage": "angry face", "sleeping": "sleeping face",
    "smiley_cat": "smiling cat", "robot_face": "robot face", "ghost": "ghost", "alien": "alien",
    "jack_o_lantern": "halloween pumpkin|pumpkin", "snowman_without_snow": "snowman",
    # hearts and shapes
    "orange_heart": "orange heart", "yellow_heart": "yellow heart", "green_heart": "green heart",
    "blue_heart": "blue heart", "light_blue_heart": "light blue heart", "purple_heart": "purple heart",
    "brown_heart": "brown heart", "black_heart": "black heart", "white_heart": "white heart",
    "pink_heart": "pink heart", "sparkling_heart": "sparkling heart", "gift_heart": "heart with ribbon",
    "broken_heart": "broken heart", "red_circle": "red circle", "large_blue_circle": "blue circle",
    "large_green_circle": "green circle", "large_yellow_circle": "yellow circle",
    "large_orange_circle": "orange circle", "large_purple_circle": "purple circle", "star2": "glowing star",
    "crescent_moon": "crescent moon", "sunny": "bright sun", "rainbow": "rainbow", "cloud": "cloud",
    "zap": "lightning", "fire": "fire", "droplet": "water drop", "gem": "diamond gem", "crown": "crown",
    "ribbon": "ribbon|pink bow", "gift": "gift|present box",
    # food
    "green_apple": "green apple", "tangerine": "orange fruit", "lemon": "lemon", "banana": "banana",
    "watermelon": "watermelon", "grapes": "grapes", "cherries": "cherries", "peach": "peach", "pear": "pear",
    "pineapple": "pineapple", "tomato": "tomato", "carrot": "carrot", "bread": "bread", "hamburger": "hamburger",
    "pizza": "pizza", "doughnut": "donut", "cookie": "cookie", "icecream": "ice cream cone", "cupcake": "cupcake",
    "birthday": "birthday cake", "candy": "candy", "lollipop": "lollipop",
    # plants
    "cherry_blossom": "cherry blossom", "hibiscus": "hibiscus", "blossom": "yellow flower", "seedling": "seedling",
    "evergreen_tree": "pine tree", "deciduous_tree": "tree", "cactus": "cactus",
    "four_leaf_clover": "four leaf clover",
    # things
    "blue_car": "blue car", "taxi": "taxi", "bus": "bus", "airplane": "airplane", "boat": "sail boat",
    "balloon": "balloon|red balloon", "soccer": "soccer ball", "basketball": "basketball", "bell": "bell",
    "umbrella": "umbrella", "bulb": "light bulb", "closed_book": "red book", "scarf": "scarf|red scarf",
}  # fmt: skip
"""Shown once: what gives the model its range."""

ALL = {**CORE, **OTHERS}

BACKGROUNDS = {
    "red": (0.96, 0.55, 0.52), "orange": (1.0, 0.78, 0.52), "yellow": (1.0, 0.94, 0.58), "green": (0.66, 0.88, 0.62),
    "blue": (0.58, 0.77, 0.97), "purple": (0.80, 0.68, 0.94), "pink": (1.0, 0.78, 0.86), "grey": (0.80, 0.80, 0.80),
}  # fmt: skip
"""Background colours by the word for them, RGB in [0, 1]."""

HUES = {"red": 0, "orange": 30, "yellow": 55, "green": 115, "teal": 175, "blue": 220, "purple": 275, "pink": 325}
"""Middle of each colour word, in degrees of hue."""

TEMPLATES = ("{}", "{}", "{}", "a {}", "a {}", "picture of a {}", "a drawing of a {}")


def hue_of(rgb: Sequence[float]) -> float:
    """Hue in degrees of an RGB colour in [0, 1]."""
    return colorsys.rgb_to_hsv(*rgb)[0] * 360


def hue_word(hue: float) -> str:
    """The colour word nearest to a hue in degrees."""
    return min(HUES, key=lambda word: abs((hue - HUES[word] + 180) % 360 - 180))


def make_caption(name: str, colour: str | None, background: str | None, rng: random.Random) -> str:
    """One of the ways to say what is on a picture: "a bear", "bear face, blue background", "green bear"."""
    words = ALL[name].split("|")
    phrase = f"{colour} {words[0]}" if colour else rng.choice([words[0], *words])
    caption = rng.choice(TEMPLATES).format(phrase)
    return f"{caption}, {background} background" if background else caption
