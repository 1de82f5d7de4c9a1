"""How LyCORIS splits a dimension in two. Torch-free, for the page estimates file sizes with it."""


def factorization(dimension: int, factor: int | None) -> tuple[int, int]:
    """Two numbers, the smaller one first, whose product is the dimension, by LyCORIS' rule.

    The factor itself where it divides the dimension, else the pair with the smallest sum whose first number is not
    above the factor; None: no such limit.

    >>> factorization(320, None), factorization(320, 8), factorization(250, 4), factorization(127, 16)
    ((16, 20), (8, 40), (2, 125), (1, 127))
    """
    if factor is not None and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    # The sum falls as the first number grows up to the square root.
    divisors = [m for m in range(1, int(dimension**0.5) + 1) if dimension % m == 0 and m <= (factor or dimension)]
    return divisors[-1], dimension // divisors[-1]
