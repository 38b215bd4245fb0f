"""Square attack (Andriushchenko et al. 2020): random search by windows that shrink."""

from jaxrobust.attacks.square.search import square

__all__ = ["square"]
