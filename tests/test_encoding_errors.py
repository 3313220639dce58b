"""The advice for bytes that are no UTF-8: real sentences in many encodings, the right one among those shown."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.data.detection import guesses
from tests.conftest import Result

# Article 1 of the Universal Declaration of Human Rights, or about it.
SENTENCES = {
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "bg": "Всички хора се раждат свободни и равни по достойнство и права. Те са надарени с разум и съвест и следва да се отнасят помежду си в дух на братство.",
    "sr": "Сва људска бића рађају се слободна и једнака у достојанству и правима. Она су обдарена разумом и свешћу.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю і повинні діяти у відношенні один до одного в дусі братерства.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "zt": "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神互相對待。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았다.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím.",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel bírván.",
    "hr": "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima. Ona su obdarena razumom i sviješću.",
    "ro": "Toate fiinţele umane se nasc libere şi egale în demnitate şi în drepturi. Ele sînt înzestrate cu raţiune.",
    "lt": "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis. Jiems suteiktas protas ir sąžinė.",
    "et": "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt. Šokolaad žurnaalis.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience.",
    "fr2": "Il a mangé des bœufs dans l’œuvre complète, et sa sœur l’a noté.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "de2": "Für 30 € gibt’s im Laden schöne Größen.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, según dice el señor.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. È così perché la ragione c'è già.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete.",
    "no": "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt med fornuft og samvittighet på øya.",
    "is": "Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum. Menn eru gæddir vitsmunum og samvisku.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "quotes": "They are “endowed” with reason – and it’s fine, all else is plain.",
}
ENCODINGS = {
    "tr": "cp1254 iso8859_9",
    "ar": "iso8859_6 cp1256",
    "he": "cp1255 iso8859_8",
    "ru": "koi8_r cp1251 cp866 iso8859_5 mac_cyrillic",
    "bg": "cp1251 koi8_r iso8859_5 cp866",
    "sr": "cp1251 iso8859_5",
    "uk": "koi8_u cp1251 iso8859_5",
    "el": "cp1253 iso8859_7",
    "th": "tis_620 cp874",
    "ja": "shift_jis euc_jp utf-16-le utf-16-be utf-32-le",
    "zh": "gbk gb18030 utf-16-le utf-16-be",
    "zt": "big5 utf-16-le",
    "ko": "euc_kr cp949 utf-16-le",
    "pl": "cp1250 iso8859_2 cp852",
    "cs": "cp1250 iso8859_2 cp852",
    "hu": "cp1250 iso8859_2 cp852",
    "hr": "cp1250 iso8859_2 cp852",
    "ro": "cp1250 iso8859_2 cp852",
    "lt": "cp1257",
    "et": "cp1257",
    "vi": "cp1258",
    "fr": "latin_1 cp850 cp437 mac_roman",
    "fr2": "cp1252",
    "de": "latin_1 cp850 cp437 mac_roman",
    "de2": "cp1252",
    "es": "latin_1 cp850 mac_roman",
    "pt": "latin_1 cp850 mac_roman",
    "it": "latin_1 iso8859_15 cp850 mac_roman",
    "sv": "latin_1 cp850 mac_roman",
    "no": "latin_1 cp850 mac_roman",
    "is": "latin_1 cp850",
    "quotes": "cp1252 mac_roman",
}


def encoded(text: str, encoding: str) -> bytes:
    """The bytes, with the accents apart that Windows' Vietnamese has no letters for."""
    if encoding != "cp1258":
        return text.encode(encoding)
    apart = ""
    for char in unicodedata.normalize("NFD", text):
        joined = unicodedata.normalize("NFC", apart[-1:] + char)
        hat = len(joined) == 1 and char in "\u0302\u0306\u031b"
        apart = apart[:-1] + joined if hat else apart + char
        if len(apart) > 2 and apart[-1] in "\u0302\u0306" and apart[-2] == "\u0323":  # the dot stands first
            apart = apart[:-3] + unicodedata.normalize("NFC", apart[-3] + apart[-1]) + "\u0323"
    return apart.encode(encoding)


def judged(length: int | None) -> tuple[int, int, list[tuple[str, str]]]:
    """How many texts there were, how many the first guess was right of, and those that none was."""
    total, first, missed = 0, 0, []
    for language, names in ENCODINGS.items():
        for encoding in names.split():
            data = encoded(f"{SENTENCES[language]}\n", encoding)[:length]
            try:
                data.decode()
                continue
            except UnicodeDecodeError as error:
                found = guesses(data, error.start)
            wanted = data.decode(encoding, "ignore")
            read = [data.decode(guess, "ignore") for guess, _ in found]
            total, first = total + 1, first + (read[:1] == [wanted])
            if wanted not in read[:3]:
                missed.append((language, encoding))
    return total, first, missed


def test_the_right_encoding_is_shown() -> None:
    total, first, missed = judged(None)
    assert total >= 85 and not missed and first >= 0.9 * total, missed


def test_the_right_encoding_of_a_few_words_is_shown() -> None:
    total, first, missed = judged(40)
    assert total >= 75 and len(missed) <= 1 and first >= 0.8 * total, missed


SHORT = (
    ("cp1252", "À Paris"), ("cp1252", "© 2020 Acme"), ("cp1252", "£5 only"), ("cp1252", "10 °C"),
    ("iso8859_15", "Prix: 20 €"), ("cp1254", "İstanbul'da yağmur var"), ("cp1255", "שלום עולם"),
    ("cp1256", "مرحبا بالعالم"), ("cp1253", "Καλημέρα κόσμε"), ("koi8_r", "Добрый день, Анна"),
    ("gb18030", "你好，世界"), ("big5", "我愛台北"), ("euc_jp", "吾輩は猫である。"), ("cp949", "안녕하세요 세계"),
)  # fmt: skip


@pytest.mark.parametrize(("encoding", "text"), SHORT)
def test_the_right_encoding_of_a_short_text_is_shown(encoding: str, text: str) -> None:
    data = text.encode(encoding)
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode()
    assert text in [data.decode(guess, "replace") for guess, _ in guesses(data, caught.value.start)]


@pytest.mark.parametrize(
    ("language", "encoding"), [("tr", "cp1254"), ("ru", "iso8859_5"), ("th", "tis_620"), ("fr", "cp850")]
)
def test_each_guess_is_shown_with_a_line_and_the_option_to_type(
    charlm: Callable[..., Result], language: str, encoding: str
) -> None:
    Path("a.txt").write_bytes(encoded(f"{SENTENCES[language]} \x1b[2J\n" * 20, encoding))
    refused = charlm("train", "a.txt", "--model", "ngram")
    shown = [line.split(maxsplit=2) for line in refused.err.splitlines() if line.startswith("  --encoding ")]
    assert refused.code == 3 and 1 <= len(shown) <= 3 and "\x1b" not in refused.err
    name = next(line[1] for line in shown if line[2][:20] in SENTENCES[language])
    assert charlm("train", "a.txt", "--encoding", name, "--model", "ngram").code == 0
