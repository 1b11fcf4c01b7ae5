from tfcontrast.errors import UserError


def test_it_is_no_value_error_so_that_library_checks_are_not_taken_for_user_mistakes():
    assert not issubclass(UserError, (ValueError, TypeError, OSError))
    assert str(UserError("--seed must be a whole number. Received: 'x'")).startswith("--seed")
