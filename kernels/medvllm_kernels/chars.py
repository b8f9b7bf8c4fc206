"""The character table of the tokenizer: one 32-bit entry for each code point below 0x10000.

    bits 0-15   what to add to the code point, modulo 65,536, to fold it (to lower case, Latin and Greek
    letters
                without diacritics, ASCII dashes, quotes and digits); with EXPANDS instead two or three
                letters of five bits each (a = 1), the first one lowest: "æ" is "ae"
    bits 16-17  the class: SPACE, LETTER, DIGIT or OTHER
    bits 18-22  EXPANDS, DROPPED (takes part in a run but not in its hash), LOWER, UPPER, NEWLINE

A code point from 0x10000 up is OTHER and folds to itself.

The table is kept as text in this file, so that a phrase table built by one Python is read alike by another,
whose `unicodedata` may be newer. `generate` is the rule it was made by (Unicode 14);
`python -m medvllm_kernels.chars` prints the text anew.
"""

from __future__ import annotations

import binascii
import sys
import zlib
from array import array

__all__ = [
    "CLASS_SHIFT",
    "DIGIT",
    "DROPPED",
    "EXPANDS",
    "LETTER",
    "LOWER",
    "NEWLINE",
    "OTHER",
    "SPACE",
    "UPPER",
    "encode",
    "fingerprint",
    "generate",
    "load",
]

SPACE, LETTER, DIGIT, OTHER = 0, 1, 2, 3
CLASS_SHIFT = 16
EXPANDS = 1 << 18
DROPPED = 1 << 19
LOWER = 1 << 20
UPPER = 1 << 21
NEWLINE = 1 << 22

_DASHES = "-\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"  # not the em dash: it separates clauses
_APOSTROPHES = "'`\u00b4\u2018\u2019\u02bc\u02b9\u2032\uff07"
_QUOTES = '"\u201c\u201d\u201e\u2033\uff02'
_NEWLINES = "\n\r\x0b\x0c\x85\u2028\u2029"
_JOINERS = "\u00ad\u200c\u200d"  # soft hyphen and (non-)joiners stand inside words
_SPECIAL_LETTERS = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
    "ð": "d",
    "ı": "i",
    "ς": "σ",
    "ſ": "s",
    "ĸ": "k",
    "ŋ": "ng",
}


def load() -> array[int]:
    """The table: 65,536 unsigned 32-bit entries, in the byte order of this machine."""
    table = array("I", zlib.decompress(binascii.a2b_base64(_ENCODED)))
    if sys.byteorder == "big":
        table.byteswap()
    return table


def fingerprint() -> int:
    """32 bits that differ between tables: a phrase table holds those it was built with."""
    return zlib.crc32(_ENCODED.encode("ascii"))


def generate() -> array[int]:
    """Make the table from this Python's `unicodedata`."""
    return array("I", [_entry(code_point) for code_point in range(0x10000)])


def _entry(code_point: int) -> int:
    import unicodedata

    char = chr(code_point)
    category = unicodedata.category(char)
    kind = _class_of(char, category)
    flags = kind << CLASS_SHIFT
    if char in _NEWLINES:
        flags |= NEWLINE
    if kind == SPACE:
        return flags
    if category == "Ll":
        flags |= LOWER
    elif category in ("Lu", "Lt"):
        flags |= UPPER
    if char in _JOINERS or _is_diacritic(code_point):
        return flags | DROPPED
    folded = _fold(char, kind)
    if len(folded) == 1:
        return flags | (ord(folded) - code_point) & 0xFFFF
    return flags | EXPANDS | sum((ord(letter) - 96) << (5 * place) for place, letter in enumerate(folded))


def _is_diacritic(code_point: int) -> bool:
    blocks = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF))
    return any(first <= code_point <= last for first, last in blocks)


def _class_of(char: str, category: str) -> int:
    import unicodedata

    if char in _APOSTROPHES:  # some of them are letters to Unicode
        return OTHER
    if char in _JOINERS:
        return LETTER
    if char.isspace() or category in ("Zs", "Zl", "Zp", "Cf") or "\ufe00" <= char <= "\ufe0f":
        return SPACE
    if category[0] in "LM" or category == "Nl":
        return LETTER
    # A subscript belongs to its word (CO₂); a superscript may be a footnote (aspirin¹), which hides no word.
    if category == "Nd" or unicodedata.decomposition(char).startswith("<sub> 003"):
        return DIGIT
    return OTHER


def _fold(char: str, kind: int) -> str:
    """One code point below 0x10000, or two or three letters a-z."""
    import unicodedata

    for same, folded in ((_DASHES, "-"), (_APOSTROPHES, "'"), (_QUOTES, '"')):
        if char in same:
            return folded
    digit = unicodedata.digit(char, None)
    if digit is not None and (kind == DIGIT or unicodedata.decomposition(char).startswith("<super>")):
        return str(digit)
    lower = char.lower()
    lower = _SPECIAL_LETTERS.get(lower, lower)
    parts = unicodedata.normalize("NFKD", lower)
    base = "".join(part for part in parts if not unicodedata.combining(part)).lower()
    if kind == LETTER:
        words = unicodedata.name(char, "").split(" ")  # "LATIN SMALL LETTER O WITH STROKE" has no decomposition
        if (
            words[0] == "LATIN"
            and words[2:3] == ["LETTER"]
            and len("".join(words[3:4])) == 1
            and words[4:5] == ["WITH"]
        ):
            return words[3].lower()
        if 1 <= len(base) <= 3 and base.isascii() and base.isalpha():
            return base
        if len(base) == 1 and (base == parts or unicodedata.name(base, "").startswith("GREEK")):
            return unicodedata.normalize("NFC", base)
        return lower if len(lower) == 1 else char
    if len(parts) == 1 and not parts.isalnum() and not parts.isspace():
        return parts
    return char


def encode(table: array[int]) -> str:
    """The table as the text that `load` reads, in lines of 100 characters."""
    little = array("I", table)
    if sys.byteorder == "big":
        little.byteswap()
    text = binascii.b2a_base64(zlib.compress(little.tobytes(), 9), newline=False).decode("ascii")
    return "\n".join(text[at : at + 100] for at in range(0, len(text), 100))


_ENCODED = """\
eNrt3QmcTXXjx/Hf796Q3RUlhIuxVigkUiOkpNJimbFEKT3tRRQtpEUppYUkofVJPaGeluf/1NOKkC2UUmYYS6VUlpJw/58790xz
586dmTNzx8wdvl6v9+t7fr/zu79zzu8s95yZ644xXmPyFPyXGMFbQNH+eWPgcSnnPuoZf5GItuyFgWD6iojbMU2McZ/k93jIu907
ARtWLptt/phAyDCU8Wbd1lupeyvL6zPNCvjNTMzAs5iOZzDLJKRnRnkano5SfsKpi6yfGgjt7ylR6oPlajbBDPNUN2MDPtbbZ+7C
nbgDt2OWqZ6eGeXRGBWlPNypi6y/LRAag5FR6oPlarZ6enkw6zKIvJQcSA4g+4dlPzKZTCL7kn3I3mRvshd5CXkxeTF5EXkh2ZO8
gDyfPI/sQZ5Ldg/Lc8izyW7kWWRXsgvZhexMnkl2IjuRieQZ5OlkR/I0sgPZnjyVbBfsj/E8h21qS7kN5TZka/LkdH5zEtmKbEm2
IE8kTyCPJ5uTzcKyKdmEbEw2CoTOne0cD9vZJw2oq0+dn6xH1iXrkHOYP4f5dSgfR7k2WYusSR5LHkvWII8hjyarB48B8iiyKlmV
9JFVyMpkJbIiWZGsQJYny5FlySPJMmRpshR5BOklPVHSkkGG6cABvzlwwGf2k/vIXdiIDZRTkcK0Tb9O+cwy8lvq1lG3lOlvmP4a
aw+ExuMC6hZjCdZQv5r61eRy5/WryC8orzoQTF+6jPqV1K2gvCLYHsvClvs55SWUv6GcUfeNk4uo/4z5C8kFZNB8pr9m/qdh5fkH
gmWfWRfWR4iNKIfqwnXxJpgZvL6Lt7rpwTH1AtM9OK7OZ/p5ps9n+gnycfp/mpxKPktOJ58jZ5EzyRlh9c+Q08LaB5c7jum7mR5L
jgnb/sj6jPK95D1h5Yz2o5gOrvPNzjoPI2+mLng9+wwjKN9CeSh5ZdjrbqJ8I+XB5CDyUnKgi/Ll5GVh9ZeRg8lB5KVR2vcjk8lk
Mils+d0pn0P5fLJzWH1vyr0odyDbkx3J08iuwe0jO5Nnkp3IRPIM8nSyG3kW2Q6n4vQDWd/7GjO/CRpT34Jsi9ZMtw9bdl3qujLd
DcHpOsyrT/qdNo3IRpQTyOZks4hlVHbKlQ6EVDyQ93tymRzaeJx6GzY/fRqB/Vnb7tsf8tf+vJf3O212Y1dE299yeO1PYfXborT5
kbof9keeT7mvw9Kw9iv3x3ZP8+5+m/7eHswPMJ/pBViCDyl/hOv3e/8+v68Jm84q8t7A5lPB7n/GsZ4TWMdJeBLzAnn1ZSMyVmWl
BMu4dmVkV+f4yXyfCz9uMs+b9/d5zfAcnkmCmjOvJefKCeSJaOG0PdnJU8j2aEpfhfVslNv8yqiJUizvSJRFOVQvpGcjm8f8X7h/
2oud2IO/AsH18JuN5Nb0er/Zgd/ScV0M+LLsl4OVi1nOCkew/CnL/9C5989osyiQ9T7oTsoZeprY1CtmRffsfHAc7OPDbeb1nhcv
61nYWTnsGSH/Y+Y7ZMelpGTwuG0ZfK+KQ9nv2aIpCdcpr4t70pIm8l46p+l42va8ll1YP4/Pz8/k87v+5hA4dgrPij89rhwa59zh
wM2+Mfnchzm3TeTYcCP6dcIWwu9uDrd9q3MvvvdN/ty4x+NKyR8Pm8v04bO/i/99NNb7p6Jef6+L+zlziD0bFAejMZC/z5vFv3tc
KfxzzFuA+6CDfa578/Esn9ezsS3E7XPz3pLT9TD330N2Z9+6kf/3Q5vHPYC3AO9d8bL/85r2uhp7d9vnzcdzlJvjNavFuz2uFM79
UX7PfxvD64py/8fy7OZ1US6MZ+gczn/2rRux3+N6D6Hrf2Ht//ye/3mdT/m//i/e5XGl8D4Lkt/rf177J7e+vS7aubnmFvZzV0G2
z+bz/d+d7uxbN4rn+bcor/2F1b+3kN/bCnIuufn5i3P+7/S4Uvj731vC9783zvZ/fq+1zvnPvnXD3fJK+vlf3L/D8ZqC/zwuv2Pv
nP87PK7Evp8P5r6Ml59T5vbslZ/1z++Yek1Bf47dnX3rhvtrzqH2+Y3C+p1BbP2l/uZxpej+P11h3Pt7D+J9WEE+l1PUv8v1un4W
GsS+daNwP7NT2PvefftAIJZjK7sqjI0bBdsmW4Brty0B9zYH+/rtjdO+ivJ3xzbOr9kl9fff8eXXXzyuaPyim8nYuJHj+2dtf1zK
WLdo+zxrfUn6/ybcrwZsrv//WURE8vP7n4I8y5ak+4d4X/943T9enR+6fsTwOYKS8PwX2/JXTPFLDILfQRBN3s8neoYVEREROTz/
H7IphvXWvWfRfp6qOH7/V5y/eyzO338W9+cv9fvf+DpHc/88TM/vPa7E32cFQu8b9Vg3N3T8xevnXQ7nz2/q+1Di/7uSiud7mn/c
4nElPp8BDuX3/+Ja/+jjN4hjwA19/q+4919J/a64g3vtmLvZ40pOx89M5rlx8D6bXpzfv17+EKB7pViuYambPK4U3bX68Hr+H8PY
uqH7/sP1+Tv37f81zeNKTmOWyjw34ndcYvv+78Rd/hIj2joX7jXZWwLPhZL19zLapIW2pXVYRk7nJNjmZCdPSgtNZ8wL9lsHFTaH
vBewphbl2o7K1FVx1HT6CNYfh71OWuZ9HAip6dQFfUq5+uZQf4uY7rUl05WOMsFlwOfosSUkCQMc6X+/a6PP/IE9OOAIwKSFMsMR
aaHxmr/FZhvDnRszpzcynYZNjq0RvscPjvS/90Vuw0/4wqlbtTEkfBnh5W+d6Xc2WbNwozXvkhexje+TCyj/j/wAH+PTMKsZq93O
9Dqmd5Hz8UlEu6AFWO74nb5XbQoZwuu+2BTyActavSnTn5utOdz/ftTgjX4ziP0ziLyUHEgOIPuT/ch+ZDKZTCaRfck+ZG+yF3kJ
eTF5EXkheSHZk7yAPJ88j+xBnkt2J88hzybPJruR3cizyLPIrmQXsjN5JtmJTCTPIE8nO5IdydPIDmT7sDyVbEeeQrYl25JtyNbk
yeRJZCuyJdmCbEGeSJ5AHk82J5uRzcimZBOyMdmITCAbkg3IBmR90k/WI+uSdcjjyNpkbbIWWZM8NixrkMeQR5PVyWrkUeRRZFXS
R1YhK5OVyIpkBbI8WY4sR5YljyTLkKXJUsHznPSSXtJDWtIErwEb/ObABp/ZT+4j/yL3knvJP8k95B/kH+Tv5G5yF7mT3EH+Rv5K
/kJuJ7eTP5M/kdvIbeSP5I/kD+T35FZyC7mZ/ALfIQWpWIi1GzKvCcM8Cen5Ee0/pP4D8n/k++R75H/J/yP/Q75LvkO+Tb5F/pt8
k3yDnEfOJeeQr5P/Il8jXyVnRym/Qv6TfJl8iXyRfIF8nnyOnEXOJGeQz0Yp59RuOvkMOY18mpxKPkVOISeTT5JPkI+Tj5GTyEfJ
R8iJ5MPkQ7nUTyAfJB8gx5P3k/eR95L3RCmPI+8mx5JjNmT/uzmjqR8VHL9NPjMXc/A6/oXX8Cpm45VNjBdexkt4ES/geTyXXvZR
ZlzwHGZh5qbMe8bptHkG0/A0puKpTZn3XVNoOxlP4gk8jscwCY/iEdpOxMN4CBPwIB7A+PT0kWw/7sO9uAfjcDfG0mYM7sKduAO3
YzRGpdf7qPdR76OeccGosPUfSZsRuAXDMQw3h63/LbQdjmG4GTfhRtyA651+rnXaX+3kVU5eSf6DNldhKK7EFRiCy3EZBtNmEC7F
QAxAf/RDMjrRJhGdcWaU7IazcC664zz0CNu+Vky3RAuciBNwPJqjGZqyjCZojEZIQEM0QP30eq6RSEBDNEB9+FEPdWlTB8ehNmqh
Jo5FDTSlTRPk3A/XWeTUjw1uCwLc7xzA/rTQtv1F7sWfaX6zB3/gd+xO8/89P/w+eDflXdjp1P9G/oqfaf8TMnJbWtZnhh9o8z22
YktYn2lMb8QG2qciBevTsj9vbKbNJmS0/w7fIgXr08t+yn6zDt9gTVgfN6Vm9vMVbb/EGmcdVpFfYCHtF2A5lmFptnXI77+Me4fQ
v+NYh9qohZqp2Z8vKlNXKay+NNOlcERq9OepcqnR/hZ9Yi7r4+y/FK/5JaWkffdCbtvk7t+HbPOelMxnu2A5mnmYYr3mI/JVxy+8
bm6Kx5VZtL/fBvvxmGlMT3PGeiV9rMZ32Iz5G7jvJtdE+BJrHYfW92fEw318LD//D23H4JRoPwvJrBuQ4gPvPeiHZMo1Un0miem+
6WWeD1JC156kiL76UM7QG71Scv65S29n3vMbQ3mRU+5Etg0TrGvL8towHVQ7+PdoyQ7UTePZLlzLlMzr8j3cG4/ALfQ/FiujrENd
+qnDa4L8jug/N4n9+CnL+dDUljJNE0qZRZ5SpirltpTbUq7C3VpZbylTmbp21LWjzjD9+/qQA/hzfdbXe8Jeb5zXB9Znvv5Xprc4
tq/P+vOhzL+pGG/fUSXxrtZ6jYGIFL6UCiEaCxERERERERERERERERERERGRrFoaf4lW0v7/cqQKq/2m/GqfKUdWRCXsW+UjfcYy
bUgPacnK6fN9ZtMavwms8psN5EaUoq4U845Ib+sL+xyvz/y8KpS7ndy+ypo/sZvX/4XI/xemLN7M7XPl2dtG++x2fq8B8fu3CnPe
Hp++vwQ7ArF+Nj9e/s5uQb8f7VCfH4/fFxRv312oezgREZGC/R/0vL7TLJ6/gzj6678NOP+/toE15R36DuLi/o7ykvideYfL3+kt
uX8TYnmKTTcy1ZplTgZ9npJpRGp03wS/syJM8HssPnWpamrh20e/cxyDUkMuxxBchWtwLV5n/vXkDXgtJeRfKaH6oHl4A29G8Rbe
xUdYiCUpoX6Cgt/dkWG/I4AyqSFHwoejUm0cXPsP9+dfr7ZfRERESuD9l4iIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI
iIiIiIiIiIiIiIiIiIiIiIiIlEz6+z8iIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi
IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi
IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiISD7zyt5K+D3U8i0hBr/+x9VUl2ePKwXrvscZP+kpc
5rxf8rMPbZGv9+sDrJkzQOfQ4XFP5n69C34e+GI6Hpsn+U2zJJ9pSjYhG5ONkjLnN6TcgHIC2ZBsQNYPm1+Pcl3KdcjjyNpkLbIW
WZM8lqyRlH25Nag/Jin28ykQsFnGIZrI1+y7xZ/P60zWfbQ22W/W9w3NW9/Xb75jeiW5glyOVfic8hJyGbm0b879L2T+AuYvIj8j
F5OLwl6/hFxM/o+cx3LfwgdMv5ccev128ku8S91Mb/btej/Ytq/78ZxB+9fxb0zHM7x2NvlK+vbm/P4RKmdm9nE8uOfaTX2tGYY7
+tps7xHJSTaX94ySdl2zen4r1PcBvXfGMo6D+nhcKb7xj3buZM5vybq5oZ9fHErnn87/wrl3tmZQb48rB2v/J9K3G7E/Lx6q+zW2
vlN7eVwpnvNf53l8PUMfjPev3PqJ9T2osOYX9PxzMz/rs26rXpnTbZhujZPD5PWsHE3TKK9rHFHXIKJcn7If9VDXEVzfJX9Z8w3P
7BX7WLPTxbN7+s8g+uQ2lj6JSUm7PmU9txIv8bii5z8RERERERERERERERERERERERERERERERERERERERERERERERERERERERER
ERERERERERERERERERERERERERERERERERERERERERERERERERERERERkcLmzaeiXJfDcXxFRERERERERERERERERERERERERERE
RERERERERERERERERERERERERERERERERERERERERERERERERERERERERA5dZz9uzc7rrPnsSWvmM730FmtO6GVNSrI1T75kzRM4
e5A1C5+y5vb+1pzG9A9XWdPvDmtG3GdNi4eteWWiNVseYf4Ua7bfaE3p4dZ8MpLXjLImYYI1F/Lar2ZaM5R+k+h3603W7L/Vmkq8
9sAL9DHEmkUjrJn9kDWJj1rzwj+seWO8NXvo97kr6JP1S6TPlbdRZhlJva15oK81c5JYv2uoo7/19Pdv1mkp67SSfhrR97tPWLN3
ujVtn7PmQ5Zz4V3WdB5jzeX3WDPhQbZ3qjVnvMh2TrJm+qXWfMSyao+z5tT7SZY1jvajGJPX6WMi84+5nG1i+x5mXT5inFJpu5W+
9j5jzRjWpR2vG896jcQCljOUeVNZTm1e3+gxa4azXS/x+lksb90ltL2M7bySeYxTpdtZf/qYwjKT2b7O1L9EmyHDrKl8LdvCsvoy
djsGss1s5zr67UA/3W9mGyZbczTtJtD/TQ9Y0/xqa34Zbc0pjPdvfazpyfqUucGaa+ljJ+Paa1Jon4xgeR8H+2Tbrmbbz2Q5o9gP
L7IOjdmmNPZZZcanK3y07cB+2MZYr+FY2cI+sxwHN6Is+2AS4/E2+3w329KGbR/Itq9lX0ykbS+OgQdYxzmM92jWpTR91e1nTVPa
1+e4Kcv6NGb5F7HNX7ENZdmmp+62Zhn74DS2oecAazoyVpVZ5o20KcUy/ott91ozmWWMY1u6MMZPYsiz1nzJa/awDfs5Vgx1TYZa
8zljWZexOIl+7sY61rkz+6ISx81Yxr496/gf1nER2/oJ43AV2/8x6/om29zsevYp47uS/d6R5T7E2E6/05pOjOdElvcM/fZnHF7k
NX3Yd104TqrR9mK2/U226xqW35E+XmN7ZtOmB/22YtzvYz1OZlnXsYwFzPewjPr0v5/+H2fbvuf4/xNpbMceXncJ47aMflvy2o2M
3Su0Lcex/gbzruAYf41j/Hn6+pJ+dnAsrmY/NBnLMchYLmA7n2Xf9mesP2Es2nGcdAgeF3iRcV3J+q+i3djB1hzL619nvVqz/l1Y
fhf6H8t++ox2rdnWN9l3xoR0HxjKy67NrFtEm2ps65uMa0P2Q1eci+Foz/6YxXJm3Btqu2NCKL98NPP1R7EfvpqcWQ6azzivxD7c
/7w1c5k/nvW6k339NmNei2VOZlvmojbjNJR1XI6WXLPKsI7Xo+llof3fh2OoGfvkAryBShwLM3E+29CJ/XAS278a6xjrRiNDY72W
7TmLfb4D+7AXlu0pjQro4PgJxzPuVzPu0zk+5uF71GB7Z2NS8NrCOVgreH1jH8xlfNswtjMeDY3BDVwnnkdPxn4lRrONkxmzlSjH
et99tjWv3m//vn6/fTH7h23/nTGoyFisJMtTvpBxGIcExuDb5ND5FhyT9ZxLbRmLBViDjZz7L3NN78m+7Y3NaOKciwsxJni+MUZf
kkPJf+IUztGJ+AQLuNakMXb3Mnbj8TE2cV415Doxm/O4M2N4EsZjHNeILzgGy3H9msKYVuGYfBArGNshHMtP4TaO/VFoyLHTGj0w
C5PhZ8xLMbZHMbZL8RrHURfG9mGuNRcztjMY0w6M6aecExMY1+VYj9KM6+mogq7ohBYYhcXoxniP4L1iDuO9huNqHufb29PYT4z9
RFRl7NsgETegK9fFZZxro0/gmMYRp1qzJJH6rpyHGM747+U82se6XUO7t16wcfv+v8BUN41sdXMfFjREy+rmcU9I/vvzRRGtXeZ5
/XE5xh3zHO+E+ahcaL6nVNbXuOfNo96bQ1v3y/OXt6YemqIJGqNRxHRCWDZEA9RGLdTEsTguou4oVIUPVdAep6IdTgnLtmgT0bYy
KqICyqNcxHRZx5Eog9Jh8zLqMtIgwD6o5PRZCkdErHuNKOsfWT4GR6M6qoXNi+wnY1wj66tFjEnGOGbdZ8XrG8bpa6zFV/gVv+Bn
/BSWwfXNmN6MTdiKLU7dNvyIHzAYg8rZAh7/2a2gr+VYhqWF2K+ISMlRWNd9jeOhPQ7x/jO8WLcntn+1PV7za6uQxp6QCmiKQKuQ
g3v+eE2a32s24HiW2Rw7bUgXprtiXauQNY6ljkWOJREy1q0ar63uyb7OVanzoQq+ZTlzW4UyOG8ruRk/YDHeY72W25B6tPfjnVYh
n1K3AIscwfZr8TW+cvrbRf7Xsca6HT/34zqrTP7H/GleM9XxFKZgsuNJxxN4HI85JuFRPOKYiIfxkGMCHsQDjvG4H/c57nXc4xjn
uNsxFmNwl+NO3IHbHaMxCrc5bsVIjHDcguEY5rgZN+FGxw24Htc5rsU1uNrF/KB/4CoMdVyJKzDEcTkuw2DHIFyKgY4B6I9+jmRH
kqMv+qB3mfxcA0x61rOx8LiUcx+J1l8kcl4HXxHJutxGzUJmtfSa2Y7pmMy14aFWPPOjA05DR5yOkbgVt+ESBNu1wkk4Ga3RxtEW
p6AdTs2hvzOQiDPRGV3QNQfdcA7OxXm4IIqeuBAX5eBi9G6VeSx+6OM4d5SpyrHuZFB/X6bSVaO7mnm9wlyHS1wKv47OoBxNxvzp
TEeTMX8a09FkzJ/KdIbw5X7sWBxW/hCf1AuVayZ4zcv+rN6k7ruE/NwjhP/LOu//AaQs1gY="""


if __name__ == "__main__":
    print(encode(generate()))
