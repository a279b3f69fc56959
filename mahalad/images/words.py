"""What names of folders say of the images in them: good ones, defects, test images, masks.

A name counts whole, whatever its case, its separators and words that say nothing ("images",
numbers): ``Bad parts`` is ``bad``, while ``defect-free`` is none of the words below.
"""

from __future__ import annotations

import re

GOOD = "good"
DEFECT = "defect"
TEST = "test"
MASK = "mask"

_WORDS = {
    GOOD: "good ok okay io normal normals nominal pass passed defectfree nodefect nodefects "
          "anomalyfree",
    DEFECT: "defect defects defective defectives defekt bad ng ko nok nio notok nonok notgood "
            "nogood nongood anomaly anomalies anomalous anomal abnormal abnormals outlier outliers "
            "broken damaged damage scrap scraps fail fails failed failure failures faulty fault "
            "faults reject rejects rejected",
    TEST: "test tests testing",
    MASK: "groundtruth groundtruths gt mask masks annotation annotations",
}  # fmt: skip
_SAYS_NOTHING = (
    "image images img imgs picture pictures photo photos part parts piece pieces sample samples "
    "example examples data set dataset folder public"
)
_KIND_OF = {word: kind for kind, words in _WORDS.items() for word in words.split()}


def meaning_of(name: str) -> str | None:
    """Say what a folder of this name holds.

    Returns
    -------
    {"good", "defect", "test", "mask"} or None
        None where the name says nothing.

    Examples
    --------
    >>> [meaning_of(name) for name in ("OK", "ground_truth", "NG parts", "defect-free", "bolts")]
    ['good', 'mask', 'defect', 'good', None]
    """
    # "GroundTruth" is two words, "BTAD" is one; digits part words and say nothing.
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\W\d_]+", parted.lower()) if word]
    found = _KIND_OF.get("".join(words))
    if found is not None:
        return found
    nothing = _SAYS_NOTHING.split()
    return _KIND_OF.get("".join(word for word in words if word not in nothing))
