"""Word lists of the demo language, grouped by what they name.

Everything is lower case and spelt the way it is spoken; the grammar (`grammar.py`) draws from these
groups, and the random word sequences of the training text draw from all of them at once.
"""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


FIRST_NAMES = _list(
    "alice andrew anna benjamin carol charles daniel david diana edward emily emma frank george grace hannah "
    "harry helen henry jack jacob james jane jennifer john joseph julia karen kevin laura linda lucas maria "
    "martin mary michael nancy oliver oscar patricia paul peter rachel rebecca richard robert ruth samuel "
    "sarah simon sofia steven susan thomas victor walter william"
)
LAST_NAMES = _list(
    "adams anderson baker brown campbell carter clark cooper davis edwards evans foster garcia gibson green "
    "hamilton harris hill hughes jackson johnson jones kennedy lewis marshall martinez miller mitchell moore "
    "morgan murphy nelson parker peterson phillips roberts robinson russell smith stewart taylor thompson "
    "turner walker watson white williams wilson wright young"
)
CITIES = _phrases(
    "amsterdam, athens, atlanta, austin, barcelona, berlin, boston, brussels, cairo, chicago, dallas, denver, "
    "dublin, edinburgh, florence, geneva, hamburg, houston, lisbon, london, madrid, melbourne, miami, milan, "
    "montreal, munich, new york, oslo, oxford, paris, prague, rome, san francisco, seattle, singapore, "
    "stockholm, sydney, tokyo, toronto, vancouver, venice, vienna, warsaw, washington, zurich"
)
COUNTRIES = _list(
    "america australia austria belgium brazil canada china denmark egypt england finland france germany greece "
    "india ireland italy japan kenya mexico norway poland portugal scotland spain sweden turkey"
)
MONTHS = _list("january february march april may june july august september october november december")
DAYS = _list("monday tuesday wednesday thursday friday saturday sunday")
COLORS = _list("black blue brown gold gray green orange pink purple red silver white yellow")
ROOMS = _phrases(
    "bathroom, bedroom, basement, dining room, garage, garden, hallway, kitchen, living room, office, "
    "attic, balcony, nursery, playroom"
)
DEVICES = _phrases(
    "air conditioner, alarm, camera, coffee machine, computer, dishwasher, door, fan, fridge, front door, gate, "
    "heater, heating, lamp, light, lights, oven, printer, radio, shower, speaker, television, thermostat, "
    "vacuum cleaner, washing machine, window, blinds, curtains, kettle, toaster, microwave, router"
)
FOODS = _list(
    "apples bananas beans beef bread butter cake carrots cheese cherries chicken chocolate cookies corn "
    "cucumbers eggs fish garlic grapes ham honey lemons lettuce melons mushrooms noodles nuts olives "
    "onions oranges pasta peaches pears peas pepper pizza pork potatoes pumpkin rice salad salmon salt sausages "
    "shrimp soup spinach steak strawberries sugar tomatoes tuna vegetables yogurt"
)
DRINKS = _list("beer coffee juice lemonade milk soda tea water wine cider")
ANIMALS = _list(
    "bear bird camel cat cow dog dolphin duck eagle elephant fox frog giraffe goat horse kangaroo lion "
    "monkey mouse owl penguin pig rabbit shark sheep snake squirrel tiger turtle whale wolf zebra"
)
THINGS = _list(
    "backpack bag basket battery bed bicycle blanket book bottle bowl box bracelet bridge brush bucket button "
    "candle card carpet chair clock coat cup desk dictionary drawer dress envelope fork glass gloves guitar "
    "hammer hat helmet jacket key keyboard knife ladder letter magazine map mirror mug necklace newspaper "
    "notebook painting paper pen pencil phone piano picture pillow plate purse ring rope ruler sandwich scarf "
    "scissors shelf shirt shoes shovel soap sofa spoon suitcase sweater table tent ticket toothbrush towel toy "
    "trousers umbrella vase violin wallet watch wheel"
)
PLACES = _phrases(
    "airport, bakery, bank, beach, bus stop, castle, church, cinema, city hall, clinic, farm, forest, "
    "gas station, hospital, hotel, lake, library, mall, market, mountain, museum, park, pharmacy, "
    "police station, pool, post office, restaurant, river, school, stadium, station, store, supermarket, "
    "theater, university, village, warehouse, zoo, gym, harbor"
)
PEOPLE = _phrases(
    "actor, artist, aunt, baby, boss, brother, captain, chef, colleague, cousin, customer, daughter, dentist, "
    "doctor, driver, engineer, farmer, father, friend, grandfather, grandmother, guest, husband, lawyer, "
    "manager, mother, neighbor, nephew, niece, nurse, partner, pilot, plumber, president, sister, soldier, son, "
    "student, teacher, uncle, waiter, wife, writer, electrician, secretary"
)
ADJECTIVES = _list(
    "angry beautiful big bright broken busy calm cheap clean cold comfortable dangerous dark deep delicious "
    "different difficult dirty dry early easy empty expensive famous fast fresh friendly full funny gentle "
    "happy hard heavy high honest hot hungry important interesting kind large late lazy light little long loud "
    "lucky modern narrow new nice noisy old open perfect polite poor popular quick quiet ready rich round sad "
    "safe serious sharp short simple slow small smooth soft special strange strong sweet tall thick thin tired "
    "tiny ugly useful warm wet wide wild wonderful wooden wrong"
)
VERBS = _list(
    "answer arrange ask borrow bring build buy carry catch change choose clean climb close collect compare "
    "cook copy count cover cut describe destroy draw drink drive eat enjoy explain fill find fix follow forget "
    "give hate hear help hide hold ignore improve invite keep kick know learn leave lift like lose love make "
    "measure meet mention miss move need notice offer open order pack paint pick plant prepare protect pull "
    "push read receive recognize record remember remove repair replace return save search see sell send serve "
    "share show sign speak start steal stop study take taste teach tell test throw touch translate trust try "
    "understand use visit want warn wash watch win wrap write"
)
PAST_VERBS = _list(
    "bought broke brought built called caught chose cleaned closed cooked dropped enjoyed fixed forgot found "
    "gave heard kept liked lost loved made met missed moved needed noticed opened ordered packed painted "
    "repaired saw sent showed sold stole took used visited wanted washed watched wrote"
)
ADVERBS = _list(
    "again almost already always carefully certainly clearly early easily finally gently hardly immediately "
    "maybe never often perhaps possibly probably quickly quietly really recently seldom simply slowly sometimes "
    "soon suddenly together usually yesterday"
)
WEATHER = _list("cloudy cold cool dry foggy freezing hot icy mild rainy snowy stormy sunny warm wet windy")
SUBJECTS = _list(
    "art biology business chemistry cooking culture dancing economics english fashion french geography german "
    "grammar history italian latin literature mathematics medicine music philosophy physics poetry politics "
    "russian science spanish sports technology travel"
)
SPORTS = _list(
    "baseball basketball boxing football golf hockey rugby running skiing soccer swimming tennis volleyball"
)
MUSIC = _list("blues classical country disco electronic folk jazz opera pop rock")
COMPANIES = _phrases(
    "acme, northern light, silver lake, blue ocean, golden gate, green valley, red river, first national, "
    "river bank, global express, sunrise, evergreen, horizon, pioneer, summit, union"
)
ORDER_ITEMS = _phrases(
    "order, package, delivery, invoice, refund, subscription, account, password, payment, reservation, booking, "
    "appointment, contract, credit card, insurance, membership, bill, receipt, warranty, loan, address, "
    "phone number, email, flight, seat, statement, complaint, claim, policy, username, profile, balance"
)
SPELLING = _list(
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey yankee zulu"
)
UNITS = _phrases(
    "degrees, dollars, euros, feet, gallons, grams, hours, inches, kilograms, kilometers, liters, meters, miles, "
    "minutes, months, ounces, pages, percent, pieces, points, pounds, seconds, weeks, years, days, times, cups"
)
CARD_RANKS = _list("ace two three four five six seven eight nine ten jack queen king")
CARD_SUITS = _list("clubs diamonds hearts spades")
DIRECTIONS = _list("forward backward back left right up down ahead")
FUNCTION_WORDS = _list(
    "a about above across after against all along also although am among an and another any anybody anything "
    "anywhere are around as at away back be because been before behind below beside best better between both "
    "but by came can can't come could did didn't do does doesn't don't done down during each either else enough "
    "even ever every everybody everything everywhere except few first for from get getting go goes going gone "
    "good got great had half has hasn't have he he's her here hers herself him himself his how i i'd i'll i'm "
    "i've if in inside instead into is isn't it it's just last least less let let's many me mine more most "
    "much must my myself near neither next no nobody none nor not nothing now nowhere of off okay on once one "
    "only onto or other our out outside over own please put rather right said same saw say she she's "
    "should since so some somebody someone something somewhere still such than thank thanks that that's the "
    "their them then there there's these they thing think this those though through till to today "
    "tomorrow tonight too toward under until up upon us very was wasn't we we're we've well went were what "
    "what's when where where's which while who who's whom why will with within without "
    "won't would wouldn't yes yet you you'll you're you've your yours yourself"
)
EXTRA_WORDS = _list(
    "accident advice afternoon agent agree air airplane amount apartment arrive art assistant "
    "attention autumn available "
    "beginning believe birthday blood board boat body bone breakfast breath burn bus cancel capital car chance "
    "check child children circle class climate cloud club coast code color company concert condition "
    "confirm connect continue conversation corner correct cost country course cross crowd dance date dead deal "
    "decide decision degree depend desert design detail dinner direction disconnect discover disease distance "
    "dream drop dust ear earth east education effect effort end energy engine evening event example exchange "
    "exercise experience face fact fall family farewell favorite fear feel feeling fever field fight figure "
    "finger finish fire floor flower fly food foot force foreign form freedom fruit future game glad goodbye "
    "government grass ground group grow guess guide hair hand happen head health heart hello history hobby "
    "holiday home hope human hundred hurry husband ice idea industry information interview island job join joke "
    "journey judge jump justice kiss knee knowledge land language laugh law lead leaf leg lesson level library "
    "lie life line lip list listen live look luck lunch machine mail main man matter meal meaning medicine "
    "meeting member memory menu message metal middle million mind minute mistake moment money month moon morning "
    "mouth movie name nation nature neck news night noise noon north nose note number object ocean offer oil "
    "operator opinion orange original pain parents part party pass past patient pay people percent person "
    "plan plane play playlist pleasure pocket point power practice present press pressure price prize problem "
    "process product program promise proof purpose quality quarter question queue rain raise reach reason "
    "region reminder rent repeat reply report request rescue rest result ride rise road rock roof root rule run "
    "sand schedule sea season secret sentence service set shade shadow shake shape ship shop shoulder shut "
    "side silence sing sit size skin sky sleep smile smoke snow society soil song sound source south space speed "
    "spell spend spot spring square stage stand star state stay steam step stick stomach stone storm story "
    "stranger stream street success summer sun support surprise swim switch system tail talk tax team "
    "temperature thought thunder timer tomato tone tongue tooth top touch tower town track traffic train tree "
    "trip trouble truck truth turn type vacation valley value view visitor voice volume vote wait walk wall war "
    "wave way weather week weekend weight west wind wing winter wish woman word work world worry yard "
    "year zero young youth"
)
