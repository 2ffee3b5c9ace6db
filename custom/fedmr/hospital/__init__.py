"""A hospital's files to a site's data set."""
