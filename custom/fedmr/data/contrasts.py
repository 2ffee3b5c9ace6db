"""The contrast that a protocol, series or file name speaks of. The table of words stands here and nowhere else.

Names are taken apart into words: "patient1_T2" says T2 and not T1. A run of known words without blanks, such as
"AXT1POST", is taken apart too.
"""

import re

UNKNOWN = "unknown"

# word to what it says; words that say nothing about the contrast are in _FILLERS
_WORDS = {
    **dict.fromkeys(("t1", "mprage", "spgr", "fspgr", "bravo", "vibe", "lava", "thrive", "ethrive"), "t1"),
    **dict.fromkeys(("t2",), "t2"),
    **dict.fromkeys(("pd", "proton"), "pd"),
    **dict.fromkeys(("flair", "darkfluid", "darkfl", "fluidattenuated"), "flair"),
    **dict.fromkeys(("t2star", "t2s", "swi", "swip", "swan", "qswan", "venbold", "fsbb", "bsi"), "t2star"),
    **dict.fromkeys(("medic", "hemo"), "t2star"),
    **dict.fromkeys(("ffe", "gre", "fl2d", "fl3d", "me2d", "me3d"), "gradient"),
    **dict.fromkeys(("mra", "tof", "angio", "angiography", "inhance"), "angio"),
    **dict.fromkeys(
        ("dti", "dwi", "ddwi", "diff", "diffusion", "trace", "tracew", "resolve", "b0", "b1000"), "diffusion"
    ),
    **dict.fromkeys(("ce", "gd", "gad", "gado", "gadolinium", "km", "kontrast", "kontrastmittel", "contrast"), "agent"),
    **dict.fromkeys(
        ("contraste", "contrasto", "mdc", "enhanced", "post", "postcontrast", "postgad", "postgd"), "agent"
    ),
    **dict.fromkeys(("dotarem", "gadovist", "gadavist", "prohance", "magnevist", "multihance", "clariscan"), "agent"),
    **dict.fromkeys(("primovist", "eovist", "omniscan", "optimark", "elucirem", "vueway", "gadoterate"), "agent"),
    **dict.fromkeys(("gadobutrol", "gadobenate", "gadoteridol", "gadopiclenol"), "agent"),
    **dict.fromkeys(("pre", "precontrast", "native", "nativ", "ohne", "without", "no", "non", "wo", "vor"), "plain"),
    **dict.fromkeys(("sans", "sin", "senza", "unenhanced", "nonenhanced", "noncontrast"), "plain"),
    **dict.fromkeys(("map", "mapping", "mp2rage", "uni", "unit1", "bold", "fmri", "perf", "perfusion"), "other"),
    **dict.fromkeys(("dsc", "dce", "rho", "pdt2", "asl", "synthetic", "undecided"), "other"),
}
_FILLERS = (
    *("ax", "axial", "tra", "trans", "sag", "sagittal", "cor", "coronal", "obl", "2d", "3d", "w", "wi", "weighted"),
    *(
        "se",
        "tse",
        "fse",
        "tfe",
        "tir",
        "tirm",
        "ir",
        "spc",
        "space",
        "cube",
        "vista",
        "brainview",
        "propeller",
        "s",
        "e",
    ),
    *(
        "blade",
        "multivane",
        "fs",
        "fatsat",
        "spir",
        "spair",
        "stir",
        "dixon",
        "mdixon",
        "iso",
        "ep",
        "epi",
        "image",
        "images",
    ),
    *(
        "tfl",
        "frfse",
        "ssfse",
        "haste",
        "arms",
        "fsp",
        "head",
        "brain",
        "nsa",
        "hr",
        "inplane",
        "obliq",
        "hires",
        "mag",
    ),
)
_PARTS = re.compile("|".join(sorted((*_WORDS, *_FILLERS), key=len, reverse=True)))
_WHOLE = re.compile(f"(?:(?:{_PARTS.pattern})(?!(?<=t[12])[0-9])|(?<=[a-z])[0-9]+|(?<=t1)c)+")
# spellings of several words or with signs, before the text is taken apart
_SPELLINGS = (
    (r"(without|w/o|pre|ohne|vor)[\W_]*(and|und|et|&|\+|/|-)[\W_]*(with|w|post|mit|nach)(?![a-z])", " undecided "),
    (r"t2[ _-]?(\*|star)", " t2star "),
    (r"mp[ _-]?rage", " mprage "),
    (r"(dark|da)[ _-]?(fluid|fl)(?![a-z])|fluid[ _-]?att\w*", " flair "),
    (r"(?<![a-z0-9])c\s?\+|\+\s?c(?![a-z])|(?<=t1)c(?![a-z])", " gd "),
    (r"(?<![a-z0-9])-c(?![a-z])|w/o", " native "),
    # after an operation, not after an agent
    (
        r"(post|pre)[ _-]?((op|proc|surg|treat|therap|chemo|radi|ictal|mort|traum|natal|partum)[a-z]*|rt(?![a-z]))",
        " ",
    ),
    (r"(?<=t1)w?\s?(\(\+\)|\+(?!\s?\w))", " gd "),
    (r"(?<![a-z0-9])t1n(?![a-z])", " t1 native "),
    (r"(?<![a-z0-9])t2f(?![a-z])", " flair "),
    (r"t([12])[ _-]?rho", " rho "),
)


def words_of(text: str) -> list[str]:
    """Return the words of a name in lower case; a run of known words, such as "axt1post", is taken apart."""
    text = text.lower()
    for pattern, spelling in _SPELLINGS:
        text = re.sub(pattern, spelling, text)
    words = []
    for token in re.findall(r"[^\W_]+", text):
        words += _PARTS.findall(token) if _WHOLE.fullmatch(token) else [token]
    return words


def is_protocol(word: str) -> bool:
    """Return whether a word of `words_of` tells of a protocol and never of a person."""
    return word in _WORDS or word in _FILLERS


def contrast_of(text: str, *, agent: bool = False) -> str:
    """Return the contrast that a name speaks of, as one of a few words, "unknown" if none or undecidable.

    Free text never becomes a contrast, because it can hold a patient's name, and the contrast is written down.

    Args:
        text: file name or protocol name.
        agent: whether a contrast agent is known to have been given; a name that says "pre" weighs more.
    """
    said = {_WORDS[word] for word in words_of(text) if word in _WORDS}
    if "other" in said:
        return UNKNOWN
    weights = said & {"t1", "t2", "pd"}
    if {"t2star", "t1"} <= said:
        return UNKNOWN
    if "t2star" in said or {"t2", "gradient"} <= said:
        return "T2starw"
    for word, contrast in (("angio", "angio"), ("diffusion", "DTI")):
        if word in said:
            return contrast
    if len(weights) > 1:
        return UNKNOWN
    # GE and Philips call a T1-weighted inversion recovery "T1 FLAIR"
    if "flair" in said and "t1" not in said:
        return "FLAIR"
    if "t1" in said:
        return _with_agent(said, agent)
    return {"t2": "T2w", "pd": "PDw"}.get(next(iter(weights), ""), UNKNOWN)


def _with_agent(said: set[str], agent: bool) -> str:
    if "plain" in said:
        return "T1w"
    return "T1ce" if agent or "agent" in said else "T1w"
