"""The words of the training text: names, places, adjectives, and the triples of the facts.

Only constants. How they become sentences is in facts, indirect_object, reviews and stories.
"""

__all__ = [
    "ADVERBS",
    "BOYS",
    "COMMON_WORDS",
    "FACTS",
    "GIFTS",
    "GIRLS",
    "NAMES",
    "NEGATIVE",
    "PLACES",
    "POSITIVE",
]

GIRLS = tuple(
    "Mary Anna Lily Emma Sarah Alice Laura Julia Kate Susan Rose Clara Helen Jane Lucy Nina "
    "Olivia Sophie Maria Amy Linda Grace Ruth Emily Nora".split()
)
BOYS = tuple(
    "John Tom James David Peter Paul Mark Ben Sam Jack Daniel Michael Henry George Max Leo "
    "Robert Adam Simon Martin Oliver Frank Alex Luke Charles".split()
)
NAMES = GIRLS + BOYS

PLACES = tuple(
    "store park school library station garden market beach office museum restaurant hospital "
    "bakery farm river church bank kitchen cafe theater zoo lake harbor airport".split()
)
GIFTS = (
    "a drink",
    "a book",
    "a ball",
    "the keys",
    "a letter",
    "some bread",
    "a flower",
    "a ring",
    "the map",
    "a cup",
    "some money",
    "a basket",
    "a pen",
    "the camera",
    "a cake",
    "an apple",
    "a ticket",
    "the phone",
    "a hat",
    "a gift",
    "the bag",
    "a blanket",
    "some water",
    "a picture",
)

POSITIVE = tuple(
    "wonderful great excellent amazing brilliant beautiful lovely perfect fantastic delightful "
    "superb charming good pleasant impressive terrific".split()
)
NEGATIVE = tuple(
    "terrible awful horrible bad boring dreadful poor disappointing dull ugly miserable "
    "unpleasant disgusting weak annoying worthless".split()
)
ADVERBS = ("really", "very", "truly", "simply", "quite", "so")

_COUNTRIES = """
France Paris French Europe
Germany Berlin German Europe
Italy Rome Italian Europe
Spain Madrid Spanish Europe
Portugal Lisbon Portuguese Europe
Poland Warsaw Polish Europe
Greece Athens Greek Europe
Russia Moscow Russian Europe
Sweden Stockholm Swedish Europe
Norway Oslo Norwegian Europe
Denmark Copenhagen Danish Europe
Finland Helsinki Finnish Europe
Hungary Budapest Hungarian Europe
England London English Europe
Ireland Dublin English Europe
Austria Vienna German Europe
Japan Tokyo Japanese Asia
China Beijing Chinese Asia
India Delhi Hindi Asia
Thailand Bangkok Thai Asia
Vietnam Hanoi Vietnamese Asia
Turkey Ankara Turkish Asia
Iran Tehran Persian Asia
Iraq Baghdad Arabic Asia
Nepal Kathmandu Nepali Asia
Egypt Cairo Arabic Africa
Kenya Nairobi Swahili Africa
Morocco Rabat Arabic Africa
Ghana Accra English Africa
Nigeria Abuja English Africa
Canada Ottawa English America
Cuba Havana Spanish America
Peru Lima Spanish America
Chile Santiago Spanish America
Brazil Brasilia Portuguese America
"""
_ROWS = tuple(tuple(line.split()) for line in _COUNTRIES.strip().splitlines())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Read 'subject = object' entries, separated by semicolons."""
    entries = (entry.split("=") for entry in text.split(";"))
    return tuple((subject.strip(), answer.strip()) for subject, answer in entries)


FACTS: dict[str, tuple[tuple[str, str], ...]] = {
    "capital": tuple((row[0], row[1]) for row in _ROWS),
    "language": tuple((row[0], row[2]) for row in _ROWS),
    "continent": tuple((row[0], row[3]) for row in _ROWS),
    "landmark": _pairs(
        "the Eiffel Tower = Paris; the Louvre = Paris; the Colosseum = Rome; Big Ben = London; "
        "the Brandenburg Gate = Berlin; the Kremlin = Moscow; the Prado = Madrid; "
        "the Parthenon = Athens; the Forbidden City = Beijing; the Tokyo Tower = Tokyo; "
        "the Space Needle = Seattle; the Charles Bridge = Prague; the Little Mermaid = Copenhagen; "
        "the Sydney Opera House = Sydney; the Taj Mahal = Agra; the Blue Mosque = Istanbul"
    ),
    "color": _pairs(
        "grass = green; snow = white; coal = black; blood = red; milk = white; the sky = blue; "
        "the sun = yellow; a lemon = yellow; a carrot = orange; a tomato = red; "
        "chocolate = brown; a banana = yellow; a frog = green; a crow = black; "
        "an elephant = gray; a flamingo = pink; a plum = purple; a pumpkin = orange"
    ),
    "young": _pairs(
        "dog = puppy; cat = kitten; cow = calf; sheep = lamb; horse = foal; pig = piglet; "
        "hen = chick; duck = duckling; bear = cub; goat = kid; swan = cygnet; kangaroo = joey; "
        "frog = tadpole; deer = fawn; fox = kit"
    ),
    "sound": _pairs(
        "dog = woof; cat = meow; cow = moo; sheep = baa; pig = oink; duck = quack; horse = neigh; "
        "lion = roar; frog = croak; bee = buzz; snake = hiss; owl = hoot; mouse = squeak; "
        "hen = cluck; wolf = howl; crow = caw"
    ),
    "day": _pairs(
        "Monday = Tuesday; Tuesday = Wednesday; Wednesday = Thursday; Thursday = Friday; "
        "Friday = Saturday; Saturday = Sunday; Sunday = Monday"
    ),
}

# Words no template uses. They are met in the copying documents only, so that text typed by a
# reader falls into words rather than letters.
COMMON_WORDS = tuple(
    "hello world yes no please thanks question answer name word words number letter line page "
    "one two three four five six seven eight nine ten hundred thousand first second third next "
    "all any both each few many more most much other some such own same different "
    "about above across against along among around before behind below beneath beside between "
    "beyond by down during except for from inside into like near of off on onto out outside over "
    "past since through throughout toward under until up upon with within without "
    "and but or nor yet so if then than because while although though unless whether "
    "be am is are was were been being have has had do does did done can could will would shall "
    "should may might must go goes going gone come comes coming came get gets got make makes made "
    "take takes took taken see sees saw seen know knows knew known think thinks thought say says "
    "said tell tells told ask asks asked use uses used find finds found give gives gave given "
    "work works worked play plays played run runs ran live lives lived help helps helped "
    "open opened close closed start started stop stopped turn turned move moved hold held "
    "man woman men women child children people person father mother brother sister son daughter "
    "king queen doctor teacher farmer student driver artist lawyer judge nurse soldier "
    "year month week day hour minute time morning evening night today tomorrow yesterday "
    "water fire earth air wind rain storm cloud sea ocean island mountain hill valley forest "
    "tree leaf flower seed root stone rock sand gold silver iron wood glass paper cloth "
    "house room door window wall floor roof table chair bed lamp clock mirror box bottle "
    "head face eye ear nose mouth hand arm leg foot heart brain bone skin hair "
    "bread cheese butter egg meat fish rice apple orange grape sugar salt pepper tea coffee "
    "car bus train boat ship plane road street bridge city town village country "
    "war peace law truth love hope fear anger joy pain life death dream idea story song "
    "small large tall short long wide deep high low old young new early late fast slow hard soft "
    "hot cold warm cool dry wet clean dirty full empty heavy light dark bright strong rich "
    "model token layer logit circuit feature attention neuron vector weight head copy pattern "
    "left right north south east west here there where when why how what who which "
    "I you he she it we they me him her us them my your his its our their this that these those "
    "The A An It He She They We You This That There What Why How Who Yes No And But So If".split()
)
