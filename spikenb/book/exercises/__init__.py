"""Checks of the book's exercises: each says at once whether an answer is right, and what to look at.

A chapter's checks live in a module of their own here. A check is a function of the answer that returns
(right, message); an answer of `...` has not been given yet, and stops nothing.
"""

from importlib import import_module
from pkgutil import iter_modules

from ... import _checks

_CHECKS = {}


def exercise(number):
    """Register a function of the answers as the check of exercise `number`, such as "1.2"."""

    def register(check):
        _CHECKS[number] = check
        return check

    return register


def check(number, *answer):
    """Print whether the answer to exercise `number` is right; return True, False, or None if not answered."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    test = _CHECKS[_checks.choice("number", number, _CHECKS)]
    if any(part is ... for part in answer):
        print(f"Exercise {number}: not answered yet. Put your answer where the dots are, and run the cell again.")
        return None
    try:
        if any(callable(part) and _unfinished(part) for part in answer):
            print(f"Exercise {number}: not answered yet. Replace the dots in the function, and run the cell again.")
            return None
        right, message = test(*answer)
    except Exception as error:  # a learner's code may fail in any way; say how, and let "run all" go on
        right, message = False, f"your answer raised {type(error).__name__}: {error}"
    print(f"Exercise {number}: {'right' if right else 'not yet'}. {message}")
    return right


def _unfinished(function):
    """Whether a function's body is only `...`, as the exercise cell leaves it."""

    def empty(): ...

    def documented():
        """Nothing but a docstring."""

    code = function.__code__
    returns_none = set(code.co_consts) <= {None, function.__doc__}
    return returns_none and code.co_code in (empty.__code__.co_code, documented.__code__.co_code)
