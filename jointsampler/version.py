"""The version of the package, in a module of its own so that every other one may read it."""

VERSION = "0.1.0"
