"""One file for each way in which people parameterise the change of a weight; ``table`` lists them."""
