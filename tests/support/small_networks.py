"""Every network of the package, small enough for a test to train."""

SMALL = {
    "mscan": {"channels": 8, "blocks": 1},
    "srcnn": {"channels": 8},
    "vdsr": {"channels": 8, "depth": 3},
    "edsr": {"channels": 8, "blocks": 1},
    "rcan": {"channels": 8, "groups": 1, "blocks": 1, "reduction": 4},
    "msrn": {"channels": 8, "blocks": 1},
    "span": {"channels": 8, "blocks": 1},
}
