"""Names of Whisper's languages, in English and in themselves. Data alone."""

ENGLISH = """
    en:english, zh:chinese, de:german, es:spanish, ru:russian, ko:korean, fr:french,
    ja:japanese, pt:portuguese, tr:turkish, pl:polish, ca:catalan, nl:dutch, ar:arabic,
    sv:swedish, it:italian, id:indonesian, hi:hindi, fi:finnish, vi:vietnamese, he:hebrew,
    uk:ukrainian, el:greek, ms:malay, cs:czech, ro:romanian, da:danish, hu:hungarian, ta:tamil,
    no:norwegian, th:thai, ur:urdu, hr:croatian, bg:bulgarian, lt:lithuanian, la:latin,
    mi:maori, ml:malayalam, cy:welsh, sk:slovak, te:telugu, fa:persian, lv:latvian, bn:bengali,
    sr:serbian, az:azerbaijani, sl:slovenian, kn:kannada, et:estonian, mk:macedonian, br:breton,
    eu:basque, is:icelandic, hy:armenian, ne:nepali, mn:mongolian, bs:bosnian, kk:kazakh,
    sq:albanian, sw:swahili, gl:galician, mr:marathi, pa:punjabi, si:sinhala, km:khmer,
    sn:shona, yo:yoruba, so:somali, af:afrikaans, oc:occitan, ka:georgian, be:belarusian,
    tg:tajik, sd:sindhi, gu:gujarati, am:amharic, yi:yiddish, lo:lao, uz:uzbek, fo:faroese,
    ht:haitian creole, ps:pashto, tk:turkmen, nn:nynorsk, mt:maltese, sa:sanskrit,
    lb:luxembourgish, my:myanmar, bo:tibetan, tl:tagalog, mg:malagasy, as:assamese, tt:tatar,
    haw:hawaiian, ln:lingala, ha:hausa, ba:bashkir, jw:javanese, su:sundanese, yue:cantonese
"""
"""Code, and English name in lower case, in the order of the vocabulary's tokens; as
openai/whisper has them (`whisper/tokenizer.py`, LANGUAGES)."""
NATIVE = """
    en:English, zh:中文, de:Deutsch, es:español, ru:русский, ko:한국어, fr:français, ja:日本語,
    pt:português, tr:Türkçe, pl:polski, ca:català, nl:Nederlands, ar:العربية, sv:svenska,
    it:italiano, id:Indonesia, hi:हिन्दी, fi:suomi, vi:Tiếng Việt, he:עברית, uk:українська,
    el:Ελληνικά, ms:Melayu, cs:čeština, ro:română, da:dansk, hu:magyar, ta:தமிழ், no:norsk,
    th:ไทย, ur:اردو, hr:hrvatski, bg:български, lt:lietuvių, la:Latina, mi:Māori, ml:മലയാളം,
    cy:Cymraeg, sk:slovenčina, te:తెలుగు, fa:فارسی, lv:latviešu, bn:বাংলা, sr:српски,
    az:azərbaycan, sl:slovenščina, kn:ಕನ್ನಡ, et:eesti, mk:македонски, br:brezhoneg, eu:euskara,
    is:íslenska, hy:հայերեն, ne:नेपाली, mn:монгол, bs:bosanski, kk:қазақ тілі, sq:shqip,
    sw:Kiswahili, gl:galego, mr:मराठी, pa:ਪੰਜਾਬੀ, si:සිංහල, km:ខ្មែរ, sn:chiShona, yo:Èdè
    Yorùbá, so:Soomaali, af:Afrikaans, oc:occitan, ka:ქართული, be:беларуская, tg:тоҷикӣ,
    sd:سنڌي, gu:ગુજરાતી, am:አማርኛ, yi:ייִדיש, lo:ລາວ, uz:o‘zbek, fo:føroyskt, ht:Kreyòl Ayisyen,
    ps:پښتو, tk:türkmen dili, nn:norsk nynorsk, mt:Malti, sa:संस्कृत भाषा, lb:Lëtzebuergesch,
    my:မြန်မာ, bo:བོད་སྐད་, tl:Filipino, mg:Malagasy, as:অসমীয়া, tt:татар, haw:ʻŌlelo Hawaiʻi,
    ln:lingála, ha:Hausa, ba:башҡорт, jw:Jawa, su:Basa Sunda, yue:粵語
"""
"""Each language's name in itself, of Unicode's CLDR (`localeDisplayNames`)."""
