"""Checks of the course labs: each says at once whether an answer is right, and what to look at.

A lab's checks live in a module of their own here. A check is a function of the answer that returns (right, message),
as for the chapters' exercises. What is not right is raised, as `NotYet`: a notebook shows its message alone, and
nbgrader gives no points. The labs themselves are in the folder `labs`; `classroom` makes them into notebooks.
"""

import contextlib
import functools
import io
from importlib import import_module
from pkgutil import iter_modules

from ... import _checks
from ..exercises import _unfinished

_CHECKS = {}


class NotYet(AssertionError):
    """An answer that is missing or wrong, with what to look at."""

    def _render_traceback_(self):
        """What IPython shows in place of a traceback, which would say nothing about the answer."""
        return [str(self)]


def question(number):
    """Register a function of the answers as the check of question `number`, such as "1.2": lab 1, question 2."""

    def register(check):
        _CHECKS[number] = check
        return check

    return register


def check(number, *answer):
    """Say that the answer to question `number` is right, or raise `NotYet` with what to look at.

    ValueError for a number that no lab has. An answer of `...`, or a function whose body is `...`, is not answered.
    """
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    test = _CHECKS[_checks.choice("number", number, _CHECKS)]
    answer = [part.strip().lower() if isinstance(part, str) else part for part in answer]
    if any(part is ... for part in answer):
        raise NotYet(f"Question {number}: not answered yet. Put your answer where the dots are, and run both cells.")
    if any(callable(part) and _empty(part) for part in answer):
        raise NotYet(f"Question {number}: not answered yet. Write the function's body, and run both cells.")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # nbgrader takes a progress bar or a warning for a failure
            right, message = test(*(_returning(part) if callable(part) else part for part in answer))
    except _Nothing:
        right, message = False, "Your function returns nothing, in one case at least: it needs a return."
    except Exception as error:  # a student's code may fail in any way; say how
        right, message = False, f"Your answer raised {type(error).__name__}: {error}"
        if isinstance(error, TypeError) and "arrays can be converted" in str(error):
            message = "Return one number; you return an array."
    if not right:
        raise NotYet(f"Question {number}: not yet. {message}")
    print(f"Question {number}: right. {message}")


class _Nothing(Exception):
    """A student's function has returned None."""


def _returning(function):
    """The function, but one that raises `_Nothing` where it returns nothing."""

    @functools.wraps(function)
    def called(*arguments):
        result = function(*arguments)
        if result is None:
            raise _Nothing
        return result

    return called


def _empty(function):
    return hasattr(function, "__code__") and _unfinished(function)
