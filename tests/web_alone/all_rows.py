"""A dashboard that writes each row of a table anew, and all that stands in it."""

from boilerd.web import charts, kept_rows, links, shown

kept_rows.MOST_LONG = -1
links._SHORT = -1
charts._area = charts._area.__wrapped__  # type: ignore[assignment]
shown.FILTERS["moment"] = shown.moment.__wrapped__

if __name__ == "__main__":
    from boilerd.cli import main

    main()
