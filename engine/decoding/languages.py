"""Names of Whisper's languages, and what else people and programs call them."""

import re
import unicodedata

from engine.decoding.language_names import ENGLISH, NATIVE


def _table(text: str) -> dict[str, str]:
    """Code -> name, from entries between commas."""
    pairs = (entry.strip().partition(":") for entry in text.split(","))
    return {code: name for code, _, name in pairs}


_ENGLISH = _table(ENGLISH)
ALL_LANGUAGES = tuple(_ENGLISH)
"""Codes of all that some Whisper model knows: ISO 639-1, where there is one."""

_DETECT = frozenset(("", "auto", "none", "null", "und"))
"""What clients write where they know no language; `und` is ISO 639-2's "undetermined"."""
_OTHER_CODES = """
    af:afr am:amh ar:ara,arb,arz,ary,apc,ajp,acm,afb,aeb,arq,ars as:asm az:aze,azj ba:bak be:bel
    bg:bul bn:ben bo:bod,tib br:bre bs:bos ca:cat cs:ces,cze cy:cym,wel da:dan de:deu,ger
    el:ell,gre en:eng es:spa et:est,ekk eu:eus,baq fa:fas,per,pes,prs fi:fin fo:fao fr:fra,fre
    gl:glg gu:guj ha:hau he:heb,iw hi:hin hr:hrv,scr ht:hat hu:hun hy:hye,arm id:ind,in is:isl,ice
    it:ita ja:jpn jw:jv,jav ka:kat,geo kk:kaz km:khm kn:kan ko:kor la:lat lb:ltz ln:lin lo:lao
    lt:lit lv:lav,lvs mg:mlg,plt mi:mri,mao mk:mkd,mac ml:mal mn:mon,khk mr:mar ms:msa,may,zsm
    mt:mlt my:mya,bur ne:nep,npi nl:nld,dut nn:nno no:nor,nb,nob oc:oci pa:pan pl:pol
    ps:pus,pbu,pbt,pst pt:por ro:ron,rum,mo,mol ru:rus sa:san sd:snd si:sin sk:slk,slo sl:slv
    sn:sna so:som sq:sqi,alb,als sr:srp,scc,sh,hbs su:sun sv:swe sw:swa,swh,swc ta:tam te:tel
    tg:tgk th:tha tk:tuk tl:tgl,fil tr:tur tt:tat uk:ukr ur:urd uz:uzb,uzn vi:vie yi:yid,ydd,ji
    yo:yor zh:zho,chi,cmn
"""
"""Whisper's code -> ISO 639-2 and 639-3 of the language, of what is meant where a code stands for
several (`cmn` of `zh`, `arb` and large dialects of `ar`), and codes that ISO 639-1 gave up. From
the aliases of Unicode's CLDR (`supplementalMetadata`, languageAlias)."""
_OTHER_NAMES = {
    "american english": "en",
    "australian english": "en",
    "austrian german": "de",
    "bangla": "bn",
    "brazilian portuguese": "pt",
    "british english": "en",
    "canadian english": "en",
    "canadian french": "fr",
    "dari": "fa",
    "european french": "fr",
    "european portuguese": "pt",
    "european spanish": "es",
    "farsi": "fa",
    "filipino": "tl",
    "latin american spanish": "es",
    "mandarin chinese": "zh",
    "mexican spanish": "es",
    "modern standard arabic": "ar",
    "norwegian bokmal": "no",
    "norwegian nynorsk": "nn",
    "simplified chinese": "zh",
    "slovene": "sl",
    "swiss french": "fr",
    "swiss high german": "de",
    "traditional chinese": "zh",
}
"""English names as CLDR has them, beside those of Whisper."""
_ALSO = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
}
"""Further names of openai/whisper (TO_LANGUAGE_CODE)."""
_MACRO_TAGS = {"zh-yue": "yue", "zh-cmn": "zh", "no-nyn": "nn", "no-nynorsk": "nn"}
"""Tags whose second part says which language it is (RFC 5646, extlang and grandfathered)."""


def _plain(name: str) -> str:
    """In lower case, without accents and blanks around it."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def _by_any_name() -> dict[str, str]:
    names = {code: code for code in ALL_LANGUAGES} | _ALSO | _OTHER_NAMES
    names |= {name: code for code, name in _ENGLISH.items()}
    for entry in _OTHER_CODES.split():
        code, _, others = entry.partition(":")
        names |= dict.fromkeys(others.split(","), code)
    for code, name in _table(NATIVE).items():
        names.setdefault(_plain(name), code)
    return names


_CODES = _by_any_name()


def language_name(code: str) -> str:
    """Whisper's code -> English name in lower case; the code itself if it is unknown."""
    return _ENGLISH.get(code, code)


def language_code(name: str) -> str | None:
    """Whisper's code of a language, None where the name asks for a detection.

    Args:
        name: in any case, a name in English (`Portuguese (Brazil)`) or in the language itself
            (`português`), a code of ISO 639-1, 639-2 or
            639-3, or a locale or tag that begins with one (`pt_BR`, `zh-Hans-CN`, `de_DE.UTF-8`).
            Script and region are dropped: Whisper does not know them. `auto`, `none` and an empty
            name ask for a detection.

    Returns:
        What is no language of Whisper comes back as it is, in lower case.
    """
    plain = _plain(name)
    if plain in _DETECT:
        return None
    if plain in _CODES:
        return _CODES[plain]
    tag = re.sub(r"[.@].*", "", plain).replace("_", "-")
    parts = tag.split("-")
    two = "-".join(parts[:2])
    if two in _MACRO_TAGS:
        return _MACRO_TAGS[two]
    if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{1,8})*", tag) and parts[0] in _CODES:
        return _CODES[parts[0]]
    return _CODES.get(re.sub(r"\s*\(.*\)$", "", plain), plain)
