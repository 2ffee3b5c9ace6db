"""Checks on what a site's folder would give away. They read the datalist only, never the private folder."""

import os
import re
from pathlib import PurePath

from fedmr.data.readers.folder import PRIVATE, VOLUMES
from fedmr.hospital.preflight.site import Check, SiteFindings, judge, some

# of `fedmr prepare`, or a running number such as sub-012 or x07
_PSEUDONYM = re.compile(r"p-[0-9a-f]{6,}|(sub-)?[a-z]{0,3}\d{1,4}")
_HASH = re.compile(r"[0-9a-f]{12}")


def pictures(site: SiteFindings) -> Check:
    """Whether pixels may leave the site."""
    shared = site.datalist.get("share_images") is True
    if shared and site.datalist.get("simulated") is True:
        return Check("pictures", "pass", "of simulated patients are sent to the server")
    warns = ['"share_images" is true: one slice per evaluation is sent to the server'] if shared else []
    remedy = "set it to false in datalist.json, unless those responsible for the data agreed to send pictures"
    return judge("pictures", "none leave the site", remedy, warns=warns)


def paths(site: SiteFindings) -> Check:
    """Every file lies in the site's folder, so that the datalist says nothing of the hospital's file system."""
    names = [entry[key] for entry in site.entries for key in ("image", "kspace") if isinstance(entry.get(key), str)]
    outside = [n for n in names if PurePath(n).is_absolute() or os.path.normpath(n).startswith("..")]
    warns = [f"{len(outside)} of {len(names)} paths leave {site.folder}: {some(outside, 1)}"] if outside else []
    remedy = "run `fedmr prepare` again, which copies what is needed into the site's folder"
    return judge("paths", "all within the site's folder", remedy, warns=warns)


def pseudonyms(site: SiteFindings) -> Check:
    """No text in the datalist looks like a real name, record number or date."""
    people = [e["patient"] for e in site.entries if not _PSEUDONYM.fullmatch(e["patient"])]
    texts = [t for e in site.entries for key, t in e.items() if key != "patient" and isinstance(t, str)]
    telling = [text for text in texts if _identifying(text)]
    warns = [f"patients may not be pseudonyms: {some(map(repr, people))}"] if people else []
    warns += [f"names, record numbers or dates in {some(map(repr, telling), 5)}"] if telling else []
    remedy = "run `fedmr prepare` again, which gives pseudonyms; texts of the datalist reach log files"
    return judge("pseudonyms", "no text looks like a person's", remedy, warns=warns)


def private_folder(site: SiteFindings) -> Check:
    """The key of the pseudonyms is its owner's alone."""
    folder = site.folder / PRIVATE
    if not folder.is_dir():
        return Check("private", "pass", "the site's folder holds no key of pseudonyms")
    mode = folder.stat().st_mode & 0o777
    fails = [f"{folder} has mode {mode:04o}: others can read who is who"] if mode & 0o077 else []
    return judge("private", "the key of the pseudonyms is its owner's alone", f"chmod 700 {folder}", fails=fails)


def volumes(site: SiteFindings) -> Check:
    """The cached voxels, which can show a face, are not everybody's to read."""
    folder = site.folder / VOLUMES
    mode = folder.stat().st_mode & 0o777 if folder.is_dir() else 0
    warns = [f"{folder} has mode {mode:04o}: everybody on this machine can read the scans"] if mode & 0o007 else []
    return judge("volumes", "the cached scans are not everybody's to read", f"chmod 750 {folder}", warns=warns)


def _identifying(text: str) -> bool:
    """Whether a text holds a DICOM name (Doe^Jane) or six digits together that are not part of a hash."""
    words = re.split(r"[\W_]+", text)
    return "^" in text or any(re.search(r"\d{6}", word) and not _HASH.fullmatch(word) for word in words)
