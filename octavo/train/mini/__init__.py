"""The miniature suite: the whole recipe from nothing, on two CPU cores."""
