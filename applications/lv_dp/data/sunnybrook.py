"""Sunnybrook Cardiac Data: DICOM images, and contour text files of the LV cavity.

Cite Radau et al., The MIDAS Journal, 2009, hdl 10380/3070.  Two layouts are read; files are told apart by their
names, whatever lies between them and DIR:

- the release: ``SCD_IMAGES_01/SCD0000101/CINESAX_300/IM-0003-0048.dcm``,
  ``SCD_ManualContours/SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt`` and
  ``scd_patientdata.csv``;
- ``dicoms/SCD0000101/48.dcm``, ``contourfiles/SC-HF-I-1/i-contours/IM-0001-0048-icontour-manual.txt`` and
  ``link.csv``.

A contour belongs to the image of the same slice number; the series numbers (0001, 0003) do not agree.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from applications.lv_dp.data.contours import fill, read_contour
from applications.lv_dp.data.dicom import read_dicom
from applications.lv_dp.data.slices import DataError, Dropped, Slice, SliceSet
from applications.lv_dp.files import read_text

LINKS = {"link.csv": ("patient_id", "original_id"), "scd_patientdata.csv": ("PatientID", "OriginalID")}
NO_LINK = "contour without a patient in the table of names"
NO_IMAGE = "contour without an image"
AMBIGUOUS = "contour with several images of its number"

Images = dict[tuple[str, int], list[Path]]  # (SCD0000101, 48) -> files


@dataclass(frozen=True)
class Contour:
    """An inner contour's file, the patient's name there (``SC-HF-I-01``) and the slice number."""

    path: Path
    patient: str
    number: int

    @property
    def name(self) -> str:
        """Name of the slice, unique in the data set."""
        return f"{self.patient}-IM-0001-{self.number:04d}"


def load_sunnybrook(folder: str | Path) -> SliceSet:
    """Load every slice that has an inner contour; images without one are not looked at.

    A contour whose patient or image is missing is dropped and counted.

    Raises:
        DataError: no folder, no contours, no table of names, a file that cannot be read, a contour that is no
            polygon inside its image, no contour with an image; pydicom is not installed.
    """
    root = Path(folder)
    contours, images, links = find_contours(root), _find_images(root), _read_links(root)
    slices, dropped = [], []
    for contour in contours:
        found = images.get((links.get(contour.patient, ""), contour.number), [])
        if len(found) == 1:
            slices.append(_load_slice(contour, found[0]))
        else:
            reason = NO_LINK if contour.patient not in links else AMBIGUOUS if found else NO_IMAGE
            dropped.append(Dropped(contour.name, contour.patient, reason))
    if not slices:
        raise DataError(f"{root}: none of its {len(contours)} contours has an image ({dropped[0].reason})")
    return SliceSet.keep_with_ventricle(slices, f"sunnybrook:{root}", dropped)


def canonical(original: str) -> str | None:
    """Return the patient's name with a number of two digits, None for something else.

    Example:
        >>> canonical("SC-HF-I-1"), canonical("SC-N-10"), canonical("i-contours")
        ('SC-HF-I-01', 'SC-N-10', None)
    """
    match = re.fullmatch(r"(SC-[A-Z-]+)-([0-9]{1,3})", original.strip())
    return f"{match[1]}-{int(match[2]):02d}" if match else None


def find_contours(root: Path) -> list[Contour]:
    """Find the inner contours below ``root``, sorted by patient and slice number."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = []
    for path in root.rglob("*-icontour-manual.txt"):
        match = re.fullmatch(r"IM-\d{4}-(\d{1,6})-icontour-manual\.txt", path.name)
        patient = next((name for name in map(canonical, reversed(path.parts[:-1])) if name), None)
        if not match or not patient:
            raise DataError(f"{path}: must be named SC-.../IM-0001-NUMBER-icontour-manual.txt")
        found.append(Contour(path, patient, int(match[1])))
    if not found:
        raise DataError(f"{root}: holds no contour SC-*/.../IM-0001-NUMBER-icontour-manual.txt")
    return sorted(found, key=lambda contour: contour.name)


def _find_images(root: Path) -> Images:
    """Find the images; where a patient has folders of short-axis series, only in those."""
    found: Images = defaultdict(list)
    for path in sorted(root.rglob("*.dcm")):
        patient = next((part for part in reversed(path.parts[:-1]) if re.fullmatch(r"SCD\d{7}", part)), None)
        match = re.fullmatch(r"(?:IM-\d+-)?(\d{1,6})", path.stem)
        if patient and match:
            found[patient, int(match[1])].append(path)
    sorted_out = {patient for (patient, _), paths in found.items() if any(map(_is_short_axis, paths))}
    return {
        (patient, number): [path for path in paths if patient not in sorted_out or _is_short_axis(path)]
        for (patient, number), paths in found.items()
    }


def _is_short_axis(path: Path) -> bool:
    return path.parent.name.startswith("CINESAX")


def _read_links(root: Path) -> dict[str, str]:
    """Read the table of names: original name -> name of the image folder.

    Raises:
        DataError: there is none, it cannot be read, or a column is missing.
    """
    path = next((path for name in LINKS for path in sorted(root.rglob(name))), None)
    if path is None:
        raise DataError(
            f"{root}: holds neither {' nor '.join(LINKS)}, which map SC-... names to SCD... folders"
        )
    to, original = LINKS[path.name]
    try:
        file = StringIO(read_text(path, encoding="utf-8-sig"), newline="")
        rows = [(canonical(row[original]), row[to].strip()) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    except (KeyError, AttributeError) as error:  # AttributeError: a short row has None there
        raise DataError(f"{path}: needs the columns {to},{original} in every row") from error
    return {name: folder for name, folder in rows if name}


def _load_slice(contour: Contour, path: Path) -> Slice:
    found = read_dicom(path)
    if found.spacing is None:
        raise DataError(f"{path}: needs a positive PixelSpacing of rows and columns")
    size = (found.image.shape[0], found.image.shape[1])
    mask = fill(read_contour(contour.path), size, contour.path)
    between = found.slice_spacing
    return Slice(contour.name, contour.patient, found.image, mask, path, found.spacing, slice_spacing=between)
